"""The result of a run, as ``n2n-gym compress`` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from n2n_gym.common.quantities import show_quantity
from n2n_gym.limits.constraints import ACCURACY

if TYPE_CHECKING:
    from n2n_gym.runs.options import Options

WIDE = 76  # characters that the whole table takes


def show_summary(summary: dict[str, Any], options: Options) -> None:
    """Print the tables of a run's result, and remarks on the result."""
    console = Console()
    title = f"{options.teacher} on {options.task}"
    console.print(_table(summary, title, is_narrow=console.width < WIDE))
    from n2n_gym.report.content import falls_short, say_unlabelled
    from n2n_gym.runs.folder import ONNX, REPORT

    if said := say_unlabelled(summary):
        console.print(f"[yellow]{said}[/yellow]", highlight=False)
    if falls_short(summary):
        found, wanted = (summary[name]["accuracy"] for name in ("student", "teacher"))
        console.print(
            f"[yellow]No finalist is as accurate as the teacher[/yellow]: on "
            f"validation {found:.2%} against {wanted:.2%}. What was written is the "
            f"smallest that cannot be told from the one of the highest reward. "
            f"More --removal-updates, --shrinkage-updates or --final-epochs may help, "
            f"and --min-accuracy says what the student must reach.",
            highlight=False,
        )
    student, test = summary["student"], summary["test"]
    if interval := student.get("test_interval"):  # earlier runs have none
        low, high = interval
        console.print(
            f"On {test['num_images']:,} test images, which no choice has seen: "
            f"{student['test_accuracy']:.2%}, 95 % interval {low:.1%} to {high:.1%}; "
            f"{100 * test['difference']:+.2f} points from the teacher, give or take "
            f"{100 * test['error']:.2f}.",
            highlight=False,
        )
    for row in summary["limits"]:
        bound, found = (
            show_quantity(row["name"], row[n], digits=4) for n in ("bound", "student")
        )
        sign = ">=" if row["name"] == ACCURACY else "<="
        kept = "kept" if row["is_kept"] else "[red]NOT kept[/red]"
        line = f"{row['name']} {sign} {bound}: {kept}, {found}"
        if "teacher" in row:
            whole = show_quantity(row["name"], row["teacher"], digits=4)
            line += f"; the teacher has {whole}"
        console.print(line, highlight=False)
    if len(summary.get("shelf", ())) > 1:
        console.print(_shelf(summary, is_narrow=console.width < WIDE))
    path = options.output / ONNX
    size = show_quantity("bytes", path.stat().st_size)
    console.print(
        f"{path}: {size}, logits equal to torch's to "
        f"{summary['onnx_difference']:.0e}. {summary['num_scored']} students scored, "
        f"{summary['seconds'] / 60:.1f} minutes.",
        highlight=False,
    )
    console.print(f"{options.output / REPORT} shows it all.", highlight=False)


def _table(summary: dict[str, Any], title: str, *, is_narrow: bool) -> Table:
    """A table of the teacher, the student and the controls."""
    whole = summary["teacher"]
    table = Table(title=escape(title), box=box.SIMPLE if is_narrow else box.HEAVY_HEAD)
    columns = ["", "parameters", "smaller", "MACs", "validation", "test"]
    shown = ["", "smaller", "test"] if is_narrow else columns
    for column in shown:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    names = {"uniform": "uniform width", "random": "random search"}
    for key in ("teacher", "student", "uniform", "magnitude", "random"):
        if row := summary.get(key):
            times = f"{whole['num_params'] / row['num_params']:.1f}x"
            cells = [
                names.get(key, key),
                f"{row['num_params']:,}",
                "" if key == "teacher" else times,
                f"{row['num_macs']:,}",
                f"{row['accuracy']:.2%}",
                f"{row['test_accuracy']:.2%}",
            ]
            style = "bold green" if key == "student" else ""
            table.add_row(*_cells(columns, cells, shown), style=style)
    return table


def _shelf(summary: dict[str, Any], *, is_narrow: bool) -> Table:
    """A table of the shelf: the students whose files were written."""
    table = Table(title="Also written", box=box.SIMPLE if is_narrow else box.HEAVY_HEAD)
    columns = ["students/", "smaller", "MACs", "ms", "test"]
    shown = ["students/", "smaller", "test"] if is_narrow else columns
    table.add_column(shown[0], overflow="fold")
    for column in shown[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    whole = summary["teacher"]["num_params"]
    for place in summary["shelf"]:
        cells = [
            ", ".join(place["roles"]),
            f"{whole / place['num_params']:.1f}x",
            f"{place['num_macs']:,}",
            f"{place['latency_ms']:.3g}",
            f"{place['test_accuracy']:.2%}",
        ]
        table.add_row(*_cells(columns, cells, shown))
    return table


def _cells(columns: list[str], cells: list[str], shown: list[str]) -> list[str]:
    """The cells of the columns that are shown."""
    by_column = dict(zip(columns, cells, strict=True))
    return [by_column[column] for column in shown]
