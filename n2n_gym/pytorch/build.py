"""Building the torch module of an architecture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import (
    Activation,
    Conv,
    Layer,
    LayerNorm,
    Linear,
    Scale,
    Shape,
)
from n2n_gym.pytorch.operations import operation as operation_of

FEW_CHANNELS: Final = 16


def build(architecture: Architecture, device: torch.device | str = "cpu") -> Network:
    """The torch module of an architecture, with torch's default initial weights.

    Its state dict has the keys of the teacher that the architecture was traced from. On
    the device ``"meta"``, weights take no memory.
    """
    with torch.device(device):
        return Network(architecture)


class Network(nn.Module):
    """The network of an architecture: (B, C, H, W) images to (B, classes) logits.

    Its modules have the names of the teacher's modules, so a name can be any string.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        last_reader = {
            read: position
            for position, layer in enumerate(architecture.layers)
            for read in layer.inputs
        }
        self.__steps: list[
            tuple[Callable[..., Tensor], tuple[int, ...], list[int]]
        ] = []
        lie_last: set[int] = set()  # maps held with their channels last
        for position, layer in enumerate(architecture.layers):
            shapes = [architecture.shape_of(read) for read in layer.inputs]
            operation = _registered(self, layer.name, operation_of(layer, shapes[0]))
            if _may_overrun(layer, shapes[0]):
                operation = partial(_thinned_first, operation)
            are_last = [read in lie_last for read in layer.inputs]
            if isinstance(layer, (Linear, LayerNorm)) and len(shapes[0]) == 3:
                lie_last.add(position)
                if not are_last[0]:
                    operation = partial(_channels_last, operation)
            elif isinstance(layer, Activation) and are_last[0]:
                lie_last.add(position)
            elif any(are_last):
                operation = partial(_channels_first, operation, are_last)
            if position in lie_last and position == len(architecture.layers) - 1:
                operation = partial(_as_map, operation)
            # Free outputs that no later layer reads.
            spent = [r for r in set(layer.inputs) if last_reader[r] == position]
            self.__steps.append((operation, layer.inputs, spent))
        if "input_shape" not in self._modules:  # unless it names a teacher's module
            self.input_shape = architecture.input_shape  # of an image, (C, H, W)

    def forward(self, images: Tensor) -> Tensor:
        values = {-1: images}
        for position, (operation, inputs, spent) in enumerate(self.__steps):
            values[position] = operation(*[values[read] for read in inputs])
            for read in spent:
                del values[read]
        return values[position]


def weights_of(network: Network, layer: Layer) -> dict[str, Tensor]:
    """A layer's entries of the state dict, which can be written in place."""
    *path, leaf = layer.name.split(".")
    container = network.get_submodule(".".join(path))
    if isinstance(layer, Scale):
        return {layer.name: container.get_parameter(leaf)}
    module = container.get_submodule(leaf)
    # Only its own weights: a teacher may have other layers inside this one.
    tensors = (
        *module.named_parameters(recurse=False),
        *module.named_buffers(recurse=False),
    )
    return {f"{layer.name}.{key}": tensor for key, tensor in tensors}


def _registered(
    network: Network, name: str, operation: nn.Parameter | Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """Register an operation that has weights under the layer's dotted name.

    So the network's state dict has the teacher's keys.

    Returns:
        The operation, as a function of tensors.
    """
    if not isinstance(operation, (nn.Module, nn.Parameter)):
        return operation
    *path, leaf = name.split(".")
    container: nn.Module = network
    for part in path:
        if part not in container._modules:
            container.add_module(part, nn.Module())
        container = container.get_submodule(part)
    if isinstance(operation, nn.Module):
        if leaf in container._modules:  # layers inside this one that come before it
            for part, inside in container.get_submodule(leaf).named_children():
                operation.add_module(part, inside)
        container.add_module(leaf, operation)
        return operation
    container.register_parameter(leaf, operation)
    # The parameter is looked up at each call, because loading weights may replace it.
    return partial(_scale, container, leaf)


def _may_overrun(layer: Layer, read: Shape) -> bool:
    """Whether oneDNN 3.12 can write past a buffer in the layer's weight gradients.

    The error occurs on x86, in float32, with channels last (uxlfoundation/oneDNN, issue
    6035).

    Args:
        read: Shape of the layer's input.
    """
    return (
        isinstance(layer, Conv)
        and layer.kernel == (1, 1)
        and layer.padding == (0, 0)
        and max(layer.stride) > 1
        and read[0] < FEW_CHANNELS
    )


def _thinned_first(operation: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Apply a strided 1x1 convolution to the input without its skipped positions.

    This is done only in training on a CPU. Otherwise the input is used unchanged.
    """
    learns = torch.is_grad_enabled() and not torch.compiler.is_exporting()
    if not learns or not isinstance(x, Tensor) or not x.is_cpu:  # torch.fx traces it
        return operation(x)
    assert isinstance(operation, nn.Conv2d)
    down, right = operation.stride
    thin = x[:, :, ::down, ::right]
    return F.conv2d(thin, operation.weight, operation.bias, groups=operation.groups)


def _channels_last(operation: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Apply an operation on the last dimension to a map's channels."""
    return operation(x.permute(0, 2, 3, 1))


def _as_map(operation: Callable[..., Tensor], x: Tensor) -> Tensor:
    return operation(x).permute(0, 3, 1, 2)


def _channels_first(
    operation: Callable[..., Tensor], are_last: list[bool], *operands: Tensor
) -> Tensor:
    """Apply an operation on maps to maps that are stored channels last."""
    pairs = zip(operands, are_last, strict=True)
    return operation(*[x.permute(0, 3, 1, 2) if last else x for x, last in pairs])


def _scale(container: nn.Module, name: str, x: Tensor) -> Tensor:
    scale: Tensor = getattr(container, name)
    return x * scale.view(-1, *[1] * (x.dim() - 2))
