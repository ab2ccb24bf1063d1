"""Stage one: the units and branches of a network that can be removed."""

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
    Affine,
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
    """One possible removal from a start architecture.

    Attributes:
        form: ``"unit"`` or, for a single layer, ``"layer"``: whatever reads the removed
            layers reads the input of these layers instead. ``"branch"``: every join
            that reads the branch's last layer loses this operand.
        name: Name of the first layer of a unit, or of the last layer of a branch.
        layers: Positions of the layers that it removes, ascending.
        must_save: Whether the removal is legal only if it adds no parameters or MACs.
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
    """Each convolution or linear layer, with its normalisation and activations.

    A unit is given by the positions of its layers. Arithmetic with numbers belongs to
    no unit: without ``b``, ``a - b(x)`` is ``a - x``.
    """
    found = []
    for position, layer in enumerate(start.layers):
        if isinstance(layer, (Conv, DepthwiseConv, Linear)):
            unit = [position]
            while len(readers := start.readers[unit[-1]]) == 1:
                reader = start.layers[readers[0]]
                if not isinstance(reader, Elementwise) or isinstance(reader, Affine):
                    break
                unit.append(readers[0])
            found.append(tuple(unit))
    return found


def _branch(start: Architecture, end: int) -> tuple[int, ...]:
    """The layer that ends a branch, and all layers that only it needs."""
    branch = {end}
    for position in range(end - 1, -1, -1):
        readers = start.readers[position]
        if readers and branch.issuperset(readers):
            branch.add(position)
    return tuple(sorted(branch))


def single_layers(start: Architecture) -> list[int]:
    """Every layer except joins and layers that only rearrange values."""
    rearranging = (Join, Flatten, *DEALT, AsMap, Pad, Slice, Interpolate)
    return [p for p, x in enumerate(start.layers) if not isinstance(x, rearranging)]


def _is_removable(layer: Layer) -> bool:
    """Whether a single layer can be removed, by the paper's rule."""
    if isinstance(layer, (Conv, DepthwiseConv)):
        return max(layer.stride) == 1
    return not isinstance(layer, (Linear, AvgPool, AdaptiveAvgPool, SpatialMean))


def _reads_minus_infinity(start: Architecture, position: int) -> bool:
    """Whether a layer reads padding of minus infinity, which only max pools remove."""
    (read,) = start.layers[position].inputs
    if read < 0:
        return False
    layer = start.layers[read]
    if isinstance(layer, Pad) and layer.lowest:
        return True
    keeps_it = isinstance(layer, (Elementwise, Pad, Slice))
    return keeps_it and _reads_minus_infinity(start, read)


def _candidates(start: Architecture, granularity: str) -> list[Removal]:
    """All possible removals, larger ones before those inside them."""
    found = []
    if granularity == "layer":
        for position in single_layers(start):
            layer = start.layers[position]
            if _is_removable(layer) and not _reads_minus_infinity(start, position):
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
    """The decisions about removals, in the environment's order.

    If it is made first, each removal with ``must_save`` saves parameters or
    multiply-accumulates. No two removals give the same network. The first layer with
    parameters and the classifier cannot be removed.

    Args:
        granularity: ``"unit"``: units and branches. ``"block"``: branches. ``"layer"``,
            the paper's: single layers, except strided convolutions, linear layers and
            average pools. Only removals of activations, clamps and max pools lack
            ``must_save``.
        keep: Names of layers that cannot be removed.

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
    """The network after a further removal, or None if that removal is illegal.

    A removal is illegal if its layers are already gone, if the remaining layers do not
    fit together, if a layer in ``keep`` would go, or if it must save and adds
    parameters or multiply-accumulates.

    Args:
        taken: The removals already made.
        left: The network after the removals in ``taken``.
        removal: The further removal.
        keep: Positions of layers that every student must have.
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
    """The student after a set of removals, in any order.

    Raises:
        ShapeError: The remaining layers do not fit together.
    """
    return start.keep(_wire(start, taken))


def without(
    start: Architecture, wanted: Iterable[Removal], *, keep: Set[str] = frozenset()
) -> Architecture:
    """The student after these removals in order; illegal ones are skipped.

    Args:
        keep: Names of layers that cannot be removed.
    """
    left, kept = start.rewire(frozenset(), frozenset()), positions_of(start, keep)
    taken: list[Removal] = []
    for removal in wanted:
        wiring = legal_removal(start, taken, left, removal, keep=kept)
        if wiring is not None:
            taken.append(removal)
            left = wiring
    return start.keep(left)
