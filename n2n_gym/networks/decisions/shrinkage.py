"""Stage two: how far widths and kernels can shrink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, lcm
from typing import Final

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.channels import Channels
from n2n_gym.networks.layers import Conv, DepthwiseConv, Pair

RATES: Final = tuple(tenths / 10 for tenths in range(1, 11))
VARIABLES: Final = ("width", "kernel", "padding")


@dataclass(frozen=True)
class Shrinkage:
    """One thing that can be shrunk in a start architecture.

    Attributes:
        variable: One of ``VARIABLES``.
        name: Of the first layer concerned.
        layers: Positions of the layers that shrink together, ascending.
        multiple: New widths are multiples of this.
    """

    variable: str
    name: str
    layers: tuple[int, ...]
    multiple: int = 1


def shrinkages(
    start: Architecture,
    variables: Sequence[str] = ("width", "kernel"),
    *,
    block: int = 1,
) -> tuple[Shrinkage, ...]:
    """The shrinkages that can be decided on, in the environment's order.

    One a width group, one a kernel, and where asked for one a padding, by position.
    Only what some rate changes is a decision.

    Args:
        block: New widths are multiples of it, save for layers that are no wider, and
            those that keep their width.

    Raises:
        ValueError: A variable is unknown.
    """
    for variable in variables:
        if variable not in VARIABLES:
            raise ValueError(
                f"unknown variable {variable!r}; known: {', '.join(VARIABLES)}"
            )
    groups = Channels(start).groups
    found = []
    for position, layer in enumerate(start.layers):
        group = groups.get(position)
        if "width" in variables and group is not None and not group.is_fixed:
            if group.width > group.multiple:
                multiple = lcm(group.multiple, block)
                if group.width <= multiple:
                    multiple = group.multiple
                found.append(Shrinkage("width", layer.name, group.producers, multiple))
        if isinstance(layer, (Conv, DepthwiseConv)):
            if "kernel" in variables and _has_free_kernel(layer):
                found.append(Shrinkage("kernel", layer.name, (position,)))
            if "padding" in variables and max(layer.padding) > 0:
                found.append(Shrinkage("padding", layer.name, (position,)))
    return tuple(found)


def shrink(start: Architecture, rates: Mapping[Shrinkage, float]) -> Architecture:
    """The student with each variable at its rate (in (0, 1]) of the start's value.

    Raises:
        ShapeError: It cannot exist, which only paddings can bring about.
    """
    widths: dict[int, int] = {}
    kernels: dict[int, Pair] = {}
    paddings: dict[int, Pair] = {}
    for shrinkage, rate in rates.items():
        if shrinkage.variable == "width":
            for position in shrinkage.layers:
                width = start.shape_of(position)[0]
                widths[position] = shrunk_width(width, rate, shrinkage.multiple)
    for shrinkage, rate in rates.items():
        if shrinkage.variable == "kernel":
            (position,) = shrinkage.layers
            kernels[position], paddings[position] = _shrunk_kernel(
                _convolution(start, position), rate
            )
    for shrinkage, rate in rates.items():
        if shrinkage.variable == "padding":
            (position,) = shrinkage.layers
            old = paddings.get(position, _convolution(start, position).padding)
            height, width = (floor(_times(rate, p)) for p in old)
            paddings[position] = height, width
    return start.shrink(widths=widths, kernels=kernels, paddings=paddings)


def shrunk_width(width: int, rate: float, multiple: int = 1) -> int:
    """The positive multiple nearest to rate * width, ties up, at most the width."""
    nearest = multiple * floor(_times(rate, width) / multiple + 0.5)
    return min(max(nearest, multiple), width)


def shrunk_length(length: int, rate: float) -> int:
    """The largest odd number up to max(1, rate * length)."""
    whole = max(1, floor(_times(rate, length)))
    return whole if whole % 2 else whole - 1


def _times(rate: float, value: int) -> float:
    """The product, rid of the rounding of tenths in binary (0.7 * 45 is 31.5)."""
    return round(rate * value, 9)


def _convolution(start: Architecture, position: int) -> Conv | DepthwiseConv:
    layer = start.layers[position]
    assert isinstance(layer, (Conv, DepthwiseConv))
    return layer


def _has_free_kernel(layer: Conv | DepthwiseConv) -> bool:
    """Whether a smaller kernel leaves the map's size as it is, padding following."""
    long = [axis for axis in (0, 1) if layer.kernel[axis] > 1]
    return bool(long) and all(
        layer.kernel[axis] % 2
        and 2 * layer.padding[axis] == layer.dilation[axis] * (layer.kernel[axis] - 1)
        for axis in long
    )


def _shrunk_kernel(layer: Conv | DepthwiseConv, rate: float) -> tuple[Pair, Pair]:
    """The kernel at this rate, and the padding that keeps the map's size."""
    kernel = shrunk_length(layer.kernel[0], rate), shrunk_length(layer.kernel[1], rate)
    height, width = (
        old
        if layer.kernel[axis] == 1
        else layer.dilation[axis] * (kernel[axis] - 1) // 2
        for axis, old in enumerate(layer.padding)
    )
    return kernel, (height, width)
