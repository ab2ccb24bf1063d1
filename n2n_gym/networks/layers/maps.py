"""Layers that summarise a map."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import final

from n2n_gym.networks.layers.layer import Layer, Pair, Shape, Window


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
