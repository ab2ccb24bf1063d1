"""Architecture -> torch module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Final

import torch
from torch import Tensor, nn

from n2n_gym.architecture import Architecture
from n2n_gym.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    DepthwiseConv,
    Dropout,
    Flatten,
    Layer,
    Linear,
    MaxPool,
    Multiply,
    Shape,
    SpatialMean,
)

ACTIVATION_MODULES: Final[Mapping[str, type[nn.Module]]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
}


def build(architecture: Architecture, device: torch.device | str = "cpu") -> Network:
    """A torch module with torch's default weights; ``"meta"`` allocates none.

    Its state dict has the keys of the teacher that the architecture was traced from.
    """
    with torch.device(device):
        return Network(architecture)


class Network(nn.Module):
    """What an architecture computes: (B, C, H, W) images to (B, classes) logits."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        last_reader = {
            read: position
            for position, layer in enumerate(architecture.layers)
            for read in layer.inputs
        }
        self._steps: list[tuple[Callable[..., Tensor], tuple[int, ...], list[int]]] = []
        for position, layer in enumerate(architecture.layers):
            operation = _operation(layer, *map(architecture.shape_of, layer.inputs))
            if isinstance(operation, nn.Module):
                self._register(layer.name, operation)
            # What nobody reads later need not be kept.
            spent = [r for r in set(layer.inputs) if last_reader[r] == position]
            self._steps.append((operation, layer.inputs, spent))

    def _register(self, name: str, operation: nn.Module) -> None:
        """Under the dotted name, so that the state dict has the teacher's keys."""
        *path, leaf = name.split(".")
        container: nn.Module = self
        for part in path:
            if part not in container._modules:
                container.add_module(part, nn.Module())
            container = container.get_submodule(part)
        container.add_module(leaf, operation)

    def forward(self, images: Tensor) -> Tensor:
        values = {-1: images}
        for position, (operation, inputs, spent) in enumerate(self._steps):
            values[position] = operation(*[values[read] for read in inputs])
            for read in spent:
                del values[read]
        return values[position]


def _operation(layer: Layer, *inputs: Shape) -> Callable[..., Tensor]:
    """What computes a layer: a module, or a function where it has no state."""
    match layer:
        case Conv():
            return nn.Conv2d(
                inputs[0][0],
                layer.width,
                layer.kernel,
                layer.stride,
                layer.padding,
                layer.dilation,
                layer.groups,
                layer.bias,
            )
        case DepthwiseConv():
            channels = inputs[0][0]
            return nn.Conv2d(
                channels,
                channels,
                layer.kernel,
                layer.stride,
                layer.padding,
                layer.dilation,
                channels,
                layer.bias,
            )
        case Linear():
            return nn.Linear(inputs[0][0], layer.width, layer.bias)
        case BatchNorm():
            norm = nn.BatchNorm2d if len(inputs[0]) == 3 else nn.BatchNorm1d
            return norm(inputs[0][0], layer.eps, layer.momentum, layer.affine)
        case Activation(function="leaky_relu"):
            return nn.LeakyReLU(layer.slope)
        case Activation():
            return ACTIVATION_MODULES[layer.function]()
        case Dropout():
            return (nn.Dropout2d if layer.channelwise else nn.Dropout)(layer.rate)
        case MaxPool():
            return nn.MaxPool2d(
                layer.kernel,
                layer.stride,
                layer.padding,
                layer.dilation,
                ceil_mode=layer.ceil_mode,
            )
        case AvgPool():
            return nn.AvgPool2d(
                layer.kernel,
                layer.stride,
                layer.padding,
                layer.ceil_mode,
                layer.count_include_pad,
            )
        case AdaptiveAvgPool():
            return nn.AdaptiveAvgPool2d(layer.size)
        case SpatialMean():
            keepdim = layer.keepdim
            return lambda x: x.mean((2, 3), keepdim=keepdim)
        case Flatten():
            return _flatten
        case Add():
            return _add
        case Multiply():
            return _multiply
        case Concat():
            return _concat
        case _:
            raise AssertionError(f"no torch operation for {layer}")


def _flatten(x: Tensor) -> Tensor:
    return torch.flatten(x, 1)


def _add(*operands: Tensor) -> Tensor:
    return reduce(torch.add, operands)


def _multiply(*operands: Tensor) -> Tensor:
    return reduce(torch.mul, operands)


def _concat(*operands: Tensor) -> Tensor:
    return torch.cat(operands, 1)
