"""Layers that join several values."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import final

from n2n_gym.networks.layers.layer import Layer, Shape, ShapeError


class Join(Layer):
    """A layer that only joins several values."""


@final
@dataclass(frozen=True)
class Add(Join):
    """Sum of values of one shape."""

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs) < 2 or any(shape != inputs[0] for shape in inputs):
            raise ShapeError(f"{self.name}: addition needs equal shapes, got {inputs}")
        return inputs[0]


@final
@dataclass(frozen=True)
class Multiply(Join):
    """Product of a value and its gate; a map's gate can have one value per channel."""

    def shape(self, *inputs: Shape) -> Shape:
        largest = max(inputs, key=prod, default=())
        gates = {largest, largest[:1] + (1,) * (len(largest) - 1)}
        if len(inputs) < 2 or any(shape not in gates for shape in inputs):
            raise ShapeError(
                f"{self.name}: a gate must have the shape of its map, or one value per "
                f"channel, got {inputs}"
            )
        return largest


@final
@dataclass(frozen=True)
class Concat(Join):
    """Concatenation along the channels."""

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs) < 2 or any(shape[1:] != inputs[0][1:] for shape in inputs):
            raise ShapeError(
                f"{self.name}: concatenation needs equal height and width, got {inputs}"
            )
        return (sum(shape[0] for shape in inputs), *inputs[0][1:])
