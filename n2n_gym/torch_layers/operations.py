"""Torch's modules and functions, each with the layer it is."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

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
    Pair,
    SpatialMean,
)
from n2n_gym.torch_layers.build import ACTIVATION_MODULES


class Unsupported(Exception):
    """An operation cannot be translated; the message says why."""


class Operand(NamedTuple):
    """A tensor argument."""

    position: int  # of the layer that emits it
    dim: int  # of the tensor, the batch included


# A translation takes the layer's name and the call's own arguments, tensors as
# Operands. It gives the layer, or None where the operation leaves its input as it is.
Translation = Callable[..., Layer | None]


def _pair(value: int | Sequence[int]) -> Pair:
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise Unsupported(f"{what} is not supported")


def _inputs(*operands: Any) -> tuple[int, ...]:
    _require(
        all(isinstance(operand, Operand) for operand in operands),
        "arithmetic with anything but two computed tensors",
    )
    return tuple(operand.position for operand in operands)


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
    return Linear(name, _inputs(x), module.out_features, module.bias is not None)


def _batch_norm(
    name: str, x: Operand, module: nn.BatchNorm1d | nn.BatchNorm2d
) -> Layer:
    _require(module.track_running_stats, "track_running_stats=False")
    _require(module.momentum is not None, "momentum=None")
    return BatchNorm(
        name, _inputs(x), module.eps, float(module.momentum or 0), module.affine
    )


def _dropout(name: str, x: Operand, module: nn.Dropout | nn.Dropout2d) -> Layer:
    return Dropout(name, _inputs(x), module.p, isinstance(module, nn.Dropout2d))


def _identity(name: str, x: Operand, module: nn.Identity) -> None:
    return None


def _activation_module(name: str, x: Operand, module: nn.Module) -> Layer:
    function = next(f for f, kind in ACTIVATION_MODULES.items() if type(module) is kind)
    if isinstance(module, nn.ELU):
        _require(module.alpha == 1, f"ELU with alpha={module.alpha}")
    if isinstance(module, nn.GELU):
        _require(module.approximate == "none", "an approximated GELU")
    slope = float(getattr(module, "negative_slope", 0.01))
    return Activation(name, _inputs(x), function, slope)


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


def _flatten_module(name: str, x: Operand, module: nn.Flatten) -> Layer:
    return Flatten(name, _inputs(x))


MODULES: Final[Mapping[type[nn.Module], Translation]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Dropout: _dropout,
    nn.Dropout2d: _dropout,
    nn.Identity: _identity,
    nn.MaxPool2d: _max_pool_module,
    nn.AvgPool2d: _avg_pool_module,
    nn.AdaptiveAvgPool2d: _adaptive_avg_pool_module,
    nn.Flatten: _flatten_module,
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
    return Activation(name, _inputs(input), function)


def _elu(name: str, input: Operand, alpha: float = 1.0, inplace: bool = False) -> Layer:
    _require(alpha == 1, f"ELU with alpha={alpha}")
    return Activation(name, _inputs(input), "elu")


def _leaky_relu(
    name: str, input: Operand, negative_slope: float = 0.01, inplace: bool = False
) -> Layer:
    return Activation(name, _inputs(input), "leaky_relu", negative_slope)


def _functional_dropout(
    channelwise: bool,
    name: str,
    input: Operand,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Layer:
    _require(not training, "dropout that is not switched off in eval mode")
    return Dropout(name, _inputs(input), p, channelwise)


def _binary(
    kind: type[Add] | type[Multiply], name: str, input: Operand, other: Operand
) -> Layer:
    return kind(name, _inputs(input, other))


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


def _reshape(name: str, input: Operand, *sizes: Any, **named: Any) -> Layer:
    """What it does is seen from its result, not from how it was asked for."""
    return Flatten(name, _inputs(input))


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
    **dict.fromkeys(
        (operator.add, operator.iadd, torch.add, "add", "add_"), partial(_binary, Add)
    ),
    **dict.fromkeys(
        (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"),
        partial(_binary, Multiply),
    ),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _concat),
    **dict.fromkeys(
        (torch.flatten, torch.reshape, "flatten", "reshape", "view"), _reshape
    ),
    **dict.fromkeys(("contiguous", "clone", "detach"), _unchanged),
}
IN_PLACE: Final = frozenset(
    {operator.iadd, operator.imul, F.relu_, torch.relu_, "relu_", "add_", "mul_"}
)
