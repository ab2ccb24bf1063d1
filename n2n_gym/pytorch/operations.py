"""The torch operation of each kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from math import inf
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth as StochasticDepthModule

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

# The operation of a layer: a module, a function, or a parameter to multiply by.
Operation = nn.Parameter | Callable[..., Tensor]

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


def operation(layer: Layer, read: Shape) -> Operation:
    """The operation of a layer.

    Args:
        layer: The layer to compute.
        read: Shape of the layer's first input.
    """
    return OPERATIONS[type(layer)](layer, read)


def _conv(layer: Conv, read: Shape) -> nn.Module:
    return _conv2d(layer, read[0], layer.width, layer.groups)


def _depthwise_conv(layer: DepthwiseConv, read: Shape) -> nn.Module:
    return _conv2d(layer, read[0], read[0], read[0])


def _conv2d(
    layer: Conv | DepthwiseConv, channels: int, width: int, groups: int
) -> nn.Module:
    return nn.Conv2d(
        channels,
        width,
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.dilation,
        groups,
        layer.bias,
    )


def _batch_norm(layer: BatchNorm, read: Shape) -> nn.Module:
    norm = nn.BatchNorm2d if len(read) == 3 else nn.BatchNorm1d
    return norm(read[0], layer.eps, layer.momentum, layer.affine)


def _ones(layer: Scale, read: Shape) -> nn.Parameter:
    before, after = (1,) * layer.leading, (1,) * layer.trailing
    return nn.Parameter(torch.ones(*before, read[0], *after))


def _activation(layer: Activation, read: Shape) -> nn.Module:
    match layer.function:
        case "leaky_relu":
            return nn.LeakyReLU(layer.slope)
        case "elu":
            return nn.ELU(layer.alpha)
        case "gelu_tanh":
            return nn.GELU("tanh")
        case function:
            return ACTIVATION_MODULES[function]()


def _max_pool(layer: MaxPool, read: Shape) -> nn.Module:
    return nn.MaxPool2d(
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.dilation,
        ceil_mode=layer.ceil_mode,
    )


def _avg_pool(layer: AvgPool, read: Shape) -> nn.Module:
    return nn.AvgPool2d(
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.ceil_mode,
        layer.count_include_pad,
    )


def _pad(layer: Pad, read: Shape) -> Callable[..., Tensor]:
    sides = layer.left, layer.right, layer.top, layer.bottom
    return partial(F.pad, pad=sides, value=-inf if layer.lowest else 0.0)


def _chunk(part: int, parts: int, x: Tensor) -> Tensor:
    return x.chunk(parts, 1)[part]


def _shuffle(groups: int, x: Tensor) -> Tensor:
    """Reorder (B, C, H, W): the first channel of each group, then the second, ..."""
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


OPERATIONS: Final[Mapping[type[Layer], Callable[[Any, Shape], Operation]]] = {
    Conv: _conv,
    DepthwiseConv: _depthwise_conv,
    Linear: lambda layer, read: nn.Linear(read[0], layer.width, layer.bias),
    BatchNorm: _batch_norm,
    LayerNorm: lambda layer, read: nn.LayerNorm(read[0], layer.eps, layer.affine),
    GroupNorm: lambda layer, read: nn.GroupNorm(
        layer.groups, read[0], layer.eps, layer.affine
    ),
    InstanceNorm: lambda layer, read: nn.InstanceNorm2d(
        read[0], layer.eps, affine=layer.affine
    ),
    PReLU: lambda layer, read: nn.PReLU(read[0] if layer.channelwise else 1),
    Scale: _ones,
    Activation: _activation,
    Dropout: lambda layer, _: (nn.Dropout2d if layer.channelwise else nn.Dropout)(
        layer.rate
    ),
    StochasticDepth: lambda layer, _: StochasticDepthModule(layer.rate, "row"),
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    AdaptiveAvgPool: lambda layer, _: nn.AdaptiveAvgPool2d(layer.size),
    SpatialMean: lambda layer, _: partial(
        torch.mean, dim=(2, 3), keepdim=layer.keepdim
    ),
    Flatten: lambda *_: _flatten,
    Chunk: lambda layer, _: partial(_chunk, layer.part, layer.parts),
    Clamp: lambda layer, _: partial(torch.clamp, min=layer.low, max=layer.high),
    Affine: lambda layer, _: partial(_affine, layer),
    Pad: _pad,
    PadChannels: lambda layer, _: partial(
        F.pad, pad=(0, 0, 0, 0, layer.before, layer.after)
    ),
    Slice: lambda layer, _: partial(_slice, layer),
    ChannelSlice: lambda layer, _: partial(_some_channels, layer.start, layer.stop),
    Interpolate: lambda layer, _: partial(_interpolate, layer),
    AsMap: lambda *_: _as_one_place,
    ChannelShuffle: lambda layer, _: partial(_shuffle, layer.groups),
    Add: lambda *_: _add,
    Multiply: lambda *_: _multiply,
    Concat: lambda *_: _concat,
}
