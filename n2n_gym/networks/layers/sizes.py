"""Layers that only change a map's height and width."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Final, final

from n2n_gym.networks.layers.layer import Layer, Pair, Shape, ShapeError

MODES: Final = ("nearest", "bilinear")


@final
@dataclass(frozen=True)
class Pad(Layer):
    """Rows and columns added around a map, or cut off.

    Attributes:
        top, bottom, left, right: Number of rows or columns to add on this side. A
            negative number means rows or columns to cut off.
        lowest: Whether added values are minus infinity, which is never a maximum;
            otherwise they are zero.
    """

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0
    lowest: bool = False

    def shape(self, *inputs: Shape) -> Shape:
        channels, height, width = self._map(inputs)
        padded = height + self.top + self.bottom, width + self.left + self.right
        # A map must have the rows and columns that are cut off.
        ends = (self.top, self.bottom, height), (self.left, self.right, width)
        for first, last, length in ends:
            if min(first, last) <= -length or length + min(0, first) + min(0, last) < 1:
                raise ShapeError(f"{self.name}: nothing is left of a {inputs[0]} map")
        return (channels, *padded)


@final
@dataclass(frozen=True)
class Slice(Layer):
    """Every n-th row and column of a map: ``x[:, :, ::2, ::2]``.

    Attributes:
        stride: Distance between the rows and between the columns taken.
        start: First row and first column taken.
    """

    stride: Pair
    start: Pair = (0, 0)

    def shape(self, *inputs: Shape) -> Shape:
        channels, *size = self._map(inputs)
        left = [n - first for n, first in zip(size, self.start, strict=True)]
        if min(left) < 1:
            raise ShapeError(f"{self.name}: nothing is left of a {inputs[0]} map")
        height, width = (-(-n // s) for n, s in zip(left, self.stride, strict=True))
        return (channels, height, width)


@final
@dataclass(frozen=True)
class Interpolate(Layer):
    """A map resized by a factor or to a size.

    Attributes:
        scale: Factor for height and width; (0, 0) if the size is given.
        size: Height and width of the output; (0, 0) if the scale is given.
        mode: Name of the interpolation, from ``MODES``.
        corners: Whether corners stay corners (torch's ``align_corners``).
    """

    scale: tuple[float, float] = (0.0, 0.0)
    size: Pair = (0, 0)
    mode: str = "nearest"
    corners: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(
                f"unknown mode {self.mode!r}; accepted are {', '.join(MODES)}"
            )
        if (min(self.scale) > 0) == (min(self.size) > 0):
            raise ValueError(
                f"exactly one of scale and size must be given, got {self.scale} and "
                f"{self.size}"
            )

    def shape(self, *inputs: Shape) -> Shape:
        channels, *size = self._map(inputs)
        if min(self.size) > 0:
            return (channels, *self.size)
        height, width = (floor(n * s) for n, s in zip(size, self.scale, strict=True))
        if min(height, width) < 1:
            raise ShapeError(f"{self.name}: nothing is left of a {inputs[0]} map")
        return (channels, height, width)


@final
@dataclass(frozen=True)
class AsMap(Layer):
    """A vector as a map of one position: (F,) -> (F, 1, 1)."""

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != 1 or len(inputs[0]) != 1:
            raise ShapeError(f"{self.name}: {self.kind} needs one vector, got {inputs}")
        return (*inputs[0], 1, 1)
