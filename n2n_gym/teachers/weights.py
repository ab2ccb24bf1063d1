"""Weights that a user gives for a teacher: read without running code, then checked."""

from __future__ import annotations

import argparse
import logging
import pickle
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.plain import encoding

logger = logging.getLogger(__name__)

# Last parts of names that are not weights: counters of thop and of torch's
# AveragedModel, and the extra state of modules (``get_extra_state``).
_IGNORED: Final = ("total_ops", "total_params", "n_averaged", "_extra_state")
_BATCHES: Final = "num_batches_tracked"  # of batch norm; without effect
_WRAPPERS: Final = ("module", "_orig_mod")  # parts of names that torch's wrappers add
# Errors of torch's reader for files it did not write.
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


# Plain values that checkpoints have beside weights: arguments, and numbers of numpy,
# which are made by a function with different names in numpy 1 and 2.
_MAKER: Final = np.float64().__reduce__()[0]
_PLAIN_VALUES: Final[list[Any]] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLefd"),
    (_MAKER, "numpy.core.multiarray.scalar"),
    (_MAKER, "numpy._core.multiarray.scalar"),
]


def read_weights(path: Path) -> Any:
    """The content of a safetensors file, or of a file of ``torch.save``.

    Raises:
        ValueError: There is no such file, it has neither format, or it is a pickle with
            more than tensors and plain values.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file with weights")
    if not path.is_file():
        raise ValueError(f"there is no file {path} with weights")
    if _is_safetensors(path):
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    try:
        with warnings.catch_warnings(), safe_globals(_PLAIN_VALUES):
            warnings.simplefilter("ignore", UserWarning)  # about reading old formats
            with open(path, "rb") as file:  # not its name, which torch goes by
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: it is not a state dict, or is a pickle that could run "
            f"code. Save `model.state_dict()` alone, or a safetensors file"
        ) from error
    except _DAMAGES as error:
        raise ValueError(
            f"{path} is neither a safetensors file nor a file of torch.save"
        ) from error


def _is_safetensors(path: Path) -> bool:
    """Whether the content is that of a safetensors file; suffixes are not reliable.

    A safetensors file begins with 8 bytes that give the length of a JSON header; then
    that header follows.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    is_torchs = start.startswith((b"PK", b"\x80"))  # a zip, or a pickle of long ago
    return start[8:] == b"{" or (path.suffix == ".safetensors" and not is_torchs)


def state_dicts_for(
    architecture: Architecture, saved: Any, source: str, spare: Iterable[str] = ()
) -> dict[str, Mapping[str, Tensor]]:
    """The state dicts in a checkpoint that have the names of a network's tensors.

    A state dict may be the checkpoint itself or anywhere inside it. The names of its
    tensors are tried unchanged, then without a prefix that all names have, then without
    the names of torch's wrappers.

    Args:
        spare: Further names that a state dict may have, such as those of auxiliary
            heads.

    Returns:
        Each state dict under the network's names, by its place: ``"['model']"``. If
        some also have the right shapes, only these are returned. If none has the
        network's names, the state dict that has the most of them is returned.

    Raises:
        ValueError: There is no state dict at all.
    """
    wanted = build(architecture, "meta").state_dict()
    needed = {name for name in wanted if not name.endswith(_BATCHES)}
    allowed = {*wanted, *spare}
    fitting, closest, most = {}, {}, -1
    for place, state in _state_dicts(saved, source):
        for renamed in _renamings(state, wanted):
            if len(needed & renamed.keys()) > most:
                closest, most = {place: renamed}, len(needed & renamed.keys())
            if needed <= renamed.keys() <= allowed:
                fitting[place] = renamed
                break
    alike = {
        place: state
        for place, state in fitting.items()
        if all(state[name].shape == wanted[name].shape for name in needed)
    }
    return alike or fitting or closest


def _state_dicts(saved: Any, source: str) -> list[tuple[str, Mapping[str, Tensor]]]:
    """Each mapping of names to tensors, with its place in the checkpoint."""
    if not isinstance(saved, Mapping) or not saved:
        raise ValueError(f"{source} has no state dict: got {type(saved).__name__}")
    found, waiting = [], [("", saved)]
    for place, inside in waiting:
        stranger = next((k for k in inside if not _is_entry(k, inside[k])), None)
        if stranger is None:
            found.append((place, inside))
        for key, value in inside.items():
            if isinstance(key, str) and isinstance(value, Mapping) and value:
                waiting.append((f"{place}[{key!r}]", value))
    if not found:
        kind = type(inside[stranger]).__name__
        raise ValueError(f"{source} has no state dict: its {stranger!r} is {kind}")
    return found


def _is_entry(name: object, value: object) -> bool:
    is_weight = isinstance(value, Tensor)
    return isinstance(name, str) and (is_weight or name.endswith(_IGNORED))


def _renamings(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> Iterator[Mapping[str, Tensor]]:
    """A state dict under each set of names that can be those of its network."""
    tensors = {
        name: tensor
        for name, tensor in state.items()
        if name in wanted or name.rpartition(".")[2] not in _IGNORED
    }
    unwrapped = {_unwrapped(name): tensor for name, tensor in tensors.items()}
    for named in (tensors, unwrapped):
        if len(named) < len(tensors):  # two names have become one
            return
        first = next(iter(named), "")
        ends = [0, *(i + 1 for i, letter in enumerate(first) if letter == ".")]
        for end in ends:
            if all(name.startswith(first[:end]) for name in named):
                yield {name[end:]: tensor for name, tensor in named.items()}


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def check_weights(
    saved: Any, architecture: Architecture, source: str, *, spare: Iterable[str] = ()
) -> Mapping[str, Tensor]:
    """The weights of this architecture, as float32 on the CPU.

    Args:
        saved: A checkpoint or a state dict; see `state_dicts_for`.
        source: Name of the source, for errors.
        spare: Further names that the state dict may contain.

    Raises:
        ValueError: The weights belong to another architecture, are not finite numbers
            in an accepted floating-point type, or two state dicts of this architecture
            differ.
    """
    spare = set(spare)
    found = state_dicts_for(architecture, saved, source, spare)
    (place, first), *others = [
        (place, _checked(state, architecture, source, spare))
        for place, state in found.items()
    ]
    for other, weights in others:
        if not all(torch.equal(first[name], weights[name]) for name in first):
            raise ValueError(
                f"{source} holds two state dicts of this network, {place} and {other}: "
                f"give the one that is meant, torch.load(path){place}, or save it alone"
            )
    return first


def _checked(
    weights: Mapping[str, Tensor],
    architecture: Architecture,
    source: str,
    spare: Set[str],
) -> Mapping[str, Tensor]:
    checked, rounded = {}, 0
    for name, wanted in build(architecture, "meta").state_dict().items():
        tensor = weights.get(name)
        if name.endswith(_BATCHES) and not _is_count(tensor):
            tensor = torch.zeros((), dtype=torch.long)
        if tensor is None:
            raise ValueError(
                f"{source} has no {name!r}: these are weights of another architecture; "
                f"it has {', '.join(list(weights)[:3])}, ..."
            )
        if tensor.shape != wanted.shape:
            _refuse_shape(architecture, source, name, tensor, wanted)
        if wanted.is_floating_point() and (how := encoding(tensor)) is not None:
            raise ValueError(
                f"{source}: {name!r} is {how}; weights are float32, float64, float16 "
                f"or bfloat16"
            )
        if tensor.is_meta:
            raise ValueError(
                f"{source}: {name!r} is on the meta device, so it has no values"
            )
        single = tensor.detach().to("cpu", wanted.dtype)
        if not bool(single.isfinite().all()):
            raise ValueError(f"{source}: {name!r} must be finite, got NaN or infinity")
        if tensor.dtype == torch.float64:
            rounded += not torch.equal(single.double(), tensor.detach().cpu())
        checked[name] = single.contiguous().clone()
    others = weights.keys() - checked.keys() - spare
    if others:
        raise ValueError(
            f"{source} also has {', '.join(sorted(others)[:3])}: these are weights of "
            f"another architecture"
        )
    if rounded:
        logger.warning(
            "%s: %d of its %d weights are float64 and were rounded to float32",
            source,
            rounded,
            len(checked),
        )
    return checked


def _is_count(tensor: Tensor | None) -> bool:
    if tensor is None or tensor.layout is not torch.strided or tensor.is_complex():
        return False
    return not tensor.is_meta and bool(tensor.isfinite().all())


def _refuse_shape(
    architecture: Architecture, source: str, name: str, found: Tensor, wanted: Tensor
) -> None:
    classifier = architecture.layers[architecture.classifier].name
    if name.startswith(f"{classifier}.") and found.shape[1:] == wanted.shape[1:]:
        raise ValueError(
            f"{source} has {len(found)} classes, the task has {len(wanted)}"
        )
    raise ValueError(
        f"{source}: {name!r} has the shape {tuple(found.shape)}, expected "
        f"{tuple(wanted.shape)}: these are weights of another architecture"
    )
