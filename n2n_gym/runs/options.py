"""The options of a run, and their file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import tomli_w
import typer

from n2n_gym.common.quantities import read_minutes, read_quantity
from n2n_gym.runs.shared_options import (
    COMPARISON,
    GRANULARITY,
    SEARCH,
    TASK,
    TEACHER,
    Device,
    Granularity,
    Keep,
    Logs,
    Mean,
    Precision,
    Std,
    Store,
    TaskName,
    TeacherName,
    TrainTeacher,
    Weights,
    Workers,
    at_least,
    evaluator_option,
    named_teacher,
)

# Torch is imported inside the methods: the command line reads the fields for its
# --help, which must be fast.
if TYPE_CHECKING:
    import torch

    from n2n_gym.scores import ScoreStore
    from n2n_gym.teachers.teacher import Teacher

CONTROLS: Final = ("none", "quick", "all")
REINFORCE: Final = "reinforce"  # the agent of runs by default
# Options that a plan decides, except that shrinkage_updates=0 is accepted.
COUNTED: Final = ("removal_updates", "shrinkage_updates", "final_epochs")
ZERO: Final = ("shrinkage_updates", 0)

# Options that are limits, and the resource that each limits.
LIMITS: Final[Mapping[str, str]] = {
    "max_params": "num_params",
    "max_macs": "num_macs",
    "max_size": "onnx_bytes",
    "max_latency": "latency_ms",
    "min_accuracy": "accuracy",
}


@dataclass(frozen=True)
class Options:
    """The options of ``n2n-gym compress``; each is an option of the command.

    Fields are in the order of ``--help`` and of the file.
    """

    teacher: TeacherName = TEACHER
    task: TaskName = TASK
    _: KW_ONLY
    weights: Weights = None
    minutes: Annotated[
        str | None,
        typer.Option(help="Time for the whole run: 5, 90s, 1h30."),
    ] = None
    output: Annotated[
        Path,
        typer.Option(help="Folder for results; a stopped run in it is resumed."),
    ] = Path("runs/demo")
    max_params: Annotated[
        str | None, typer.Option(help="Maximum number of parameters: 1M.")
    ] = None
    max_macs: Annotated[
        str | None,
        typer.Option(help="Maximum multiply-accumulates per image: 50M."),
    ] = None
    max_size: Annotated[
        str | None,
        typer.Option(help="Maximum size of the ONNX file: 1MB, 500kB."),
    ] = None
    max_latency: Annotated[
        str | None,
        typer.Option(
            help="Maximum time of one image in ONNX Runtime, on one thread of this "
            "machine: 2ms, 300us."
        ),
    ] = None
    min_accuracy: Annotated[
        str | None,
        typer.Option(
            help="Minimum accuracy on validation, 0.95 or 95%; the smallest student "
            "that has it is chosen. By default the teacher's. With limits, the most "
            "accurate student is chosen."
        ),
    ] = None
    keep: Keep = None
    evaluator: Annotated[
        str | None, evaluator_option("short, or quick with --minutes")
    ] = None
    agent: Annotated[
        str,
        typer.Option(
            help="Agent of the search: reinforce, bayesian, local, another of `n2n-gym "
            "agents`, or module:function.",
            **SEARCH,
        ),
    ] = REINFORCE
    removal_updates: Annotated[
        int,
        typer.Option(
            callback=at_least(1),
            help="Policy updates of stage one, with 5 students each.",
            **SEARCH,
        ),
    ] = 10
    shrinkage_updates: Annotated[
        int,
        typer.Option(
            callback=at_least(0),
            help="Policy updates of stage two; with 0, layers become narrower only if "
            "limits need it.",
            **SEARCH,
        ),
    ] = 40
    final_epochs: Annotated[
        int,
        typer.Option(
            callback=at_least(1),
            help="Epochs of distillation for each finalist.",
            **SEARCH,
        ),
    ] = 60
    plan: Annotated[
        Path | None,
        typer.Option(
            help="Another run's plan.json, to repeat its numbers.",
            **SEARCH,
        ),
    ] = None
    granularity: Granularity = GRANULARITY
    limits: Annotated[
        str | None,
        typer.Option(
            help="Limits on other resources: peak_bytes=64kB,energy_mj=3, or "
            "module:function=2.",
            **SEARCH,
        ),
    ] = None
    init_policy: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the initial policies, of an earlier run or of `n2n-gym "
            "train`. By default those that come with the package, if there are any. "
            "none: fresh ones.",
            **SEARCH,
        ),
    ] = None
    frozen: Annotated[
        bool,
        typer.Option(
            "--frozen",
            help="Do not train the initial policies. They play at most 20 students per "
            "stage.",
            **SEARCH,
        ),
    ] = False
    seed: Annotated[int, typer.Option(help="Random seed of the search.", **SEARCH)] = 0
    controls: Annotated[
        str,
        typer.Option(
            help="Controls for the student: quick (uniform width and magnitude pruning "
            "at its size), all (random search too, which takes as long as the search), "
            "none.",
            **COMPARISON,
        ),
    ] = "quick"
    mean: Mean = None
    std: Std = None
    device: Device = None
    precision: Precision = None
    workers: Workers = None
    store: Store = None
    logs: Logs = ""
    train_teacher: TrainTeacher = False

    def __post_init__(self) -> None:
        """Check that options do not contradict each other.

        Raises:
            ValueError: Two options contradict each other, or one is malformed.
        """
        if self.controls not in CONTROLS:
            raise ValueError(
                f"unknown controls={self.controls!r}; known: {', '.join(CONTROLS)}"
            )
        if not self.is_timed:
            return
        if self.minutes is not None and self.plan is not None:
            raise ValueError("minutes and a plan contradict each other: give one")
        name = "minutes" if self.plan is None else "plan"
        self.seconds()
        for counted in COUNTED:
            value, usual = getattr(self, counted), type(self).__dataclass_fields__
            if value != usual[counted].default and (counted, value) != ZERO:
                raise ValueError(
                    f"{name} and {counted}={value} both set how long the run is; give "
                    f"one of them"
                )
        if self.controls == "all":
            raise ValueError(
                f"controls='all' needs a random search as long as the search, for "
                f"which {name} leaves no time; accepted are 'quick' and 'none'"
            )

    def constraints(self) -> dict[str, float]:
        """Upper limit of each resource by name, and the minimum accuracy.

        Raises:
            ValueError: A limit is malformed.
        """
        given = {
            resource: value
            for option, resource in LIMITS.items()
            if (value := getattr(self, option)) is not None
        }
        for text in self.limits.split(",") if self.limits else ():
            name, equals, value = text.rpartition("=")
            name = name.strip()
            if not equals:
                raise ValueError(f"a limit must be name=value, got {text!r}")
            if name in given:
                raise ValueError(
                    f"two limits on {name}: {given[name]} and {value}; give one"
                )
            given[name] = value
        return {name: read_quantity(name, value) for name, value in given.items()}

    @property
    def is_timed(self) -> bool:
        """Whether a time limit or a plan sets the numbers of updates and epochs."""
        return self.minutes is not None or self.plan is not None

    def seconds(self) -> float | None:
        """Time for the run, in seconds; None if no time is given."""
        return None if self.minutes is None else read_minutes(self.minutes)

    def load_teacher(self, device: torch.device | None = None) -> Teacher:
        """The teacher that the options name; trained on ``device`` if necessary."""
        return named_teacher(
            self.teacher,
            self.task,
            weights=self.weights,
            mean=self.mean,
            std=self.std,
            device=device,
            precision=self.precision,
        )

    def open_store(self) -> ScoreStore | None:
        """The store of scores that the options name; by default the cache's."""
        from n2n_gym.evaluators.loading import load_store

        return load_store(True if self.store is None else self.store)

    def to_toml(self) -> str:
        """The options as TOML for ``--config``, without those that are None."""
        values = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
            if value is not None
        }
        return tomli_w.dumps(values)

    @classmethod
    def read(cls, path: Path) -> Options:
        """The options in a file.

        Raises:
            ValueError: The file is not TOML, or has an unknown option.
        """
        values = read_toml(path, [field.name for field in fields(cls)])
        if isinstance(values.get("controls"), bool):  # as earlier versions wrote it
            values["controls"] = "all" if values["controls"] else "none"
        for name in ("output", "init_policy", "plan"):
            if name in values:
                values[name] = Path(values[name])
        return cls(**values)


def read_toml(path: Path, known: Sequence[str]) -> dict[str, Any]:
    """The options in a TOML file, by name.

    Dashes in names become underscores. Lists become text, separated by commas.

    Args:
        known: Names of all options.

    Raises:
        ValueError: The file is missing or not TOML, or has an unknown option.
    """
    if not path.is_file():
        raise ValueError(f"there is no options file {path}")
    try:
        values = tomllib.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    values = {
        name.replace("-", "_"): ",".join(map(str, v)) if isinstance(v, list) else v
        for name, v in values.items()
    }
    for name in values.keys() - set(known):
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"{path}: unknown option {name!r}; {hint}")
    return values
