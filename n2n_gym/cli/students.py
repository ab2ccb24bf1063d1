"""The commands for what a run has found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from n2n_gym.cli.errors import plain_errors, stoppable

Folder = Annotated[Path, typer.Argument(help="The folder of a run.")]


def report(folder: Folder) -> None:
    """Write the report of a finished run again, report.html in its folder."""
    with plain_errors():
        from n2n_gym.report import write_report

        path = write_report(folder)
    Console().print(str(path), highlight=False)


def export(
    folder: Folder,
    student: Annotated[
        str,
        typer.Option(
            help="How the fingerprint of a student begins that the run scored; its "
            "report has the best."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="A folder; by default one of the run's, by fingerprint."),
    ] = None,
) -> None:
    """Distil any student of a run fully, and write it as the run's own is."""
    with plain_errors(), stoppable(lambda: "Stopped. Nothing was exported."):
        from n2n_gym.finalists import write_student
        from n2n_gym.revisit import Revisited

        run = Revisited.open(folder)
        chosen = run.student(student)
        place = output or folder / "exports" / chosen.fingerprint[:12]
        place.mkdir(parents=True, exist_ok=True)
        finished = run.finish(chosen)
        difference = write_student(finished, run.teacher, place)
    Console().print(
        f"{place}/student.onnx: {finished.score.num_params:,} parameters, test "
        f"accuracy {finished.test_accuracy:.2%}, logits equal to torch's to "
        f"{difference:.0e}",
        highlight=False,
    )


def evaluate(
    path: Annotated[Path, typer.Argument(help="An ONNX file, or the folder of a run.")],
    task: Annotated[
        str | None,
        typer.Option(help="The images; by default those that it was made for."),
    ] = None,
    split: Annotated[
        Literal["test", "validation", "train"], typer.Option(help="Which of them.")
    ] = "test",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print figures as JSON, for machines.")
    ] = False,
) -> None:
    """Run an exported student in ONNX Runtime: its accuracy, its size, its latency."""
    with plain_errors():
        from n2n_gym.assessment import evaluate_onnx
        from n2n_gym.runs import ONNX, OPTIONS, Options
        from n2n_gym.tasks import load_task

        if path.is_dir():
            if task is None and (path / OPTIONS).is_file():
                task = Options.read(path / OPTIONS).task
            path = path / ONNX
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        found = evaluate_onnx(path, None if task is None else load_task(task), split)
    if as_json:
        typer.echo(json.dumps({"path": str(path), **found._asdict()}))
        return
    Console().print(
        f"{path} on {found.task}: {found.accuracy:.2%} of {found.num_images:,} "
        f"{split} images (95 % interval {found.low:.2%} to {found.high:.2%}), "
        f"{found.bytes / 1e6:.3g} MB, {found.latency_ms:.3g} ms for one image on one "
        f"thread",
        highlight=False,
    )
