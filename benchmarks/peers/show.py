"""The results of a folder: a table for each target, and a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.answers import unpacked
from benchmarks.minutes_table import interval
from benchmarks.peers.pruners import METHODS, OURS
from benchmarks.peers.subject import TARGETS
from benchmarks.peers.tuning import EPOCHS, LATENCY, TIME

ORDER: Final = (*METHODS, OURS)
COLUMNS: Final = {EPOCHS: "equal epochs", TIME: "equal time"}
HEAD: Final = (
    "method",
    "parameters",
    "MACs, M",
    "latency, ms",
    "keep the target",
    *(f"{text}, {what}" for what in COLUMNS.values() for text in ("test", "ours - it")),
    "hours",
    "seeds",
)
MARKS: Final = {  # markers that differ without colours, too
    "uniform": {"marker": "s", "color": "0.6"},
    "magnitude": {"marker": "^", "color": "0.45"},
    "taylor": {"marker": "v", "color": "0.3"},
    "fastnas": {"marker": "D", "color": "0.6", "fillstyle": "none"},
    OURS: {"marker": "o", "color": "black"},
}
ALONE: Final = ("teacher", "", "", 0)  # the key of the teacher's line
Line = Mapping[str, Any]
Found = Mapping[tuple[Any, ...], Line]  # by method, target, column, seed


def lines_of(found: Found, method: str, target: str, column: str) -> dict[int, Line]:
    """A method's results by seed, without those that diverged."""
    return {
        seed: line
        for (*names, seed), line in found.items()
        if names == [method, target, column] and "error" not in line
    }


def sizes_of(found: Found, method: str, target: str) -> dict[int, Line]:
    """A method's students by seed, with the latencies that were timed in turns."""
    lines = lines_of(found, method, target, EPOCHS)
    lines = lines or lines_of(found, method, target, TIME)
    timed = lines_of(found, method, target, LATENCY)
    return {seed: {**line, **timed.get(seed, {})} for seed, line in lines.items()}


def keep(lines: Mapping[int, Line], teacher: Line, target: str) -> str:
    """How many of a method's students keep the target, of how many."""
    shares = TARGETS[target]
    kept = [
        all(line[name] * share <= teacher[name] for name, share in shares.items())
        for line in lines.values()
    ]
    return f"{sum(kept)} of {len(kept)}" if kept else ""


def right_of(line: Line) -> NDArray[np.float64]:
    """1 for each test image that was classified correctly, else 0, (N,)."""
    return unpacked(line["right"], line["num_images"])


def difference(
    ours: Mapping[int, Line], theirs: Mapping[int, Line]
) -> tuple[float, float, float] | None:
    """Our test accuracy minus theirs in points, with its 95 % interval.

    The bootstrap draws seeds and images, and compares both networks on what it draws.
    None if no seed has both results.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    gaps = [right_of(ours[seed]) - right_of(theirs[seed]) for seed in seeds]
    return interval(np.stack(gaps))


def as_markdown(found: Found) -> str:
    """The teacher, and a table for each target, with the students that failed."""
    parts = []
    teacher = found.get(ALONE)
    if teacher is not None:
        parts.append(
            f"The teacher: {teacher['num_params']:,.0f} parameters, "
            f"{teacher['num_macs'] / 1e6:.1f} M MACs, {teacher['latency_ms']:.2f} ms, "
            f"{teacher['test']:.2%} of {teacher['num_images']:,} test images.\n"
        )
    for target in TARGETS:
        rows = [HEAD, ("---", *["---:"] * (len(HEAD) - 1))]
        rows += [row_of(found, method, target) for method in ORDER]
        table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        parts.append(f"### {target}\n\n{table}")
        failed = {
            f"- {method}, seed {seed}: {line['error']}\n"
            for (method, of, _, seed), line in found.items()
            if of == target and "error" in line
        }
        if failed:
            parts.append("".join(sorted(failed)))
    return "\n".join(parts)


def row_of(found: Found, method: str, target: str) -> tuple[str, ...]:
    """The cells of a method; blank where nothing was measured."""
    by_column = {column: lines_of(found, method, target, column) for column in COLUMNS}
    known = sizes_of(found, method, target)
    cells = [method]
    for name, form, unit in (
        ("num_params", ",.0f", 1),
        ("num_macs", ".1f", 1e6),
        ("latency_ms", ".2f", 1),
    ):
        values = [line[name] / unit for line in known.values()]
        cells.append(format(mean(values), form) if values else "")
    teacher = found.get(ALONE)
    cells.append("" if teacher is None else keep(known, teacher, target))
    for column, lines in by_column.items():
        cells.append(spread([100 * line["test"] for line in lines.values()]))
        gap = None
        if method != OURS:
            gap = difference(lines_of(found, OURS, target, column), lines)
        cells.append("" if gap is None else "{:+.2f} ({:+.2f} to {:+.2f})".format(*gap))
    cells.append(" / ".join(hours(lines.values()) for lines in by_column.values()))
    cells.append(" / ".join(str(len(lines) or "") for lines in by_column.values()))
    return tuple("" if cell == " / " else cell for cell in cells)


def spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation if there are several values."""
    if not values:
        return ""
    text = f"{mean(values):.2f}"
    return text + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def hours(lines: Iterable[Line]) -> str:
    """Mean hours of a search and a tuning."""
    each = [line["search_minutes"] + line["tuning_minutes"] for line in lines]
    return f"{mean(each) / 60:.2f}" if each else ""


def missing(
    found: Found,
    rows: Iterable[tuple[str, str, int]],
    columns: Sequence[str],
    further: str,
) -> list[str]:
    """The commands that fill blank cells, one for each method and target.

    Args:
        rows: Method, target and seed of each result that is wanted.
        further: Text of options that all commands end with.
    """
    blanks: dict[tuple[str, str], dict[str, None]] = {}
    for method, target, seed in rows:
        if any((method, target, column, seed) not in found for column in columns):
            blanks.setdefault((method, target), {})[str(seed)] = None
    return [
        f"python -m benchmarks.peers --methods {method} --targets {target} "
        f"--seeds {' '.join(seeds)}{further}"
        for (method, target), seeds in blanks.items()
    ]


def draw(found: Found, path: Path) -> None:
    """Plot test accuracy against parameters and latency, at equal epochs."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
    for axes, name, text in zip(
        both,
        ("num_params", "latency_ms"),
        ("parameters", "latency in ONNX Runtime, one thread, ms"),
        strict=True,
    ):
        for method in ORDER:
            groups = [
                list(sizes_of(found, method, target).values()) for target in TARGETS
            ]
            groups = [lines for lines in groups if lines]
            x = [mean(line[name] for line in lines) for lines in groups]
            y = [100 * mean(line["test"] for line in lines) for lines in groups]
            axes.plot(x, y, linestyle="none", label=method, **MARKS[method])
        if (teacher := found.get(ALONE)) is not None:
            axes.axhline(100 * teacher["test"], color="0.7", linewidth=1, zorder=0)
        axes.set(xscale="log", xlabel=text)
    both[0].set_ylabel("test accuracy, %")
    both[1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
