"""What every student that can still be reached takes at least.

The bounds are sound: no completion of an episode's decisions leaves a student below
them. They are exact once nothing is left to decide, and for shrinkage always but where
a layer's kernel and its padding are both to be decided.

Why they are sound, for removal: let T be all undecided removals. Whatever part of T is
taken in the end, (1) a layer that the logits need when all of T is taken is needed,
since the path to the logits that is left then is left by fewer removals as well; (2) a
layer emits at least what it emits for the least that it can read, since the shape of
each kind of layer does not fall where its inputs' rise, and a removed layer emits what
it reads. The costs of a layer do not fall either where its inputs' shapes rise, so that
the layers of (1) on the shapes of (2) cost no more than in any student.

For shrinkage: widths, kernels and paddings do not fall where rates rise, nor shapes and
costs where those rise, so that the lowest rate for all that is undecided costs least.
Only a kernel whose padding is also decided on is another matter: the larger it is, the
smaller a map it leaves where the padding does not follow. There each layer takes, of
all its kernels, the least that each costs and the smallest map that each leaves.
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
    """Lower bounds of a student's parameters and multiply-accumulates."""

    num_params: int
    num_macs: int


NOTHING_KNOWN: Final = Least(0, 0)


def least_shrunk(
    start: Architecture,
    rates: Mapping[Shrinkage, float],
    undecided: Iterable[Shrinkage],
    lowest_rate: float = RATES[0],
) -> Least:
    """Of the students that these rates leave, whatever the others become.

    Args:
        lowest_rate: Of those that are offered.
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
    """Of students that take each layer from any of these."""
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
    """Of the students that these removals leave, whatever else goes."""
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
    """Parameters and MACs that each layer takes at least, in any student that has it.

    Args:
        layers: The start's, perhaps narrower.
    """
    bypassed, dropped = _concerned(undecided)
    costs = _least_costs(layers, start, set(), set(), bypassed, dropped)
    least = []
    for position, layer in enumerate(layers):
        found = costs.get(position)
        if found is None and not isinstance(layer, Join):
            # It may go, and where it stays it reads what it would have read.
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
    """Of the layers that neither go nor may go: the least that each costs."""
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
    """What each layer emits at least, and whether some join may be left with none."""

    def __init__(self, start: Architecture) -> None:
        self.shape: dict[int, Shape] = {IMAGE: start.input_shape}
        self.is_sure = {IMAGE: True}

    def add(self, shape: Shape, is_sure: bool) -> None:
        position = len(self.shape) - 1
        self.shape[position], self.is_sure[position] = shape, is_sure


def _concerned(removals: Iterable[Removal]) -> tuple[set[int], set[int]]:
    """Layers that they bypass, and layers that joins go on without."""
    bypassed: set[int] = set()
    dropped: set[int] = set()
    for removal in removals:
        bypassed.update(removal.bypassed)
        dropped.update(removal.dropped)
    return bypassed, dropped


def _joined(layer: Join, shapes: Sequence[Shape], are_sure: bool) -> Shape:
    """What a join emits at least, of operands all of which, or one of which, it has."""
    if not shapes:  # it will not be there
        return (1,)
    if not are_sure:
        return tuple(map(min, *shapes, shapes[0]))
    # Operands have equal shapes, a gate's but for height and width.
    most = tuple(map(max, *shapes, shapes[0]))
    if isinstance(layer, Concat):
        return (sum(shape[0] for shape in shapes), *most[1:])
    return most


def _emitted(layer: Layer, read: Shape, shape: Shape) -> Shape:
    """What it emits at least; as many axes as it emits in the start."""
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
