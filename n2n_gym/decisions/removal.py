"""Stage one: which units and branches of a network can be removed."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Final, Literal

from n2n_gym.architecture import Architecture, Wiring
from n2n_gym.layers import (
    Activation,
    BatchNorm,
    Conv,
    DepthwiseConv,
    Dropout,
    Join,
    Linear,
    ShapeError,
)

GRANULARITIES: Final = ("unit",)


@dataclass(frozen=True)
class Removal:
    """One thing that can be removed from a start architecture.

    Attributes:
        form: ``"unit"``: whoever read it reads its input. ``"branch"``: every join
            that read its last layer goes on without it.
        name: Of the layer that begins the unit, or that ends the branch.
        layers: Positions of the layers it consists of, ascending.
    """

    form: Literal["unit", "branch"]
    name: str
    layers: tuple[int, ...]

    @property
    def bypassed(self) -> tuple[int, ...]:
        return self.layers if self.form == "unit" else ()

    @property
    def dropped(self) -> tuple[int, ...]:
        return self.layers[-1:] if self.form == "branch" else ()


def units(start: Architecture) -> list[tuple[int, ...]]:
    """Each convolution or linear layer with the layers that only follow it."""
    found = []
    for position, layer in enumerate(start.layers):
        if isinstance(layer, (Conv, DepthwiseConv, Linear)):
            unit = [position]
            while len(readers := start.readers[unit[-1]]) == 1 and isinstance(
                start.layers[readers[0]], (BatchNorm, Activation, Dropout)
            ):
                unit.append(readers[0])
            found.append(tuple(unit))
    return found


def _branch(start: Architecture, end: int) -> tuple[int, ...]:
    """The layer that ends a branch and everything that only it needs."""
    branch = {end}
    for position in range(end - 1, -1, -1):
        readers = start.readers[position]
        if readers and branch.issuperset(readers):
            branch.add(position)
    return tuple(sorted(branch))


def _candidates(start: Architecture) -> list[Removal]:
    """Every unit and branch, the larger before the ones inside it."""
    found = [Removal("unit", start.layers[unit[0]].name, unit) for unit in units(start)]
    for position, readers in enumerate(start.readers):
        if readers and all(isinstance(start.layers[r], Join) for r in readers):
            name = start.layers[position].name
            found.append(Removal("branch", name, _branch(start, position)))
    return sorted(found, key=lambda removal: (removal.layers[0], -len(removal.layers)))


def removals(start: Architecture, granularity: str = "unit") -> tuple[Removal, ...]:
    """The removals that can be decided on, in the environment's order.

    Each saves parameters or multiply-accumulates when taken alone, and no two of them
    leave the same network. The first layer with parameters and the classifier stay.

    Raises:
        ValueError: The granularity is unknown.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(
            f"unknown granularity {granularity!r}; known: {', '.join(GRANULARITIES)}"
        )
    untouched = _wire(start, ())
    found, left_by = [], set()
    for removal in _candidates(start):
        if start.first in removal.layers or start.classifier in removal.layers:
            continue
        wiring = legal_removal(start, (), untouched, removal)
        if wiring is None or wiring[1:] == untouched[1:]:
            continue
        left = frozenset(wiring.inputs.items())
        if left not in left_by:
            left_by.add(left)
            found.append(removal)
    return tuple(found)


def _wire(start: Architecture, taken: Iterable[Removal]) -> Wiring:
    bypassed: set[int] = set()
    dropped: set[int] = set()
    for removal in taken:
        bypassed.update(removal.bypassed)
        dropped.update(removal.dropped)
    return start.rewire(bypassed, dropped)


def legal_removal(
    start: Architecture, taken: Iterable[Removal], left: Wiring, removal: Removal
) -> Wiring | None:
    """What a further removal leaves, or None if it is illegal.

    Illegal is what does not build, what adds parameters or multiply-accumulates, and
    what has nothing left to remove.

    Args:
        taken: The removals decided on before.
        left: What they left of the start.
    """
    if left.inputs.keys().isdisjoint(removal.layers):
        return None
    try:
        wiring = _wire(start, (*taken, removal))
    except ShapeError:
        return None
    grows = wiring.num_params > left.num_params or wiring.num_macs > left.num_macs
    return None if grows else wiring


def remove(
    start: Architecture, taken: Set[Removal] | Iterable[Removal]
) -> Architecture:
    """The student that a set of removals leaves, in whatever order they are given.

    Raises:
        ShapeError: They leave no network that could exist.
    """
    return start.keep(_wire(start, taken))
