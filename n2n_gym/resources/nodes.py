"""What ONNX Runtime makes of a network: its nodes, and the work that each has to do.

It fuses convolutions with what follows, and computes some on channels in blocks, which
others have to be reordered for; which ones depends on the widths, on the processor and
on its version. So it is asked, not foretold: a run that it keeps a profile of says
which nodes there are, of which shapes.
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

BLOCK: Final = 16  # channels computed at once, as most processors have it
STRIP: Final = 64  # output channels for which a value of the input is read once
ROWS: Final = 12  # of a matrix product's tile
# Weights that caches of 256 KB to 16 MB hold: beyond each, reading costs more.
CACHES: Final = tuple(2**power for power in range(16, 23))
TIMED: Final = "_kernel_time"  # how the profile calls a node's run


class Node(NamedTuple):
    """One that runs.

    Attributes:
        operator: In blocks of channels where it ends on ".blocked".
    """

    operator: str
    reads: list[Shape]  # weights too
    gives: list[Shape]


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
    """How much there is of each kind of work.

    What a node takes is taken for a sum of such numbers, each times what one costs.
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
    """Its kind, and what it has to do, either in blocks or as a matrix product."""
    image, weights, *_ = node.reads
    outputs, inputs, *kernel = weights
    batch, _, *size = node.gives[0]
    places = batch * prod(size)
    depth = inputs * prod(kernel)  # products of one output
    is_depthwise = inputs == 1 < min(outputs, image[1])
    kind = f"{node.operator}{' 1x1' * (prod(kernel) == 1)}"
    if is_depthwise:
        kind += " depthwise"
    elif inputs < BLOCK:
        kind += " narrow"
    strips, blocks = ceil(outputs / STRIP), ceil(places / BLOCK)
    return kind, {
        "macs": outputs * depth * places,
        "padded macs": outputs * depth * BLOCK * blocks,
        "outputs": outputs * places,
        "loads": strips * depth * places,
        "calls": strips * batch * size[0] * ceil(inputs / BLOCK),
        "tiles": ceil(outputs / ROWS) * depth * blocks,
        "columns": depth * places,
        "groups": outputs * is_depthwise,
    }
