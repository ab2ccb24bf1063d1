"""What a run is asked for, and how that is written down."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import tomli_w
import torch

from n2n_gym.common.quantities import read_minutes, read_quantity
from n2n_gym.evaluators.loading import load_store
from n2n_gym.scores import ScoreStore
from n2n_gym.tasks.arrays import Statistics
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONTROLS: Final = ("none", "quick", "all")
# Options that a plan decides; but shrinkage may be left out.
COUNTED: Final = ("removal_updates", "shrinkage_updates", "final_epochs")
ZERO: Final = ("shrinkage_updates", 0)

# Options that are a limit, and of what.
LIMITS: Final[Mapping[str, str]] = {
    "max_params": "num_params",
    "max_macs": "num_macs",
    "max_size": "onnx_bytes",
    "max_latency": "latency_ms",
    "min_accuracy": "accuracy",
}


@dataclass(frozen=True)
class Options:
    """What ``n2n-gym compress`` is asked for; each is an option of the command.

    Attributes:
        shrinkage_updates: Of stage two's policy; with 0, removal is all that is done.
        evaluator: The rung that the search scores students with: "short" by default,
            "quick" where minutes are given.
        init_policy: The folder of an earlier run, whose policies this one starts from;
            they may have been trained on another teacher.
        frozen: Whether those play as they are.
        keep: Names of layers that stay as they are, or patterns, with commas between:
            "layer4.*,conv1".
        controls: What the student is compared with: "quick": uniform width and
            magnitude; "all": random search too, which takes as long as the search;
            "none".
        minutes: That all of the run may take, "5", "1h30": instead of numbers of
            updates and epochs.
        plan: The ``plan.json`` of another run, to score as many students for as many
            epochs as that came to.
        logs: Where the training's progress goes, with commas between:
            "csv,json,tensorboard,wandb,mlflow".
        max_params, max_macs, max_size, max_latency: The most that a student may take,
            with units: "1M", "2ms". The size is that of its ONNX file, the latency
            that of one image in ONNX Runtime on one thread.
        min_accuracy: The least on validation, "0.95" or "95%".
        limits: Of any other resources: "peak_bytes=64KB,module:function=3".
        train_teacher: Does nothing; it is accepted because it used to be needed.
        precision: In which students are trained, and the teacher if it has to be:
            "float32" or "bfloat16"; by default the one that is faster here.
        workers: Processes that students are distilled in; by default as many as there
            are cores, and students in a batch.
        store: Path or URL of the scores' database; in the cache folder by default.
    """

    teacher: str = "resnet18"
    task: str = "digits"
    output: Path = Path("runs/demo")
    removal_updates: int = 10
    shrinkage_updates: int = 40
    final_epochs: int = 60
    evaluator: str | None = None
    init_policy: Path | None = None
    frozen: bool = False
    logs: str = ""
    workers: int | None = None
    precision: str | None = None
    store: str | None = None
    weights: str | None = None
    mean: str | None = None
    std: str | None = None
    granularity: str = "unit"
    keep: str | None = None
    controls: str = "quick"
    minutes: str | None = None
    plan: Path | None = None
    seed: int = 0
    device: str | None = None
    train_teacher: bool = False
    max_params: str | None = None
    max_macs: str | None = None
    max_size: str | None = None
    max_latency: str | None = None
    min_accuracy: str | None = None
    limits: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where options contradict each other."""
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
                    f"{name} says how much is done, and so does {counted}={value}: "
                    f"give one"
                )
        if self.controls == "all":
            raise ValueError(
                f"{name} leaves no time for a random search as long as the search: "
                f"controls is 'quick' or 'none' then, got 'all'"
            )

    def constraints(self) -> dict[str, float]:
        """The most of each resource by name, and the least accuracy.

        Raises:
            ValueError: A limit is none.
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
                raise ValueError(f"a limit is name=value, got {text!r}")
            if name in given:
                raise ValueError(
                    f"two limits on {name}: {given[name]} and {value}; give one"
                )
            given[name] = value
        return {name: read_quantity(name, value) for name, value in given.items()}

    @property
    def is_timed(self) -> bool:
        """Whether a plan says how much is done, not the options."""
        return self.minutes is not None or self.plan is not None

    def seconds(self) -> float | None:
        """That the run may take; None where it has no clock."""
        return None if self.minutes is None else read_minutes(self.minutes)

    def load_teacher(self, device: torch.device | None = None) -> Teacher:
        """The one asked for, to be trained on this device if it has to be."""
        return load_teacher(
            self.teacher,
            self.task,
            weights=self.weights,
            normalisation=statistics(self.mean, self.std),
            device=device,
            precision=self.precision,
        )

    def open_store(self) -> ScoreStore | None:
        """Where scores are kept."""
        return load_store(True if self.store is None else self.store)

    def to_toml(self) -> str:
        """As a file for ``--config``; what is None is left out."""
        values = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
            if value is not None
        }
        return tomli_w.dumps(values)

    @classmethod
    def read(cls, path: Path) -> Options:
        """Those in a file.

        Raises:
            ValueError: It is no TOML, or says what is no option.
        """
        values = read_toml(path, [field.name for field in fields(cls)])
        if isinstance(values.get("controls"), bool):  # as earlier versions wrote it
            values["controls"] = "all" if values["controls"] else "none"
        for name in ("output", "init_policy", "plan"):
            if name in values:
                values[name] = Path(values[name])
        return cls(**values)


def statistics(mean: str | None, std: str | None) -> Statistics | None:
    """What inputs went through in training, from numbers with commas between."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ValueError("--mean and --std go together")
    try:
        means, stds = (tuple(map(float, x.split(","))) for x in (mean, std))
    except ValueError as error:
        raise ValueError(
            f"--mean and --std are numbers with commas between, got {mean!r} and "
            f"{std!r}"
        ) from error
    return means, stds


def read_toml(path: Path, known: Sequence[str]) -> dict[str, Any]:
    """Options by name, with underscores; dashes are understood, and lists.

    Raises:
        ValueError: It is no TOML, or says what is no option.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path} with options")
    try:
        values = tomllib.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    values = {
        name.replace("-", "_"): ",".join(map(str, v)) if isinstance(v, list) else v
        for name, v in values.items()
    }
    for name in values.keys() - set(known):
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"{path}: unknown option {name!r}; {hint}")
    return values
