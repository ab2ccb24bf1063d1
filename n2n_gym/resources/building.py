"""An ONNX graph under construction: its nodes and its weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from n2n_gym.networks.layers import Shape

if TYPE_CHECKING:  # onnx takes a second to import: only for graphs
    import onnx

OPSET: Final = 20
IR_VERSION: Final = 10  # ONNX's version for this version of operators


class Graph:
    """Nodes and weights of a graph under construction."""

    def __init__(self) -> None:
        from onnx import helper, numpy_helper

        self._make_node = helper.make_node
        self._to_tensor = numpy_helper.from_array
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._splits: dict[tuple[str, int], list[str]] = {}

    def normalised(self, pixels: str, channels: int) -> str:
        """Add the nodes that normalise the pixels in an exported file."""
        ones = np.ones((channels, 1, 1), np.float32)
        return self.node("Div", [self.node("Sub", [pixels, ones]), ones])

    def node(self, operator: str, reads: Sequence[Any], **attributes: Any) -> str:
        """Add a node.

        Args:
            operator: Name of the ONNX operator.
            reads: Inputs of the node, each the name of a value or an array of weights.
            attributes: Attributes of the operator, by name.

        Returns:
            The name of the node's output.
        """
        names = [x if isinstance(x, str) else self._constant(x) for x in reads]
        given = f"v{len(self.nodes)}"
        self.nodes.append(self._make_node(operator, names, [given], **attributes))
        return given

    def _constant(self, array: np.ndarray[Any, Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(self._to_tensor(array, name))
        return name

    def parts(self, read: str, count: int) -> list[str]:
        """Split a value's channels into equal parts; return the names of all parts.

        Calls with the same arguments use the same node.
        """
        found = self._splits.get((read, count))
        if found is None:
            found = [f"v{len(self.nodes)}_{part}" for part in range(count)]
            self.nodes.append(
                self._make_node("Split", [read], found, axis=1, num_outputs=count)
            )
            self._splits[read, count] = found
        return found

    def finish(self, logits: str, pixels: Shape, shape: Shape) -> onnx.ModelProto:
        from onnx import TensorProto, helper

        named = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
        for node in self.nodes:  # rename the value that holds the logits
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
