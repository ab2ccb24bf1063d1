"""Layers as JSON-ready dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, Final

from n2n_gym.networks.layers.dealt import (
    ChannelShuffle,
    ChannelSlice,
    Chunk,
    PadChannels,
)
from n2n_gym.networks.layers.elementwise import (
    Activation,
    Affine,
    Clamp,
    Dropout,
    StochasticDepth,
)
from n2n_gym.networks.layers.joins import Add, Concat, Multiply
from n2n_gym.networks.layers.layer import Layer
from n2n_gym.networks.layers.maps import (
    AdaptiveAvgPool,
    AvgPool,
    Flatten,
    MaxPool,
    SpatialMean,
)
from n2n_gym.networks.layers.parameterised import (
    BatchNorm,
    Conv,
    DepthwiseConv,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Linear,
    PReLU,
    Scale,
)
from n2n_gym.networks.layers.sizes import AsMap, Interpolate, Pad, Slice

KINDS: Final[Mapping[str, type[Layer]]] = {
    kind.__name__: kind
    for kind in (
        Conv,
        DepthwiseConv,
        Linear,
        BatchNorm,
        LayerNorm,
        Scale,
        Activation,
        Dropout,
        StochasticDepth,
        MaxPool,
        AvgPool,
        AdaptiveAvgPool,
        SpatialMean,
        Flatten,
        Chunk,
        ChannelShuffle,
        Add,
        Multiply,
        Concat,
        GroupNorm,
        InstanceNorm,
        PReLU,
        Clamp,
        Affine,
        Pad,
        PadChannels,
        Slice,
        ChannelSlice,
        Interpolate,
        AsMap,
    )
}


def to_dict(layer: Layer) -> dict[str, Any]:
    """A JSON-ready form; fields at their defaults are left out."""
    entries: dict[str, Any] = {"kind": layer.kind}
    for field in fields(layer):
        value = getattr(layer, field.name)
        if field.default is MISSING or value != field.default:
            entries[field.name] = list(value) if isinstance(value, tuple) else value
    return entries


def from_dict(entries: Mapping[str, Any]) -> Layer:
    """The layer in the output of ``to_dict``.

    Raises:
        ValueError: The kind is unknown or does not have these fields, or a value is
            invalid.
    """
    values = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in entries.items()
        if key != "kind"
    }
    kind: Callable[..., Layer] | None = KINDS.get(entries.get("kind", ""))
    if kind is None:
        raise ValueError(
            f"unknown layer kind {entries.get('kind')!r}; known: {', '.join(KINDS)}"
        )
    for field, value in values.items():
        lowest = 0 if field == "padding" else 1
        if field in _LENGTHS and not _is_pair(value, lowest):
            raise ValueError(f"{field} must be two integers >= {lowest}, got {value!r}")
        if field in ("width", "groups", "parts") and not _is_whole(value, 1):
            raise ValueError(f"{field} must be an integer >= 1, got {value!r}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"not a {entries['kind']} layer: {dict(entries)}") from error


_LENGTHS: Final = ("kernel", "stride", "padding", "dilation", "size")


def _is_whole(value: Any, lowest: int) -> bool:
    return isinstance(value, int) and value >= lowest


def _is_pair(value: Any, lowest: int) -> bool:
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    return all(_is_whole(length, lowest) for length in value)
