"""The command that compresses a network."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from n2n_gym.cli.errors import plain_errors, stoppable
from n2n_gym.cli.options import (
    Channels,
    Device,
    Keep,
    Precision,
    Task,
    Teacher,
    TrainTeacher,
    Weights,
)
from n2n_gym.cli.output import AsJson, print_json
from n2n_gym.common.quantities import show_quantity
from n2n_gym.limits.constraints import ACCURACY

# torch and what needs it are imported in the command, so that --help is quick.
if TYPE_CHECKING:
    from n2n_gym.runs.options import Options

BEGAN = time.monotonic()  # minutes count from here: torch is not loaded yet
WIDE = 76  # columns that the whole table takes
# Options of the command that are none of the run's.
OWN = frozenset({"config", "resume", "as_json", "no_controls"})
LIMIT: dict[str, Any] = {"rich_help_panel": "Limits"}


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Options from a file; those of the command line come first."""
    if path is not None:
        with plain_errors():
            from n2n_gym.runs.options import read_toml

            named = [str(parameter.name) for parameter in context.command.params]
            known = [name for name in named if name not in OWN]
            context.default_map = read_toml(path, known)
    return path


def compress(
    context: typer.Context,
    teacher: Teacher = "resnet18",
    task: Task = "digits",
    minutes: Annotated[
        str | None,
        typer.Option(
            help="That all of it may take: 5, 90s, 1h30; instead of updates and epochs."
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="The plan.json of another run: as many students and epochs as that "
            "came to."
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            help="The folder for what is found; a run of the same options that was "
            "stopped there goes on."
        ),
    ] = Path("runs/demo"),
    removal_updates: Annotated[
        int, typer.Option(min=1, help="Policy updates of stage one, 5 students each.")
    ] = 10,
    shrinkage_updates: Annotated[
        int,
        typer.Option(
            min=0,
            help="Policy updates of stage two, 5 students each; 0 for removal alone "
            "(limits may still ask for narrower layers).",
        ),
    ] = 40,
    final_epochs: Annotated[
        int, typer.Option(min=1, help="Epochs of distillation of each finalist.")
    ] = 60,
    evaluator: Annotated[
        str | None,
        typer.Option(
            help="How the search scores students: short (default), quick (default with "
            "minutes), elastic, inherit, paper, full, size, or a file of "
            "`n2n-gym scores calibrate`."
        ),
    ] = None,
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
            help="Where the policies' progress goes: csv, json, tensorboard, wandb, "
            "mlflow, with commas between.",
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
    precision: Precision = None,
    keep: Keep = None,
    controls: Annotated[
        str,
        typer.Option(
            help="What the student is compared with: quick (uniform width and "
            "magnitude pruning to its size), all (also random search, as long as the "
            "search), none.",
        ),
    ] = "quick",
    no_controls: Annotated[
        bool, typer.Option("--no-controls", help="The same as --controls none.")
    ] = False,
    max_params: Annotated[
        str | None,
        typer.Option(help="The most parameters a student may have: 1M.", **LIMIT),
    ] = None,
    max_macs: Annotated[
        str | None,
        typer.Option(help="Multiply-accumulates for one image: 50M.", **LIMIT),
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(help="Size of its ONNX file: 1MB, 500KB.", **LIMIT)
    ] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(
            help="Time of one image in ONNX Runtime, on one thread of this machine: "
            "2ms, 300us; ms where no unit is given.",
            **LIMIT,
        ),
    ] = None,
    min_accuracy: Annotated[
        str | None,
        typer.Option(
            help="The least accuracy on validation: 0.95 or 95%. The student is the "
            "smallest that has it; by default, that is as accurate as the teacher. "
            "Within limits on resources it is the most accurate.",
            **LIMIT,
        ),
    ] = None,
    limits: Annotated[
        str | None,
        typer.Option(
            help="Of other resources: peak_bytes=64KB,energy_mj=3,module:function=2.",
            **LIMIT,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    device: Device = None,
    train_teacher: TrainTeacher = False,
    config: Annotated[
        Path | None,
        typer.Option(
            callback=_read_config,
            is_eager=True,
            help="A TOML file with any of these options, by name; the options.toml of "
            "a run is one.",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="The folder of a run that was stopped: it goes on, with its options."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn a teacher into a small student and write it as an ONNX file.

    An agent first decides which layers to remove, then how far to shrink the rest; the
    best students are distilled from the teacher and the best of those is written, with
    everything that was tried (history.jsonl), to the output folder. Within limits on
    what it may take, the student is the most accurate that keeps them.
    """
    arguments = locals()  # context.params holds paths as strings, before typer 0.29
    given = {
        name: arguments[name]
        for name in context.params
        if name not in OWN and _is_said(context, name)
    }
    with plain_errors():
        if no_controls:
            if given.get("controls", "none") != "none":
                raise ValueError(
                    f"--no-controls and --controls {controls} contradict each other"
                )
            given["controls"] = "none"
        from n2n_gym.runs.folder import check_same, is_finished, read_summary, resumed
        from n2n_gym.runs.identity import check_unchanged
        from n2n_gym.runs.options import Options

        options = Options(**given) if resume is None else resumed(resume, given)
        folder = options.output
        was_finished = is_finished(folder)
        if was_finished:
            check_same(options)
            check_unchanged(options, options.load_teacher())
        else:
            _run(options)
        summary = read_summary(folder)
        if was_finished:
            note = f"Nothing was done: {folder} holds this run, and it is finished."
            Console(stderr=as_json).print(note, highlight=False, markup=False)
        if as_json:
            print_json({**summary, "output": str(folder)})
        else:
            _show(summary, options)


def _table(summary: dict[str, Any], title: str, *, is_narrow: bool) -> Table:
    """The teacher, the student, and what that is compared with."""
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
            by_column = dict(zip(columns, cells, strict=True))
            style = "bold green" if key == "student" else ""
            table.add_row(*(by_column[column] for column in shown), style=style)
    return table


def _shelf(summary: dict[str, Any], *, is_narrow: bool) -> Table:
    """The students whose files were written."""
    table = Table(title="Also written", box=box.SIMPLE if is_narrow else box.HEAVY_HEAD)
    columns = ["students/", "smaller", "MACs", "ms", "test"]
    for column in columns:
        is_name = column == columns[0]
        table.add_column(column, justify="left" if is_name else "right")
    whole = summary["teacher"]["num_params"]
    for place in summary["shelf"]:
        table.add_row(
            ", ".join(place["roles"]),
            f"{whole / place['num_params']:.1f}x",
            f"{place['num_macs']:,}",
            f"{place['latency_ms']:.3g}",
            f"{place['test_accuracy']:.2%}",
        )
    return table


def _is_said(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line or in the file."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _run(options: Options) -> None:
    from n2n_gym.compression.pipeline import compress as run
    from n2n_gym.runs.folder import HISTORY, OPTIONS
    from n2n_gym.runs.history import FINAL, read_history

    def kept() -> str:
        if not (options.output / OPTIONS).exists():
            return "Stopped before the run began; the same command begins it."
        lines = read_history(options.output / HISTORY)
        scored = sum(line["stage"] != FINAL for line in lines)
        return (
            f"Stopped. {scored} students and their scores are kept; go on with: "
            f"n2n-gym compress --resume {shlex.quote(str(options.output))}"
        )

    with stoppable(kept):
        run(options, BEGAN)


def _show(summary: dict[str, Any], options: Options) -> None:
    console = Console()
    title = f"{options.teacher} on {options.task}"
    console.print(_table(summary, title, is_narrow=console.width < WIDE))
    from n2n_gym.envs.outcome import SUCCESS_MARGIN
    from n2n_gym.runs.folder import ONNX, REPORT

    found, wanted = (summary[name]["accuracy"] for name in ("student", "teacher"))
    if found < wanted - SUCCESS_MARGIN and not summary["limits"]:
        console.print(
            f"[yellow]No finalist is as accurate as the teacher[/yellow] ({found:.2%} "
            f"against {wanted:.2%} on validation): what was written is the "
            f"one of the highest reward. More --removal-updates, "
            f"--shrinkage-updates or --final-epochs may help, and --min-accuracy "
            f"says what the student must reach.",
            highlight=False,
        )
    for row in summary["limits"]:
        bound, found = (
            show_quantity(row["name"], row[n]) for n in ("bound", "student")
        )
        sign = ">=" if row["name"] == ACCURACY else "<="
        kept = "kept" if row["is_kept"] else "[red]NOT kept[/red]"
        line = f"{row['name']} {sign} {bound}: {kept}, {found}"
        if "teacher" in row:
            whole = show_quantity(row["name"], row["teacher"])
            line += f"; the teacher has {whole}"
        console.print(line, highlight=False)
    if len(summary.get("shelf", ())) > 1:
        console.print(_shelf(summary, is_narrow=console.width < WIDE))
    path = options.output / ONNX
    console.print(
        f"{path}: {path.stat().st_size / 1e6:.2f} MB, logits equal to torch's to "
        f"{summary['onnx_difference']:.0e}. {summary['num_scored']} students scored, "
        f"{summary['seconds'] / 60:.1f} minutes.",
        highlight=False,
    )
    console.print(f"{options.output / REPORT} shows it all.", highlight=False)
