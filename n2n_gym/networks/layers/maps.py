"""Layers that summarise or rearrange a map."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import final

from n2n_gym.networks.layers.layer import Layer, Pair, Shape, ShapeError, Window


@final
@dataclass(frozen=True)
class MaxPool(Layer):
    """Maximum over a sliding window."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    def shape(self, *inputs: Shape) -> Shape:
        channels, *size = self._map(inputs)
        window = Window(self.kernel, self.stride, self.padding, self.dilation)
        kept = self._pooled(tuple(size), window, ceil_mode=self.ceil_mode)
        return (channels, *kept)


@final
@dataclass(frozen=True)
class AvgPool(Layer):
    """Mean over a sliding window."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        channels, *size = self._map(inputs)
        window = Window(self.kernel, self.stride, self.padding, (1, 1))
        kept = self._pooled(tuple(size), window, ceil_mode=self.ceil_mode)
        return (channels, *kept)


@final
@dataclass(frozen=True)
class AdaptiveAvgPool(Layer):
    """Average pooling to a map of a given size."""

    size: Pair = (1, 1)

    def shape(self, *inputs: Shape) -> Shape:
        channels, *_ = self._map(inputs)
        return (channels, *self.size)


@final
@dataclass(frozen=True)
class SpatialMean(Layer):
    """Mean over height and width, written ``x.mean((2, 3))``."""

    keepdim: bool = False

    def shape(self, *inputs: Shape) -> Shape:
        channels, *_ = self._map(inputs)
        return (channels, 1, 1) if self.keepdim else (channels,)


@final
@dataclass(frozen=True)
class Flatten(Layer):
    """A map read as one vector, channel by channel."""

    def shape(self, *inputs: Shape) -> Shape:
        return (prod(self._map(inputs)),)


@final
@dataclass(frozen=True)
class Chunk(Layer):
    """One of several equal parts that the channels are split into, in their order."""

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
    """Channels dealt out anew: the first of each group, then the second, and so on."""

    groups: int

    def shape(self, *inputs: Shape) -> Shape:
        channels, *size = self._map(inputs)
        if channels % self.groups:
            raise ShapeError(
                f"{self.name}: {channels} channels do not divide into {self.groups} "
                f"groups"
            )
        return (channels, *size)
