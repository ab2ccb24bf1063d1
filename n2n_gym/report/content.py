"""What a run's folder says, ready to be shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from n2n_gym.envs.outcome import SUCCESS_MARGIN
from n2n_gym.limits.constraints import ACCURACY
from n2n_gym.networks.architecture import Architecture
from n2n_gym.runs.folder import (
    ABOUT,
    HISTORY,
    OPTIONS,
    STUDENT,
    SUMMARY,
    TEACHER,
    check_format,
    is_finished,
    read_summary,
)
from n2n_gym.runs.history import FINAL, read_history
from n2n_gym.runs.options import Options

BEST: Final = 10  # students in the table


@dataclass(frozen=True)
class Trial:
    """A student that a search scored.

    Attributes:
        number: Of the episode within its search, from 1.
        best: The highest reward of its search so far.
        is_within: Whether it keeps the run's limits on resources, as the search has it.
    """

    search: str
    stage: str
    number: int
    reward: float
    best: float
    accuracy: float
    num_params: int
    num_macs: int
    fingerprint: str
    is_within: bool


@dataclass(frozen=True)
class Found:
    """All that a finished run's folder says."""

    folder: Path
    options: Options
    about: dict[str, Any]
    summary: dict[str, Any]
    teacher: Architecture
    student: Architecture
    trials: list[Trial]

    @classmethod
    def read(cls, folder: Path) -> Found:
        """What is in a folder.

        Raises:
            ValueError: It holds no finished run.
        """
        if not is_finished(folder):
            raise ValueError(f"{folder} holds no finished run: there is no {SUMMARY}")
        return cls.of(folder, read_summary(folder))

    @classmethod
    def of(cls, folder: Path, summary: dict[str, Any]) -> Found:
        """What is in the folder of a run that ends with this summary.

        Raises:
            ValueError: It is of another format.
        """
        check_format(folder)

        def content(name: str) -> Any:
            return json.loads((folder / name).read_text())

        def network(name: str) -> Architecture:
            return Architecture.from_json((folder / name).read_text())

        return cls(
            folder,
            Options.read(folder / OPTIONS),
            content(ABOUT),
            summary,
            network(TEACHER),
            network(STUDENT),
            _trials(folder / HISTORY, _limited_resources(summary)),
        )

    @property
    def limited_resources(self) -> list[str]:
        """The resources that the run has limits on."""
        return _limited_resources(self.summary)

    @cached_property
    def best(self) -> list[Trial]:
        """Distinct students of the highest rewards, whichever search found them."""
        by_student: dict[str, Trial] = {}
        within = (trial for trial in self.trials if trial.is_within)
        for trial in sorted(within, key=lambda trial: -trial.reward):
            by_student.setdefault(trial.fingerprint, trial)
        return list(by_student.values())[:BEST]

    @cached_property
    def front(self) -> list[Trial]:
        """Students than which none is both smaller and as accurate, the smallest first.

        The Pareto front of parameters and accuracy.
        """
        found: list[Trial] = []
        for trial in sorted(self.trials, key=lambda t: (t.num_params, -t.accuracy)):
            if not found or trial.accuracy > found[-1].accuracy:
                found.append(trial)
        return found

    @property
    def falls_short(self) -> bool:
        return falls_short(self.summary)

    @property
    def unlabelled(self) -> str:
        """What accuracies are where images have no labels; nothing where all have."""
        return say_unlabelled(self.summary)

    @property
    def test_figure(self) -> str:
        """What the share of right answers on the test images is called."""
        return (
            "test agreement" if "test" in _unlabelled(self.summary) else "test accuracy"
        )

    @property
    def times_smaller(self) -> float:
        return self.teacher.num_params / self.student.num_params


def falls_short(summary: Mapping[str, Any]) -> bool:
    """Whether a run's student is known to be less accurate than its teacher.

    Within limits it may have to be. Earlier versions went by a margin.
    """
    if summary["limits"]:
        return False
    student, teacher = (summary[name]["accuracy"] for name in ("student", "teacher"))
    return bool(summary.get("falls_short", teacher - student > SUCCESS_MARGIN))


def say_unlabelled(summary: Mapping[str, Any]) -> str:
    """A sentence on the labels of a run's images; empty where all have them."""
    counts = _unlabelled(summary)
    if not counts:
        return ""
    if "test" not in counts:
        return (
            f"The {counts['train']:,} training images have no labels: students learned "
            f"the teacher's logits alone. Accuracy is on labelled images."
        )
    return (
        f"No image has a label: accuracy is agreement with the teacher, on "
        f"{counts['validation']:,} unlabelled validation images and {counts['test']:,} "
        f"unlabelled test images. The teacher agrees with itself on all of them."
    )


def _unlabelled(summary: Mapping[str, Any]) -> dict[str, int]:
    """Images without labels, by split; earlier versions had none."""
    return dict(summary.get("unlabelled", {}))


def _limited_resources(summary: Mapping[str, Any]) -> list[str]:
    """The resources that a run has limits on."""
    return [row["name"] for row in summary["limits"] if row["name"] != ACCURACY]


def _trials(path: Path, names: Sequence[str]) -> list[Trial]:
    """The students that have a score, in the order they were found."""
    found = []
    numbers: dict[str, int] = {}
    bests: dict[str, float] = {}
    for line in read_history(path):
        search = line["search"]
        if line["stage"] == FINAL:
            continue
        numbers[search] = numbers.get(search, 0) + 1
        bests[search] = max(bests.get(search, line["reward"]), line["reward"])
        if "error" not in line:
            found.append(
                Trial(
                    search,
                    line["stage"],
                    numbers[search],
                    line["reward"],
                    bests[search],
                    line["accuracy"],
                    line["num_params"],
                    line["num_macs"],
                    line["fingerprint"],
                    # Removal may go toward limits without keeping them.
                    all(line.get(f"excess_{name}", 1) <= 0 for name in names),
                )
            )
    return found
