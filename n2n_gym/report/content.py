"""The content of a run's folder, for the report."""

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
        number: Number of the episode within its search, from 1.
        best: Highest reward so far in the student's search.
        is_within: Whether the student kept the run's limits on resources in the search.
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
    """The content of a finished run's folder."""

    folder: Path
    options: Options
    about: dict[str, Any]
    summary: dict[str, Any]
    teacher: Architecture
    student: Architecture
    trials: list[Trial]

    @classmethod
    def read(cls, folder: Path) -> Found:
        """The content of a folder.

        Raises:
            ValueError: There is no finished run in it.
        """
        if not is_finished(folder):
            raise ValueError(f"{folder} holds no finished run: there is no {SUMMARY}")
        return cls.of(folder, read_summary(folder))

    @classmethod
    def of(cls, folder: Path, summary: dict[str, Any]) -> Found:
        """The content of a run's folder, with this summary instead of the folder's.

        Raises:
            ValueError: The run has another format.
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
        """The run's limited resources."""
        return _limited_resources(self.summary)

    @cached_property
    def best(self) -> list[Trial]:
        """Distinct students within the limits that have the highest rewards."""
        by_student: dict[str, Trial] = {}
        within = (trial for trial in self.trials if trial.is_within)
        for trial in sorted(within, key=lambda trial: -trial.reward):
            by_student.setdefault(trial.fingerprint, trial)
        return list(by_student.values())[:BEST]

    @cached_property
    def front(self) -> list[Trial]:
        """The Pareto front of parameters and accuracy, smallest student first."""
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
        """A sentence about images without labels; empty if all images have labels."""
        return say_unlabelled(self.summary)

    @property
    def test_figure(self) -> str:
        """Name of the result on test images: "test accuracy" or "test agreement"."""
        return (
            "test agreement" if "test" in _unlabelled(self.summary) else "test accuracy"
        )

    @property
    def times_smaller(self) -> float:
        return self.teacher.num_params / self.student.num_params


def falls_short(summary: Mapping[str, Any]) -> bool:
    """Whether a run's student is known to be less accurate than its teacher.

    False for a run with limits, because the limits can force a lower accuracy. For a
    run of an earlier version, the student must be less accurate by ``SUCCESS_MARGIN``.
    """
    if summary["limits"]:
        return False
    student, teacher = (summary[name]["accuracy"] for name in ("student", "teacher"))
    return bool(summary.get("falls_short", teacher - student > SUCCESS_MARGIN))


def say_unlabelled(summary: Mapping[str, Any]) -> str:
    """A sentence about a run's images without labels; empty if all have labels."""
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
    """Number of images without labels, by split; empty for older summaries."""
    return dict(summary.get("unlabelled", {}))


def _limited_resources(summary: Mapping[str, Any]) -> list[str]:
    """The resources that a run limits."""
    return [row["name"] for row in summary["limits"] if row["name"] != ACCURACY]


def _trials(path: Path, names: Sequence[str]) -> list[Trial]:
    """The students with a score, in the order of the search.

    Args:
        path: The run's history.
        names: Names of the run's limited resources.
    """
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
                    # Removal may move toward limits without keeping them.
                    all(line.get(f"excess_{name}", 1) <= 0 for name in names),
                )
            )
    return found
