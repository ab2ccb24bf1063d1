"""Translations of torch's functions with weights to layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F

from n2n_gym.networks.layers import (
    BatchNorm,
    Conv,
    DepthwiseConv,
    GroupNorm,
    InstanceNorm,
    Layer,
    LayerNorm,
    Linear,
    Pad,
    Pair,
    PReLU,
)
from n2n_gym.pytorch.arguments import (
    PREVIOUS,
    Operand,
    Translation,
    Weight,
    inputs,
    on_features,
    owner,
    pair,
    require,
)


def convolution(
    name: str,
    input: Operand,
    width: int,
    kernel: Pair,
    stride: int | Sequence[int],
    padding: int | str | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    bias: bool,
) -> list[Layer]:
    """A convolution, with a separate padding layer if its padding is not symmetric.

    Args:
        padding: Length of the padding on each side, or torch's ``"same"`` or
            ``"valid"``.
    """
    dilations, before = pair(dilation), []
    read = inputs(input)
    if isinstance(padding, str):
        require(padding in ("same", "valid"), f"padding={padding!r}")
        extent = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        height, width_ = extent if padding == "same" else (0, 0)
        sides: Pair = (height // 2, width_ // 2)
        if height % 2 or width_ % 2:  # torch pads one more at the end
            more = Pad(f"{name}.pad", read, 0, height % 2, 0, width_ % 2)
            before, read = [more], (PREVIOUS,)
    else:
        sides = pair(padding)
    if 1 < groups == input.shape[1] == width:
        one = DepthwiseConv(
            name, read, kernel, pair(stride), sides, dilations, bias=bias
        )
        return [*before, one]
    return [
        *before,
        Conv(name, read, width, kernel, pair(stride), sides, dilations, groups, bias),
    ]


def _conv2d(
    name: str,
    input: Operand,
    weight: Weight,
    bias: Weight | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> list[Layer]:
    """``F.conv2d``."""
    own = owner(weight, bias)
    require(own is not None, "a convolution without weights")
    assert own is not None
    kernel = weight.shape[2], weight.shape[3]
    return convolution(
        own,
        input,
        weight.shape[0],
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias is not None,
    )


def _linear(
    name: str, input: Operand, weight: Weight, bias: Weight | None = None
) -> Layer:
    """``F.linear``."""
    own = owner(weight, bias)
    require(own is not None, "a linear layer without weights")
    assert own is not None
    return Linear(own, on_features(input), weight.shape[0], bias is not None)


def _batch_norm(
    name: str,
    input: Operand,
    running_mean: Weight | None,
    running_var: Weight | None,
    weight: Weight | None = None,
    bias: Weight | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Layer:
    """``F.batch_norm``."""
    require(not training, "batch normalisation by the batch in eval mode")
    own = owner(weight, bias, running_mean=running_mean, running_var=running_var)
    require(running_mean is not None and running_var is not None, "no statistics")
    require((weight is None) == (bias is None), "BatchNorm without bias")
    require(eps > 0, f"eps={eps}, which torch cannot train with,")
    assert own is not None
    return BatchNorm(own, inputs(input), eps, float(momentum), weight is not None)


def _instance_norm(
    name: str,
    input: Operand,
    running_mean: Weight | None = None,
    running_var: Weight | None = None,
    weight: Weight | None = None,
    bias: Weight | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Layer:
    """``F.instance_norm``."""
    require(running_mean is None and use_input_stats, "InstanceNorm with statistics")
    own = owner(weight, bias)
    require((weight is None) == (bias is None), "InstanceNorm without bias")
    return InstanceNorm(own or name, inputs(input), eps, own is not None)


def _group_norm(
    name: str,
    input: Operand,
    num_groups: int,
    weight: Weight | None = None,
    bias: Weight | None = None,
    eps: float = 1e-5,
) -> Layer:
    """``F.group_norm``."""
    own = owner(weight, bias)
    require((weight is None) == (bias is None), "GroupNorm without bias")
    return GroupNorm(own or name, inputs(input), num_groups, eps, own is not None)


def _layer_norm(
    name: str,
    input: Operand,
    normalized_shape: Sequence[int],
    weight: Weight | None = None,
    bias: Weight | None = None,
    eps: float = 1e-5,
) -> Layer:
    """``F.layer_norm``."""
    require(len(normalized_shape) == 1, "normalising several dimensions")
    own = owner(weight, bias)
    require((weight is None) == (bias is None), "LayerNorm without bias")
    return LayerNorm(own or name, on_features(input), eps, own is not None)


def _prelu(name: str, input: Operand, weight: Weight) -> Layer:
    """``F.prelu``."""
    own = owner(weight, None)
    assert own is not None
    return PReLU(own, inputs(input), weight.shape[0] > 1 or input.shape[1] == 1)


WEIGHTED: Final[Mapping[Callable[..., Any] | str, Translation]] = {
    F.conv2d: _conv2d,
    torch.conv2d: _conv2d,
    F.linear: _linear,
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.prelu: _prelu,
    torch.prelu: _prelu,
}
