"""Fits a profile by depth, and a rule, to a policy's mean decisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeRegressor

from n2n_agents.rules import KINDS, Known, Line, Profile, Rule

BINS: Final = 10  # intervals of depth
SMALLEST: Final = 0.05  # smallest fraction of the decisions on each side of a threshold
# Columns that a rule does not compare, by prefix: constant ones, and numbers of kinds,
# which have columns of their own.
UNREAD: Final = ("decides_", "fixed", "is_row", "type")

Values = NDArray[np.float64]


class Data(NamedTuple):
    """The decisions of one kind about several teachers.

    Attributes:
        rows: The decisions' rows, by column; a missing column is 0.
        kept: The share that each decision keeps, (N,). For a width, it is the relative
            rate times the mean rate of all teachers: where students are scaled to
            their limits, only relative rates matter.
        weights: Weights with which all teachers count equally, (N,); their sum is 1.
    """

    rows: list[dict[str, float]]
    kept: Values
    weights: Values


def gather(lines: Sequence[dict[str, Any]], kind: str) -> Data | None:
    """The decisions of a kind; None if there are none.

    Args:
        lines: Results, one per teacher, with their ``decisions``.
    """
    groups = [
        [each for each in line["decisions"] if each["kind"] == kind] for line in lines
    ]
    groups = [group for group in groups if group]
    if not groups:
        return None
    every = [each for group in groups for each in group]
    weights = [1 / len(groups) / len(group) for group in groups for _ in group]
    kept = np.array([each["kept"] for each in every])
    if kind == "width":
        level = float(np.average(kept, weights=weights))
        kept = level * np.array([each["relative"] for each in every])
    rows = [each["row"] for each in every]
    return Data(rows, kept.clip(0, 1), np.array(weights))


def fit_profile(lines: Sequence[dict[str, Any]]) -> Profile:
    """Mean shares in ``BINS`` intervals of depth; empty intervals are interpolated."""
    shares = {}
    for kind, data in _known(lines):
        depths = np.array([row.get("depth", 0.0) for row in data.rows])
        bins = (depths * BINS).astype(int).clip(0, BINS - 1)
        total = np.bincount(bins, data.weights, BINS)
        means = np.bincount(bins, data.weights * data.kept, BINS)
        full = np.flatnonzero(total)
        values = np.interp(np.arange(BINS), full, means[full] / total[full])
        shares[kind] = tuple(round(float(value), 4) for value in values)
    return Profile(shares)


def fit_rule(lines: Sequence[dict[str, Any]]) -> Rule:
    """For each kind of decision, the column and threshold with the smallest error.

    The error is the mean squared difference of the shares kept.
    """
    found = {}
    for kind, data in _known(lines):
        names = sorted(
            {name for row in data.rows for name in row if not name.startswith(UNREAD)}
        )
        values = [[row.get(name, 0.0) for name in names] for row in data.rows]
        tree = DecisionTreeRegressor(
            max_depth=1, min_weight_fraction_leaf=SMALLEST, random_state=0
        )
        tree.fit(values, data.kept, sample_weight=data.weights)
        means = tree.tree_.value[:, 0, 0].tolist()
        if len(means) == 1:  # all decisions are alike
            found[kind] = Line("depth", 1.0, means[0], means[0])
            continue
        name, threshold = names[tree.tree_.feature[0]], tree.tree_.threshold[0]
        below, above = (round(mean, 4) for mean in means[1:])
        found[kind] = Line(name, float(threshold), below, above)
    return Rule(found)


def _known(lines: Sequence[dict[str, Any]]) -> Iterable[tuple[str, Data]]:
    for kind in KINDS:
        if (data := gather(lines, kind)) is not None:
            yield kind, data


def explained(known: Known, lines: Sequence[dict[str, Any]], kind: str) -> float:
    """The fraction of the variance of a policy's mean decisions that is explained.

    It is 1 minus the mean squared error over the variance; nan without any variance.
    """
    data = gather(lines, kind)
    if data is None:
        return float("nan")
    columns = dict.fromkeys(known.columns, 0.0)
    told = np.array([known.share(kind, {**columns, **row}) for row in data.rows])
    mean = np.average(data.kept, weights=data.weights)
    variance = np.average((data.kept - mean) ** 2, weights=data.weights)
    error = np.average((data.kept - told) ** 2, weights=data.weights)
    return float(1 - error / variance) if variance > 0 else float("nan")


def in_words(kind: str, line: Line) -> str:
    """A line of a rule as a sentence."""
    name, threshold, below, above = line
    what = "probability of keeping" if kind == "removal" else "mean rate"
    return (
        f"{kind}: {what} {below:.2f} where {name} <= {threshold:.4g}, otherwise "
        f"{above:.2f}"
    )
