"""Stage one: which units and branches of a network can be removed."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Final, Literal

from n2n_gym.networks.architecture import Architecture, Wiring
from n2n_gym.networks.decisions.keeping import positions_of
from n2n_gym.networks.layers import (
    DEALT,
    Activation,
    AdaptiveAvgPool,
    AsMap,
    AvgPool,
    Clamp,
    Conv,
    DepthwiseConv,
    Elementwise,
    Flatten,
    Interpolate,
    Join,
    Layer,
    Linear,
    MaxPool,
    Pad,
    ShapeError,
    Slice,
    SpatialMean,
)

GRANULARITIES: Final = ("unit", "block", "layer")
FREE: Final = (Activation, Clamp, MaxPool)  # single layers that need not save anything


@dataclass(frozen=True)
class Removal:
    """One thing that can be removed from a start architecture.

    Attributes:
        form: ``"unit"``, or ``"layer"`` for a single one: whoever read it reads its
            input. ``"branch"``: every join that read its last layer goes on without it.
        name: Of the layer that begins the unit, or that ends the branch.
        layers: Positions of the layers it consists of, ascending.
        must_save: Whether it is illegal where it adds parameters or MACs.
    """

    form: Literal["unit", "branch", "layer"]
    name: str
    layers: tuple[int, ...]
    must_save: bool = True

    @property
    def bypassed(self) -> tuple[int, ...]:
        return () if self.form == "branch" else self.layers

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
                start.layers[readers[0]], Elementwise
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


def single_layers(start: Architecture) -> list[int]:
    """Every layer but the joins and what only rearranges values."""
    rearranging = (Join, Flatten, *DEALT, AsMap, Pad, Slice, Interpolate)
    return [p for p, x in enumerate(start.layers) if not isinstance(x, rearranging)]


def _is_removable(layer: Layer) -> bool:
    """Whether a single layer can go: the paper's rule."""
    if isinstance(layer, (Conv, DepthwiseConv)):
        return max(layer.stride) == 1
    return not isinstance(layer, (Linear, AvgPool, AdaptiveAvgPool, SpatialMean))


def _candidates(start: Architecture, granularity: str) -> list[Removal]:
    """All that might be removed, the larger before what is inside it."""
    found = []
    if granularity == "layer":
        for position in single_layers(start):
            layer = start.layers[position]
            if _is_removable(layer):
                must_save = not isinstance(layer, FREE)
                found.append(Removal("layer", layer.name, (position,), must_save))
    if granularity == "unit":
        for unit in units(start):
            found.append(Removal("unit", start.layers[unit[0]].name, unit))
    if granularity in ("unit", "block"):
        for position, readers in enumerate(start.readers):
            if readers and all(isinstance(start.layers[r], Join) for r in readers):
                name = start.layers[position].name
                found.append(Removal("branch", name, _branch(start, position)))
    return sorted(found, key=lambda removal: (removal.layers[0], -len(removal.layers)))


def removals(
    start: Architecture, granularity: str = "unit", *, keep: Set[str] = frozenset()
) -> tuple[Removal, ...]:
    """The removals that can be decided on, in the environment's order.

    Each saves parameters or multiply-accumulates when taken alone, and no two of them
    leave the same network. The first layer with parameters and the classifier stay.

    Args:
        granularity: ``"unit"``: units and branches. ``"block"``: branches alone.
            ``"layer"``, the paper's: every single layer but strided convolutions,
            linear layers and average pools; activations and max pools need not save
            anything.
        keep: Names of layers that stay.

    Raises:
        ValueError: The granularity is unknown.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(
            f"unknown granularity {granularity!r}; known: {', '.join(GRANULARITIES)}"
        )
    untouched, kept = _wire(start, ()), positions_of(start, keep)
    found, left_by = [], set()
    for removal in _candidates(start, granularity):
        if start.first in removal.layers or start.classifier in removal.layers:
            continue
        if not kept.isdisjoint(removal.layers):
            continue
        wiring = legal_removal(start, (), untouched, removal, keep=kept)
        if wiring is None or (removal.must_save and wiring[1:] == untouched[1:]):
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
    start: Architecture,
    taken: Iterable[Removal],
    left: Wiring,
    removal: Removal,
    *,
    keep: Set[int] = frozenset(),
) -> Wiring | None:
    """What a further removal leaves, or None if it is illegal.

    Illegal is what does not build, what adds parameters or multiply-accumulates where
    it must save, and what has nothing left to remove.

    Args:
        taken: The removals decided on before.
        left: What they left of the start.
        keep: Positions of layers that nothing may be left without.
    """
    if left.inputs.keys().isdisjoint(removal.layers):
        return None
    try:
        wiring = _wire(start, (*taken, removal))
    except ShapeError:
        return None
    if not keep <= wiring.inputs.keys():
        return None
    grows = wiring.num_params > left.num_params or wiring.num_macs > left.num_macs
    return None if grows and removal.must_save else wiring


def remove(
    start: Architecture, taken: Set[Removal] | Iterable[Removal]
) -> Architecture:
    """The student that a set of removals leaves, in whatever order they are given.

    Raises:
        ShapeError: They leave no network that could exist.
    """
    return start.keep(_wire(start, taken))


def without(
    start: Architecture, wanted: Iterable[Removal], *, keep: Set[str] = frozenset()
) -> Architecture:
    """The student without those of the removals that are legal one after another.

    Args:
        keep: Names of layers that stay.
    """
    left, kept = start.rewire(frozenset(), frozenset()), positions_of(start, keep)
    taken: list[Removal] = []
    for removal in wanted:
        wiring = legal_removal(start, taken, left, removal, keep=kept)
        if wiring is not None:
            taken.append(removal)
            left = wiring
    return start.keep(left)
