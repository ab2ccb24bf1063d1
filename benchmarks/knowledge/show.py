"""Tables and figures of what a policy decides, and of the columns that it reads."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from n2n_gym.comparison.statistics import as_table

GROUPS: Final = ("seen", "unseen")  # training teachers, test teachers
NARROWEST: Final = 16  # channels of the first class of widths

Decision = Mapping[str, Any]
Line = Mapping[str, Any]


# What decisions are grouped by.


def by_depth(decision: Decision) -> str:
    """The fifth of the network's layers."""
    fifth = min(int(decision["row"].get("depth", 0.0) * 5), 4)
    return f"{fifth / 5:.1f} to {(fifth + 1) / 5:.1f}"


def by_layer(decision: Decision) -> str:
    """The lead layer's kind; branches are apart."""
    row = decision["row"]
    kind = next(name[3:] for name in row if name[:3] == "is_" and name != "is_row")
    return f"branch, {kind}" if "decides_branch" in row else kind


def by_width(decision: Decision) -> str:
    """The lead layer's output channels, in powers of 4."""
    channels = round(2 ** (16 * decision["row"].get("outputs", 0.0)) - 1)
    most = NARROWEST
    while channels > most:
        most *= 4
    low = 1 if most == NARROWEST else most // 4 + 1
    return f"{low} to {most}"


def by_skip(decision: Decision) -> str:
    """The place of the lead layer among the convolutions inside the nearest skip."""
    row = decision["row"]
    start, end = row.get("skip_start", 0.0), row.get("skip_end", 0.0)
    if not start and not end:
        return "outside"
    if start == 1:
        return "only" if end == 1 else "first"
    return "last" if end == 1 else "middle"


def by_map(decision: Decision) -> str:
    """The place among the layers of equal map size."""
    return str(decision["map"])


def by_target(decision: Decision) -> str:
    """The target, as a fraction of the teacher's parameters."""
    return f"1/{1 / decision['target']:.3g}"


FACTS: Final[Mapping[str, Callable[[Decision], str]]] = {
    "relative depth": by_depth,
    "layer": by_layer,
    "channels": by_width,
    "place in the skip": by_skip,
    "place on maps of one size": by_map,
    "target": by_target,
}
# Each measure, with the kind of decision and the value.
MEASURES: Final[Mapping[str, tuple[str, Callable[[Decision], float]]]] = {
    "removed": ("removal", lambda decision: 1 - decision["kept"]),
    "rate": ("width", lambda decision: decision["kept"]),
    "relative rate": ("width", lambda decision: decision["relative"]),
    "kernel shrunk": ("kernel", lambda decision: 1 - decision["whole"]),
}


class Summary(NamedTuple):
    """A measure's mean: over a teacher's decisions first, then over teachers."""

    fact: str
    value: str
    measure: str
    group: str
    mean: float
    deviation: float  # standard deviation over teachers; nan for one teacher
    teachers: int
    decisions: int


def summarise(lines: Sequence[Line]) -> Iterator[Summary]:
    """Every measure by every fact, for seen and unseen teachers."""
    for fact, find in FACTS.items():
        for measure, (kind, read) in MEASURES.items():
            for group in GROUPS:
                by_value: dict[str, list[list[float]]] = {}
                for line in lines:
                    if line["group"] == group:
                        mine: dict[str, list[float]] = {}
                        for each in line["decisions"]:
                            if each["kind"] == kind:
                                mine.setdefault(find(each), []).append(read(each))
                        for value, found in mine.items():
                            by_value.setdefault(value, []).append(found)
                for value, teachers in by_value.items():
                    means = [float(np.mean(found)) for found in teachers]
                    yield Summary(
                        *(fact, value, measure, group, float(np.mean(means))),
                        float(np.std(means, ddof=1)) if len(means) > 1 else np.nan,
                        *(len(means), sum(map(len, teachers))),
                    )


def write_csv(summaries: Sequence[Summary], path: Path) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Summary._fields)
        writer.writerows(summaries)


# Tables.


def tables(summaries: Sequence[Summary]) -> str:
    """A table for each fact: mean ± standard deviation (number of teachers)."""
    columns = [(measure, group) for measure in MEASURES for group in GROUPS]
    found = {s[:4]: s for s in summaries}
    parts = []
    for fact in FACTS:
        head = [fact, *(f"{measure}, {group}" for measure, group in columns)]
        rows = [
            [value, *(_cell(found.get((fact, value, *column))) for column in columns)]
            for value in _values(summaries, fact)
        ]
        parts.append(as_table(head, rows))
    return "\n".join(parts)


def _values(summaries: Sequence[Summary], fact: str) -> list[str]:
    """The values of a fact: ascending if they begin with numbers."""
    values = dict.fromkeys(s.value for s in summaries if s.fact == fact)
    return sorted(values, key=_order)


def _order(value: str) -> tuple[float, str]:
    first = value.split(" ")[0]
    top, _, bottom = first.partition("/")
    try:
        return float(bottom or top), value
    except ValueError:
        return 0.0, value


def _cell(summary: Summary | None) -> str:
    if summary is None:
        return ""
    spread = "" if np.isnan(summary.deviation) else f" ± {summary.deviation:.2f}"
    return f"{summary.mean:.2f}{spread} ({summary.teachers})"


def column_means(lines: Sequence[Line], group: str) -> dict[str, float]:
    """The importance of each group of columns: the mean over teachers, in nats."""
    mine = [line["columns"] for line in lines if line["group"] == group]
    return {
        name: float(np.mean([columns[name] for columns in mine]))
        for name in (mine[0] if mine else ())
    }


def columns_table(lines: Sequence[Line]) -> str:
    """Importance of columns, the most important on seen teachers first."""
    found = [column_means(lines, group) for group in GROUPS]
    names = dict.fromkeys(name for of in found for name in of)
    ordered = sorted(names, key=lambda name: -(found[0] or found[1])[name])
    rows = [
        [name, *(f"{of[name]:.4f}" if of else "" for of in found)] for name in ordered
    ]
    return as_table(["permuted", *(f"KL in nats, {group}" for group in GROUPS)], rows)


# Figures.


def draw(summaries: Sequence[Summary], path: Path) -> None:
    """Plot every measure over every fact; bars are standard deviations."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(MEASURES),
        len(FACTS),
        figsize=(2.6 * len(FACTS), 2.4 * len(MEASURES)),
        sharey="row",
        sharex="col",
        squeeze=False,
        layout="constrained",
    )
    found = {s[:4]: s for s in summaries}
    for column, fact in enumerate(FACTS):
        values = _values(summaries, fact)
        for row, measure in enumerate(MEASURES):
            axis = axes[row, column]
            for group, mark in zip(GROUPS, ("o", "s"), strict=True):
                known = [
                    (place, found[key])
                    for place, value in enumerate(values)
                    if (key := (fact, value, measure, group)) in found
                ]
                places = [place + (group == "unseen") / 4 for place, _ in known]
                means = [s.mean for _, s in known]
                errors = [np.nan_to_num(s.deviation) for _, s in known]
                axis.errorbar(places, means, errors, fmt=mark, label=group, ms=4)
            axis.set_xticks(range(len(values)), values, rotation=90, fontsize=7)
            axis.grid(axis="y", alpha=0.3)
        axes[-1, column].set_xlabel(fact)
    for row, measure in enumerate(MEASURES):
        axes[row, 0].set_ylabel(measure)
    axes[0, -1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_columns(lines: Sequence[Line], path: Path) -> None:
    """Plot the importance of each group of columns."""
    from matplotlib import pyplot as plt

    found = {group: column_means(lines, group) for group in GROUPS}
    first = next(of for of in found.values() if of)
    names = sorted(first, key=lambda name: first[name])
    figure, axis = plt.subplots(
        figsize=(6, 0.25 * len(names) + 1), layout="constrained"
    )
    for number, (group, of) in enumerate(found.items()):
        if of:
            places = np.arange(len(names)) - 0.4 * number
            axis.barh(places, [of[name] for name in names], 0.4, label=group)
    axis.set_yticks(np.arange(len(names)) - 0.2, names, fontsize=8)
    axis.set_xlabel("KL divergence after the permutation, nats")
    axis.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
