"""The application, and the commands that list teachers and tasks."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib import metadata
from typing import Annotated

import typer
from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from n2n_gym.cli import errors
from n2n_gym.cli.comparison import compare, validate
from n2n_gym.cli.compression import compress
from n2n_gym.cli.errors import plain_errors, stoppable
from n2n_gym.cli.output import AsJson, print_json
from n2n_gym.cli.play import play
from n2n_gym.cli.scores import scores
from n2n_gym.cli.students import evaluate, export, report
from n2n_gym.cli.training import list_agents, train
from n2n_gym.common.progress import QUIET
from n2n_gym.runs.shared_options import TASK, Device, Mean, Precision, Std, TaskName

# Torch is imported inside the commands, so that --help is fast.
app = typer.Typer(
    name="n2n-gym",
    help="Make a trained network small.",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # so that paragraphs are wrapped to the width
    pretty_exceptions_enable=False,
)
teachers = typer.Typer(help="Teachers: trained networks, made once and kept.")
app.add_typer(teachers, name="teachers")
app.add_typer(scores, name="scores")
EXAMPLES: dict[Callable[..., None], str] = {
    compress: "compress --teacher resnet18 --task digits --output runs/demo",
    train: "train remove --teacher vgg11_bn --updates 50 --output runs/policy",
    evaluate: "evaluate runs/demo --split validation",
    export: "export runs/demo --student 3f2a81c09d",
    play: "play --teacher resnet18 --task digits",
    report: "report runs/demo",
    compare: "compare --agents random,reinforce --evaluations 200 --seeds 5",
    validate: "validate runs/compare/results.jsonl",
}
for function, example in EXAMPLES.items():
    app.command(epilog=f"Example: n2n-gym {example}")(function)
app.command("agents")(list_agents)

Epochs = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Training epochs; by default by the data's size.",
    ),
]


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"n2n-gym {metadata.version('n2n-gym')}")
        raise typer.Exit


@app.callback()
def main(
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress bars and no warnings.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback with every error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    """Compress networks; see each command's own --help."""
    level = logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
    if quiet:
        os.environ[QUIET] = "1"  # read as tqdm is imported, in workers too
        os.environ.setdefault("WANDB_SILENT", "true")
    errors.with_traceback = debug


@teachers.callback(invoke_without_command=True)
def list_teachers(context: typer.Context, as_json: AsJson = False) -> None:
    """List the networks that can be teachers, and the trained teachers with their
    scores.

    `n2n-gym teachers train` adds one.
    """
    if context.invoked_subcommand is not None:
        if as_json:
            name = context.invoked_subcommand
            raise typer.BadParameter(f"options of {name} go after {name!r}")
        return
    from n2n_gym.teachers.store import kept_teachers, teacher_folder
    from n2n_gym.teachers.zoo import traceable_names

    if as_json:
        print_json({"networks": traceable_names(), "kept": kept_teachers()})
        return
    console = Console()
    console.print("[bold]Networks by name[/bold]")
    console.print(
        Columns(traceable_names(), equal=True, column_first=True), highlight=False
    )
    console.print(
        "torchvision's other networks use attention and are refused. Your own "
        "network: module:function.\n",
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
        str,
        typer.Argument(help="A name (`n2n-gym teachers`), or module:function."),
    ],
    task: TaskName = TASK,
    mean: Mean = None,
    std: Std = None,
    epochs: Epochs = None,
    again: Annotated[
        bool, typer.Option("--again", help="Train even if the cache has this teacher.")
    ] = False,
    device: Device = None,
    precision: Precision = None,
    as_json: AsJson = False,
) -> None:
    """Train a teacher, however long it takes, and keep it for later runs.

    After a stop, the same command resumes the training.
    """
    kept = "Stopped. The same command goes on from the last epoch that was kept."
    with plain_errors(), stoppable(lambda: kept):
        from n2n_gym.runs.shared_options import statistics
        from n2n_gym.teachers.loading import load_teacher
        from n2n_gym.teachers.store import kept_teachers

        teacher = load_teacher(
            name,
            task,
            device=device,
            normalisation=statistics(mean, std),
            precision=precision,
            epochs=epochs,
            again=again,
        )
        before = {(about["path"], about["sha256"]) for about in kept_teachers()}
        accuracy = teacher.score.accuracy
        is_new = {(x["path"], x["sha256"]) for x in kept_teachers()} != before
    if as_json:
        about = {"teacher": name, "task": task, "validation_accuracy": accuracy}
        print_json({**about, "is_new": is_new})
        return
    how = "" if is_new else " (it was kept already; --again trains it anew)"
    Console().print(
        f"{name} on {task}: {accuracy:.2%} of the validation images{how}",
        highlight=False,
    )


@app.command("tasks")
def list_tasks(as_json: AsJson = False) -> None:
    """List the data sets that are tasks by name, and which of them are downloaded."""
    from n2n_gym.common.files import data_folder
    from n2n_gym.tasks.loading import TASKS, is_here

    about = {
        name: (make.__doc__ or "").splitlines()[0].replace("`", "")
        for name, make in TASKS.items()
    }
    if as_json:
        print_json({n: {"is_here": is_here(n), "about": about[n]} for n in about})
        return
    table = Table("task", "here", "what", title=f"Data in {data_folder()}")
    for name, what in about.items():
        table.add_row(name, "yes" if is_here(name) else "", escape(what))
    console = Console()
    console.print(table)
    console.print(
        "At its first use, torchvision downloads what is missing; ImageNet you have to "
        "put there. Your own images: an .npz file, a folder with a subfolder for each "
        "class, or module:function.",
        highlight=False,
    )
