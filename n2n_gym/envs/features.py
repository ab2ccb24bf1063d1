"""The observation's rows: an architecture and its decisions as numbers in [0, 1].

The columns (``columns.py``) are the same for every teacher, so a policy that was
trained with one teacher can play with another.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import log2
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from n2n_gym.envs.columns import COLUMNS, KINDS, MAX_KINDS, PLACE
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import (
    VARIABLES,
    Removal,
    Shrinkage,
    single_layers,
    units,
)
from n2n_gym.networks.layers import (
    AvgPool,
    Conv,
    DepthwiseConv,
    Join,
    MaxPool,
)


class Row(NamedTuple):
    """One row of the observation: a decision, or a part without a decision."""

    layers: tuple[int, ...]  # positions in the start architecture
    decides: str | None  # one of DECIDES; None if fixed


def rows(start: Architecture, decisions: Sequence[Removal | Shrinkage]) -> list[Row]:
    """The decisions in order, and between them the network's parts without a decision.

    Those parts are units, or single layers if decisions are about layers. If there are
    removals and shrinkages, the rows of the shrinkages come last.
    """
    first = [each for each in decisions if isinstance(each, Removal)] or decisions
    decided = list(map(_row, first))
    touched = {p for row in decided if row.decides != "branch" for p in row.layers}
    is_single = any(row.decides == "layer" for row in decided)
    parts = [(p,) for p in single_layers(start)] if is_single else units(start)
    fixed = [Row(part, None) for part in parts if part[0] not in touched]
    # Python's sort is stable, and the decisions are already in order of position.
    found = sorted(decided + fixed, key=lambda row: row.layers[0])
    return found + list(map(_row, decisions[len(first) :]))


def _row(decision: Removal | Shrinkage) -> Row:
    if isinstance(decision, Removal):
        return Row(decision.layers, decision.form)
    return Row(decision.layers, decision.variable)


def static_features(start: Architecture, of: Sequence[Row]) -> NDArray[np.float32]:
    """The values of rows in the columns that are constant during an episode.

    Returns:
        (T, F) float32 in [0, 1], with the columns ``COLUMNS``. Columns that change
        during an episode are zero.
    """
    skips = _skips(start)
    heads = [unit[0] for unit in units(start)]
    features = np.zeros((len(of), len(COLUMNS)), np.float32)
    for values, row in zip(features, of, strict=True):
        described = _describe(start, row, heads, skips)
        for column, value in described.items():
            values[PLACE[column]] = min(1.0, value)
    return features


def _describe(
    start: Architecture, row: Row, heads: list[int], skips: list[tuple[int, int]]
) -> dict[str, float]:
    # A branch is described by the last convolution or linear layer in it.
    lead = max((p for p in row.layers if p in heads), default=row.layers[0])
    if row.decides in VARIABLES:
        lead = row.layers[0]
    layer = start.layers[lead]
    described = {
        "is_row": 1.0,
        "type": KINDS.index(layer.kind) / MAX_KINDS,
        f"is_{layer.kind}": 1.0,
        "outputs": _log(start.shape_of(lead)[0], 16),
        "inputs": _log(start.shape_of(layer.inputs[0])[0], 16),
        "size": _log(start.shape_of(lead)[-1], 9) if _is_map(start, lead) else 0.0,
        "depth": lead / len(start.layers),
        "params_share": _share(start.params_per_layer, row.layers),
        "macs_share": _share(start.macs_per_layer, row.layers),
    }
    if isinstance(layer, (Conv, DepthwiseConv, MaxPool, AvgPool)):
        described["kernel"] = max(layer.kernel) / 11
        described["stride"] = max(layer.stride) / 4
        described["padding"] = max(layer.padding) / 5
    around = [(fork, join) for fork, join in skips if fork < lead < join]
    if around:
        fork, join = min(around, key=lambda skip: skip[1] - skip[0])
        described["skip_start"] = 1 / (1 + sum(fork < p < lead for p in heads))
        described["skip_end"] = 1 / (1 + sum(lead < p < join for p in heads))
    described["fixed" if row.decides is None else f"decides_{row.decides}"] = 1.0
    return described


def _log(value: int, bits: int) -> float:
    return log2(1 + value) / bits


def _is_map(start: Architecture, position: int) -> bool:
    return len(start.shape_of(position)) == 3


def _share(costs: tuple[int, ...], positions: tuple[int, ...]) -> float:
    return sum(costs[p] for p in positions) / max(1, sum(costs))


def _skips(start: Architecture) -> list[tuple[int, int]]:
    """(fork, join) of each skip; the fork is the join's immediate dominator."""
    through: list[int] = []  # the immediate dominator of each layer

    def common(a: int, b: int) -> int:
        while a != b:
            a, b = (through[a], b) if a > b else (a, through[b])
        return a

    for layer in start.layers:
        through.append(reduce(common, layer.inputs))
    return [
        (through[position], position)
        for position, layer in enumerate(start.layers)
        if isinstance(layer, Join)
    ]
