"""Stage two: how far widths and kernels can shrink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from math import floor, lcm
from typing import Final

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.channels import Channels
from n2n_gym.networks.decisions.keeping import positions_of
from n2n_gym.networks.layers import PARAMETERISED, Conv, DepthwiseConv, Pair

RATES: Final = tuple(tenths / 10 for tenths in range(1, 11))
VARIABLES: Final = ("width", "kernel", "padding")
# Rules that round a kernel's length at a rate.
KERNELS: Final = ("nearest", "floor")
# Layers that shrink together: tied layers, or all layers of equal width and resolution.
SCOPES: Final = ("group", "stage")


@dataclass(frozen=True)
class Shrinkage:
    """One possible shrinkage of a start architecture.

    Attributes:
        variable: Name of the variable, from ``VARIABLES``.
        name: Name of the first of the layers that shrink.
        layers: Positions of the layers that shrink together, ascending.
        multiple: Number that divides every new width.
        rule: Rounding of a kernel's length: ``"nearest"`` odd length, or ``"floor"``,
            the largest odd length that is not above rate * length.
    """

    variable: str
    name: str
    layers: tuple[int, ...]
    multiple: int = 1
    rule: str = "nearest"


def shrinkages(
    start: Architecture,
    variables: Sequence[str] = ("width", "kernel"),
    *,
    block: int = 1,
    kernels: str = "nearest",
    scope: str = "group",
    keep: Set[str] = frozenset(),
) -> tuple[Shrinkage, ...]:
    """The decisions about shrinkages, in the environment's order.

    In the order of the layers, there is one decision for each width group, one for each
    kernel and, if wanted, one for each padding. A width or kernel that no rate changes
    has no decision.

    Args:
        block: Number of channels in a block. New widths are multiples of it, except in
            layers no wider than a block.
        kernels: Rule for kernels' lengths, one of ``KERNELS``.
        scope: ``"group"``: one decision for each width group or kernel. ``"stage"``:
            one decision for all widths of layers of equal width and resolution, and one
            for their kernels of equal size.
        keep: Names of layers that stay unchanged, with everything that is tied to them.

    Raises:
        ValueError: A variable, a rule or a scope is unknown.
    """
    for variable in variables:
        _check_known("variable", variable, VARIABLES)
    _check_known("kernels", kernels, KERNELS)
    _check_known("scope", scope, SCOPES)
    channels, kept = Channels(start), positions_of(start, keep)
    groups = channels.groups
    # Layers that pass channels on, such as depthwise convolutions, have no width of
    # their own.
    held = {
        channels.width_of(segment)
        for position in kept
        if isinstance(start.layers[position], PARAMETERISED)
        for segment in channels.of(position)
    }
    found = []
    for position, layer in enumerate(start.layers):
        group = groups.get(position)
        if "width" in variables and group is not None and not group.is_fixed:
            is_free = kept.isdisjoint(group.producers) and group not in held
            if is_free and group.width > group.multiple:
                multiple = lcm(group.multiple, block)
                if group.width <= multiple:
                    multiple = group.multiple
                found.append(Shrinkage("width", layer.name, group.producers, multiple))
        if isinstance(layer, (Conv, DepthwiseConv)) and position not in kept:
            if "kernel" in variables and has_free_kernel(layer):
                one = (position,)
                found.append(Shrinkage("kernel", layer.name, one, rule=kernels))
            if "padding" in variables and max(layer.padding) > 0:
                found.append(Shrinkage("padding", layer.name, (position,)))
    return _by_stage(start, found) if scope == "stage" else tuple(found)


def _check_known(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")


def _by_stage(start: Architecture, found: Sequence[Shrinkage]) -> tuple[Shrinkage, ...]:
    """The decisions, merged over layers of equal width and resolution."""
    stages: dict[tuple[object, ...], list[Shrinkage]] = {}
    for each in found:
        sizes: tuple[object, ...] = ()
        if each.variable != "width":
            convolution = _convolution(start, each.layers[0])
            sizes = convolution.kernel, convolution.padding, convolution.dilation
        key = each.variable, start.shape_of(each.layers[0]), each.multiple, sizes
        stages.setdefault(key, []).append(each)
    merged = [
        replace(
            parts[0], layers=tuple(sorted(p for part in parts for p in part.layers))
        )
        for parts in stages.values()
    ]
    return tuple(merged)


def shrink(start: Architecture, rates: Mapping[Shrinkage, float]) -> Architecture:
    """The student with each variable at its rate times the start's value.

    Raises:
        ShapeError: The layers do not fit together; only rates of paddings can cause
            this.
    """
    widths: dict[int, int] = {}
    kernels: dict[int, Pair] = {}
    paddings: dict[int, Pair] = {}
    for shrinkage, rate in rates.items():
        if shrinkage.variable == "width":
            widths |= widths_at(start, shrinkage, rate)
        elif shrinkage.variable == "kernel":
            for position, shrunk in kernels_at(start, shrinkage, rate).items():
                kernels[position], paddings[position] = shrunk
    for shrinkage, rate in rates.items():
        if shrinkage.variable == "padding":  # a rate of the padding after the kernel's
            for position in shrinkage.layers:
                old = paddings.get(position, _convolution(start, position).padding)
                height, width = (floor(_times(rate, p)) for p in old)
                paddings[position] = height, width
    return start.shrink(widths=widths, kernels=kernels, paddings=paddings)


def widths_at(start: Architecture, decision: Shrinkage, rate: float) -> dict[int, int]:
    """The width of each layer after a decision about widths."""
    return {
        position: shrunk_width(start.shape_of(position)[0], rate, decision.multiple)
        for position in decision.layers
    }


def kernels_at(
    start: Architecture, decision: Shrinkage, rate: float
) -> dict[int, tuple[Pair, Pair]]:
    """Kernel and padding of each layer after a decision about kernels."""
    return {
        position: _shrunk_kernel(_convolution(start, position), rate, decision.rule)
        for position in decision.layers
    }


def shrunk_width(width: int, rate: float, multiple: int = 1) -> int:
    """The multiple of ``multiple`` nearest to rate * width; ties go up.

    The result is at least ``multiple``, but at most ``width``.
    """
    nearest = multiple * floor(_times(rate, width) / multiple + 0.5)
    return min(max(nearest, multiple), width)


def shrunk_length(length: int, rate: float, rule: str = "nearest") -> int:
    """The odd number nearest to rate * length, or below it.

    Args:
        rule: ``"nearest"``: the nearest odd number; ties go up. ``"floor"``: the
            largest odd number that is at most max(1, rate * length).
    """
    if rule == "nearest":
        return 2 * floor(_times(rate, length) / 2) + 1
    whole = max(1, floor(_times(rate, length)))
    return whole if whole % 2 else whole - 1


def _times(rate: float, value: int) -> float:
    """The product without binary rounding errors of tenths (0.7 * 45 is 31.5)."""
    return round(rate * value, 9)


def _convolution(start: Architecture, position: int) -> Conv | DepthwiseConv:
    layer = start.layers[position]
    assert isinstance(layer, (Conv, DepthwiseConv))
    return layer


def has_free_kernel(layer: Conv | DepthwiseConv) -> bool:
    """Whether a smaller kernel with less padding can keep the map's size."""
    long = [axis for axis in (0, 1) if layer.kernel[axis] > 1]
    return bool(long) and all(
        layer.kernel[axis] % 2
        and 2 * layer.padding[axis] == layer.dilation[axis] * (layer.kernel[axis] - 1)
        for axis in long
    )


def _shrunk_kernel(
    layer: Conv | DepthwiseConv, rate: float, rule: str
) -> tuple[Pair, Pair]:
    """The kernel at this rate, and the padding that keeps the map's size."""
    height, width = layer.kernel
    kernel = shrunk_length(height, rate, rule), shrunk_length(width, rate, rule)
    top, left = (
        old
        if layer.kernel[axis] == 1
        else layer.dilation[axis] * (kernel[axis] - 1) // 2
        for axis, old in enumerate(layer.padding)
    )
    return kernel, (top, left)
