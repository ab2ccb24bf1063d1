"""Translations of torch's modules to layers.

Each translation is a function of the layer's name, the operands of the traced call and
the module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torchvision
from torch import nn

from n2n_gym.networks.layers import (
    Activation,
    BatchNorm,
    ChannelShuffle,
    Dropout,
    GroupNorm,
    InstanceNorm,
    Layer,
    LayerNorm,
    Linear,
    PReLU,
    StochasticDepth,
)
from n2n_gym.pytorch.arguments import (
    Found,
    Operand,
    Translation,
    elementwise,
    inputs,
    on_features,
    pair,
    require,
)
from n2n_gym.pytorch.functions import adaptive_avg_pool, avg_pool, clamp, max_pool
from n2n_gym.pytorch.operations import ACTIVATION_MODULES
from n2n_gym.pytorch.shapes import interpolate, pad
from n2n_gym.pytorch.weighted import convolution


def _conv(name: str, x: Operand, module: nn.Conv2d) -> list[Layer]:
    require(module.padding_mode == "zeros", f"padding_mode={module.padding_mode!r}")
    return convolution(
        name,
        x,
        module.out_channels,
        pair(module.kernel_size),
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
        module.bias is not None,
    )


def _linear(name: str, x: Operand, module: nn.Linear) -> Layer:
    return Linear(name, on_features(x), module.out_features, module.bias is not None)


def _batch_norm(
    name: str,
    x: Operand,
    module: nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm,
) -> Layer:
    require(module.track_running_stats, "track_running_stats=False")
    require(module.eps > 0, f"eps={module.eps}, which torch cannot train with,")
    require(module.momentum is not None, "momentum=None")
    return BatchNorm(
        name, inputs(x), module.eps, float(module.momentum or 0), module.affine
    )


def _layer_norm_module(name: str, x: Operand, module: nn.LayerNorm) -> Layer:
    require(len(module.normalized_shape) == 1, "normalising several dimensions")
    is_affine = module.elementwise_affine
    require(not is_affine or module.bias is not None, "LayerNorm without bias")
    return LayerNorm(name, on_features(x), module.eps, is_affine)


def _group_norm(name: str, x: Operand, module: nn.GroupNorm) -> Layer:
    return GroupNorm(name, inputs(x), module.num_groups, module.eps, module.affine)


def _instance_norm(name: str, x: Operand, module: nn.InstanceNorm2d) -> Layer:
    require(not module.track_running_stats, "InstanceNorm with statistics")
    return InstanceNorm(name, inputs(x), module.eps, module.affine)


def _prelu(name: str, x: Operand, module: nn.PReLU) -> Layer:
    is_channelwise = module.num_parameters > 1 or x.shape[1] == 1
    return PReLU(name, inputs(x), is_channelwise)


def _hardtanh(name: str, x: Operand, module: nn.Hardtanh) -> Layer | None:
    return clamp(name, x, module.min_val, module.max_val)


def _pad_module(name: str, x: Operand, module: nn.ConstantPad2d) -> Found:
    return pad(name, x, module.padding, value=module.value)


def _upsample(name: str, x: Operand, module: nn.Upsample) -> Layer:
    return interpolate(
        name,
        x,
        module.size,
        module.scale_factor,
        module.mode,
        module.align_corners,
        module.recompute_scale_factor,
    )


def _dropout(name: str, x: Operand, module: nn.Dropout | nn.Dropout2d) -> Layer:
    if isinstance(module, nn.Dropout2d):
        return Dropout(name, inputs(x), module.p, True)
    return Dropout(name, elementwise(x), module.p)


def _stochastic_depth_module(
    name: str, x: Operand, module: torchvision.ops.StochasticDepth
) -> Layer:
    require(module.mode == "row", f"mode={module.mode!r}")
    return StochasticDepth(name, elementwise(x), module.p)


def _shuffle_module(name: str, x: Operand, module: nn.ChannelShuffle) -> Layer:
    return ChannelShuffle(name, inputs(x), module.groups)


def _identity(name: str, x: Operand, module: nn.Identity) -> None:
    return None


def _activation_module(name: str, x: Operand, module: nn.Module) -> Layer:
    function = next(f for f, kind in ACTIVATION_MODULES.items() if type(module) is kind)
    if isinstance(module, nn.Softplus):
        require((module.beta, module.threshold) == (1, 20), "another softplus")
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        function = "gelu_tanh"
    slope = float(getattr(module, "negative_slope", 0.01))
    alpha = float(module.alpha) if isinstance(module, nn.ELU) else 1.0
    return Activation(name, elementwise(x), function, slope, alpha)


def _max_pool_module(name: str, x: Operand, module: nn.MaxPool2d) -> Layer:
    return max_pool(
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
    return avg_pool(
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
    return adaptive_avg_pool(name, x, module.output_size)


MODULES: Final[Mapping[type[nn.Module], Translation]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.SyncBatchNorm: _batch_norm,
    nn.LayerNorm: _layer_norm_module,
    nn.GroupNorm: _group_norm,
    nn.InstanceNorm2d: _instance_norm,
    nn.PReLU: _prelu,
    nn.Hardtanh: _hardtanh,
    nn.ZeroPad2d: _pad_module,
    nn.ConstantPad2d: _pad_module,
    nn.Upsample: _upsample,
    nn.UpsamplingNearest2d: _upsample,
    nn.UpsamplingBilinear2d: _upsample,
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
