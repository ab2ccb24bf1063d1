"""Torchvision's classification networks, and CIFAR's ResNets, as architectures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.small_images import fit
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.trace import TraceError, translate
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.cifar import DEPTHS, cifar_resnet
from n2n_gym.teachers.cifar import MADE_FOR as MADE_FOR_CIFAR

MADE_FOR: Final = (3, 224, 224)  # the images that torchvision's networks are made for
_ATTENTION: Final = ("maxvit", "swin", "vit")
# The published weights of these expect images in [-1, 1]. Torchvision's transforms
# differ, but the networks convert their inputs (``transform_input``).
_SEE_PLUS_MINUS_ONE: Final = ("googlenet", "inception_v3")


def names() -> list[str]:
    """Names of CIFAR's ResNets and of all of torchvision's classification networks."""
    from torchvision import models  # slow to import

    return [*models.list_models(module=models), *DEPTHS]


def traceable_names() -> list[str]:
    """Names of the networks that can be teachers."""
    return [name for name in names() if not name.startswith(_ATTENTION)]


def is_name(teacher: str) -> bool:
    """Whether there is a network of this name.

    Raises:
        ValueError: The name is unknown and has no colon, so it is not "module:function"
            either.
    """
    known = names()
    if teacher in known or ":" in teacher:
        return teacher in known
    near = get_close_matches(teacher, known, n=3) or ["resnet18", "mobilenet_v2"]
    raise ValueError(
        f"unknown teacher {teacher!r}; accepted are torchvision's classification "
        f"networks by name ({', '.join(near)}, ...; `n2n-gym teachers` lists them), "
        f"'timm:name', 'module:function', and an architecture's JSON or .json file"
    )


def teacher_architecture(name: str, task: Task) -> Architecture:
    """A network by name, adapted to a task's images.

    Raises:
        TraceError: The network uses an operation that is not supported.
    """
    try:
        made = as_made(name, task.num_classes)
    except TraceError as error:
        why = "it uses attention; " if name.startswith(_ATTENTION) else ""
        raise TraceError(f"{name} cannot be a teacher: {why}{error}") from error
    return fit(made, task.input_shape)


@cache
def as_made(name: str, num_classes: int) -> Architecture:
    """A network by name, unchanged, for the images it was made for.

    The trace is not verified here; ``benchmarks/trace_check.py`` verifies all networks.
    """
    images = MADE_FOR_CIFAR if name in DEPTHS else MADE_FOR
    return translate(torchvision_network(name, num_classes), images)


def torchvision_network(name: str, num_classes: int, **options: Any) -> nn.Module:
    """A network of torchvision or ResNet for CIFAR, with weights on the meta device."""
    if name in DEPTHS:
        with torch.device("meta"):
            return cifar_resnet(name, num_classes)
    from torchvision import models

    with warnings.catch_warnings(), _WeightsOnMeta():
        # GoogLeNet and Inception warn about their initialisation, which we replace.
        warnings.filterwarnings("ignore", "The default weight init", FutureWarning)
        network: nn.Module = models.get_model(
            name, weights=None, num_classes=num_classes, **options
        )
    return network


class _WeightsOnMeta(TorchFunctionMode):
    """Context in which weights take no memory; other tensors are real."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.empty:
            options["device"] = "meta"
        return func(*args, **options)


def published(name: str) -> list[str]:
    """Torchvision's names of the weights that it publishes for a network."""
    if name in DEPTHS:
        return []
    from torchvision import models

    return list(models.get_model_weights(name).__members__)


class Published(NamedTuple):
    """Weights that torchvision publishes."""

    weights: Mapping[str, Tensor]
    num_classes: int
    normalisation: Normalisation  # normalisation of their inputs


def download(name: str, weights: str) -> Published:
    """Published weights of a network, through torchvision.

    Raises:
        OSError: The weights are not in torch's cache and cannot be downloaded.
    """
    from torchvision import models

    entry = getattr(models.get_model_weights(name), weights)
    try:
        state = entry.get_state_dict(
            progress=True, check_hash=True, map_location="cpu", weights_only=True
        )
    except OSError as error:
        raise OSError(
            f"{entry} could not be downloaded ({error}); put {entry.url} into "
            f"{torch.hub.get_dir()}/checkpoints"
        ) from error
    seen = entry.transforms()
    mean, std = tuple(seen.mean), tuple(seen.std)
    if name in _SEE_PLUS_MINUS_ONE:
        mean = std = (0.5, 0.5, 0.5)
    return Published(state, len(entry.meta["categories"]), Normalisation(mean, std))
