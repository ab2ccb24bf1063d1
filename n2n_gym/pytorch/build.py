"""Architecture -> torch module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from math import inf
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth as StochasticDepthModule

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    Affine,
    AsMap,
    AvgPool,
    BatchNorm,
    ChannelShuffle,
    ChannelSlice,
    Chunk,
    Clamp,
    Concat,
    Conv,
    DepthwiseConv,
    Dropout,
    Flatten,
    GroupNorm,
    InstanceNorm,
    Interpolate,
    Layer,
    LayerNorm,
    Linear,
    MaxPool,
    Multiply,
    Pad,
    PadChannels,
    PReLU,
    Scale,
    Shape,
    Slice,
    SpatialMean,
    StochasticDepth,
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
    "selu": nn.SELU,
    "softplus": nn.Softplus,
}


FEW_CHANNELS: Final = 16


def build(architecture: Architecture, device: torch.device | str = "cpu") -> Network:
    """A torch module with torch's default weights; ``"meta"`` allocates none.

    Its state dict has the keys of the teacher that the architecture was traced from.
    """
    with torch.device(device):
        return Network(architecture)


class Network(nn.Module):
    """What an architecture computes: (B, C, H, W) images to (B, classes) logits.

    It has the teacher's modules by the teacher's names, which may be any.
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
            operation = _registered(self, layer.name, _operation(layer, *shapes))
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
            # What nobody reads later need not be kept.
            spent = [r for r in set(layer.inputs) if last_reader[r] == position]
            self.__steps.append((operation, layer.inputs, spent))
        if "input_shape" not in self._modules:  # a teacher's module comes first
            self.input_shape = architecture.input_shape  # of an image, (C, H, W)

    def forward(self, images: Tensor) -> Tensor:
        values = {-1: images}
        for position, (operation, inputs, spent) in enumerate(self.__steps):
            values[position] = operation(*[values[read] for read in inputs])
            for read in spent:
                del values[read]
        return values[position]


def weights_of(network: Network, layer: Layer) -> dict[str, Tensor]:
    """A layer's entries of the state dict, to be written to in place."""
    *path, leaf = layer.name.split(".")
    container = network.get_submodule(".".join(path))
    if isinstance(layer, Scale):
        return {layer.name: container.get_parameter(leaf)}
    module = container.get_submodule(leaf)
    # Of itself alone: a teacher may have other layers inside this one.
    tensors = (
        *module.named_parameters(recurse=False),
        *module.named_buffers(recurse=False),
    )
    return {f"{layer.name}.{key}": tensor for key, tensor in tensors}


def _registered(
    network: Network, name: str, operation: nn.Parameter | Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """The operation; what has weights is at home under its dotted name.

    So the state dict has the teacher's keys.
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
    # A parameter is looked up at each call: loading weights may replace it.
    return partial(_scale, container, leaf)


def _operation(layer: Layer, *inputs: Shape) -> nn.Parameter | Callable[..., Tensor]:
    """What computes a layer: a module, a function, or a parameter to multiply by."""
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
        case LayerNorm():
            return nn.LayerNorm(inputs[0][0], layer.eps, layer.affine)
        case GroupNorm():
            return nn.GroupNorm(layer.groups, inputs[0][0], layer.eps, layer.affine)
        case InstanceNorm():
            return nn.InstanceNorm2d(inputs[0][0], layer.eps, affine=layer.affine)
        case PReLU():
            return nn.PReLU(inputs[0][0] if layer.channelwise else 1)
        case Scale():
            ones = (1,) * layer.leading, (1,) * layer.trailing
            return nn.Parameter(torch.ones(*ones[0], inputs[0][0], *ones[1]))
        case Activation(function="leaky_relu"):
            return nn.LeakyReLU(layer.slope)
        case Activation(function="elu"):
            return nn.ELU(layer.alpha)
        case Activation(function="gelu_tanh"):
            return nn.GELU("tanh")
        case Activation():
            return ACTIVATION_MODULES[layer.function]()
        case Dropout():
            return (nn.Dropout2d if layer.channelwise else nn.Dropout)(layer.rate)
        case StochasticDepth():
            depth: nn.Module = StochasticDepthModule(layer.rate, "row")
            return depth
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
            return partial(torch.mean, dim=(2, 3), keepdim=layer.keepdim)
        case Flatten():
            return _flatten
        case Chunk():
            return partial(_chunk, layer.part, layer.parts)
        case Clamp():
            return partial(torch.clamp, min=layer.low, max=layer.high)
        case Affine():
            return partial(_affine, layer)
        case Pad():
            sides = layer.left, layer.right, layer.top, layer.bottom
            fill = -inf if layer.lowest else 0.0
            return partial(F.pad, pad=sides, value=fill)
        case PadChannels():
            return partial(F.pad, pad=(0, 0, 0, 0, layer.before, layer.after))
        case Slice():
            return partial(_slice, layer)
        case ChannelSlice():
            return partial(_some_channels, layer.start, layer.stop)
        case Interpolate():
            return partial(_interpolate, layer)
        case AsMap():
            return _as_one_place
        case ChannelShuffle():
            return partial(_shuffle, layer.groups)
        case Add():
            return _add
        case Multiply():
            return _multiply
        case Concat():
            return _concat
        case _:
            raise AssertionError(f"no torch operation for {layer}")


def _may_overrun(layer: Layer, read: Shape) -> bool:
    """Whether oneDNN 3.12 writes past a buffer where it finds such weights' gradients.

    On x86, in float32, with the channels last (uxlfoundation/oneDNN, issue 6035).
    """
    return (
        isinstance(layer, Conv)
        and layer.kernel == (1, 1)
        and layer.padding == (0, 0)
        and max(layer.stride) > 1
        and read[0] < FEW_CHANNELS
    )


def _thinned_first(operation: Callable[..., Tensor], x: Tensor) -> Tensor:
    """A strided 1x1 convolution that learns drops first what it would step over."""
    learns = torch.is_grad_enabled() and not torch.compiler.is_exporting()
    if not learns or not isinstance(x, Tensor) or not x.is_cpu:  # torch.fx traces it
        return operation(x)
    assert isinstance(operation, nn.Conv2d)
    down, right = operation.stride
    thin = x[:, :, ::down, ::right]
    return F.conv2d(thin, operation.weight, operation.bias, groups=operation.groups)


def _channels_last(operation: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Apply what works on the last dimension to the channels of a map."""
    return operation(x.permute(0, 2, 3, 1))


def _as_map(operation: Callable[..., Tensor], x: Tensor) -> Tensor:
    return operation(x).permute(0, 3, 1, 2)


def _channels_first(
    operation: Callable[..., Tensor], are_last: list[bool], *operands: Tensor
) -> Tensor:
    """Apply what works on maps to such as are held with their channels last."""
    pairs = zip(operands, are_last, strict=True)
    return operation(*[x.permute(0, 3, 1, 2) if last else x for x, last in pairs])


def _scale(container: nn.Module, name: str, x: Tensor) -> Tensor:
    scale: Tensor = getattr(container, name)
    return x * scale.view(-1, *[1] * (x.dim() - 2))


def _chunk(part: int, parts: int, x: Tensor) -> Tensor:
    return x.chunk(parts, 1)[part]


def _shuffle(groups: int, x: Tensor) -> Tensor:
    """(B, C, H, W) -> the same: of every group the first channel, the second, ..."""
    batch, channels, *size = x.shape
    dealt = x.reshape(batch, groups, channels // groups, *size).transpose(1, 2)
    return dealt.reshape(batch, channels, *size)


def _affine(layer: Affine, x: Tensor) -> Tensor:
    if layer.factor != 1:
        x = -x if layer.factor == -1 else x * layer.factor
    if layer.divisor != 1:
        x = x / layer.divisor
    return x if layer.offset == 0 else x + layer.offset


def _slice(layer: Slice, x: Tensor) -> Tensor:
    (top, left), (down, right) = layer.start, layer.stride
    return x[:, :, top::down, left::right]


def _some_channels(start: int, stop: int, x: Tensor) -> Tensor:
    return x[:, start:stop]


def _interpolate(layer: Interpolate, x: Tensor) -> Tensor:
    is_sized = min(layer.size) > 0
    return F.interpolate(
        x,
        layer.size if is_sized else None,
        None if is_sized else layer.scale,
        layer.mode,
        layer.corners if layer.mode == "bilinear" else None,
    )


def _as_one_place(x: Tensor) -> Tensor:
    return x[:, :, None, None]


def _flatten(x: Tensor) -> Tensor:
    return torch.flatten(x, 1)


def _add(*operands: Tensor) -> Tensor:
    return reduce(torch.add, operands)


def _multiply(*operands: Tensor) -> Tensor:
    return reduce(torch.mul, operands)


def _concat(*operands: Tensor) -> Tensor:
    return torch.cat(operands, 1)
