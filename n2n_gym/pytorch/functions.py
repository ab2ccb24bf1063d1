"""Translations of torch's functions and methods to layers.

The parameters of a translation have torch's own names.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any, Final

import torch
import torch.nn.functional as F
import torchvision

from n2n_gym.networks.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    Affine,
    AvgPool,
    Clamp,
    Concat,
    Dropout,
    Layer,
    MaxPool,
    Multiply,
    Scale,
    StochasticDepth,
)
from n2n_gym.pytorch.arguments import (
    CHANNELS_LAST,
    PLAIN,
    PREVIOUS,
    Found,
    Operand,
    Translation,
    Weight,
    elementwise,
    inputs,
    pair,
    require,
)
from n2n_gym.pytorch.shapes import SHAPING
from n2n_gym.pytorch.weighted import WEIGHTED


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
    return Activation(name, elementwise(input), "elu", alpha=float(alpha))


def _gelu(name: str, input: Operand, approximate: str = "none") -> Layer:
    function = "gelu_tanh" if approximate == "tanh" else "gelu"
    return Activation(name, elementwise(input), function)


def clamp(
    name: str,
    input: Operand,
    min: float | None = None,
    max: float | None = None,
    inplace: bool = False,
) -> Layer | None:
    """``torch.clamp``."""
    bounds = [bound for bound in (min, max) if bound is not None]
    require(all(map(_is_number, bounds)), f"a clamp to {min} and {max}")
    if (min, max) == (0, None):
        return Activation(name, elementwise(input), "relu")
    if (min, max) == (0, 6):
        return Activation(name, elementwise(input), "relu6")
    require(min is not None and max is not None, f"a clamp to {min} and {max}")
    assert min is not None
    assert max is not None
    return Clamp(name, elementwise(input), float(min), float(max))


def _hardtanh(
    name: str,
    input: Operand,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> Layer | None:
    return clamp(name, input, min_val, max_val)


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


def _add(name: str, input: Operand | float, other: Operand | float) -> Layer | None:
    if isinstance(input, Operand) and isinstance(other, Operand):
        return Add(name, _alike(input, other))
    x, number = (input, other) if isinstance(input, Operand) else (other, input)
    return _affine(name, x, 1.0, number)


def _subtract(name: str, input: Operand | float, other: Operand | float) -> Found:
    if isinstance(input, Operand) and isinstance(other, Operand):
        first, second = _alike(input, other)
        negated = Affine(f"{name}.negated", (second,), -1.0)
        return [negated, Add(name, (first, PREVIOUS))]
    if isinstance(input, Operand):
        require(_is_number(other), "arithmetic with anything but two computed tensors")
        return _affine(name, input, 1.0, -other)  # type: ignore[operator]
    return _affine(name, other, -1.0, input)


def _negative(name: str, input: Operand) -> Layer | None:
    return _affine(name, input, -1.0, 0.0)


def _multiply(
    name: str, input: Operand | Weight | float, other: Operand | Weight | float
) -> Layer | None:
    if not isinstance(input, Operand):
        input, other = other, input
    if isinstance(other, Weight) and isinstance(input, Operand):
        return _scale(input, other)
    if isinstance(input, Operand) and isinstance(other, Operand):
        return Multiply(name, _alike(input, other))
    return _affine(name, input, other, 0.0)


def _divide(name: str, input: Operand, other: float) -> Layer | None:
    require(
        isinstance(input, Operand) and _is_number(other) and other != 0,
        "a division by anything but a number",
    )
    if other == 1:
        return None
    return Affine(name, elementwise(input), divisor=float(other))


def _affine(name: str, x: Any, factor: Any, offset: Any) -> Layer | None:
    """The layer of ``x * factor + offset``; None if that changes nothing."""
    require(
        isinstance(x, Operand) and _is_number(factor) and _is_number(offset),
        "arithmetic with anything but computed tensors and numbers",
    )
    if (factor, offset) == (1, 0):
        return None
    return Affine(name, elementwise(x), float(factor), float(offset))


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and isfinite(value)


def _alike(*operands: Any) -> tuple[int, ...]:
    """The inputs of a join; its operands must have the same layout."""
    positions = inputs(*operands, layouts=())
    require(len({o.layout for o in operands}) == 1, "joining maps that lie otherwise")
    return positions


def _scale(x: Operand, factor: Weight) -> Layer:
    """A product with a parameter that has one number per channel."""
    require(factor.is_learned, "arithmetic with buffers and constants")
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


def _unchanged(name: str, input: Operand, **named: Any) -> None:
    return None


FUNCTIONS: Final[Mapping[Callable[..., Any] | str, Translation]] = {
    **{
        call: partial(_activation, function)
        for function, calls in {
            "relu": (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"),
            "relu6": (F.relu6,),
            "silu": (F.silu,),
            "mish": (F.mish,),
            "sigmoid": (F.sigmoid, torch.sigmoid, "sigmoid"),
            "tanh": (F.tanh, torch.tanh, "tanh"),
            "hardswish": (F.hardswish,),
            "hardsigmoid": (F.hardsigmoid,),
            "selu": (F.selu,),
        }.items()
        for call in calls
    },
    F.elu: _elu,
    F.gelu: _gelu,
    F.hardtanh: _hardtanh,
    **dict.fromkeys((torch.clamp, torch.clip, "clamp", "clip", "clamp_"), clamp),
    F.leaky_relu: _leaky_relu,
    F.dropout: partial(_functional_dropout, False),
    F.dropout2d: partial(_functional_dropout, True),
    F.max_pool2d: max_pool,
    torch.max_pool2d: max_pool,
    F.avg_pool2d: avg_pool,
    F.adaptive_avg_pool2d: adaptive_avg_pool,
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _add),
    **dict.fromkeys(
        (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"),
        _multiply,
    ),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub", "sub_"), _subtract),
    **dict.fromkeys((operator.neg, torch.neg, "neg"), _negative),
    **dict.fromkeys(
        (operator.truediv, operator.itruediv, torch.div, "div", "div_"), _divide
    ),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _concat),
    torchvision.ops.stochastic_depth: _stochastic_depth,
    **dict.fromkeys(("contiguous", "clone", "detach"), _unchanged),
    **WEIGHTED,
    **SHAPING,
}
IN_PLACE: Final = frozenset(
    {
        *(operator.iadd, operator.isub, operator.imul, operator.itruediv),
        *("add_", "sub_", "mul_", "div_", "clamp_"),
        *(F.relu_, torch.relu_, "relu_"),
    }
)
TAKE_WEIGHTS: Final = frozenset(
    {operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", *WEIGHTED}
)
