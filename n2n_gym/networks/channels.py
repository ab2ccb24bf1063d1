"""Channels followed from layer to layer, to find the widths that are tied.

An addition ties the channels of its operands, and a product ties those of a gate and
its map. Layers between a producer (a convolution or linear layer) and its readers
pass channels on. Tied producers form a width group: they can only shrink together.

A split into equal parts and a shuffle of channels tie widths without tying channels:
the producers of the rearranged channels must keep equally many channels. So producers
of equal width also form one width group if their channels are rearranged together.
`itineraries` decides which of the rearranged channels a student keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import gcd, lcm, prod
from typing import NamedTuple

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import (
    DEALT,
    IMAGE,
    PRODUCERS,
    ChannelShuffle,
    Chunk,
    Concat,
    Conv,
    Flatten,
    GroupNorm,
    Join,
)


class Segment(NamedTuple):
    """Consecutive channels of one layer's output, from one group of tied channels."""

    group: int  # the first layer that writes it; IMAGE for the image's own channels
    width: int
    spread: int = 1  # features that each channel became in a flatten


@dataclass(frozen=True)
class WidthGroup:
    """Convolutions and linear layers that can only shrink together, to one width.

    Their output channels are tied, or splits or shuffles rearrange them together.
    """

    producers: tuple[int, ...]  # positions of the layers that write it, ascending
    width: int
    multiple: int  # every new width must be a multiple of this
    is_fixed: bool
    is_dealt: bool = False  # whether splits or shuffles rearrange its channels


class _Union:
    """Disjoint sets of numbers that can be joined, each named by its smallest.

    Importing scipy's would take three times as long as N2N-Bench takes to make a task.
    """

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def add(self, number: int) -> None:
        self._parent[number] = number

    def find(self, number: int) -> int:
        while self._parent[number] != number:
            number = self._parent[number]
        return number

    def join(self, numbers: Iterable[int]) -> None:
        roots = {self.find(number) for number in numbers}
        self._parent |= dict.fromkeys(roots, min(roots))

    def sets(self) -> dict[int, list[int]]:
        """The members of each set, ascending."""
        found: dict[int, list[int]] = {}
        for number in sorted(self._parent):
            found.setdefault(self.find(number), []).append(number)
        return found


class _Followed(NamedTuple):
    """Channels, followed from layer to layer."""

    values: list[tuple[Segment, ...]]  # output of each layer, the image first
    alike: _Union  # groups of channels with one width decision
    fixed: set[int]  # names of groups that keep their width
    dealt: set[int]  # names of groups that are split or shuffled


@dataclass(frozen=True)
class Channels:
    """The channels of an architecture, followed from layer to layer."""

    architecture: Architecture

    def of(self, position: int) -> tuple[Segment, ...]:
        """The channels of a layer's output, in order; -1 is the image."""
        return self._followed.values[position + 1]

    def width_of(self, segment: Segment) -> WidthGroup | None:
        """The width group that writes a segment; None for the image."""
        return self.groups.get(self._followed.alike.find(segment.group))

    @cached_property
    def groups(self) -> dict[int, WidthGroup]:
        """Every width group, by the position of its first member."""
        architecture, followed = self.architecture, self._followed
        find = followed.alike.find
        layers = architecture.layers
        fixed = followed.fixed | {find(s.group) for s in self.of(len(layers) - 1)}
        groups = {}
        for first, members in followed.alike.sets().items():
            if first == IMAGE:
                continue
            producers = [p for p in members if isinstance(layers[p], PRODUCERS)]
            widths = {architecture.shape_of(p)[0] for p in producers}
            width = architecture.shape_of(first)[0]
            multiple = lcm(1, *self._divisors.get(first, ()))
            is_fixed = first in fixed or widths != {width} or width % multiple != 0
            groups[first] = WidthGroup(
                tuple(producers), width, multiple, is_fixed, first in followed.dealt
            )
        return groups

    @cached_property
    def _divisors(self) -> dict[int, list[int]]:
        """Numbers that divide every new width, by width group."""
        architecture = self.architecture
        find = self._followed.alike.find
        found: dict[int, list[int]] = {}
        for position, layer in enumerate(architecture.layers):
            into = 1
            if isinstance(layer, (Conv, GroupNorm, ChannelShuffle)):
                into = layer.groups
            elif isinstance(layer, Chunk):
                into = layer.parts
            if into == 1:
                continue
            read = self.of(layer.inputs[0])
            counts = [(s.group, s.width) for s in read]
            if isinstance(layer, (Chunk, ChannelShuffle)):  # all together
                counts = [(read[0].group, sum(s.width for s in read))]
            elif isinstance(layer, Conv):
                counts.append((self.of(position)[0].group, layer.width))
            for group, count in counts:
                first = find(group)
                if first != IMAGE:
                    whole = architecture.shape_of(first)[0]
                    found.setdefault(first, []).append(_divisor(count, whole, into))
        return found

    @cached_property
    def _followed(self) -> _Followed:
        architecture = self.architecture
        tied, alike = _Union(), _Union()
        fixed, dealt = {IMAGE}, set[int]()
        dealt_together: list[set[int]] = []
        tied.add(IMAGE)
        values: list[tuple[Segment, ...]] = [
            (Segment(IMAGE, architecture.input_shape[0]),)
        ]
        for position, layer in enumerate(architecture.layers):
            operands = [values[read + 1] for read in layer.inputs]
            value = operands[0]
            if isinstance(layer, PRODUCERS):
                tied.add(position)
                value = (Segment(position, layer.width),)
            elif isinstance(layer, DEALT):
                tied.add(position)
                value = (Segment(position, architecture.shape_of(position)[0]),)
                together = {position} | {segment.group for segment in operands[0]}
                is_even = isinstance(layer, (Chunk, ChannelShuffle))
                if is_even and all(s.spread == 1 for s in operands[0]):
                    dealt_together.append(together)
                else:
                    fixed |= together
            elif isinstance(layer, Concat):
                value = tuple(segment for operand in operands for segment in operand)
            elif isinstance(layer, Flatten):
                area = prod(architecture.shape_of(layer.inputs[0])[1:])
                value = tuple(s._replace(spread=s.spread * area) for s in operands[0])
            elif isinstance(layer, Join):
                if all(len(o) == 1 and o[0].spread == 1 for o in operands):
                    tied.join(operand[0].group for operand in operands)
                else:
                    fixed |= {s.group for operand in operands for s in operand}
            values.append(value)

        for first, members in tied.sets().items():
            for member in members:
                alike.add(member)
            alike.join([first, *members])
        for together in dealt_together:
            alike.join(together)
            dealt |= together
        followed = [
            tuple(s._replace(group=tied.find(s.group)) for s in value)
            for value in values
        ]
        return _Followed(
            followed,
            alike,
            {alike.find(group) for group in fixed},
            {alike.find(group) for group in dealt},
        )


def _divisor(count: int, whole: int, into: int) -> int:
    """The smallest width for which width * count / whole is a multiple of ``into``.

    Args:
        count: Number of channels that a layer reads or writes in groups.
        whole: Present width of the group of layers that they come from.
        into: Number of the layer's groups or parts.
    """
    common = gcd(count, whole)
    parts = into * whole // common
    return parts // gcd(count // common, parts)
