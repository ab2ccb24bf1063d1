"""Layers with parameters."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Final, TypeAlias, final

from n2n_gym.networks.layers.layer import (
    Elementwise,
    Layer,
    Pair,
    Shape,
    ShapeError,
    Window,
)


@final
@dataclass(frozen=True)
class Conv(Layer):
    """2-D convolution with its own output width."""

    width: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        channels, *size = self._map(inputs)
        if channels % self.groups or self.width % self.groups:
            raise ShapeError(
                f"{self.name}: {channels} -> {self.width} channels do not divide into "
                f"{self.groups} groups"
            )
        window = Window(self.kernel, self.stride, self.padding, self.dilation)
        return (self.width, *self._window(tuple(size), window))

    def num_params(self, *inputs: Shape) -> int:
        filters = self.width * (inputs[0][0] // self.groups) * prod(self.kernel)
        return filters + self.bias * self.width

    def num_macs(self, *inputs: Shape) -> int:
        each = (inputs[0][0] // self.groups) * prod(self.kernel)
        return each * prod(self.shape(*inputs))


@final
@dataclass(frozen=True)
class DepthwiseConv(Layer):
    """Convolution of each channel separately; its width is that of its input."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    bias: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        channels, *size = self._map(inputs)
        window = Window(self.kernel, self.stride, self.padding, self.dilation)
        return (channels, *self._window(tuple(size), window))

    def num_params(self, *inputs: Shape) -> int:
        return inputs[0][0] * (prod(self.kernel) + self.bias)

    def num_macs(self, *inputs: Shape) -> int:
        return prod(self.kernel) * prod(self.shape(*inputs))


@final
@dataclass(frozen=True)
class Linear(Layer):
    """Fully connected layer on a feature vector, or on each position's channels."""

    width: int
    bias: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != 1:
            raise ShapeError(f"{self.name}: Linear needs one input, got {inputs}")
        return (self.width, *inputs[0][1:])

    def num_params(self, *inputs: Shape) -> int:
        return self.width * (inputs[0][0] + self.bias)

    def num_macs(self, *inputs: Shape) -> int:
        return self.width * prod(inputs[0])


@final
@dataclass(frozen=True)
class BatchNorm(Elementwise):
    """Batch normalisation of maps or of feature vectors."""

    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = True

    def num_params(self, *inputs: Shape) -> int:
        return 2 * inputs[0][0] * self.affine


@final
@dataclass(frozen=True)
class LayerNorm(Elementwise):
    """Layer normalisation of a feature vector, or of the channels of each position."""

    eps: float = 1e-5
    affine: bool = True

    def num_params(self, *inputs: Shape) -> int:
        return 2 * inputs[0][0] * self.affine


@final
@dataclass(frozen=True)
class GroupNorm(Elementwise):
    """Normalisation of each image's channels by groups (Wu and He, 2018).

    Its input width must be a multiple of ``groups``.
    """

    groups: int
    eps: float = 1e-5
    affine: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        shape = _wide(self, self._map(inputs))
        if shape[0] % self.groups:
            raise ShapeError(
                f"{self.name}: {shape[0]} channels do not divide into {self.groups} "
                f"groups"
            )
        return shape

    def num_params(self, *inputs: Shape) -> int:
        return 2 * inputs[0][0] * self.affine


@final
@dataclass(frozen=True)
class InstanceNorm(Elementwise):
    """Normalisation of each channel of each image separately."""

    eps: float = 1e-5
    affine: bool = False

    def shape(self, *inputs: Shape) -> Shape:
        return _wide(self, self._map(inputs))

    def num_params(self, *inputs: Shape) -> int:
        return 2 * inputs[0][0] * self.affine


def _wide(layer: Layer, shape: Shape) -> Shape:
    """The shape of a map, refused if it is that of a map of one position.

    Torch refuses to normalise a single value.
    """
    if prod(shape[1:]) < 2:
        raise ShapeError(
            f"{layer.name}: {layer.kind} needs a map of more than one place, got "
            f"{shape}"
        )
    return shape


@final
@dataclass(frozen=True)
class PReLU(Elementwise):
    """A rectifier with learned slopes: one per channel, or one for all."""

    channelwise: bool = True

    def num_params(self, *inputs: Shape) -> int:
        return inputs[0][0] if self.channelwise else 1


@final
@dataclass(frozen=True)
class Scale(Elementwise):
    """A learned factor for each channel ("layer scale").

    In a state dict its parameter has the layer's name, without ".weight". The shape is
    (1,) * leading + (C,) + (1,) * trailing.
    """

    leading: int = 0
    trailing: int = 2

    def num_params(self, *inputs: Shape) -> int:
        return inputs[0][0]


Producer: TypeAlias = Conv | Linear  # the layers that have a width
PRODUCERS: Final = (Conv, Linear)
NORMS: Final = (BatchNorm, LayerNorm, GroupNorm, InstanceNorm)
PARAMETERISED: Final = (Conv, DepthwiseConv, Linear, *NORMS, PReLU, Scale)
