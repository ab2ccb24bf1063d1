"""The ONNX operators of each kind of layer, as torch's exporter writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np

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
from n2n_gym.resources.building import Graph

# Operators of each activation, in order; "Gate" multiplies by the input.
OPERATORS: Final[Mapping[str, tuple[str, ...]]] = {
    "relu": ("Relu",),
    "relu6": ("Clip",),
    "leaky_relu": ("LeakyRelu",),
    "elu": ("Elu",),
    "gelu": ("Gelu",),
    "silu": ("Sigmoid", "Gate"),
    "mish": ("Softplus", "Tanh", "Gate"),
    "sigmoid": ("Sigmoid",),
    "tanh": ("Tanh",),
    "hardswish": ("HardSwish",),
    "hardsigmoid": ("HardSigmoid",),
    "gelu_tanh": ("Gelu",),
    "selu": ("Selu",),
    "softplus": ("Softplus",),
}


def add(graph: Graph, layer: Layer, reads: list[str], read: Shape) -> str:
    """Add the nodes of a layer.

    Args:
        graph: The graph to extend.
        layer: The layer to add nodes for.
        reads: Names of the layer's inputs.
        read: Shape of the layer's first input.

    Returns:
        The name of the layer's output.
    """
    return NODES[type(layer)](graph, layer, reads, read)


def _convolution(
    graph: Graph,
    layer: Conv | DepthwiseConv,
    reads: list[str],
    weights: np.ndarray[Any, Any],
    groups: int,
) -> str:
    return graph.node(
        "Conv",
        [*reads, weights, *([_zeros(len(weights))] if layer.bias else [])],
        kernel_shape=list(layer.kernel),
        strides=list(layer.stride),
        pads=list(layer.padding) * 2,
        dilations=list(layer.dilation),
        group=groups,
    )


def _activation(graph: Graph, layer: Activation, reads: list[str], read: Shape) -> str:
    value = reads[0]
    for operator in OPERATORS[layer.function]:
        if operator == "Gate":
            value = graph.node("Mul", [*reads, value])
        elif operator == "Clip":
            value = graph.node("Clip", [value, _scalar(0), _scalar(6)])
        elif operator == "LeakyRelu":
            value = graph.node(operator, [value], alpha=layer.slope)
        else:
            value = graph.node(operator, [value])
    return value


def _pool(
    graph: Graph, operator: str, layer: MaxPool | AvgPool, reads: list[str], **more: Any
) -> str:
    return graph.node(
        operator,
        reads,
        kernel_shape=list(layer.kernel),
        strides=list(layer.stride),
        pads=list(layer.padding) * 2,
        ceil_mode=int(layer.ceil_mode),
        **more,
    )


def _group_norm(graph: Graph, layer: GroupNorm, reads: list[str], read: Shape) -> str:
    return _grouped(graph, reads, read, layer.groups)


def _instance_norm(
    graph: Graph, layer: InstanceNorm, reads: list[str], read: Shape
) -> str:
    return _grouped(graph, reads, read, read[0])


def _grouped(graph: Graph, reads: list[str], read: Shape, groups: int) -> str:
    """Instance normalisation of groups, followed by a factor and an offset."""
    apart = graph.node("Reshape", [*reads, np.array([0, groups, -1])])
    whole = [np.ones(groups, np.float32), _zeros(groups)]
    normed = graph.node("InstanceNormalization", [apart, *whole])
    whole_again = graph.node("Reshape", [normed, np.array([0, *read])])
    scaled = graph.node("Mul", [whole_again, _zeros(read[0], 1, 1)])
    return graph.node("Add", [scaled, _zeros(read[0], 1, 1)])


def _affine(graph: Graph, layer: Affine, reads: list[str], read: Shape) -> str:
    value = reads[0]
    if layer.factor == -1:
        value = graph.node("Neg", [value])
    elif layer.factor != 1:
        value = graph.node("Mul", [value, _scalar(layer.factor)])
    if layer.divisor != 1:
        value = graph.node("Div", [value, _scalar(layer.divisor)])
    if layer.offset != 0:
        value = graph.node("Add", [value, _scalar(layer.offset)])
    return value


def _resized(graph: Graph, layer: Interpolate, reads: list[str], read: Shape) -> str:
    is_linear = layer.mode == "bilinear"
    kept = "align_corners" if layer.corners else "pytorch_half_pixel"
    return graph.node(
        "Resize",
        [*reads, "", "", np.array(layer.shape(read)[1:])],
        axes=[2, 3],
        mode="linear" if is_linear else "nearest",
        coordinate_transformation_mode=kept if is_linear else "asymmetric",
        nearest_mode="floor",
    )


def _mean(graph: Graph, reads: list[str], keepdims: int) -> str:
    return graph.node("ReduceMean", [*reads, np.array([2, 3])], keepdims=keepdims)


def _adaptive(
    graph: Graph, layer: AdaptiveAvgPool, reads: list[str], read: Shape
) -> str:
    """An adaptive average pool, as exported for this input size.

    The pool is only approximate if the output's size does not divide the input's.
    """
    if layer.size == (1, 1):
        return _mean(graph, reads, keepdims=1)
    steps = [max(1, n // m) for n, m in zip(read[1:], layer.size, strict=True)]
    kernel = [
        n - step * (m - 1)
        for n, m, step in zip(read[1:], layer.size, steps, strict=True)
    ]
    if min(kernel) < 1:  # the output is larger than the input
        sizes = np.array([1, 1, *layer.size])
        return graph.node("Expand", [_mean(graph, reads, keepdims=1), sizes])
    return graph.node("AveragePool", reads, kernel_shape=kernel, strides=steps)


def _shuffle(graph: Graph, layer: ChannelShuffle, reads: list[str], read: Shape) -> str:
    channels, *size = read
    apart = np.array([0, layer.groups, channels // layer.groups, *size])
    dealt = graph.node("Reshape", [*reads, apart])
    turned = graph.node("Transpose", [dealt], perm=[0, 2, 1, 3, 4])
    return graph.node("Reshape", [turned, np.array([0, channels, *size])])


def _channels_last(graph: Graph, reads: list[str]) -> str:
    return graph.node("Transpose", reads, perm=[0, 2, 3, 1])


def _channels_first(graph: Graph, value: str) -> str:
    return graph.node("Transpose", [value], perm=[0, 3, 1, 2])


def _conv(graph: Graph, layer: Conv, reads: list[str], read: Shape) -> str:
    weights = _zeros(layer.width, read[0] // layer.groups, *layer.kernel)
    return _convolution(graph, layer, reads, weights, layer.groups)


def _depthwise_conv(
    graph: Graph, layer: DepthwiseConv, reads: list[str], read: Shape
) -> str:
    weights = _zeros(read[0], 1, *layer.kernel)
    return _convolution(graph, layer, reads, weights, read[0])


def _linear(graph: Graph, layer: Linear, reads: list[str], read: Shape) -> str:
    if len(read) == 1:
        bias = [_zeros(layer.width)] if layer.bias else []
        weights = _zeros(layer.width, read[0])
        return graph.node("Gemm", [*reads, weights, *bias], transB=1)
    flipped = _channels_last(graph, reads)
    product = graph.node("MatMul", [flipped, _zeros(read[0], layer.width)])
    if layer.bias:
        product = graph.node("Add", [product, _zeros(layer.width)])
    return _channels_first(graph, product)


def _batch_norm(graph: Graph, layer: BatchNorm, reads: list[str], read: Shape) -> str:
    statistics = [_zeros(read[0])] * 3 + [np.ones(read[0], np.float32)]
    return graph.node("BatchNormalization", [*reads, *statistics])


def _layer_norm(graph: Graph, layer: LayerNorm, reads: list[str], read: Shape) -> str:
    is_map = len(read) == 3
    flipped = _channels_last(graph, reads) if is_map else reads[0]
    affine = [_zeros(read[0])] * 2
    normed = graph.node("LayerNormalization", [flipped, *affine], axis=-1)
    return _channels_first(graph, normed) if is_map else normed


def _scale(graph: Graph, layer: Scale, reads: list[str], read: Shape) -> str:
    return graph.node("Mul", [*reads, _zeros(read[0], 1, 1)])


def _slopes(graph: Graph, layer: PReLU, reads: list[str], read: Shape) -> str:
    slopes = _zeros(read[0] if layer.channelwise else 1, 1, 1)
    return graph.node("PRelu", [*reads, slopes])


def _max_pool(graph: Graph, layer: MaxPool, reads: list[str], read: Shape) -> str:
    return _pool(graph, "MaxPool", layer, reads, dilations=list(layer.dilation))


def _avg_pool(graph: Graph, layer: AvgPool, reads: list[str], read: Shape) -> str:
    padded = int(layer.count_include_pad)
    return _pool(graph, "AveragePool", layer, reads, count_include_pad=padded)


def _spatial_mean(
    graph: Graph, layer: SpatialMean, reads: list[str], read: Shape
) -> str:
    return _mean(graph, reads, keepdims=int(layer.keepdim))


def _clamp(graph: Graph, layer: Clamp, reads: list[str], read: Shape) -> str:
    return graph.node("Clip", [*reads, _scalar(layer.low), _scalar(layer.high)])


def _pad(graph: Graph, layer: Pad, reads: list[str], read: Shape) -> str:
    pads = [0, 0, layer.top, layer.left, 0, 0, layer.bottom, layer.right]
    fill = _scalar(float("-inf") if layer.lowest else 0.0)
    return graph.node("Pad", [*reads, np.array(pads), fill])


def _pad_channels(
    graph: Graph, layer: PadChannels, reads: list[str], read: Shape
) -> str:
    pads = np.array([0, layer.before, 0, 0, 0, layer.after, 0, 0])
    return graph.node("Pad", [*reads, pads])


def _slice(graph: Graph, layer: Slice, reads: list[str], read: Shape) -> str:
    bounds = np.array(layer.start), np.array(read[1:])
    axes, steps = np.array([2, 3]), np.array(layer.stride)
    return graph.node("Slice", [*reads, *bounds, axes, steps])


def _some_channels(
    graph: Graph, layer: ChannelSlice, reads: list[str], read: Shape
) -> str:
    bounds = np.array([layer.start]), np.array([layer.stop])
    return graph.node("Slice", [*reads, *bounds, np.array([1])])


def _chunk(graph: Graph, layer: Chunk, reads: list[str], read: Shape) -> str:
    return graph.parts(reads[0], layer.parts)[layer.part]


def _reshaped(
    shape: list[int], graph: Graph, layer: Layer, reads: list[str], read: Shape
) -> str:
    return graph.node("Reshape", [*reads, np.array(shape)])


def _chained(
    operator: str, graph: Graph, layer: Layer, reads: list[str], read: Shape
) -> str:
    value, *others = reads
    for other in others:
        value = graph.node(operator, [value, other])
    return value


def _concat(graph: Graph, layer: Concat, reads: list[str], read: Shape) -> str:
    return graph.node("Concat", reads, axis=1)


def _nothing(graph: Graph, layer: Layer, reads: list[str], read: Shape) -> str:
    return reads[0]


def _scalar(value: float) -> np.ndarray[Any, Any]:
    return np.array(value, np.float32)


def _zeros(*shape: int) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.float32)


NODES: Final[Mapping[type[Layer], Callable[[Graph, Any, list[str], Shape], str]]] = {
    Conv: _conv,
    DepthwiseConv: _depthwise_conv,
    Linear: _linear,
    BatchNorm: _batch_norm,
    LayerNorm: _layer_norm,
    GroupNorm: _group_norm,
    InstanceNorm: _instance_norm,
    Scale: _scale,
    Activation: _activation,
    PReLU: _slopes,
    Dropout: _nothing,
    StochasticDepth: _nothing,
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    AdaptiveAvgPool: _adaptive,
    SpatialMean: _spatial_mean,
    Flatten: partial(_reshaped, [0, -1]),
    AsMap: partial(_reshaped, [0, -1, 1, 1]),
    Clamp: _clamp,
    Affine: _affine,
    Pad: _pad,
    PadChannels: _pad_channels,
    Slice: _slice,
    ChannelSlice: _some_channels,
    Interpolate: _resized,
    Chunk: _chunk,
    ChannelShuffle: _shuffle,
    Add: partial(_chained, "Add"),
    Multiply: partial(_chained, "Mul"),
    Concat: _concat,
}
