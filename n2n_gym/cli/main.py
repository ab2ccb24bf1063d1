"""The commands that compress networks, and list what that takes."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from n2n_gym.cli.comparison import compare, validate
from n2n_gym.cli.errors import plain_errors
from n2n_gym.cli.options import (
    Channels,
    Device,
    Task,
    Teacher,
    TrainTeacher,
    Weights,
    statistics,
)
from n2n_gym.cli.scores import scores

# torch and what needs it are imported in the commands, so that --help is quick.
if TYPE_CHECKING:
    from n2n_gym.compress import Summary
    from n2n_gym.finalists import Finished

app = typer.Typer(
    name="n2n-gym",
    help="Make a trained network small.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
teachers = typer.Typer(help="Teachers: trained networks, made once and kept.")
app.add_typer(teachers, name="teachers")
app.add_typer(scores, name="scores")
app.command()(compare)
app.command()(validate)

Epochs = Annotated[
    int | None,
    typer.Option(min=1, help="Of the teacher's training; by the size of the data."),
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
        int,
        typer.Option(
            min=0,
            help="Policy updates of stage two, 5 students each; 0 for removal alone.",
        ),
    ] = 40,
    final_epochs: Annotated[
        int, typer.Option(min=1, help="Epochs of distillation of each finalist.")
    ] = 60,
    evaluator: Annotated[
        str,
        typer.Option(
            help="How the search scores students: short, elastic, "
            "inherit, paper, full, size, or a file of `n2n-gym scores calibrate`."
        ),
    ] = "short",
    init_policy: Annotated[
        Path | None,
        typer.Option(
            help="The folder of an earlier run, perhaps of another teacher; the "
            "policies start as its ended."
        ),
    ] = None,
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Do not train those policies further.")
    ] = False,
    logs: Annotated[
        str,
        typer.Option(
            help="How the policies' progress is written: csv,json,tensorboard."
        ),
    ] = "",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that distil; one a core by default."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="Where scores are kept: a file, or a database's URL."),
    ] = None,
    weights: Weights = None,
    mean: Channels = None,
    std: Channels = None,
    granularity: Annotated[
        str,
        typer.Option(
            help="What one removal is about: unit, block (branches alone) or layer."
        ),
    ] = "unit",
    controls: Annotated[
        bool,
        typer.Option(
            help="Also try uniform width scaling and magnitude filter pruning to the "
            "student's size, and random search."
        ),
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    device: Device = None,
    train_teacher: TrainTeacher = False,
) -> None:
    """Turn a teacher into a small student and write it as an ONNX file.

    An agent first decides which layers to remove, then how far to shrink the rest; the
    best students are distilled from the teacher and the best of those is written, with
    everything that was tried (history.jsonl), to the output folder.
    """
    with plain_errors():
        from n2n_gym.compress import Options
        from n2n_gym.compress import compress as run

        options = Options(
            teacher=teacher,
            task=task,
            output=output,
            removal_updates=removal_updates,
            shrinkage_updates=shrinkage_updates,
            final_epochs=final_epochs,
            evaluator=evaluator,
            init_policy=init_policy,
            frozen=frozen,
            logs=tuple(filter(None, logs.split(","))),
            workers=workers,
            store=store,
            weights=weights,
            normalisation=statistics(mean, std),
            granularity=granularity,
            controls=controls,
            seed=seed,
            device=device,
            train_teacher=train_teacher,
        )
        summary = run(options)
    _show(summary, teacher, task, output)


@teachers.callback(invoke_without_command=True)
def list_teachers(context: typer.Context) -> None:
    """List the networks that can be teachers, and the teachers kept with their scores.

    `n2n-gym teachers train` adds one.
    """
    if context.invoked_subcommand is not None:
        return
    from n2n_gym.teachers import kept_teachers, teacher_folder, traceable_names

    console = Console()
    console.print("[bold]Networks by name[/bold]")
    console.print(
        Columns(traceable_names(), equal=True, column_first=True), highlight=False
    )
    console.print(
        "Others of torchvision's use attention and are refused. Own ones: "
        "module:function.\n",
        highlight=False,
    )
    kept = kept_teachers()
    if not kept:
        console.print(f"No teacher has been trained yet ({teacher_folder()} is empty).")
        return
    table = Table("teacher", "task", title=f"Kept in {teacher_folder()}")
    table.add_column("parameters", justify="right")
    table.add_column("validation", justify="right")
    table.add_column("epochs", justify="right")
    for about in kept:
        epochs = about.get("recipe", {}).get("epochs", "own weights")
        table.add_row(
            escape(about["teacher"]),
            escape(about["task"]),
            f"{about.get('num_params', 0):,}",
            f"{about['validation_accuracy']:.2%}",
            str(epochs),
        )
    console.print(table)


@teachers.command("train")
def train_teacher(
    name: Annotated[
        str, typer.Argument(help="One of torchvision's networks, or module:function.")
    ],
    task: Task = "digits",
    mean: Channels = None,
    std: Channels = None,
    epochs: Epochs = None,
    again: Annotated[
        bool, typer.Option("--again", help="Train it even if it is kept already.")
    ] = False,
    device: Device = None,
) -> None:
    """Train a teacher, however long it takes, and keep it for later runs.

    The same command goes on where a training was stopped.
    """
    with plain_errors():
        from n2n_gym.teachers import kept_teachers, load_teacher

        teacher = load_teacher(
            name,
            task,
            device=device,
            normalisation=statistics(mean, std),
            train_teacher=True,
            epochs=epochs,
            again=again,
        )
        before = {(about["path"], about["sha256"]) for about in kept_teachers()}
        try:
            accuracy = teacher.score.accuracy
        except KeyboardInterrupt:
            Console(stderr=True).print(
                "Stopped. The same command goes on from the last epoch that was kept."
            )
            sys.exit(130)
        is_new = {(x["path"], x["sha256"]) for x in kept_teachers()} != before
    how = "" if is_new else " (it was kept already; --again trains it anew)"
    Console().print(
        f"{name} on {task}: {accuracy:.2%} of the validation images{how}",
        highlight=False,
    )


@app.command("tasks")
def list_tasks() -> None:
    """List the data sets that can be tasks by name, and which of them are here."""
    from n2n_gym.tasks import TASKS, data_folder, is_here

    table = Table("task", "here", "what", title=f"Data in {data_folder()}")
    for name, make in TASKS.items():
        about = (make.__doc__ or "").splitlines()[0].replace("`", "")
        table.add_row(name, "yes" if is_here(name) else "", escape(about))
    console = Console()
    console.print(table)
    console.print(
        "What is not here is downloaded by torchvision at its first use; ImageNet has "
        "to be put there. Own images: the path of an .npz file or of a folder with a "
        "subfolder for each class, or module:function.",
        highlight=False,
    )


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
    add("magnitude", summary.magnitude, "")
    add("random search", summary.random, "")
    console = Console()
    console.print(table)
    from n2n_gym.envs.compression import SUCCESS_MARGIN

    found = summary.student.score.accuracy
    if found < whole.accuracy - SUCCESS_MARGIN:
        console.print(
            f"[yellow]No finalist is as accurate as the teacher[/yellow] ({found:.2%} "
            f"against {whole.accuracy:.2%} on validation): what was written is the one "
            f"of the highest reward. More --final-epochs may help.",
            highlight=False,
        )
    size = (output / "student.onnx").stat().st_size
    console.print(
        f"{output}/student.onnx: {size / 1e6:.2f} MB, logits equal to torch's to "
        f"{summary.onnx_difference:.0e}. {summary.num_scored} students scored, "
        f"{summary.seconds / 60:.1f} minutes in all.",
        highlight=False,
    )
