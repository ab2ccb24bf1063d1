"""Translation of a torch module to an architecture, by torch.fx."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import IMAGE, ChannelShuffle, Layer, Shape
from n2n_gym.pytorch.arguments import (
    BETWEEN,
    PLAIN,
    PREVIOUS,
    Found,
    Layout,
    Operand,
    TraceError,
    Unsupported,
    Weight,
)
from n2n_gym.pytorch.check import as_it_computes
from n2n_gym.pytorch.determinism import isolated
from n2n_gym.pytorch.functions import FUNCTIONS, IN_PLACE, TAKE_WEIGHTS
from n2n_gym.pytorch.graph import (
    CannotRun,
    Recorder,
    Tracer,
    as_written,
    called,
    describe,
    written_at,
)
from n2n_gym.pytorch.modules import MODULES
from n2n_gym.pytorch.plain import ADVICE, plain, refuse_scripts, refuse_shared_tensors
from n2n_gym.pytorch.randomised import copy_of
from n2n_gym.pytorch.regularisation import as_in_eval_mode
from n2n_gym.pytorch.shapes import (
    CHUNKS,
    RESHAPES,
    WEIGHT_RESHAPES,
    chunk,
    item,
    reshape,
)

__all__ = ["TraceError", "trace", "translate"]
# Sizes are plain numbers in a trace. The checks use other numbers of images, so
# arithmetic with this number is detected.
_BATCH: Final = 5
_SOFTMAX: Final = frozenset(
    {
        *(F.softmax, torch.softmax, "softmax", nn.Softmax),
        *(F.log_softmax, torch.log_softmax, "log_softmax", nn.LogSoftmax),
    }
)


@as_written()
def trace(module: nn.Module, input_shape: Shape) -> Architecture:
    """The architecture of a module in eval mode, if torch.fx can trace it.

    The module is called only with images; other arguments of its ``forward`` keep their
    defaults. Torch's wrappers are removed, and any float precision is accepted. The
    trace is compared with the module by the logits of random images. The module itself
    is not changed; its weights may be on the meta device. Layers that the logits do not
    need are left out. Warnings name the parameters of those layers, and a computation
    in training mode that no layer represents.

    Args:
        module: The module to trace.
        input_shape: Shape of one image, (C, H, W).

    Raises:
        TraceError: The module uses an unsupported operation, or the trace computes
            other logits. The message names the node or layer, and the line.
    """
    module = plain(module)
    with isolated(None):
        return as_it_computes(module, input_shape, translate)


def translate(
    module: nn.Module,
    input_shape: Shape,
    *,
    is_training: bool = False,
    num_images: int = _BATCH,
) -> Architecture:
    """The architecture that torch.fx sees, not compared with the module.

    Args:
        is_training: Whether to trace the module in training mode.
        num_images: Number of images in a batch.
    """
    refuse_scripts(module)
    refuse_shared_tensors(module)
    kind = type(module).__name__
    module = copy_of(module)
    images = (num_images, *input_shape)
    try:
        module = module.to("meta").float().train(is_training)
        graph = fx.GraphModule(module, Tracer(images).trace(module))
    except CannotRun as error:
        raise _cannot_take(kind, input_shape, error.__cause__, error.node) from error
    except Exception as error:  # the user's own code runs, and may raise anything
        raise TraceError(f"torch.fx cannot trace {kind}: {describe(error)}") from error
    if is_training:
        as_in_eval_mode(graph)
    recorder = Recorder(graph.eval())
    try:
        with torch.no_grad():
            recorder.run(torch.empty(*images, device="meta"))
    except Exception as error:  # whatever torch raises for shapes, types and values
        raise _cannot_take(kind, input_shape, error, recorder.node) from error
    translation = _Translation(graph, recorder.results)
    for node in graph.graph.nodes:
        translation.add(node)
    try:
        whole = Architecture(tuple(input_shape), translation.upto_output())
    except ValueError as error:
        raise TraceError(f"{kind} does not translate: {error}") from error
    return whole.keep(whole.rewire(frozenset(), frozenset()))


def _cannot_take(
    kind: str, images: Shape, error: BaseException | None, node: fx.Node | None
) -> TraceError:
    assert isinstance(error, Exception)
    return TraceError(
        f"{kind} cannot take images of the shape {images}: {describe(error)}"
        f"{written_at(node)}"
    )


class _Value:
    """A tensor of the traced module, and the layer that currently emits it.

    After an in-place operation, everything that reads the value reads the layer of
    that operation.
    """

    def __init__(self, position: int, memory: int, layout: Layout = PLAIN) -> None:
        self.position = position
        self.memory = memory
        self.layout = layout
        self.is_stale = False  # another tensor in its memory was changed in place


class _Translation:
    """The layers of a graph, added node by node."""

    def __init__(self, graph: fx.GraphModule, results: Mapping[fx.Node, Any]) -> None:
        self.graph = graph
        self.results = results
        self.layers: list[Layer] = []
        self.values: dict[fx.Node, _Value] = {}
        self.weights: dict[fx.Node, Weight] = {}
        self.used: set[str] = set()  # parameters and buffers, by name
        self.called_names: set[str] = set()
        # Functions must not get the names of modules.
        self.names = {name for name, _ in graph.named_modules()}
        self.output: int | None = None

    def upto_output(self) -> tuple[Layer, ...]:
        assert self.output is not None
        return tuple(self.layers[: self.output + 1])

    def add(self, node: fx.Node) -> None:
        try:
            self._add(node)
        except Unsupported as error:
            raise TraceError(
                f"{called(node, self.graph)}: {error}{written_at(node)}"
            ) from None

    def _add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.values[node] = _Value(IMAGE, self._memory(node))
        elif node.op == "output":
            self.output = self._output(node)
        elif node.op == "get_attr" and isinstance(self.results[node], Tensor):
            self.weights[node] = Weight.of(
                str(node.target),
                _shape(self.results[node]),
                is_learned=isinstance(self.results[node], nn.Parameter),
            )
        elif self._is_weight_reshaped(node):
            weight = self.weights[node.all_input_nodes[0]]
            self.weights[node] = weight._replace(shape=_shape(self.results[node]))
        elif self._is_softmax_head(node):
            return
        elif isinstance(self.results[node], Tensor) or node.op == "call_module":
            self.values[node] = self._translate(node)
        # Other values (sizes, assertions) have already had their effect on the results.

    def _is_weight_reshaped(self, node: fx.Node) -> bool:
        """Whether a node only reshapes a parameter: ``gamma.view(1, -1, 1, 1)``."""
        read = node.all_input_nodes
        if not read or read[0] not in self.weights or node.op == "call_module":
            return False
        if any(other in self.values for other in read):
            return False
        stored = prod(self.weights[read[0]].stored)
        result = self.results[node]
        is_whole = isinstance(result, Tensor) and result.numel() == stored
        return is_whole and node.target in WEIGHT_RESHAPES

    def _is_softmax_head(self, node: fx.Node) -> bool:
        """Whether a node turns logits into probabilities that no other node reads."""
        kind: Any = node.target
        if node.op == "call_module":
            kind = type(self.graph.get_submodule(str(node.target)))
        is_last = {user.op for user in node.users} == {"output"}
        return kind in _SOFTMAX and is_last and self.results[node].dim() == 2

    def _output(self, node: fx.Node) -> int:
        value = node.args[0]
        while isinstance(value, fx.Node) and self._is_softmax_head(value):
            value = value.all_input_nodes[0]
        result = self.results[node]
        if not isinstance(value, fx.Node) or not isinstance(result, Tensor):
            raise Unsupported(
                f"a teacher returns one tensor, not {type(value).__name__}"
            )
        if result.dim() != 2:
            raise Unsupported(
                f"logits have the shape (B, classes), not {_shape(result)}"
            )
        return self._read(value).position

    def _memory(self, node: fx.Node) -> int:
        return int(self.results[node].untyped_storage()._cdata)

    def _read(self, node: fx.Node) -> _Value:
        value = self.values[node]
        if value.is_stale:
            raise Unsupported(
                "reading a view of a tensor that was changed in place is not supported"
            )
        return value

    def _translate(self, node: fx.Node) -> _Value:
        """The value of a node whose result is a tensor."""
        found = self._outcome(node)
        read = self._first_value(node)
        memory = self._memory(node)
        if found is None:
            if memory == read.memory:
                return read
            return _Value(read.position, memory, read.layout)
        if isinstance(found, Layout):
            return _Value(read.position, memory, found)
        for layer in found if isinstance(found, list) else [found]:
            found = self._append(layer)
        position = len(self.layers) - 1
        if self._is_in_place(node):
            for value in self.values.values():
                if value is not read and value.memory == memory:
                    value.is_stale = True
            read.position = position
            return read
        is_plain = isinstance(found, ChannelShuffle)  # a shuffle may end here
        is_plain |= read.layout.axes in BETWEEN
        return _Value(position, memory, PLAIN if is_plain else read.layout)

    def _append(self, layer: Layer) -> Layer:
        previous = len(self.layers) - 1
        reads = tuple(previous if r == PREVIOUS else r for r in layer.inputs)
        layer = replace(layer, inputs=reads)
        self.names.add(layer.name)
        self.layers.append(layer)
        return layer

    def _outcome(self, node: fx.Node) -> Found:
        """What an operation becomes: layers, a new layout, or None for no change."""
        operation: Callable[..., Found]
        kind: Any = node.target
        if node.op == "call_module":
            module = self.graph.get_submodule(str(node.target))
            kind = type(module)
            self._refuse_second_call(str(node.target), module)
        if kind is operator.getitem and _is_chunk(node.args[0]):
            return self._chunk(node)
        arguments: Any = fx.node.map_arg((node.args, node.kwargs), self._argument)
        args, kwargs = arguments
        name = self._name(node)
        if kind in RESHAPES:
            (operand, *_) = filter(_is_operand, (*args, *kwargs.values()))
            return reshape(name, operand, _shape(self.results[node]))
        if kind is operator.getitem and _is_operand(args[0]):
            return item(name, args[0], args[1], _shape(self.results[node]))
        if node.op == "call_module":
            if kind not in MODULES:
                raise Unsupported(f"supported modules are {_names(MODULES)}")
            operation, args = MODULES[kind], (*args, module)
        elif kind in FUNCTIONS:
            operation = FUNCTIONS[kind]
            if kind not in TAKE_WEIGHTS and any(map(_is_weight, args)):
                if all(w.is_learned for w in args if _is_weight(w)):
                    raise Unsupported("parameters are not supported here")
                raise Unsupported(
                    "arithmetic with buffers and constants is not supported"
                )
        else:
            raise Unsupported(f"supported functions are {_names(FUNCTIONS)}")
        try:
            return operation(name, *args, **kwargs)
        except TypeError as error:
            raise Unsupported(f"unsupported arguments ({error})") from None

    def _is_in_place(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            module = self.graph.get_submodule(str(node.target))
            return bool(getattr(module, "inplace", False))
        return node.target in IN_PLACE or bool(node.kwargs.get("inplace", False))

    def _chunk(self, node: fx.Node) -> Layer | None:
        """One of the parts that a node splits a tensor into."""
        split, part = node.args
        assert isinstance(split, fx.Node)
        assert isinstance(part, int)
        operand = self._argument(split.all_input_nodes[0])
        results = [_shape(result) for result in self.results[split]]
        return chunk(self._name(split), operand, part, results)

    def _argument(self, node: fx.Node) -> Any:
        """What a translation gets for a node: operand, weight or evaluated result."""
        if node in self.values:
            value = self._read(node)
            return Operand(value.position, _shape(self.results[node]), value.layout)
        if node in self.weights:
            weight = self.weights[node]
            if weight.name in self.used:
                raise Unsupported(f"a parameter may be used only once; {ADVICE}")
            self.used.add(weight.name)
            return weight
        return self.results[node]

    def _first_value(self, node: fx.Node) -> _Value:
        """The first value that an operation reads, directly or as a tuple's item."""
        nodes = node.all_input_nodes
        found = next((self.values[n] for n in nodes if n in self.values), None)
        return found or self._first_value(nodes[0])

    def _refuse_second_call(self, target: str, module: nn.Module) -> None:
        tensors = (*module.named_parameters(), *module.named_buffers())
        names = {f"{target}.{name}" for name, _ in tensors}
        if not names.isdisjoint(self.used):
            raise Unsupported(
                f"a module with parameters or buffers may be called only once; {ADVICE}"
            )
        self.used |= names

    def _name(self, node: fx.Node) -> str:
        """A unique name: the called module's, or a module's name and its function's."""
        if node.op == "call_module":
            wanted = str(node.target)
            if wanted not in self.called_names:
                self.called_names.add(wanted)
                return wanted
        else:
            stack = node.meta.get("nn_module_stack", {}).values()
            # fx numbers functions over all modules
            function = re.sub(r"_\d+$", "", node.name)
            wanted = ".".join([*[path for path, _ in stack if path][-1:], function])
        name, count = wanted, 0
        while name in self.names:
            count += 1
            name = f"{wanted}_{count}"
        return name


def _names(table: Mapping[Any, Any]) -> str:
    names = {key if isinstance(key, str) else key.__name__ for key in table}
    return ", ".join(sorted(names))


def _is_chunk(node: Any) -> bool:
    is_function = isinstance(node, fx.Node) and node.op != "call_module"
    return is_function and node.target in CHUNKS


def _is_weight(argument: Any) -> bool:
    return isinstance(argument, Weight)


def _is_operand(argument: Any) -> bool:
    return isinstance(argument, Operand)


def _shape(of: Any) -> Shape:
    return tuple(getattr(of, "shape", of))
