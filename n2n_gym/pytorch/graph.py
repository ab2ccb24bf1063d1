"""Graphs of modules, by torch.fx: what every node gives, and where it was written."""

from __future__ import annotations

import inspect
import linecache
import operator
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import torch
from torch import fx, nn
from torchvision.ops import StochasticDepth, stochastic_depth

# Frames of these are not the user's code, nor is the code that torch.fx generates.
_NOT_THE_USERS: Final = (
    os.path.dirname(torch.__file__) + os.sep,
    os.path.dirname(__file__) + os.sep,
    "<eval_with_key>",
)

_SPEAK_FOR_THEMSELVES: Final = (fx.proxy.TraceError, RuntimeError, ValueError)


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


class CannotRun(Exception):
    """What is traced raises something of its own for these images."""

    def __init__(self, node: fx.Node) -> None:
        super().__init__(node)
        self.node = node


class _Proxy(fx.Proxy):
    """Records augmented assignments as what they are; fx's own make new values.

    It knows its type and its shape, so that Python's questions about those have the
    answers that a network in single precision gets. Shapes are plain numbers.
    """

    dtype = torch.float32

    @property
    def _value(self) -> Any:
        return self.node.meta["value"]

    @property
    def shape(self) -> Any:
        return getattr(self._value, "shape", None)

    @property
    def ndim(self) -> int:
        return int(self._value.dim())

    def dim(self) -> int:
        return int(self._value.dim())

    def size(self, dim: int | None = None) -> Any:
        return self._value.size() if dim is None else self._value.size(dim)

    def numel(self) -> int:
        return int(self._value.numel())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) and isinstance(self._value, (tuple, list)):
            return [self[place] for place in range(len(self._value))[index]]
        return self.tracer.create_proxy(
            "call_function", operator.getitem, (self, index), {}
        )

    def __len__(self) -> int:
        if not isinstance(self._value, (tuple, list)):
            return int(super().__len__())
        return len(self._value)

    def __iter__(self) -> Iterator[Any]:
        if not isinstance(self._value, (tuple, list)):
            return super().__iter__()
        return iter(self[:])

    def _in_place(self, function: Callable[..., Any], other: Any, name: str) -> Any:
        return self.tracer.create_proxy(
            "call_function", function, (self, other), {}, name=name
        )

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.iadd, other, "add")

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, other, "sub")

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, other, "mul")

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, other, "div")


class Tracer(fx.Tracer):
    """fx's own, with these proxies, and with torchvision's layers as layers.

    Each node remembers the line that made it, and what it gives for images on the meta
    device. Modules made in a forward are traced.

    Args:
        images: The shape of a batch, (B, C, H, W).
    """

    def __init__(self, images: Sequence[int]) -> None:
        super().__init__(autowrap_functions=(stochastic_depth,))
        self.images = torch.empty(*images, device="meta")
        self._is_running = False  # a node, to see what it gives

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

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if self._is_running:
            return forward(*args, **kwargs)
        if m not in (self.submodule_paths or {}):
            if next(m.parameters(), None) is not None:
                raise fx.proxy.TraceError("a module with weights is made in a forward")
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(
        self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]
    ) -> Any:
        if self._is_running:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["line"] = _line_above(sys._getframe(1))
        if node.op != "output":
            self._is_running = True
            try:
                with torch.no_grad():
                    node.meta["value"] = self._run(node)
            except Exception as error:  # whatever torch raises for shapes and values
                raise CannotRun(node) from error
            finally:
                self._is_running = False
        return node

    def _run(self, node: fx.Node) -> Any:
        """What a node gives."""
        given: Any = fx.node.map_arg(
            (node.args, node.kwargs), lambda n: n.meta["value"]
        )
        args, kwargs = given
        target: Any = node.target
        if node.op == "placeholder":
            return self.images
        if node.op == "get_attr":
            return operator.attrgetter(target)(self.root)
        if node.op == "call_module":
            return self.root.get_submodule(target)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)

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
        self.node: fx.Node | None = None  # what runs at present

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        self.results[n] = result = super().run_node(n)
        return result


def _line_above(frame: FrameType | None) -> tuple[str, int] | None:
    """The nearest line of the user's among those that wait for this frame."""
    while frame is not None and frame.f_code is not fx.Tracer.trace.__code__:
        if not frame.f_code.co_filename.startswith(_NOT_THE_USERS):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


def written_at(node: fx.Node | None) -> str:
    """Where a node was written, for the end of a sentence; nothing where unknown."""
    line = None if node is None else node.meta.get("line")
    return _shown(*line) if line else ""


def describe(error: Exception) -> str:
    """What a user's code raised, and its line."""
    text = next(iter(str(error).splitlines()), "")
    if not text or not isinstance(error, _SPEAK_FOR_THEMSELVES):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    found = ""
    step = error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if not file.startswith(_NOT_THE_USERS):
            found = _shown(file, step.tb_lineno)
        step = step.tb_next
    return text + found


def _shown(file: str, line: int) -> str:
    source = linecache.getline(file, line).strip()
    return f", at {file}:{line}" + (f" ({source})" if source else "")


def called(node: fx.Node, graph: fx.GraphModule) -> str:
    """A node in words: its name, and what it calls."""
    if node.op == "call_module":
        kind = type(graph.get_submodule(str(node.target))).__name__
        return f"node {node.target!r} of type {kind}"
    name = (
        node.target
        if isinstance(node.target, str)
        else getattr(node.target, "__name__", "?")
    )
    return f"node {node.name!r} ({node.op.replace('_', ' ')} {name})"
