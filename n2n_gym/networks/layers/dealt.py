"""Layers that select, add or reorder channels.

Splits into equal parts, and shuffles, tie the widths of the layers around them. The
widths around slices and padding of channels cannot change (see ``channels``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from n2n_gym.networks.layers.layer import Layer, Shape, ShapeError


@final
@dataclass(frozen=True)
class Chunk(Layer):
    """Part number ``part``, from 0, of ``parts`` equal parts of the channels."""

    part: int
    parts: int

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.parts:
            raise ValueError(f"there is no part {self.part} of {self.parts}")

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != 1 or inputs[0][0] % self.parts:
            raise ShapeError(
                f"{self.name}: {inputs} does not split into {self.parts} equal parts"
            )
        return (inputs[0][0] // self.parts, *inputs[0][1:])


@final
@dataclass(frozen=True)
class ChannelShuffle(Layer):
    """Channels reordered: the first of each group, then the second of each, ..."""

    groups: int

    def shape(self, *inputs: Shape) -> Shape:
        channels, *size = self._map(inputs)
        if channels % self.groups:
            raise ShapeError(
                f"{self.name}: {channels} channels do not divide into {self.groups} "
                f"groups"
            )
        return (channels, *size)


@final
@dataclass(frozen=True)
class ChannelSlice(Layer):
    """Channels ``start`` to ``stop`` (exclusive) of ``channels``."""

    start: int
    stop: int
    channels: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= self.channels:
            raise ValueError(
                f"there are no channels {self.start} to {self.stop} of {self.channels}"
            )

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != 1 or inputs[0][0] != self.channels:
            raise ShapeError(
                f"{self.name}: takes some of {self.channels} channels, got {inputs}"
            )
        return (self.stop - self.start, *inputs[0][1:])


@final
@dataclass(frozen=True)
class PadChannels(Layer):
    """Channels of zeros added before and after a map's (He et al., 2016, option A)."""

    before: int = 0
    after: int = 0

    def __post_init__(self) -> None:
        if min(self.before, self.after) < 0:
            raise ValueError(
                f"padding must be at least 0, got {self.before} before and "
                f"{self.after} after"
            )

    def shape(self, *inputs: Shape) -> Shape:
        channels, *size = self._map(inputs)
        return (self.before + channels + self.after, *size)


DEALT: Final = (Chunk, ChannelShuffle, ChannelSlice, PadChannels)
