"""The most important numbers about a student."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from n2n_gym.common.quantities import show_quantity
from n2n_gym.report.content import Found
from n2n_gym.runs.folder import ONNX

NETWORKS: Final = ("student", "teacher")


class Figure(NamedTuple):
    """One number of the headline: its name, its value, and a comparison."""

    name: str
    value: str
    note: str


class ShelfRow(NamedTuple):
    """A student on the shelf (a run's best students), for the slider and its table."""

    name: str
    file: str
    is_default: bool
    smaller: str
    latency: str
    row: dict[str, Any]  # as the summary has it
    figures: list[Figure]


def headline(found: Found) -> list[Figure]:
    """The numbers at the head of the report."""
    whole, final = found.summary["teacher"], found.summary["student"]
    test = found.summary["test"]
    sizes = [show_quantity("bytes", test[name]["bytes"]) for name in NETWORKS]
    times = [test[name]["latency_ms"] for name in NETWORKS]
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
            show_quantity("macs", final["num_macs"]),
            f"{whole['num_macs'] / final['num_macs']:.3g}x fewer than the teacher's "
            f"{show_quantity('macs', whole['num_macs'])}",
        ),
        Figure(
            "latency of one image",
            show_quantity("ms", times[0]),
            f"{times[1] / times[0]:.3g}x as fast as the teacher, "
            f"{show_quantity('ms', times[1])}; ONNX Runtime, one thread of this CPU",
        ),
    ]


def shelf_rows(found: Found) -> list[ShelfRow]:
    """The rows of the shelf, the smallest student first."""
    shelf = found.summary.get("shelf", ())
    return [
        _shelf_row(found, row) for row in sorted(shelf, key=lambda r: r["num_params"])
    ]


def _shelf_row(found: Found, row: dict[str, Any]) -> ShelfRow:
    whole, test = found.summary["teacher"], found.summary["test"]["teacher"]
    times = f"{whole['num_params'] / row['num_params']:.3g}x"
    latency = show_quantity("ms", row["latency_ms"])
    figures = [
        Figure("times smaller", times, f"{row['num_params']:,} parameters"),
        Figure(
            found.test_figure,
            f"{row['test_accuracy']:.2%}",
            f"teacher {whole['test_accuracy']:.2%}",
        ),
        Figure(
            "ONNX file",
            show_quantity("bytes", row["bytes"]),
            f"teacher {show_quantity('bytes', test['bytes'])}",
        ),
        Figure(
            "multiply-accumulates",
            show_quantity("macs", row["num_macs"]),
            f"{whole['num_macs'] / row['num_macs']:.3g}x fewer",
        ),
        Figure(
            "latency of one image",
            latency,
            f"teacher {show_quantity('ms', test['latency_ms'])}",
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
