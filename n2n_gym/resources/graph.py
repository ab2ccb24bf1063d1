"""A network as an ONNX graph for timing, made in milliseconds, without real weights.

torch's exporter takes seconds per network, which is too slow to fit a latency
prediction to many networks. ONNX Runtime runs the same nodes for this graph as
for the exported one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import (
    IMAGE,
    Activation,
    BatchNorm,
    Conv,
    DepthwiseConv,
    Layer,
)
from n2n_gym.resources.building import Graph
from n2n_gym.resources.operators import add


def timed_onnx(architecture: Architecture) -> bytes:
    """An ONNX file with placeholder weights, which runs as long as an exported one."""
    graph = Graph()
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
            values[position] = reads[0]  # the exporter also leaves out the second
            continue
        if isinstance(layer, (Conv, DepthwiseConv)) and readers[position] == 1:
            folded.add(position)  # a normalisation goes into its weights
            layer = replace(layer, bias=True)
        values[position] = add(graph, layer, reads, shapes[0])
    last = len(architecture.layers) - 1
    shape = architecture.shape_of(last)
    content: bytes = graph.finish(values[last], pixels, shape).SerializeToString()
    return content


def _is_relu(layer: Layer | None) -> bool:
    return isinstance(layer, Activation) and layer.function == "relu"


def _layer(architecture: Architecture, position: int) -> Layer | None:
    """The layer at a position; None if the position is the image's."""
    return None if position == IMAGE else architecture.layers[position]
