"""A network as an ONNX graph, for a clock: in milliseconds, without weights of its own.

torch's exporter takes seconds a network, too long for the many that a prediction of
latencies is fitted to. ONNX Runtime makes the same of either graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import (
    IMAGE,
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

if TYPE_CHECKING:  # it takes a second to import: where graphs are made
    import onnx

OPSET: Final = 20
IR_VERSION: Final = 10  # of the format, which goes with the operators' version
# Operators of an activation, applied one after another; "Gate" multiplies by the input.
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


def timed_onnx(architecture: Architecture) -> bytes:
    """A file that takes as long as the exported one; its weights are zeros."""
    graph = _Graph()
    pixels = architecture.input_shape
    values = {IMAGE: graph.normalised("pixels", pixels[0])}
    readers = Counter(read for layer in architecture.layers for read in layer.inputs)
    folded: set[int] = set()
    for position, layer in enumerate(architecture.layers):
        shapes = [architecture.shape_of(read) for read in layer.inputs]
        reads = [values[read] for read in layer.inputs]
        if isinstance(layer, BatchNorm) and layer.inputs[0] in folded:
            values[position] = reads[0]
            continue
        if _is_relu(layer) and _is_relu(_layer(architecture, layer.inputs[0])):
            values[position] = reads[0]  # the exporter sees that as well
            continue
        if isinstance(layer, (Conv, DepthwiseConv)) and readers[position] == 1:
            folded.add(position)  # a normalisation goes into its weights
            layer = replace(layer, bias=True)
        values[position] = graph.add(layer, reads, shapes)
    last = len(architecture.layers) - 1
    shape = architecture.shape_of(last)
    content: bytes = graph.finish(values[last], pixels, shape).SerializeToString()
    return content


class _Graph:
    """Nodes and weights, as they come."""

    def __init__(self) -> None:
        from onnx import helper, numpy_helper

        self._make_node = helper.make_node
        self._to_tensor = numpy_helper.from_array
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._splits: dict[tuple[str, int], list[str]] = {}

    def normalised(self, pixels: str, channels: int) -> str:
        """The image less its mean by its deviation, as exported files have it."""
        ones = np.ones((channels, 1, 1), np.float32)
        return self.node("Div", [self.node("Sub", [pixels, ones]), ones])

    def node(self, operator: str, reads: Sequence[Any], **attributes: Any) -> str:
        """One more; what it reads is a value's name or an array.

        Returns:
            The name of what it gives.
        """
        names = [x if isinstance(x, str) else self._constant(x) for x in reads]
        given = f"v{len(self.nodes)}"
        self.nodes.append(self._make_node(operator, names, [given], **attributes))
        return given

    def _constant(self, array: np.ndarray[Any, Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(self._to_tensor(array, name))
        return name

    def finish(self, logits: str, pixels: Shape, shape: Shape) -> onnx.ModelProto:
        from onnx import TensorProto, helper

        named = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
        for node in self.nodes:  # what gives the logits is called so
            node.output[:] = ["logits" if x == logits else x for x in node.output]
        graph = helper.make_graph(
            self.nodes,
            "timed",
            [named("pixels", shape=("batch", *pixels))],
            [named("logits", shape=("batch", *shape))],
            self.weights,
        )
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)

    def add(self, layer: Layer, reads: list[str], shapes: list[Shape]) -> str:
        """The nodes of a layer.

        Returns:
            The name of what it gives.
        """
        channels = shapes[0][0]
        match layer:
            case Conv():
                fan_in = channels // layer.groups
                weights = _zeros(layer.width, fan_in, *layer.kernel)
                return self._convolution(layer, reads, weights, layer.groups)
            case DepthwiseConv():
                weights = _zeros(channels, 1, *layer.kernel)
                return self._convolution(layer, reads, weights, channels)
            case Linear() if len(shapes[0]) == 1:
                bias = [_zeros(layer.width)] if layer.bias else []
                weights = _zeros(layer.width, channels)
                return self.node("Gemm", [*reads, weights, *bias], transB=1)
            case Linear():
                flipped = self._channels_last(reads)
                product = self.node("MatMul", [flipped, _zeros(channels, layer.width)])
                if layer.bias:
                    product = self.node("Add", [product, _zeros(layer.width)])
                return self._channels_first(product)
            case BatchNorm():
                statistics = [_zeros(channels)] * 3 + [np.ones(channels, np.float32)]
                return self.node("BatchNormalization", [*reads, *statistics])
            case LayerNorm():
                is_map = len(shapes[0]) == 3
                flipped = self._channels_last(reads) if is_map else reads[0]
                affine = [_zeros(channels)] * 2
                normed = self.node("LayerNormalization", [flipped, *affine], axis=-1)
                return self._channels_first(normed) if is_map else normed
            case Scale():
                return self.node("Mul", [*reads, _zeros(channels, 1, 1)])
            case Activation():
                return self._activation(layer, reads)
            case Dropout() | StochasticDepth():
                return reads[0]
            case MaxPool():
                dilations = list(layer.dilation)
                return self._pool("MaxPool", layer, reads, dilations=dilations)
            case AvgPool():
                padded = int(layer.count_include_pad)
                return self._pool("AveragePool", layer, reads, count_include_pad=padded)
            case AdaptiveAvgPool(size=(1, 1)):
                return self._mean(reads, keepdims=1)
            case AdaptiveAvgPool():
                return self._adaptive(layer, reads, shapes[0])
            case SpatialMean():
                return self._mean(reads, keepdims=int(layer.keepdim))
            case Flatten():
                return self.node("Reshape", [*reads, np.array([0, -1])])
            case GroupNorm() | InstanceNorm():
                groups = layer.groups if isinstance(layer, GroupNorm) else channels
                return self._grouped_norm(reads, shapes[0], groups)
            case PReLU():
                slopes = _zeros(channels if layer.channelwise else 1, 1, 1)
                return self.node("PRelu", [*reads, slopes])
            case Clamp():
                bounds = _scalar(layer.low), _scalar(layer.high)
                return self.node("Clip", [*reads, *bounds])
            case Affine():
                return self._affine(layer, reads[0])
            case Pad(top=top, bottom=bottom, left=left, right=right):
                pads = np.array([0, 0, top, left, 0, 0, bottom, right])
                fill = _scalar(float("-inf") if layer.lowest else 0.0)
                return self.node("Pad", [*reads, pads, fill])
            case PadChannels():
                pads = np.array([0, layer.before, 0, 0, 0, layer.after, 0, 0])
                return self.node("Pad", [*reads, pads])
            case Slice():
                ends = np.array(shapes[0][1:])
                bounds = np.array(layer.start), ends
                axes, steps = np.array([2, 3]), np.array(layer.stride)
                return self.node("Slice", [*reads, *bounds, axes, steps])
            case ChannelSlice():
                bounds = np.array([layer.start]), np.array([layer.stop])
                return self.node("Slice", [*reads, *bounds, np.array([1])])
            case Interpolate():
                return self._resized(layer, reads, shapes[0])
            case AsMap():
                return self.node("Reshape", [*reads, np.array([0, -1, 1, 1])])
            case Chunk():
                return self._split(reads[0], layer.parts)[layer.part]
            case ChannelShuffle():
                return self._shuffle(layer, reads, shapes[0])
            case Add():
                return self._chained("Add", reads)
            case Multiply():
                return self._chained("Mul", reads)
            case Concat():
                return self.node("Concat", reads, axis=1)
            case _:
                raise AssertionError(f"no ONNX operator for {layer}")

    def _convolution(
        self,
        layer: Conv | DepthwiseConv,
        reads: list[str],
        weights: np.ndarray[Any, Any],
        groups: int,
    ) -> str:
        return self.node(
            "Conv",
            [*reads, weights, *([_zeros(len(weights))] if layer.bias else [])],
            kernel_shape=list(layer.kernel),
            strides=list(layer.stride),
            pads=list(layer.padding) * 2,
            dilations=list(layer.dilation),
            group=groups,
        )

    def _activation(self, layer: Activation, reads: list[str]) -> str:
        value = reads[0]
        for operator in OPERATORS[layer.function]:
            if operator == "Gate":
                value = self.node("Mul", [*reads, value])
            elif operator == "Clip":
                value = self.node("Clip", [value, _scalar(0), _scalar(6)])
            elif operator == "LeakyRelu":
                value = self.node(operator, [value], alpha=layer.slope)
            else:
                value = self.node(operator, [value])
        return value

    def _pool(
        self, operator: str, layer: MaxPool | AvgPool, reads: list[str], **more: Any
    ) -> str:
        return self.node(
            operator,
            reads,
            kernel_shape=list(layer.kernel),
            strides=list(layer.stride),
            pads=list(layer.padding) * 2,
            ceil_mode=int(layer.ceil_mode),
            **more,
        )

    def _grouped_norm(self, reads: list[str], read: Shape, groups: int) -> str:
        """As the exporter has it: instances of groups, then a factor and an offset."""
        apart = self.node("Reshape", [*reads, np.array([0, groups, -1])])
        whole = [np.ones(groups, np.float32), _zeros(groups)]
        normed = self.node("InstanceNormalization", [apart, *whole])
        whole_again = self.node("Reshape", [normed, np.array([0, *read])])
        scaled = self.node("Mul", [whole_again, _zeros(read[0], 1, 1)])
        return self.node("Add", [scaled, _zeros(read[0], 1, 1)])

    def _affine(self, layer: Affine, value: str) -> str:
        if layer.factor == -1:
            value = self.node("Neg", [value])
        elif layer.factor != 1:
            value = self.node("Mul", [value, _scalar(layer.factor)])
        if layer.divisor != 1:
            value = self.node("Div", [value, _scalar(layer.divisor)])
        if layer.offset != 0:
            value = self.node("Add", [value, _scalar(layer.offset)])
        return value

    def _resized(self, layer: Interpolate, reads: list[str], read: Shape) -> str:
        is_linear = layer.mode == "bilinear"
        kept = "align_corners" if layer.corners else "pytorch_half_pixel"
        return self.node(
            "Resize",
            [*reads, "", "", np.array(layer.shape(read)[1:])],
            axes=[2, 3],
            mode="linear" if is_linear else "nearest",
            coordinate_transformation_mode=kept if is_linear else "asymmetric",
            nearest_mode="floor",
        )

    def _mean(self, reads: list[str], keepdims: int) -> str:
        return self.node("ReduceMean", [*reads, np.array([2, 3])], keepdims=keepdims)

    def _adaptive(self, layer: AdaptiveAvgPool, reads: list[str], read: Shape) -> str:
        """As a pool where the sizes divide, else as near as a pool comes."""
        steps = [max(1, n // m) for n, m in zip(read[1:], layer.size, strict=True)]
        kernel = [
            n - step * (m - 1)
            for n, m, step in zip(read[1:], layer.size, steps, strict=True)
        ]
        if min(kernel) < 1:  # it is spread over more places than there were
            sizes = np.array([1, 1, *layer.size])
            return self.node("Expand", [self._mean(reads, keepdims=1), sizes])
        return self.node("AveragePool", reads, kernel_shape=kernel, strides=steps)

    def _split(self, read: str, parts: int) -> list[str]:
        """All parts at once, however many layers take one each."""
        found = self._splits.get((read, parts))
        if found is None:
            found = [f"v{len(self.nodes)}_{part}" for part in range(parts)]
            self.nodes.append(
                self._make_node("Split", [read], found, axis=1, num_outputs=parts)
            )
            self._splits[read, parts] = found
        return found

    def _shuffle(self, layer: ChannelShuffle, reads: list[str], read: Shape) -> str:
        channels, *size = read
        apart = np.array([0, layer.groups, channels // layer.groups, *size])
        dealt = self.node("Reshape", [*reads, apart])
        turned = self.node("Transpose", [dealt], perm=[0, 2, 1, 3, 4])
        return self.node("Reshape", [turned, np.array([0, channels, *size])])

    def _chained(self, operator: str, reads: list[str]) -> str:
        value, *others = reads
        for other in others:
            value = self.node(operator, [value, other])
        return value

    def _channels_last(self, reads: list[str]) -> str:
        return self.node("Transpose", reads, perm=[0, 2, 3, 1])

    def _channels_first(self, value: str) -> str:
        return self.node("Transpose", [value], perm=[0, 3, 1, 2])


def _is_relu(layer: Layer | None) -> bool:
    return isinstance(layer, Activation) and layer.function == "relu"


def _layer(architecture: Architecture, position: int) -> Layer | None:
    """The one there; none is where the image is."""
    return None if position == IMAGE else architecture.layers[position]


def _scalar(value: float) -> np.ndarray[Any, Any]:
    return np.array(value, np.float32)


def _zeros(*shape: int) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.float32)
