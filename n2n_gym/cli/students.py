"""The commands about a run's students."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from n2n_gym.cli.errors import plain_errors, stoppable
from n2n_gym.cli.output import AsJson, print_json, say
from n2n_gym.common.quantities import show_quantity
from n2n_gym.runs.shared_options import task_option

if TYPE_CHECKING:
    from n2n_gym.compression.assessment import Parity
    from n2n_gym.tasks.task import Task

Folder = Annotated[Path, typer.Argument(help="The folder of a run.")]


def report(folder: Folder, as_json: AsJson = False) -> None:
    """Write the report of a finished run again: report.html in its folder."""
    with plain_errors():
        from n2n_gym.report import write_report
        from n2n_gym.runs.folder import resumed
        from n2n_gym.runs.identity import warn_of_changes

        path = write_report(folder)
        warn_of_changes(resumed(folder, {}))
    if as_json:
        print_json({"path": str(path)})
    else:
        say(str(path))


Student = Annotated[
    str | None,
    typer.Option(
        help="Beginning of the fingerprint of a student that the run scored; the "
        "report lists the best. By default the chosen student."
    ),
]
Formats = Annotated[
    str,
    typer.Option(
        help="Files to write besides student.onnx and student.safetensors, separated "
        "by commas: float16, int8 (both ONNX), torch (torch.export)."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        help="Output folder; by default the run's own, or a folder in it for --student."
    ),
]


def export(
    folder: Folder,
    student: Student = None,
    formats: Formats = "",
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Write a student of a run, in more formats, and compare each with torch.

    A student that the run did not choose is first distilled fully. Every file is run on
    all test images. The command shows its accuracy, how often it predicts the same
    class as torch, and the largest difference between logits. Size and latency are
    compared with the teacher's ONNX file.
    """
    with plain_errors(), stoppable(lambda: "Stopped; what was written is whole."):
        from n2n_gym.compression.reopen import Revisited
        from n2n_gym.export.formats import check_formats

        wanted = check_formats(formats)
        run = Revisited.open(folder)
        written = run.export(student, output, wanted)
    if as_json:
        print_json(
            [
                {**row._asdict(), "path": str(row.path), "is_smaller": row.is_smaller}
                for row in written
            ]
        )
        return
    is_agreement = "test" in run.teacher.task.unlabelled
    _show(written, "as teacher" if is_agreement else "test")


def _show(written: Sequence[Parity], right: str) -> None:
    """Print the exported files, and those larger or slower than the teacher's.

    Args:
        right: Title of the column with accuracies.
    """
    table = Table(box=box.SIMPLE)
    table.add_column("file", overflow="fold")
    # Units are in the headings: in the cells, they would not fit into 80 characters.
    columns = ("MB", "of teacher", "ms", "of teacher", right, "as torch", "differ by")
    for column in columns:
        table.add_column(column, justify="right")
    for row in written:
        cells = (f"{row.accuracy:.2%}", f"{row.agreement:.2%}", f"{row.difference:.1e}")
        taken = ("", "")
        if row.latency is not None:
            taken = (f"{row.latency_ms:.3g}", f"{row.latency:.1%}")
        sizes = (f"{row.bytes / 1e6:.3g}", f"{row.size:.1%}")
        table.add_row(str(row.path), *sizes, *taken, *cells)
    Console().print(table)
    for row in written:
        if not row.is_smaller:
            Console().print(
                f"[yellow]{row.path} is larger or slower than the teacher's ONNX "
                f"file[/yellow]",
                highlight=False,
            )


def evaluate(
    path: Annotated[Path, typer.Argument(help="An ONNX file, or the folder of a run.")],
    task: Annotated[str | None, task_option("the one it was made for")] = None,
    split: Annotated[
        Literal["test", "validation", "train"],
        typer.Option(metavar="<name>", help="The split: test, validation or train."),
    ] = "test",
    as_json: AsJson = False,
) -> None:
    """Run an exported student in ONNX Runtime: its accuracy, its size, its latency."""
    with plain_errors():
        from n2n_gym.compression.assessment import evaluate_onnx
        from n2n_gym.runs.folder import ONNX
        from n2n_gym.tasks.loading import load_task

        folder = path if path.is_dir() else path.parent
        path = path / ONNX if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        images = _task_of(folder) if task is None else load_task(task)
        found = evaluate_onnx(path, images, split)
    if as_json:
        print_json({"path": str(path), **found._asdict()})
        return
    Console().print(
        f"{path} on {found.task}: {found.accuracy:.2%} of {found.num_images:,} "
        f"{split} images (95 % interval {found.low:.2%} to {found.high:.2%}), "
        f"{show_quantity('bytes', found.bytes)}, "
        f"{show_quantity('ms', found.latency_ms)} for one image on one thread",
        highlight=False,
    )


def _task_of(folder: Path) -> Task | None:
    """The task of the run in a folder; None if the folder has no run.

    Raises:
        ValueError: The images have changed since the run began.
    """
    from n2n_gym.runs.folder import OPTIONS, resumed
    from n2n_gym.runs.identity import changes, of_task, say, warn_of_changes
    from n2n_gym.tasks.loading import load_task

    if not (folder / OPTIONS).is_file():
        return None
    options = resumed(folder, {})
    task = load_task(options.task)
    if found := changes(folder, of_task(options, task), task):
        raise ValueError(
            f"{say(folder, found)}; name the images with --task to have the student "
            f"evaluated on those"
        )
    warn_of_changes(options)
    return task
