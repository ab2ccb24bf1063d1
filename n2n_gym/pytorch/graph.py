"""Graphs of modules, by torch.fx, with what every node gives."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn
from torchvision.ops import StochasticDepth


class _Proxy(fx.Proxy):
    """Records augmented assignments as what they are; fx's own make new values."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy(
            "call_function", operator.iadd, (self, other), {}, name="add"
        )

    def __imul__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy(
            "call_function", operator.imul, (self, other), {}, name="mul"
        )


class Tracer(fx.Tracer):
    """fx's own, with these proxies, and with torchvision's layers as layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_layer = isinstance(m, StochasticDepth)
        return is_layer or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


class Recorder(fx.Interpreter):
    """Runs a graph and remembers what every node gave."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.results: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.results[n] = result = super().run_node(n)
        return result
