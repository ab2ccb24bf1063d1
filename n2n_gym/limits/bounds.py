"""Lower bounds on the resources of all students that an episode can still lead to.

The bounds are sound: however an episode goes on, its student is not below the bounds.
They are exact when all decisions are made. For shrinkage, the bounds are always exact,
unless both a layer's kernel and its padding are undecided.

Why the bounds are sound, for removal: let T be the set of undecided removals. At the
end of the episode, any subset of T can have been taken.

1. If the logits need a layer when all of T is taken, they need it for any subset of T:
   with fewer removals, the path from the layer to the logits still exists.
2. A layer's output shape is at least its output shape for the smallest possible inputs.
   For each kind of layer, larger inputs never give a smaller output, and a removed
   layer outputs its input.

Larger inputs never make a layer cheaper either. So the
layers that are needed after all removals, with the smallest inputs that they can have,
cost no more in total than any student.

For shrinkage: widths, kernels and paddings do not fall when rates rise. Shapes and
costs do not fall when widths, kernels and paddings rise. So a student costs least if
all undecided variables get the lowest rate. The exception is a kernel with an undecided
padding: a larger kernel gives a smaller map if the padding does not grow with it. For
such a layer, the bound takes the least cost and the smallest map over all kernels that
the layer can get.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import RATES, Removal, Shrinkage, shrink
from n2n_gym.networks.layers import (
    IMAGE,
    PRODUCERS,
    Concat,
    Join,
    Layer,
    Shape,
    ShapeError,
)


class Least(NamedTuple):
    """Lower bounds on a student's parameters and multiply-accumulates."""

    num_params: int
    num_macs: int


NOTHING_KNOWN: Final = Least(0, 0)


def least_shrunk(
    start: Architecture,
    rates: Mapping[Shrinkage, float],
    undecided: Iterable[Shrinkage],
    lowest_rate: float = RATES[0],
) -> Least:
    """Lower bounds for students with these rates, whatever the undecided rates are.

    Args:
        lowest_rate: The lowest of the offered rates.
    """
    undecided = tuple(undecided)
    lowest = {**dict.fromkeys(undecided, lowest_rate), **rates}
    padded = {each.layers for each in lowest if each.variable == "padding"}
    kernels = [
        each
        for each in undecided
        if each.variable == "kernel" and each.layers in padded
    ]
    tried = RATES if kernels else (lowest_rate,)
    try:
        students = [
            shrink(start, {**lowest, **dict.fromkeys(kernels, rate)}) for rate in tried
        ]
    except ShapeError:  # paddings that cannot go together
        return NOTHING_KNOWN
    if len(students) > 1:
        return _least_of_layers(students)
    (smallest,) = students
    return Least(smallest.num_params, smallest.num_macs)


def _least_of_layers(students: Sequence[Architecture]) -> Least:
    """Lower bounds for students that take each layer from any of these students."""
    num_params = num_macs = 0
    first = students[0]
    values = _Values(first)
    for position, layer in enumerate(first.layers):
        if isinstance(layer, Join):
            shapes = [values.shape[read] for read in layer.inputs]
            values.add(_joined(layer, shapes, True), True)
            continue
        read = values.shape[layer.inputs[0]]
        forms = {student.layers[position]: student for student in students}
        emitted = [_emitted(f, read, s.shape_of(position)) for f, s in forms.items()]
        num_params += min(form.num_params(read) for form in forms)
        num_macs += min(_macs(form, read) for form in forms)
        values.add(tuple(map(min, *emitted, emitted[0])), True)
    return Least(num_params, num_macs)


def least_removed(
    start: Architecture, taken: Iterable[Removal], undecided: Iterable[Removal]
) -> Least:
    """Lower bounds for students with all ``taken`` and any undecided removals."""
    bypassed, dropped = _concerned(taken)
    also_bypassed, also_dropped = _concerned(undecided)
    sure = start.needed(bypassed | also_bypassed, dropped | also_dropped)
    costs = _least_costs(
        start.layers, start, bypassed, dropped, also_bypassed, also_dropped
    )
    return Least(
        sum(params for position, (params, _) in costs.items() if position in sure),
        sum(macs for position, (_, macs) in costs.items() if position in sure),
    )


def least_of_each(
    start: Architecture, undecided: Iterable[Removal], layers: Sequence[Layer]
) -> list[tuple[int, int]]:
    """Lower bounds on each layer's parameters and MACs, over students with the layer.

    Args:
        layers: Layers of the start architecture, in their original or a narrower form.
    """
    bypassed, dropped = _concerned(undecided)
    costs = _least_costs(layers, start, set(), set(), bypassed, dropped)
    least = []
    for position, layer in enumerate(layers):
        found = costs.get(position)
        if found is None and not isinstance(layer, Join):
            # It may be removed; if it stays, it reads the same inputs.
            stays = bypassed - {position}
            found = _least_costs(layers, start, set(), set(), stays, dropped)[position]
        least.append(found or (0, 0))
    return least


def _least_costs(
    layers: Sequence[Layer],
    start: Architecture,
    bypassed: set[int],
    dropped: set[int],
    also_bypassed: set[int],
    also_dropped: set[int],
) -> dict[int, tuple[int, int]]:
    """Lower bounds (parameters, MACs) of layers that no removal bypasses, by position.

    Joins cost nothing and are left out.

    Args:
        bypassed, dropped: Layers that the removals taken concern (``_concerned``).
        also_bypassed, also_dropped: Layers that undecided removals concern.
    """
    found: dict[int, tuple[int, int]] = {}
    values = _Values(start)
    for position, layer in enumerate(layers):
        if position in bypassed:
            values.add(values.shape[layer.inputs[0]], values.is_sure[layer.inputs[0]])
            continue
        reads = [read for read in layer.inputs if read not in dropped]
        if isinstance(layer, Join):
            there = [
                read
                for read in reads
                if read not in also_dropped and values.is_sure[read]
            ]
            shapes = [values.shape[read] for read in there or reads]
            values.add(_joined(layer, shapes, bool(there)), bool(there))
            continue
        read = values.shape[layer.inputs[0]]
        emitted = _emitted(layer, read, start.shape_of(position))
        if position in also_bypassed:
            emitted = tuple(map(min, emitted, read))
        else:
            found[position] = layer.num_params(read), _macs(layer, read)
        values.add(emitted, values.is_sure[layer.inputs[0]])
    return found


class _Values:
    """Lower bounds on output shapes, and whether each output surely exists."""

    def __init__(self, start: Architecture) -> None:
        self.shape: dict[int, Shape] = {IMAGE: start.input_shape}
        self.is_sure = {IMAGE: True}

    def add(self, shape: Shape, is_sure: bool) -> None:
        position = len(self.shape) - 1
        self.shape[position], self.is_sure[position] = shape, is_sure


def _concerned(removals: Iterable[Removal]) -> tuple[set[int], set[int]]:
    """Layers that the removals bypass, and layers that joins lose as operands."""
    bypassed: set[int] = set()
    dropped: set[int] = set()
    for removal in removals:
        bypassed.update(removal.bypassed)
        dropped.update(removal.dropped)
    return bypassed, dropped


def _joined(layer: Join, shapes: Sequence[Shape], are_sure: bool) -> Shape:
    """Lower bound on a join's output shape, from lower bounds on its operands.

    Args:
        are_sure: Whether all these operands surely stay. Otherwise, the bound also
            holds if only one of them stays.
    """
    if not shapes:  # it is removed
        return (1,)
    if not are_sure:
        return tuple(map(min, *shapes, shapes[0]))
    # Operands have equal shapes; a gate's may differ in height and width.
    most = tuple(map(max, *shapes, shapes[0]))
    if isinstance(layer, Concat):
        return (sum(shape[0] for shape in shapes), *most[1:])
    return most


def _emitted(layer: Layer, read: Shape, shape: Shape) -> Shape:
    """Lower bound on a layer's output shape.

    Args:
        read: Lower bound on the shape of the layer's input.
        shape: Output shape of the layer in the start architecture.
    """
    try:
        return layer.shape(read)
    except ShapeError:  # too small for it: no student has this very shape
        width = layer.width if isinstance(layer, PRODUCERS) else 1
        return (width, *(1 for _ in shape[1:]))


def _macs(layer: Layer, read: Shape) -> int:
    try:
        return layer.num_macs(read)
    except ShapeError:
        return 0
