"""Which channels of a network are one and the same: what ties widths together.

An addition ties the channels of its operands, a gate those of what it gates, and
everything between a producer (convolution or linear layer) and its readers passes them
on. Tied producers form a width group: they can only shrink together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import lcm, prod
from typing import NamedTuple

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import (
    DEALT,
    IMAGE,
    PRODUCERS,
    Concat,
    Conv,
    Flatten,
    GroupNorm,
    Join,
)


class Segment(NamedTuple):
    """A run of channels of a value that come from one width group."""

    group: int  # the first layer that writes it; IMAGE for the image's own channels
    width: int
    spread: int = 1  # features that each channel became in a flatten


@dataclass(frozen=True)
class WidthGroup:
    """Layers whose output channels are tied: they have one width.

    They are producers, or layers that deal out the channels of others anew, whose
    widths are fixed.
    """

    producers: tuple[int, ...]  # positions of the layers that write it, ascending
    width: int
    multiple: int  # every new width must be a multiple of this
    is_fixed: bool


@dataclass(frozen=True)
class Channels:
    """The channels of an architecture, followed from layer to layer."""

    architecture: Architecture

    def of(self, position: int) -> tuple[Segment, ...]:
        """What the channels of this layer's output are, in order; -1 is the image."""
        return self._followed[0][position + 1]

    @cached_property
    def groups(self) -> dict[int, WidthGroup]:
        """Every width group, by its first producer."""
        architecture = self.architecture
        _, members, untouchable = self._followed
        multiples = dict.fromkeys(members, 1)
        for position, layer in enumerate(architecture.layers):
            if isinstance(layer, (Conv, GroupNorm)) and layer.groups > 1:
                read = {segment.group for segment in self.of(layer.inputs[0])}
                for group in (read | {self.of(position)[0].group}) & multiples.keys():
                    multiples[group] = lcm(multiples[group], layer.groups)
        untouchable = untouchable | {
            segment.group for segment in self.of(len(architecture.layers) - 1)
        }
        groups = {}
        for group, producers in members.items():
            width = architecture.shape_of(producers[0])[0]
            is_fixed = group in untouchable or width % multiples[group] != 0
            groups[group] = WidthGroup(
                tuple(producers), width, multiples[group], is_fixed
            )
        return groups

    @cached_property
    def _followed(
        self,
    ) -> tuple[list[tuple[Segment, ...]], dict[int, list[int]], set[int]]:
        """Segments per value (the image first), members per group, fixed groups."""
        architecture = self.architecture
        parent = {IMAGE: IMAGE}

        def find(group: int) -> int:
            while parent[group] != group:
                group = parent[group]
            return group

        values: list[tuple[Segment, ...]] = [
            (Segment(IMAGE, architecture.input_shape[0]),)
        ]
        fixed = {IMAGE}
        for position, layer in enumerate(architecture.layers):
            operands = [values[read + 1] for read in layer.inputs]
            if isinstance(layer, PRODUCERS):
                parent[position] = position
                value: tuple[Segment, ...] = (Segment(position, layer.width),)
            elif isinstance(layer, DEALT):
                parent[position] = position
                fixed |= {position} | {segment.group for segment in operands[0]}
                value = (Segment(position, architecture.shape_of(position)[0]),)
            elif isinstance(layer, Concat):
                value = tuple(segment for operand in operands for segment in operand)
            elif isinstance(layer, Flatten):
                area = prod(architecture.shape_of(layer.inputs[0])[1:])
                value = tuple(s._replace(spread=s.spread * area) for s in operands[0])
            elif isinstance(layer, Join):
                value = operands[0]
                if all(len(o) == 1 and o[0].spread == 1 for o in operands):
                    roots = {find(operand[0].group) for operand in operands}
                    parent |= dict.fromkeys(roots, min(roots))
                else:
                    fixed |= {s.group for operand in operands for s in operand}
            else:
                value = operands[0]
            values.append(value)

        members: dict[int, list[int]] = {}
        for producer in parent.keys() - {IMAGE}:
            members.setdefault(find(producer), []).append(producer)
        followed = [
            tuple(segment._replace(group=find(segment.group)) for segment in value)
            for value in values
        ]
        members = {
            group: sorted(members[group]) for group in sorted(members) if group != IMAGE
        }
        return followed, members, {find(group) for group in fixed}
