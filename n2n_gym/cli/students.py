"""The commands for what a run has found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from n2n_gym.cli.errors import plain_errors, stoppable
from n2n_gym.cli.output import AsJson, print_json, say

if TYPE_CHECKING:
    from n2n_gym.tasks.task import Task as Images

Folder = Annotated[Path, typer.Argument(help="The folder of a run.")]


def report(folder: Folder, as_json: AsJson = False) -> None:
    """Write the report of a finished run again, report.html in its folder."""
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


def export(
    folder: Folder,
    student: Annotated[
        str | None,
        typer.Option(
            help="How the fingerprint of a student begins that the run scored; its "
            "report has the best. By default the one that the run chose."
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            help="What to write beside student.onnx and student.safetensors, with "
            "commas between: float16, int8 (both ONNX), torch (torch.export)."
        ),
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(
            help="A folder; by default the run's own, and for a --student one in it, "
            "by fingerprint."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a student of a run, in more formats, and compare each with torch.

    One that the run did not choose is distilled fully first. Every file is run on all
    test images: its accuracy, how often it answers as torch does, how far its logits
    are from torch's. Its size and its latency are set against those of the teacher's
    ONNX file.
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
    table = Table(box=box.SIMPLE)
    table.add_column("file", overflow="fold")
    is_agreement = "test" in run.teacher.task.unlabelled
    right = "as teacher" if is_agreement else "test"  # shares of the test images
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
    task: Annotated[
        str | None,
        typer.Option(help="The images; by default those that it was made for."),
    ] = None,
    split: Annotated[
        Literal["test", "validation", "train"],
        typer.Option(metavar="<name>", help="test, validation or train."),
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
        f"{found.bytes / 1e6:.3g} MB, {found.latency_ms:.3g} ms for one image on one "
        f"thread",
        highlight=False,
    )


def _task_of(folder: Path) -> Images | None:
    """The images of the run in a folder, if there is one.

    Raises:
        ValueError: They are others than when the run began.
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
