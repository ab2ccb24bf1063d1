"""A teacher's own weights: read without running code, and checked."""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import build

# Where training scripts put the state dict in what they save.
_USUAL_PLACES: Final = ("state_dict", "model_state_dict", "model")
# What torch's reader raises for bytes that it did not write.
_DAMAGES: Final = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)
_PARALLEL: Final = "module."  # what DataParallel puts before each name


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """A state dict from a safetensors file, or from what ``torch.save`` wrote.

    Raises:
        ValueError: There is no such file, it holds no state dict, or it is a pickle
            with anything but tensors and plain values in it.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file with weights")
    if not path.is_file():
        raise ValueError(f"there is no file {path} with weights")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is no safetensors file: {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: it is no state dict, or a pickle that could run code "
            f"when it is loaded. Save `model.state_dict()` alone, or a safetensors file"
        ) from error
    except _DAMAGES as error:
        raise ValueError(
            f"{path} is neither a safetensors file nor what torch.save wrote"
        ) from error
    return state_dict_in(saved, path)


def state_dict_in(saved: Any, source: object) -> Mapping[str, Tensor]:
    """The state dict in what a training script saved: itself, or under a usual name.

    Raises:
        ValueError: There is none.
    """
    for place in _USUAL_PLACES:
        if isinstance(saved, Mapping) and isinstance(saved.get(place), Mapping):
            saved = saved[place]
    if not isinstance(saved, Mapping) or not saved:
        raise ValueError(f"{source} holds no state dict but {type(saved).__name__}")
    for name, tensor in saved.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"{source} holds no state dict: its {name!r} is {type(tensor).__name__}"
            )
    if all(name.startswith(_PARALLEL) for name in saved):
        return {name.removeprefix(_PARALLEL): t for name, t in saved.items()}
    return saved


def check_weights(
    weights: Mapping[str, Tensor],
    architecture: Architecture,
    source: str,
    *,
    spare: Iterable[str] = (),
) -> Mapping[str, Tensor]:
    """The weights of this architecture, as float32 on the CPU.

    Args:
        source: Where they come from, for errors.
        spare: Other names that they may hold: of auxiliary heads, for one.

    Raises:
        ValueError: They belong to another architecture, or are no numbers.
    """
    checked = {}
    for name, wanted in build(architecture, "meta").state_dict().items():
        tensor = weights.get(name)
        if tensor is None and name.endswith("num_batches_tracked"):
            tensor = torch.zeros((), dtype=torch.long)  # nothing depends on it
        if tensor is None:
            raise ValueError(
                f"{source} has no {name!r}: these are weights of another architecture; "
                f"it has {', '.join(list(weights)[:3])}, ..."
            )
        if tensor.shape != wanted.shape:
            _refuse_shape(architecture, source, name, tensor, wanted)
        if tensor.is_meta or not bool(tensor.isfinite().all()):
            what = "is on the meta device" if tensor.is_meta else "is not finite"
            raise ValueError(f"{source}: {name!r} {what}: these weights are of no use")
        checked[name] = tensor.detach().to("cpu", wanted.dtype).contiguous().clone()
    others = weights.keys() - checked.keys() - set(spare)
    if others:
        raise ValueError(
            f"{source} also has {', '.join(sorted(others)[:3])}: these are weights of "
            f"another architecture"
        )
    return checked


def _refuse_shape(
    architecture: Architecture, source: str, name: str, found: Tensor, wanted: Tensor
) -> None:
    classifier = architecture.layers[architecture.classifier].name
    if name.startswith(f"{classifier}.") and found.shape[1:] == wanted.shape[1:]:
        raise ValueError(
            f"{source} tells {len(found)} classes apart, the task has {len(wanted)}"
        )
    raise ValueError(
        f"{source}: {name!r} has the shape {tuple(found.shape)}, expected "
        f"{tuple(wanted.shape)}: these are weights of another architecture"
    )
