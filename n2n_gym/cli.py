"""The command line: ``n2n-gym``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# torch and what needs it are imported in the commands, so that --help is quick.
if TYPE_CHECKING:
    from n2n_gym.compress import Finished, Summary

app = typer.Typer(
    name="n2n-gym",
    help="Make a trained network small.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
teachers = typer.Typer(help="Teachers: trained networks, made once and kept.")
app.add_typer(teachers, name="teachers", no_args_is_help=True)

Teacher = Annotated[
    str,
    typer.Option(help="The network to start from: one of torchvision's, by name."),
]
Task = Annotated[
    str,
    typer.Option(
        help="The images: digits, mnist, cifar10, the path of an .npz file, or "
        "module:function."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, ...; the accelerator by default if there is one."),
]


@app.callback()
def main() -> None:
    """Compress networks; see each command's own --help."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")


@app.command()
def compress(
    teacher: Teacher = "resnet18",
    task: Task = "digits",
    output: Annotated[
        Path, typer.Option(help="A new or empty folder for what is found.")
    ] = Path("runs/demo"),
    removal_updates: Annotated[
        int, typer.Option(min=1, help="Policy updates of stage one, 5 students each.")
    ] = 10,
    shrinkage_updates: Annotated[
        int, typer.Option(min=1, help="Policy updates of stage two, 5 students each.")
    ] = 40,
    final_epochs: Annotated[
        int, typer.Option(min=1, help="Epochs of distillation of each finalist.")
    ] = 60,
    controls: Annotated[
        bool,
        typer.Option(help="Also try uniform width scaling and random search."),
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the search and the distillation.")] = 0,
    device: Device = None,
    train_teacher: Annotated[
        bool, typer.Option(help="Train the teacher even if it takes over ten minutes.")
    ] = False,
) -> None:
    """Turn a teacher into a small student and write it as an ONNX file.

    An agent first decides which layers to remove, then how far to shrink the rest; the
    best students are distilled from the teacher and the best of those is written, with
    everything that was tried (history.jsonl), to the output folder.
    """
    with _plain_errors():
        from n2n_gym.compress import Options
        from n2n_gym.compress import compress as run

        options = Options(
            teacher=teacher,
            task=task,
            output=output,
            removal_updates=removal_updates,
            shrinkage_updates=shrinkage_updates,
            final_epochs=final_epochs,
            controls=controls,
            seed=seed,
            device=device,
            train_teacher=train_teacher,
        )
        summary = run(options)
    _show(summary, teacher, task, output)


@teachers.command("train")
def train_teacher(
    name: Annotated[str, typer.Argument(help="One of torchvision's networks.")],
    task: Task = "digits",
    device: Device = None,
) -> None:
    """Train a teacher, however long it takes, and keep it for later runs."""
    with _plain_errors():
        from n2n_gym.teachers import load_teacher

        teacher = load_teacher(name, task, device=device, train_teacher=True)
        accuracy = teacher.score.accuracy
    Console().print(f"{name} on {task}: {accuracy:.2%} of the validation images")


@contextmanager
def _plain_errors() -> Iterator[None]:
    """One line for what the user can mend; a traceback for a mistake of ours."""
    try:
        yield
    except (ValueError, OSError, ArithmeticError) as error:
        Console(stderr=True).print(
            f"[red]Error:[/red] {escape(str(error))}", highlight=False
        )
        sys.exit(1)


def _show(summary: Summary, teacher: str, task: str, output: Path) -> None:
    table = Table(title=f"{teacher} on {task}")
    columns = ("", "parameters", "smaller", "MACs", "validation", "test")
    for column in columns:
        table.add_column(column, justify="left" if not column else "right")
    whole = summary.teacher
    table.add_row(
        "teacher",
        f"{whole.num_params:,}",
        "",
        f"{whole.num_macs:,}",
        f"{whole.accuracy:.2%}",
        f"{summary.teacher_test_accuracy:.2%}",
    )

    def add(name: str, finished: Finished | None, style: str) -> None:
        if finished is not None:
            score = finished.score
            table.add_row(
                name,
                f"{score.num_params:,}",
                f"{whole.num_params / score.num_params:.1f}x",
                f"{score.num_macs:,}",
                f"{score.accuracy:.2%}",
                f"{finished.test_accuracy:.2%}",
                style=style,
            )

    add("student", summary.student, "bold green")
    add("uniform width", summary.uniform, "")
    add("random search", summary.random, "")
    console = Console()
    console.print(table)
    size = (output / "student.onnx").stat().st_size
    console.print(
        f"{output}/student.onnx: {size / 1e6:.2f} MB, logits equal to torch's to "
        f"{summary.onnx_difference:.0e}. {summary.num_scored} students scored, "
        f"{summary.seconds / 60:.1f} minutes in all.",
        highlight=False,
    )
