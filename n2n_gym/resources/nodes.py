"""The nodes that ONNX Runtime runs for a network, and the work that they do.

ONNX Runtime fuses convolutions with the layers that follow. It computes some
convolutions on blocks of channels, and adds nodes that reorder channels for them. The
resulting nodes depend on the widths, the processor and the version of ONNX Runtime. So
the nodes and their shapes are not predicted, but read from a profile of one run.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from math import ceil, prod
from pathlib import Path
from typing import Any, Final, NamedTuple

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import Shape
from n2n_gym.resources.graph import timed_onnx
from n2n_gym.resources.measured import open_session, pixels_of

BLOCK: Final = 16  # channels that most processors compute at once
STRIP: Final = 64  # output channels that share one reading of the input
ROWS: Final = 12  # rows of a matrix product's tile
# Numbers of weights that fill caches of 256 KB to 16 MB; more weights are slower to
# read.
CACHES: Final = tuple(2**power for power in range(16, 23))
TIMED: Final = "_kernel_time"  # suffix of a node's run in the profile


class Node(NamedTuple):
    """A node that ONNX Runtime ran.

    Attributes:
        operator: Name of the operator, with the suffix ".blocked" if it computes blocks
            of channels.
    """

    operator: str
    reads: list[Shape]  # of all inputs, weights included
    gives: list[Shape]  # of all outputs


def nodes(network: Architecture, batch: int = 1, threads: int = 1) -> list[Node]:
    """The nodes that ONNX Runtime runs for a batch."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "profile"
        session = open_session(timed_onnx(network), threads, prefix)
        session.run(None, {"pixels": pixels_of(network, batch)})
        events = json.loads(Path(session.end_profiling()).read_text())
    return [
        _node(event["name"], event["args"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(TIMED)
    ]


def _node(name: str, about: dict[str, Any]) -> Node:
    reads, gives = (
        [tuple(next(iter(typed.values()))) for typed in about[f"{side}_type_shape"]]
        for side in ("input", "output")
    )
    operator = about["op_name"].replace("Fused", "")
    return Node(operator + ".blocked" * ("nchwc" in name), reads, gives)


def work(found: list[Node]) -> Counter[str]:
    """The total amount of each kind of work, over all nodes.

    A network's time is modelled as a sum over the kinds of work: amount times cost.
    """
    total = Counter({"run": 1})
    for node in found:
        if node.operator.startswith("Conv"):
            kind, amounts = _convolution(node)
            total["weights"] += prod(node.reads[1])
            total["sums"] += prod(node.gives[0]) * (len(node.reads) > 3)  # fused
        elif node.operator in ("Gemm", "MatMul"):
            kind = node.operator
            macs = prod(node.gives[0]) * node.reads[0][-1]
            amounts = {"macs": macs, "weights": prod(node.reads[1])}
        else:
            kind = node.operator
            amounts = {"values": sum(map(prod, node.reads + node.gives))}
        total[f"{kind} nodes"] += 1
        for name, amount in amounts.items():
            total[f"{kind} {name}"] += amount
    num_weights = total["weights"] + total["Gemm weights"] + total["MatMul weights"]
    for size in CACHES:
        total[f"weights beyond {size}"] = max(0, num_weights - size)
    return total


def _convolution(node: Node) -> tuple[str, dict[str, int]]:
    """The kind of a convolution, and its amounts of work by name."""
    image, weights, *_ = node.reads
    outputs, inputs, *kernel = weights
    batch, _, *size = node.gives[0]
    positions = batch * prod(size)
    depth = inputs * prod(kernel)  # products per output value
    is_depthwise = inputs == 1 < min(outputs, image[1])
    kind = f"{node.operator}{' 1x1' * (prod(kernel) == 1)}"
    if is_depthwise:
        kind += " depthwise"
    elif inputs < BLOCK:
        kind += " narrow"
    strips, blocks = ceil(outputs / STRIP), ceil(positions / BLOCK)
    return kind, {
        "macs": outputs * depth * positions,
        "padded macs": outputs * depth * BLOCK * blocks,
        "outputs": outputs * positions,
        "loads": strips * depth * positions,
        "calls": strips * batch * size[0] * ceil(inputs / BLOCK),
        "tiles": ceil(outputs / ROWS) * depth * blocks,
        "columns": depth * positions,
        "groups": outputs * is_depthwise,
    }
