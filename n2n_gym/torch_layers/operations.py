"""Torch's modules and functions, each with the layer it is."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from n2n_gym.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    ChannelShuffle,
    Chunk,
    Concat,
    Conv,
    DepthwiseConv,
    Dropout,
    Flatten,
    Layer,
    LayerNorm,
    Linear,
    MaxPool,
    Multiply,
    Pair,
    Scale,
    Shape,
    SpatialMean,
    StochasticDepth,
)
from n2n_gym.torch_layers.build import ACTIVATION_MODULES


class Unsupported(Exception):
    """An operation cannot be translated; the message says why."""


class Layout(NamedTuple):
    """How the channels of a map lie in its tensor; the batch comes first."""

    axes: str  # "CHW", "HWC", or with the channels in groups "GCHW" and "CGHW"
    groups: int = 1


PLAIN: Final = Layout("CHW")
CHANNELS_LAST: Final = Layout("HWC")


class Operand(NamedTuple):
    """A tensor argument."""

    position: int  # of the layer that emits it
    shape: Shape  # of the tensor, the batch included
    layout: Layout

    @property
    def dim(self) -> int:
        return len(self.shape)

    @property
    def ends_with_features(self) -> bool:
        """Whether the last dimension holds the channels or features."""
        return self.dim == 2 or self.layout == CHANNELS_LAST


class Weight(NamedTuple):
    """A parameter that is used by itself."""

    name: str
    shape: Shape


# A translation takes the layer's name and the call's own arguments, tensors as Operands
# and parameters as Weights. It gives the layer, None where the operation leaves its
# input as it is, or the layout where it does no more than lay it out anew.
Translation = Callable[..., Layer | Layout | None]


def _pair(value: int | Sequence[int]) -> Pair:
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise Unsupported(f"{what} is not supported")


def _inputs(*operands: Any, layouts: Sequence[Layout] = (PLAIN,)) -> tuple[int, ...]:
    """What a layer reads; one that does not care how a map lies gives all layouts."""
    _require(
        all(isinstance(operand, Operand) for operand in operands),
        "arithmetic with anything but two computed tensors",
    )
    for operand in operands:
        _require(
            not layouts or operand.layout in layouts,
            f"this on a map that lies as {'B' + operand.layout.axes}",
        )
    return tuple(operand.position for operand in operands)


def _elementwise(operand: Any) -> tuple[int, ...]:
    return _inputs(operand, layouts=())


def _on_features(operand: Any) -> tuple[int, ...]:
    """The input of what works on the last dimension, if that holds the features."""
    position = _inputs(operand, layouts=())
    _require(operand.ends_with_features, "this on the width of a map")
    return position


# Modules: also given the module.


def _conv(name: str, x: Operand, module: nn.Conv2d) -> Layer:
    _require(module.padding_mode == "zeros", f"padding_mode={module.padding_mode!r}")
    kernel, dilation = _pair(module.kernel_size), _pair(module.dilation)
    padding: Pair
    if isinstance(module.padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if module.padding == "valid":
            reach = [0, 0]
        _require(all(r % 2 == 0 for r in reach), "one-sided padding")
        padding = reach[0] // 2, reach[1] // 2
    else:
        padding = _pair(module.padding)
    stride, bias = _pair(module.stride), module.bias is not None
    if 1 < module.groups == module.in_channels == module.out_channels:
        return DepthwiseConv(
            name, _inputs(x), kernel, stride, padding, dilation, bias=bias
        )
    return Conv(
        name,
        _inputs(x),
        module.out_channels,
        kernel,
        stride,
        padding,
        dilation,
        module.groups,
        bias,
    )


def _linear(name: str, x: Operand, module: nn.Linear) -> Layer:
    return Linear(name, _on_features(x), module.out_features, module.bias is not None)


def _batch_norm(
    name: str, x: Operand, module: nn.BatchNorm1d | nn.BatchNorm2d
) -> Layer:
    _require(module.track_running_stats, "track_running_stats=False")
    _require(module.momentum is not None, "momentum=None")
    return BatchNorm(
        name, _inputs(x), module.eps, float(module.momentum or 0), module.affine
    )


def _layer_norm_module(name: str, x: Operand, module: nn.LayerNorm) -> Layer:
    _require(len(module.normalized_shape) == 1, "normalising several dimensions")
    is_affine = module.elementwise_affine
    _require(not is_affine or module.bias is not None, "LayerNorm without bias")
    return LayerNorm(name, _on_features(x), module.eps, is_affine)


def _dropout(name: str, x: Operand, module: nn.Dropout | nn.Dropout2d) -> Layer:
    if isinstance(module, nn.Dropout2d):
        return Dropout(name, _inputs(x), module.p, True)
    return Dropout(name, _elementwise(x), module.p)


def _stochastic_depth_module(
    name: str, x: Operand, module: torchvision.ops.StochasticDepth
) -> Layer:
    _require(module.mode == "row", f"mode={module.mode!r}")
    return StochasticDepth(name, _elementwise(x), module.p)


def _shuffle_module(name: str, x: Operand, module: nn.ChannelShuffle) -> Layer:
    return ChannelShuffle(name, _inputs(x), module.groups)


def _identity(name: str, x: Operand, module: nn.Identity) -> None:
    return None


def _activation_module(name: str, x: Operand, module: nn.Module) -> Layer:
    function = next(f for f, kind in ACTIVATION_MODULES.items() if type(module) is kind)
    if isinstance(module, nn.ELU):
        _require(module.alpha == 1, f"ELU with alpha={module.alpha}")
    if isinstance(module, nn.GELU):
        _require(module.approximate == "none", "an approximated GELU")
    slope = float(getattr(module, "negative_slope", 0.01))
    return Activation(name, _elementwise(x), function, slope)


def _max_pool_module(name: str, x: Operand, module: nn.MaxPool2d) -> Layer:
    return _max_pool(
        name,
        x,
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.ceil_mode,
        module.return_indices,
    )


def _avg_pool_module(name: str, x: Operand, module: nn.AvgPool2d) -> Layer:
    return _avg_pool(
        name,
        x,
        module.kernel_size,
        module.stride,
        module.padding,
        module.ceil_mode,
        module.count_include_pad,
        module.divisor_override,
    )


def _adaptive_avg_pool_module(
    name: str, x: Operand, module: nn.AdaptiveAvgPool2d
) -> Layer:
    return _adaptive_avg_pool(name, x, module.output_size)


MODULES: Final[Mapping[type[nn.Module], Translation]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm_module,
    nn.ChannelShuffle: _shuffle_module,
    torchvision.ops.StochasticDepth: _stochastic_depth_module,
    nn.Dropout: _dropout,
    nn.Dropout2d: _dropout,
    nn.Identity: _identity,
    nn.MaxPool2d: _max_pool_module,
    nn.AvgPool2d: _avg_pool_module,
    nn.AdaptiveAvgPool2d: _adaptive_avg_pool_module,
    **dict.fromkeys(ACTIVATION_MODULES.values(), _activation_module),
}


# Functions and methods: the parameters have torch's own names.


def _max_pool(
    name: str,
    input: Operand,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Layer:
    _require(not return_indices, "return_indices=True")
    return MaxPool(
        name,
        _inputs(input),
        _pair(kernel_size),
        _pair(stride or kernel_size),
        _pair(padding),
        _pair(dilation),
        ceil_mode,
    )


def _avg_pool(
    name: str,
    input: Operand,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Layer:
    _require(divisor_override is None, f"divisor_override={divisor_override}")
    return AvgPool(
        name,
        _inputs(input),
        _pair(kernel_size),
        _pair(stride or kernel_size),
        _pair(padding),
        ceil_mode,
        count_include_pad,
    )


def _adaptive_avg_pool(
    name: str, input: Operand, output_size: int | Sequence[int | None] | None
) -> Layer:
    sizes = output_size if isinstance(output_size, Sequence) else [output_size]
    _require(None not in sizes, f"output_size={output_size}")
    return AdaptiveAvgPool(name, _inputs(input), _pair(output_size))  # type: ignore[arg-type]


def _activation(
    function: str, name: str, input: Operand, inplace: bool = False
) -> Layer:
    return Activation(name, _elementwise(input), function)


def _elu(name: str, input: Operand, alpha: float = 1.0, inplace: bool = False) -> Layer:
    _require(alpha == 1, f"ELU with alpha={alpha}")
    return Activation(name, _elementwise(input), "elu")


def _leaky_relu(
    name: str, input: Operand, negative_slope: float = 0.01, inplace: bool = False
) -> Layer:
    return Activation(name, _elementwise(input), "leaky_relu", negative_slope)


def _functional_dropout(
    channelwise: bool,
    name: str,
    input: Operand,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Layer:
    _require(not training, "dropout that is not switched off in eval mode")
    layouts = (PLAIN,) if channelwise else ()
    return Dropout(name, _inputs(input, layouts=layouts), p, channelwise)


def _stochastic_depth(
    name: str, input: Operand, p: float, mode: str, training: bool = True
) -> Layer:
    _require(not training, "stochastic depth that is not switched off in eval mode")
    _require(mode == "row", f"mode={mode!r}")
    return StochasticDepth(name, _elementwise(input), p)


def _layer_norm(
    name: str,
    input: Operand,
    normalized_shape: Sequence[int],
    weight: Weight | None = None,
    bias: Weight | None = None,
    eps: float = 1e-5,
) -> Layer:
    _require(len(normalized_shape) == 1, "normalising several dimensions")
    if weight is None and bias is None:
        return LayerNorm(name, _on_features(input), eps, False)
    _require(
        isinstance(weight, Weight)
        and isinstance(bias, Weight)
        and weight.name.endswith(".weight")
        and bias.name == weight.name.removesuffix("weight") + "bias",
        "a normalisation with anything but a module's own weight and bias",
    )
    assert weight is not None
    return LayerNorm(weight.name.removesuffix(".weight"), _on_features(input), eps)


def _add(name: str, input: Operand, other: Operand) -> Layer:
    return Add(name, _alike(input, other))


def _multiply(name: str, input: Operand | Weight, other: Operand | Weight) -> Layer:
    if isinstance(input, Weight):
        input, other = other, input
    if isinstance(other, Weight) and isinstance(input, Operand):
        return _scale(input, other)
    return Multiply(name, _alike(input, other))


def _alike(*operands: Any) -> tuple[int, ...]:
    """What a join reads; its operands must lie alike."""
    positions = _inputs(*operands, layouts=())
    _require(len({o.layout for o in operands}) == 1, "joining maps that lie otherwise")
    return positions


def _scale(x: Operand, factor: Weight) -> Layer:
    """A product with a parameter that holds one number a channel."""
    axis = 1 if x.layout == PLAIN else x.dim - 1
    channels = x.shape[axis]
    after = x.dim - 1 - axis
    leading = len(factor.shape) - 1 - after
    _require(
        0 <= leading <= axis
        and factor.shape == (1,) * leading + (channels,) + (1,) * after,
        f"a factor of the shape {factor.shape}: one a channel is needed, it",
    )
    inputs = _inputs(x, layouts=(PLAIN, CHANNELS_LAST))
    return Scale(factor.name, inputs, leading, after)


def _concat(
    name: str,
    tensors: Sequence[Operand],
    dim: int = 0,
    axis: int | None = None,
) -> Layer | None:
    dim = dim if axis is None else axis
    _require(dim in (1, 1 - tensors[0].dim), f"concatenation along dimension {dim}")
    return Concat(name, _inputs(*tensors)) if len(tensors) > 1 else None


def _mean(
    name: str,
    input: Operand,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
) -> Layer:
    axes = sorted(a % input.dim for a in dim) if isinstance(dim, Sequence) else dim
    _require(input.dim == 4 and axes == [2, 3], f"a mean over dimensions {dim}")
    return SpatialMean(name, _inputs(input), keepdim)


def _permute(
    name: str, input: Operand, *dims: int | Sequence[int], **named: Sequence[int]
) -> Layout | None:
    order = (*dims, *named.values())
    axes = order[0] if isinstance(order[0], Sequence) else order
    return _laid_out(input, [int(axis) % input.dim for axis in axes])  # type: ignore[arg-type]


def _transpose(name: str, input: Operand, dim0: int, dim1: int) -> Layout | None:
    order = list(range(input.dim))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return _laid_out(input, order)


def _laid_out(x: Operand, order: Sequence[int]) -> Layout | None:
    """The layout after a permutation of a tensor's dimensions."""
    _require(x.dim in (4, 5) and order[0] == 0, "a permutation of anything but maps")
    axes = "".join(x.layout.axes[axis - 1] for axis in order[1:])
    _require(axes in _LAYOUTS, f"a permutation of a map to {'B' + axes}")
    return x.layout._replace(axes=axes)


_LAYOUTS: Final = ("CHW", "HWC", "GCHW", "CGHW")


def reshape(name: str, input: Operand, result: Shape) -> Layer | Layout | None:
    """What turns a tensor into one of this shape, however it was asked for."""
    old, layout = input.shape, input.layout
    if result == old:
        return None
    if layout.axes in ("GCHW", "CGHW") and result == _whole(old):
        if layout.axes == "GCHW":
            return PLAIN
        return ChannelShuffle(name, (input.position,), layout.groups)
    if layout == PLAIN and len(result) == 5 and old == _whole(result):
        return Layout("GCHW", result[1])
    if result != (old[0], prod(old[1:])):
        raise Unsupported(
            f"a reshape may flatten all of each image or shuffle its channels, not "
            f"turn {old} into {result}"
        )
    return Flatten(name, _inputs(input))


def _whole(grouped: Shape) -> Shape:
    """(B, G, C, H, W) -> (B, G * C, H, W)."""
    return (grouped[0], grouped[1] * grouped[2], *grouped[3:])


def _shuffle(name: str, input: Operand, groups: int) -> Layer:
    return ChannelShuffle(name, _inputs(input), groups)


def _unchanged(name: str, input: Operand, **named: Any) -> None:
    return None


FUNCTIONS: Final[Mapping[Callable[..., Any] | str, Translation]] = {
    **{
        call: partial(_activation, function)
        for function, calls in {
            "relu": (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"),
            "relu6": (F.relu6,),
            "gelu": (F.gelu,),
            "silu": (F.silu,),
            "mish": (F.mish,),
            "sigmoid": (F.sigmoid, torch.sigmoid, "sigmoid"),
            "tanh": (F.tanh, torch.tanh, "tanh"),
            "hardswish": (F.hardswish,),
            "hardsigmoid": (F.hardsigmoid,),
        }.items()
        for call in calls
    },
    F.elu: _elu,
    F.leaky_relu: _leaky_relu,
    F.dropout: partial(_functional_dropout, False),
    F.dropout2d: partial(_functional_dropout, True),
    F.max_pool2d: _max_pool,
    torch.max_pool2d: _max_pool,
    F.avg_pool2d: _avg_pool,
    F.adaptive_avg_pool2d: _adaptive_avg_pool,
    torch.mean: _mean,
    "mean": _mean,
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _add),
    **dict.fromkeys(
        (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"),
        _multiply,
    ),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _concat),
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    torchvision.ops.stochastic_depth: _stochastic_depth,
    torch.permute: _permute,
    "permute": _permute,
    torch.transpose: _transpose,
    "transpose": _transpose,
    torch.channel_shuffle: _shuffle,
    F.channel_shuffle: _shuffle,
    **dict.fromkeys(("contiguous", "clone", "detach"), _unchanged),
}
IN_PLACE: Final = frozenset(
    {operator.iadd, operator.imul, F.relu_, torch.relu_, "relu_", "add_", "mul_"}
)
# What these do is seen from their results, not from how they were asked for.
RESHAPES: Final = frozenset(
    {nn.Flatten, torch.flatten, torch.reshape, "flatten", "reshape", "view"}
)
CHUNKS: Final = frozenset({torch.chunk, torch.split, "chunk", "split"})


def chunk(
    name: str, input: Operand, part: int, results: Sequence[Shape]
) -> Layer | None:
    """One of the parts that a tensor was split into."""
    parts = len(results)
    channels = input.shape[1]
    _require(
        all(r == (input.shape[0], channels // parts, *input.shape[2:]) for r in results)
        and channels % parts == 0,
        "a split into anything but equal parts of the channels",
    )
    return Chunk(name, _inputs(input), part % parts, parts) if parts > 1 else None
