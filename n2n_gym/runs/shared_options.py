"""Options that several commands share, as typer declares them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from envs_registry import DEFAULTS

if TYPE_CHECKING:
    import torch

    from n2n_gym.tasks.arrays import Statistics
    from n2n_gym.teachers.teacher import Teacher

# Panels of a long --help, in their order; options without a panel come first.
PANELS: Final = (
    "Search",
    "Comparison",
    "The teacher's inputs",
    "Machine and precision",
    "Files and scores",
)
SEARCH, COMPARISON, INPUTS, PLACE, FILES = (
    dict[str, Any](rich_help_panel=title) for title in PANELS
)


def at_least(least: int) -> Callable[[int | None], int | None]:
    """A callback of typer that refuses values below ``least``.

    Typer's own ``min`` would take eight characters of every line of the help.
    """

    def check(value: int | None) -> int | None:
        if value is not None and value < least:
            raise typer.BadParameter(f"{value} is not in the range x>={least}.")
        return value

    return check


def teacher_option(show_default: str | bool = True) -> Any:
    """The option ``--teacher``. A text as ``show_default`` says what None means."""
    return typer.Option(
        help="The network to start from: a name (`n2n-gym teachers` lists them), "
        "module:function, module:Class, or an architecture's .json file.",
        show_default=show_default,
    )


def task_option(show_default: str | bool = True) -> Any:
    """The option ``--task``. A text as ``show_default`` says what None means."""
    return typer.Option(
        help="The images: a name (`n2n-gym tasks` lists them), an .npz file, a folder "
        "(path@64 resizes to 64x64), or module:function.",
        show_default=show_default,
    )


def evaluator_option(show_default: str | bool = True) -> Any:
    """The option ``--evaluator``. A text as ``show_default`` says what None means."""
    return typer.Option(
        help="How students are scored: size, inherit, quick, elastic, short, paper, "
        "full, or a file of `n2n-gym scores calibrate`.",
        **SEARCH,
        show_default=show_default,
    )


TEACHER, TASK, EVALUATOR = (DEFAULTS[name] for name in ("teacher", "task", "evaluator"))
GRANULARITY: Final = "unit"

TeacherName = Annotated[str, teacher_option()]
OptionalTeacher = Annotated[str | None, teacher_option(TEACHER)]
TaskName = Annotated[str, task_option()]
OptionalTask = Annotated[str | None, task_option(TASK)]
EvaluatorName = Annotated[str, evaluator_option()]
OptionalEvaluator = Annotated[str | None, evaluator_option(EVALUATOR)]
Granularity = Annotated[
    str,
    typer.Option(
        help="What one decision removes: unit, block (branches only), layer.",
        **SEARCH,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Trained weights of the teacher: a safetensors file, a state dict of "
        "torch.save, or torchvision's name (IMAGENET1K_V1)."
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Mean of each channel, for pixels in [0, 1]: 0.485,0.456,0.406. By "
        "default that of the training images.",
        **INPUTS,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(help="Standard deviation of each channel, like --mean.", **INPUTS),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, ...; by default the accelerator, if there is one.",
        **PLACE,
    ),
]
TrainTeacher = Annotated[
    bool,
    typer.Option(help="Has no effect; older versions needed it.", hidden=True),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="Precision of training: float32 or bfloat16. By default the faster one on "
        "this machine; scores depend on it.",
        **PLACE,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        callback=at_least(1),
        help="Processes that distil students; by default one per core.",
        **PLACE,
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        help="Store of scores: a file, or a database's URL "
        "(postgresql+psycopg://host/name). By default scores.sqlite in the cache "
        "folder.",
        **FILES,
    ),
]
Logs = Annotated[
    str,
    typer.Option(
        help="Formats of training logs, separated by commas: csv, json, tensorboard, "
        "wandb, mlflow.",
        **FILES,
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        help="Layers to leave unchanged, by name or pattern: layer4.*,conv1. They may "
        "get fewer inputs."
    ),
]


def named_teacher(
    teacher: str,
    task: str,
    *,
    weights: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
) -> Teacher:
    """The teacher of these options."""
    from n2n_gym.teachers.loading import load_teacher

    return load_teacher(
        teacher,
        task,
        weights=weights,
        normalisation=statistics(mean, std),
        device=device,
        precision=precision,
    )


def statistics(mean: str | None, std: str | None) -> Statistics | None:
    """The normalisation of the options --mean and --std; None without them.

    Args:
        mean, std: One number per channel, separated by commas.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ValueError("--mean and --std must be given together")
    try:
        means, stds = (tuple(map(float, x.split(","))) for x in (mean, std))
    except ValueError as error:
        raise ValueError(
            f"--mean and --std must be numbers separated by commas, got {mean!r} and "
            f"{std!r}"
        ) from error
    return means, stds
