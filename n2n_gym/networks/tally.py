"""A network's costs while its layers shrink, updated only for changed layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import IMAGE, PRODUCERS, Layer, Pair, Shape

# Output shape, parameters and multiply-accumulates of layers, by name, changes and the
# shapes of inputs.
Costs: TypeAlias = dict[Any, tuple[Shape, int, int]]


class Counts(NamedTuple):
    """Parameters and multiply-accumulates of a whole network."""

    num_params: int
    num_macs: int


class _Spec(NamedTuple):
    """The changed fields of a layer; None stands for an unchanged field."""

    width: int | None = None
    kernel: Pair | None = None
    padding: Pair | None = None


_AS_IT_IS = _Spec()
_MOST_KNOWN = 50_000  # most costs in a memo: joins of many values have very many


class Tally:
    """Costs of a network while decisions change widths and kernels one after another.

    Padding follows kernels, so maps keep their size. A changed kernel changes only its
    own layer's cost. A changed width also changes the costs of the layers that read it.

    Args:
        start: The network before it shrinks.
        known: A memo of layers' costs, for all networks of one teacher.
    """

    def __init__(self, start: Architecture, known: Costs) -> None:
        self._start = start
        self._names = [layer.name for layer in start.layers]
        self._specs = [_AS_IT_IS] * len(start.layers)
        self._shapes = list(start.shapes)
        self._costs = list(
            zip(start.params_per_layer, start.macs_per_layer, strict=True)
        )
        self.num_params, self.num_macs = start.num_params, start.num_macs
        self._known = known

    def copy(self) -> Tally:
        """An independent copy."""
        twin = object.__new__(Tally)
        twin._start, twin._names, twin._known = self._start, self._names, self._known
        twin._specs, twin._shapes = self._specs.copy(), self._shapes.copy()
        twin._costs = self._costs.copy()
        twin.num_params, twin.num_macs = self.num_params, self.num_macs
        return twin

    @property
    def counts(self) -> Counts:
        return Counts(self.num_params, self.num_macs)

    def change(
        self,
        affected: Sequence[int],
        widths: Mapping[int, int],
        kernels: Mapping[int, tuple[Pair, Pair]],
    ) -> None:
        """Give layers new widths, or kernels with their paddings.

        Args:
            affected: Positions of the layers whose costs change, ascending. For widths,
                see ``affected_by_width``.
            widths: New widths, by position.
            kernels: New kernels and paddings, by position.
        """
        specs, shapes, layers = self._specs, self._shapes, self._start.layers
        for position, width in widths.items():
            specs[position] = specs[position]._replace(width=width)
        for position, (kernel, padding) in kernels.items():
            specs[position] = specs[position]._replace(kernel=kernel, padding=padding)
        for position in affected:
            reads = tuple(
                [
                    self._start.input_shape if read == IMAGE else shapes[read]
                    for read in layers[position].inputs
                ]
            )
            key = self._names[position], specs[position], reads
            cost = self._known.get(key)
            if cost is None:
                layer = _changed(layers[position], specs[position])
                cost = (
                    layer.shape(*reads),
                    layer.num_params(*reads),
                    layer.num_macs(*reads),
                )
                if len(self._known) < _MOST_KNOWN:
                    self._known[key] = cost
            shapes[position], num_params, num_macs = cost
            before = self._costs[position]
            self._costs[position] = num_params, num_macs
            self.num_params += num_params - before[0]
            self.num_macs += num_macs - before[1]


def _changed(layer: Layer, spec: _Spec) -> Layer:
    fields = {name: value for name, value in spec._asdict().items() if value}
    if spec.padding is not None:
        fields["padding"] = spec.padding
    return replace(layer, **fields) if fields else layer


def affected_by_width(start: Architecture, producers: Sequence[int]) -> tuple[int, ...]:
    """Positions of the layers whose costs depend on these producers' widths, ascending.

    Args:
        producers: Positions of convolutions and linear layers.
    """
    found = set(producers)
    waiting = list(producers)
    while waiting:
        for reader in start.readers[waiting.pop()]:
            if reader not in found:
                found.add(reader)
                if not isinstance(start.layers[reader], PRODUCERS):
                    waiting.append(reader)
    return tuple(sorted(found))
