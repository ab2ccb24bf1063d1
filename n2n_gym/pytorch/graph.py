"""Graphs of modules, by torch.fx, with what every node gives."""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torchvision.ops import StochasticDepth


@contextmanager
def as_written() -> Iterator[None]:
    """What ``torch.compile`` is put around runs, and is traced, as it is written."""
    dynamo = sys.modules.get("torch._dynamo")  # slow to import, and there if need be
    if dynamo is None:
        yield
        return
    uncompiled = torch.compiler.set_stance("force_eager")
    with uncompiled, dynamo.config.patch(error_on_nested_fx_trace=False):
        yield


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

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """The image is the one argument: Python gives the others their defaults."""
        _, *parameters = inspect.signature(root_fn).parameters.values()
        needed = [p.name for p in parameters[1:] if _is_required(p)]
        if not parameters or needed:
            what = f"also needs {', '.join(needed)}" if needed else "takes none"
            raise fx.proxy.TraceError(
                f"a teacher takes one input, the image; its forward {what}"
            )
        image = self.create_proxy("placeholder", "images", (), {})
        return root_fn, [self.root, image]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def _is_required(parameter: inspect.Parameter) -> bool:
    is_optional = parameter.default is not parameter.empty
    is_rest = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return not (is_optional or is_rest)


class Recorder(fx.Interpreter):
    """Runs a graph and remembers what every node gave."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.results: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.results[n] = result = super().run_node(n)
        return result
