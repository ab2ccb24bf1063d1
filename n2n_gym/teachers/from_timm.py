"""Networks of timm by name: ``timm:resnet18.a1_in1k``.

They are used as timm makes them, for images of any size. A tag in the name, such as
``a1_in1k``, selects published weights and their normalisation.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, Final

from torch import nn

from n2n_gym.pytorch.inputs import Normalisation

PREFIX: Final = "timm:"


def is_timm(teacher: object) -> bool:
    """Whether a teacher is given by a name that starts with ``timm:``."""
    return isinstance(teacher, str) and teacher.startswith(PREFIX)


def is_tagged(name: str) -> bool:
    """Whether a name has a tag for published weights: ``timm:resnet18.a1_in1k``."""
    return "." in name


def untrained(name: str, num_classes: int, channels: int) -> nn.Module:
    """A network of timm with random weights.

    Raises:
        ValueError: timm is not installed, or has no such network.
    """
    timm = _timm(name)
    made: nn.Module = timm.create_model(
        name.removeprefix(PREFIX).partition(".")[0],
        pretrained=False,
        num_classes=num_classes,
        in_chans=channels,
    )
    return made


def published(name: str, **options: Any) -> tuple[nn.Module, Normalisation]:
    """A network with timm's weights, and the normalisation of its inputs.

    The weights are taken from the cache of ``huggingface_hub``, or downloaded.

    Args:
        options: Further arguments of ``timm.create_model``, such as a file with the
            weights.

    Raises:
        ValueError: timm is not installed, or has no such network or weights.
        OSError: The weights are not in the cache and cannot be downloaded.
    """
    timm = _timm(name)
    wanted = name.removeprefix(PREFIX)
    try:
        made: nn.Module = timm.create_model(wanted, pretrained=True, **options)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"the weights of {name} could not be downloaded ({error}); give them as a "
            f"file, weights='/path/of/them.safetensors'"
        ) from error
    about: Any = made.pretrained_cfg
    mean, std = (tuple(map(float, about[key])) for key in ("mean", "std"))
    return made, Normalisation(mean, std)


def _timm(name: str) -> Any:
    """Import timm; refuse a network or a tag that it does not have."""
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f'{name!r} needs timm ({error}): pip install "n2n-gym[timm]"'
        ) from error
    network, _, tag = name.removeprefix(PREFIX).partition(".")
    if not timm.is_model(network):
        near = get_close_matches(network, timm.list_models(), n=3)
        raise ValueError(
            f"timm has no network {network!r}; near are {', '.join(near) or 'none'}"
        )
    tags = [each.partition(".")[2] for each in timm.list_pretrained(network)]
    if tag and tag not in tags:
        raise ValueError(
            f"timm has no weights {tag!r} of {network}; accepted are "
            f"{', '.join(filter(None, tags)) or 'none'}"
        )
    return timm
