"""Torch's functions and methods, each with the layer it is.

The parameters of the translations have torch's own names.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, Final

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from n2n_gym.networks.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    ChannelShuffle,
    Chunk,
    Concat,
    Dropout,
    Flatten,
    Layer,
    LayerNorm,
    MaxPool,
    Multiply,
    Scale,
    Shape,
    SpatialMean,
    StochasticDepth,
)
from n2n_gym.pytorch.arguments import (
    CHANNELS_LAST,
    PLAIN,
    Layout,
    Operand,
    Translation,
    Unsupported,
    Weight,
    elementwise,
    inputs,
    on_features,
    pair,
    require,
)


def max_pool(
    name: str,
    input: Operand,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Layer:
    """``F.max_pool2d``."""
    require(not return_indices, "return_indices=True")
    return MaxPool(
        name,
        inputs(input),
        pair(kernel_size),
        pair(stride or kernel_size),
        pair(padding),
        pair(dilation),
        ceil_mode,
    )


def avg_pool(
    name: str,
    input: Operand,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Layer:
    """``F.avg_pool2d``."""
    require(divisor_override is None, f"divisor_override={divisor_override}")
    return AvgPool(
        name,
        inputs(input),
        pair(kernel_size),
        pair(stride or kernel_size),
        pair(padding),
        ceil_mode,
        count_include_pad,
    )


def adaptive_avg_pool(
    name: str, input: Operand, output_size: int | Sequence[int | None] | None
) -> Layer:
    """``F.adaptive_avg_pool2d``."""
    sizes = output_size if isinstance(output_size, Sequence) else [output_size]
    require(None not in sizes, f"output_size={output_size}")
    return AdaptiveAvgPool(name, inputs(input), pair(output_size))  # type: ignore[arg-type]


def _activation(
    function: str, name: str, input: Operand, inplace: bool = False
) -> Layer:
    return Activation(name, elementwise(input), function)


def _elu(name: str, input: Operand, alpha: float = 1.0, inplace: bool = False) -> Layer:
    require(alpha == 1, f"ELU with alpha={alpha}")
    return Activation(name, elementwise(input), "elu")


def _leaky_relu(
    name: str, input: Operand, negative_slope: float = 0.01, inplace: bool = False
) -> Layer:
    return Activation(name, elementwise(input), "leaky_relu", negative_slope)


def _functional_dropout(
    channelwise: bool,
    name: str,
    input: Operand,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Layer:
    require(not training, "dropout that is not switched off in eval mode")
    layouts = (PLAIN,) if channelwise else ()
    return Dropout(name, inputs(input, layouts=layouts), p, channelwise)


def _stochastic_depth(
    name: str, input: Operand, p: float, mode: str, training: bool = True
) -> Layer:
    require(not training, "stochastic depth that is not switched off in eval mode")
    require(mode == "row", f"mode={mode!r}")
    return StochasticDepth(name, elementwise(input), p)


def _layer_norm(
    name: str,
    input: Operand,
    normalized_shape: Sequence[int],
    weight: Weight | None = None,
    bias: Weight | None = None,
    eps: float = 1e-5,
) -> Layer:
    require(len(normalized_shape) == 1, "normalising several dimensions")
    if weight is None and bias is None:
        return LayerNorm(name, on_features(input), eps, False)
    require(
        isinstance(weight, Weight)
        and isinstance(bias, Weight)
        and weight.name.endswith(".weight")
        and bias.name == weight.name.removesuffix("weight") + "bias",
        "a normalisation with anything but a module's own weight and bias",
    )
    assert weight is not None
    return LayerNorm(weight.name.removesuffix(".weight"), on_features(input), eps)


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
    positions = inputs(*operands, layouts=())
    require(len({o.layout for o in operands}) == 1, "joining maps that lie otherwise")
    return positions


def _scale(x: Operand, factor: Weight) -> Layer:
    """A product with a parameter that holds one number a channel."""
    axis = 1 if x.layout == PLAIN else x.dim - 1
    channels = x.shape[axis]
    after = x.dim - 1 - axis
    leading = len(factor.shape) - 1 - after
    stored = [size != 1 for size in factor.stored]
    require(
        0 <= leading <= axis
        and factor.shape == (1,) * leading + (channels,) + (1,) * after
        and (channels == 1 or sum(stored) == 1),
        f"a factor of the shape {factor.shape}: one a channel is needed, it",
    )
    read = inputs(x, layouts=(PLAIN, CHANNELS_LAST))
    if channels == 1:
        return Scale(factor.name, read, len(factor.stored) - 1, 0)
    place = stored.index(True)
    return Scale(factor.name, read, place, len(stored) - 1 - place)


def _concat(
    name: str,
    tensors: Sequence[Operand],
    dim: int = 0,
    axis: int | None = None,
) -> Layer | None:
    dim = dim if axis is None else axis
    require(dim in (1, 1 - tensors[0].dim), f"concatenation along dimension {dim}")
    return Concat(name, inputs(*tensors)) if len(tensors) > 1 else None


def _mean(
    name: str,
    input: Operand,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
) -> Layer:
    axes = sorted(a % input.dim for a in dim) if isinstance(dim, Sequence) else dim
    require(input.dim == 4 and axes == [2, 3], f"a mean over dimensions {dim}")
    return SpatialMean(name, inputs(input), keepdim)


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
    require(x.dim in (4, 5) and order[0] == 0, "a permutation of anything but maps")
    axes = "".join(x.layout.axes[axis - 1] for axis in order[1:])
    require(axes in _LAYOUTS, f"a permutation of a map to {'B' + axes}")
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
    return Flatten(name, inputs(input))


def _whole(grouped: Shape) -> Shape:
    """(B, G, C, H, W) -> (B, G * C, H, W)."""
    return (grouped[0], grouped[1] * grouped[2], *grouped[3:])


def _shuffle(name: str, input: Operand, groups: int) -> Layer:
    return ChannelShuffle(name, inputs(input), groups)


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
    F.max_pool2d: max_pool,
    torch.max_pool2d: max_pool,
    F.avg_pool2d: avg_pool,
    F.adaptive_avg_pool2d: adaptive_avg_pool,
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
# What may be done to a parameter before it is a factor for each channel.
WEIGHT_RESHAPES: Final = RESHAPES | {torch.unsqueeze, "unsqueeze", operator.getitem}
TAKE_WEIGHTS: Final = frozenset(
    {
        *(operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"),
        *(F.layer_norm, torch.layer_norm),
    }
)
CHUNKS: Final = frozenset({torch.chunk, torch.split, "chunk", "split"})


def chunk(
    name: str, input: Operand, part: int, results: Sequence[Shape]
) -> Layer | None:
    """One of the parts that a tensor was split into."""
    parts = len(results)
    channels = input.shape[1]
    require(
        all(r == (input.shape[0], channels // parts, *input.shape[2:]) for r in results)
        and channels % parts == 0,
        "a split into anything but equal parts of the channels",
    )
    return Chunk(name, inputs(input), part % parts, parts) if parts > 1 else None
