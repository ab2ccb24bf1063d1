"""What a reader wants to know of a student, in a few figures."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from n2n_gym.report.content import Found
from n2n_gym.runs.folder import ONNX

NETWORKS: Final = ("student", "teacher")
PREFIXES: Final = (
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
)


class Figure(NamedTuple):
    """One of the headline's: what, how much, and against what."""

    name: str
    value: str
    note: str


class ShelfRow(NamedTuple):
    """A student on the shelf, for the slider and for its table."""

    name: str
    file: str
    is_default: bool
    smaller: str
    latency: str
    row: dict[str, Any]  # as the summary has it
    figures: list[Figure]


def headline(found: Found) -> list[Figure]:
    """What a reader wants to know first."""
    whole, final = found.summary["teacher"], found.summary["student"]
    test = found.summary["test"]
    sizes = [with_unit(test[name]["bytes"], "B") for name in NETWORKS]
    times = [test[name]["latency_ms"] / 1e3 for name in NETWORKS]
    low, high = (100 * (test["difference"] + sign * test["error"]) for sign in (-1, 1))
    return [
        Figure(
            "times smaller",
            f"{found.times_smaller:.3g}x",
            f"{final['num_params']:,} of {whole['num_params']:,} parameters",
        ),
        Figure(
            found.test_figure,
            f"{final['test_accuracy']:.2%}",
            f"teacher {whole['test_accuracy']:.2%}; difference "
            f"{100 * test['difference']:+.2f} points, 95 % interval {low:+.2f} to "
            f"{high:+.2f}, {test['num_images']:,} images",
        ),
        Figure("ONNX file", sizes[0], f"teacher {sizes[1]}"),
        Figure(
            "multiply-accumulates",
            with_unit(final["num_macs"]),
            f"{whole['num_macs'] / final['num_macs']:.3g}x fewer than the teacher's "
            f"{with_unit(whole['num_macs'])}",
        ),
        Figure(
            "latency of one image",
            with_unit(times[0], "s"),
            f"{times[1] / times[0]:.3g}x as fast as the teacher, "
            f"{with_unit(times[1], 's')}; ONNX Runtime, one thread of this CPU",
        ),
    ]


def with_unit(value: float, unit: str = "") -> str:
    """Three digits and a prefix: 24.5 kB, 12.5 µs, 3.19 M."""
    for factor, prefix in PREFIXES:
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def shelf_rows(found: Found) -> list[ShelfRow]:
    """The students on the shelf, the smallest first."""
    shelf = found.summary.get("shelf", ())
    return [
        _shelf_row(found, row) for row in sorted(shelf, key=lambda r: r["num_params"])
    ]


def _shelf_row(found: Found, row: dict[str, Any]) -> ShelfRow:
    whole, test = found.summary["teacher"], found.summary["test"]["teacher"]
    times = f"{whole['num_params'] / row['num_params']:.3g}x"
    latency = with_unit(row["latency_ms"] / 1e3, "s")
    figures = [
        Figure("times smaller", times, f"{row['num_params']:,} parameters"),
        Figure(
            found.test_figure,
            f"{row['test_accuracy']:.2%}",
            f"teacher {whole['test_accuracy']:.2%}",
        ),
        Figure(
            "ONNX file",
            with_unit(row["bytes"], "B"),
            f"teacher {with_unit(test['bytes'], 'B')}",
        ),
        Figure(
            "multiply-accumulates",
            with_unit(row["num_macs"]),
            f"{whole['num_macs'] / row['num_macs']:.3g}x fewer",
        ),
        Figure(
            "latency of one image",
            latency,
            f"teacher {with_unit(test['latency_ms'] / 1e3, 's')}",
        ),
    ]
    roles = [role.replace("-", " ") for role in row["roles"]]
    return ShelfRow(
        ", ".join(roles),
        row["file"],
        row["file"].endswith(f"/{ONNX}"),
        times,
        latency,
        row,
        figures,
    )
