"""The command that compresses a network."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from n2n_gym.cli.errors import plain_errors, stoppable
from n2n_gym.cli.options import (
    COMPARISON,
    FILES,
    PLACE,
    SEARCH,
    Device,
    Keep,
    Mean,
    Precision,
    Std,
    TaskName,
    Teacher,
    TrainTeacher,
    Weights,
    at_least,
)
from n2n_gym.cli.output import print_json
from n2n_gym.cli.summary import show_summary
from n2n_gym.common.progress import loading

# torch and what needs it are imported in the command, so that --help is quick.
if TYPE_CHECKING:
    from n2n_gym.runs.options import Options

BEGAN = time.monotonic()  # minutes count from here: torch is not loaded yet
# Options of the command that are none of the run's.
OWN = frozenset({"config", "resume", "as_json", "no_controls"})


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
    task: TaskName = "digits",
    weights: Weights = None,
    minutes: Annotated[
        str | None,
        typer.Option(help="How long all of it may take: 5, 90s, 1h30."),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(help="The folder for results; a run that was stopped goes on."),
    ] = Path("runs/demo"),
    max_params: Annotated[
        str | None, typer.Option(help="The most parameters of the student: 1M.")
    ] = None,
    max_macs: Annotated[
        str | None, typer.Option(help="The most multiply-accumulates an image: 50M.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(help="The largest ONNX file: 1MB, 500KB.")
    ] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(
            help="The longest time of one image in ONNX Runtime, on one thread of this "
            "machine: 2ms, 300us."
        ),
    ] = None,
    min_accuracy: Annotated[
        str | None,
        typer.Option(
            help="The least accuracy on validation, 0.95 or 95%: the smallest student "
            "that has it is chosen. By default the teacher's; within limits, the most "
            "accurate is chosen."
        ),
    ] = None,
    keep: Keep = None,
    evaluator: Annotated[
        str | None,
        typer.Option(
            help="How students are scored: short (by default), quick (with minutes), "
            "elastic, inherit, paper, full, size, or a file of `n2n-gym scores "
            "calibrate`.",
            **SEARCH,
        ),
    ] = None,
    removal_updates: Annotated[
        int,
        typer.Option(
            callback=at_least(1),
            help="Policy updates of stage one, 5 students each.",
            **SEARCH,
        ),
    ] = 10,
    shrinkage_updates: Annotated[
        int,
        typer.Option(
            callback=at_least(0),
            help="Likewise of stage two; with 0, layers become narrower only where "
            "limits ask for it.",
            **SEARCH,
        ),
    ] = 40,
    final_epochs: Annotated[
        int,
        typer.Option(
            callback=at_least(1),
            help="Epochs of distillation of each finalist.",
            **SEARCH,
        ),
    ] = 60,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="Another run's plan.json: as many students and epochs as that had.",
            **SEARCH,
        ),
    ] = None,
    granularity: Annotated[
        str,
        typer.Option(
            help="What one removal is about: unit, block (branches alone), layer.",
            **SEARCH,
        ),
    ] = "unit",
    limits: Annotated[
        str | None,
        typer.Option(
            help="Of other resources: peak_bytes=64KB,energy_mj=3, or "
            "module:function=2.",
            **SEARCH,
        ),
    ] = None,
    init_policy: Annotated[
        Path | None,
        typer.Option(
            help="An earlier run's folder, perhaps of another teacher: the policies "
            "start as its ended.",
            **SEARCH,
        ),
    ] = None,
    frozen: Annotated[
        bool,
        typer.Option("--frozen", help="Do not train those policies further.", **SEARCH),
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed of the search.", **SEARCH)] = 0,
    controls: Annotated[
        str,
        typer.Option(
            help="What the student is compared with: quick (uniform width and "
            "magnitude pruning to its size), all (also random search, as long as the "
            "search), none.",
            **COMPARISON,
        ),
    ] = "quick",
    no_controls: Annotated[
        bool,
        typer.Option("--no-controls", help="Short for --controls none.", **COMPARISON),
    ] = False,
    mean: Mean = None,
    std: Std = None,
    device: Device = None,
    precision: Precision = None,
    workers: Annotated[
        int | None,
        typer.Option(
            callback=at_least(1),
            help="Processes that distil; by default one a core.",
            **PLACE,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            callback=_read_config,
            is_eager=True,
            help="A TOML file with any of these options, such as a run's options.toml.",
            **FILES,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="The folder of a run that was stopped: it goes on, with its options.",
            **FILES,
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Where scores are kept: a file, or a database's URL.", **FILES
        ),
    ] = None,
    logs: Annotated[
        str,
        typer.Option(
            help="Formats of the policies' progress, with commas between: csv, json, "
            "tensorboard, wandb, mlflow.",
            **FILES,
        ),
    ] = "",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON document, for machines.", **FILES),
    ] = False,
    train_teacher: TrainTeacher = False,
) -> None:
    """Turn a teacher into a small student and write it as an ONNX file.

    An agent first decides which layers to remove, then how far to shrink the rest; the
    best students are distilled from the teacher and the best of those is written, with
    everything that was tried (history.jsonl), to the output folder. Within limits on
    what it may take, the student is the most accurate that keeps them, or the smallest
    that cannot be told from that.
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
        with loading("Loading PyTorch"):
            from n2n_gym.runs.folder import (
                check_same,
                is_finished,
                read_summary,
                resumed,
            )
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
            show_summary(summary, options)


def _is_said(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line or in the file."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _run(options: Options) -> None:
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
        with loading("Loading ONNX Runtime and the rest"):
            from n2n_gym.compression.pipeline import compress as run
        run(options, BEGAN)
