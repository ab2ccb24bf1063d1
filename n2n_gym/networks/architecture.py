"""The state of the decision process: an immutable network and its two edits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

from n2n_gym.networks.layers import (
    IMAGE,
    NORMS,
    PARAMETERISED,
    PRODUCERS,
    Activation,
    Add,
    AvgPool,
    Conv,
    DepthwiseConv,
    Join,
    Layer,
    MaxPool,
    Pair,
    Shape,
    ShapeError,
    from_dict,
    to_dict,
)

_NOTHING: Final = -2  # a join without operands


class Wiring(NamedTuple):
    """The result of a removal, before it becomes an architecture."""

    inputs: dict[
        int, tuple[int, ...]
    ]  # of each layer kept: the layers it reads, as positions in start
    num_params: int
    num_macs: int


class _Cost(NamedTuple):
    shape: Shape
    num_params: int
    num_macs: int


@dataclass(frozen=True)
class Architecture:
    """A network as a sequence of layers; each layer reads the image or earlier layers.

    Attributes:
        input_shape: Shape of an image, (C, H, W).
        layers: Layers in topological order; the last one emits the logits.

    Raises:
        ShapeError: The layers do not fit together. This is the only check of legality.
        ValueError: Two layers have the same name, a layer reads itself or a later one,
            there are no layers, or the input shape is not (C, H, W).
    """

    input_shape: Shape
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise ValueError(f"input_shape must be (C, H, W), got {self.input_shape}")
        if not self.layers:
            raise ValueError("an architecture needs at least one layer")
        for position, layer in enumerate(self.layers):
            if not all(IMAGE <= read < position for read in layer.inputs):
                raise ValueError(
                    f"layer {position} ({layer.name}) reads {layer.inputs}; accepted "
                    f"are {IMAGE} (the image) and earlier positions"
                )
        if len(self.positions) < len(self.layers):
            raise ValueError("the names of the layers are not unique")
        # Infers the shapes, so that every existing architecture is legal.
        assert len(self._costs) == len(self.layers)

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """The position of each layer, by name."""
        return {layer.name: position for position, layer in enumerate(self.layers)}

    @cached_property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """For each layer, the positions of the layers that read it."""
        readers: list[list[int]] = [[] for _ in self.layers]
        for position, layer in enumerate(self.layers):
            for read in set(layer.inputs) - {IMAGE}:
                readers[read].append(position)
        return tuple(map(tuple, readers))

    @cached_property
    def wiring(self) -> tuple[tuple[tuple[int, ...], bool, bool], ...]:
        """For each layer: inputs, whether it is a join, whether it adds values."""
        return tuple(
            (
                layer.inputs,
                isinstance(layer, Join),
                isinstance(layer, Add) and len(set(layer.inputs)) > 1,
            )
            for layer in self.layers
        )

    @cached_property
    def _known_costs(self) -> dict[tuple[int, tuple[Shape, ...]], _Cost | ShapeError]:
        """A memo: (position, input shapes) -> cost. Many edits need equal costs."""
        return {}

    def _cost(self, position: int, inputs: tuple[Shape, ...]) -> _Cost:
        key = (position, inputs)
        cost = self._known_costs.get(key)
        if cost is None:
            layer = self.layers[position]
            try:
                cost = _Cost(
                    layer.shape(*inputs),
                    layer.num_params(*inputs),
                    layer.num_macs(*inputs),
                )
            except ShapeError as error:
                cost = error
            self._known_costs[key] = cost
        if isinstance(cost, ShapeError):
            raise cost
        return cost

    @cached_property
    def _costs(self) -> tuple[_Cost, ...]:
        costs: list[_Cost] = []
        for position, layer in enumerate(self.layers):
            inputs = (
                self.input_shape if read == IMAGE else costs[read].shape
                for read in layer.inputs
            )
            costs.append(self._cost(position, tuple(inputs)))
        return tuple(costs)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The output shape of each layer."""
        return tuple(cost.shape for cost in self._costs)

    def shape_of(self, position: int) -> Shape:
        """The output shape of a layer; position -1 is the image."""
        return self.input_shape if position == IMAGE else self._costs[position].shape

    @property
    def params_per_layer(self) -> tuple[int, ...]:
        return tuple(cost.num_params for cost in self._costs)

    @property
    def macs_per_layer(self) -> tuple[int, ...]:
        return tuple(cost.num_macs for cost in self._costs)

    @cached_property
    def num_params(self) -> int:
        return sum(self.params_per_layer)

    @cached_property
    def num_macs(self) -> int:
        return sum(self.macs_per_layer)

    @cached_property
    def first(self) -> int:
        """Position of the first layer with parameters."""
        kinds = PARAMETERISED
        return next(
            p for p, layer in enumerate(self.layers) if isinstance(layer, kinds)
        )

    @cached_property
    def classifier(self) -> int:
        """Position of the last convolution or linear layer."""
        return max(
            p for p, layer in enumerate(self.layers) if isinstance(layer, PRODUCERS)
        )

    @property
    def num_outputs(self) -> int:
        """The number of logits."""
        return self._costs[-1].shape[0]

    # The edits. Both take positions of this architecture, the start of an episode. They
    # apply to it as a set, so the order of the decisions does not matter.

    def rewire(self, bypassed: Set[int], dropped: Set[int]) -> Wiring:
        """The network after a removal, with its costs.

        Args:
            bypassed: Positions of layers to bypass. Whatever reads such a layer reads
                the layer's input instead.
            dropped: Positions of layers that joins no longer read.

        Raises:
            ShapeError: The remaining layers do not fit together.
        """
        return self._count(*self._wires(bypassed, dropped))

    def needed(self, bypassed: Set[int], dropped: Set[int]) -> frozenset[int]:
        """Positions of the layers that the logits need after a removal, legal or not.

        Args:
            bypassed, dropped: As in ``rewire``. If these sets grow, no layer outside
                the result becomes necessary.
        """
        wires, last = self._wires(bypassed, dropped)
        found = {last} if last >= 0 else set()
        for position in range(last, -1, -1):
            if position in found:
                found.update(read for read in wires[position] if read >= 0)
        return frozenset(found)

    def _wires(
        self, bypassed: Set[int], dropped: Set[int]
    ) -> tuple[list[tuple[int, ...]], int]:
        """The inputs of each layer after a removal, and the position of the logits."""
        read_as = [IMAGE]  # read_as[p + 1]: what a reader of position p reads now
        wires: list[tuple[int, ...]] = []
        for position, (inputs, is_join, adds_several) in enumerate(self.wiring):
            stands_for = position
            if position in bypassed:
                stands_for = read_as[inputs[0] + 1]
                wire: tuple[int, ...] = ()
            elif is_join:
                wire = tuple([read_as[i + 1] for i in inputs if i not in dropped])
                if not wire:
                    stands_for = _NOTHING
                elif len(wire) == 1 or (adds_several and len(set(wire)) == 1):
                    stands_for = wire[0]
            else:
                wire = (read_as[inputs[0] + 1],)
            wires.append(wire)
            read_as.append(stands_for)
        return wires, read_as[-1]

    def _count(self, wires: list[tuple[int, ...]], last: int) -> Wiring:
        """The network of the layers that position ``last`` needs, with summed costs."""
        if last < 0:
            raise ShapeError("nothing is left between the image and the logits")
        needed = bytearray(last + 1)
        needed[last] = 1
        for position in range(last, -1, -1):
            if needed[position]:
                for read in wires[position]:
                    if read == _NOTHING:
                        name = self.layers[position].name
                        raise ShapeError(
                            f"{name}: no branch is left that it could read"
                        )
                    if read >= 0:
                        needed[read] = 1
        shapes: dict[int, Shape] = {IMAGE: self.input_shape}
        inputs: dict[int, tuple[int, ...]] = {}
        num_params = num_macs = 0
        known = self._known_costs
        for position in range(last + 1):
            if needed[position]:
                wire = wires[position]
                taken = tuple([shapes[read] for read in wire])
                cost = known.get((position, taken))
                if type(cost) is not _Cost:
                    cost = self._cost(position, taken)
                shapes[position], params, macs = cost
                num_params += params
                num_macs += macs
                inputs[position] = wire
        if shapes[last] != self.shape_of(len(self.layers) - 1):
            raise ShapeError(f"the logits would have the shape {shapes[last]}")
        return Wiring(inputs, num_params, num_macs)

    def keep(self, wiring: Wiring) -> Architecture:
        """The architecture of a wiring."""
        moved = {IMAGE: IMAGE} | {p: i for i, p in enumerate(wiring.inputs)}
        layers = tuple(
            replace(self.layers[p], inputs=tuple(moved[read] for read in wire))
            for p, wire in wiring.inputs.items()
        )
        return Architecture(self.input_shape, layers)

    def shrink(
        self,
        *,
        widths: Mapping[int, int] | None = None,
        kernels: Mapping[int, Pair] | None = None,
        paddings: Mapping[int, Pair] | None = None,
    ) -> Architecture:
        """The architecture with new widths, kernels and paddings at some positions.

        Raises:
            ShapeError: The layers no longer fit together.
        """
        changes: dict[int, dict[str, Any]] = {}
        for field, values in (
            ("width", widths),
            ("kernel", kernels),
            ("padding", paddings),
        ):
            for position, value in (values or {}).items():
                changes.setdefault(position, {})[field] = value
        layers = tuple(
            replace(layer, **changes[position]) if position in changes else layer
            for position, layer in enumerate(self.layers)
        )
        return Architecture(self.input_shape, layers)

    # Representations.

    def to_json(self) -> str:
        """Canonical JSON: equal architectures give equal text."""
        return self._json

    @cached_property
    def _json(self) -> str:
        entries = {
            "input_shape": self.input_shape,
            "layers": [to_dict(layer) for layer in self.layers],
        }
        return json.dumps(entries, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """The architecture in the output of ``to_json``.

        Raises:
            ValueError: The text describes no architecture, or an impossible one.
        """
        try:
            entries = json.loads(text)
            layers = tuple(from_dict(entry) for entry in entries["layers"])
            return cls(tuple(entries["input_shape"]), layers)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"not an architecture in JSON: {text[:60]!r} ({error!r})"
            ) from error

    @cached_property
    def is_normalised(self) -> bool:
        """Whether some layer is a normalisation."""
        return any(isinstance(layer, NORMS) for layer in self.layers)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, names included, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def __str__(self) -> str:
        rows = [("", "image", "", _size(self.input_shape), "")]
        for layer, cost in zip(self.layers, self._costs, strict=True):
            reads = [
                "image" if read == IMAGE else self.layers[read].name
                for read in layer.inputs
            ]
            params = f"{cost.num_params:,}" if cost.num_params else ""
            shape = _size(cost.shape)
            rows.append((layer.name, _describe(layer), ", ".join(reads), shape, params))
        rows.insert(0, ("layer", "kind", "reads", "emits", "parameters"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if i == 4 else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        total = f"{self.num_params:,} parameters, {self.num_macs:,} MACs"
        return "\n".join([*lines, total])


def _size(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _describe(layer: Layer) -> str:
    """The kind of a layer and its main settings: ``Conv 3x3 /2``."""
    if isinstance(layer, Activation):
        return layer.function
    if isinstance(layer, (Conv, DepthwiseConv, MaxPool, AvgPool)):
        stride = "" if layer.stride == (1, 1) else f" /{layer.stride[0]}"
        return f"{layer.kind} {_size(layer.kernel)}{stride}"
    return layer.kind
