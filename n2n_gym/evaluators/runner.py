"""Runners: they measure students in this process, in others or on other machines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from n2n_gym.networks.architecture import Architecture
from n2n_gym.rewards import Failure, Score
from n2n_gym.teachers.teacher import Teacher

if TYPE_CHECKING:
    from n2n_gym.evaluators.distillation import Settings
    from n2n_gym.scores import Provenance


class Trial(NamedTuple):
    """A student to measure.

    Attributes:
        seed: Seed of the student's training.
        keep: File to save the trained weights in; None saves no weights. Ray's workers
            never save them.
    """

    student: Architecture
    seed: int
    keep: Path | None = None


class Result(NamedTuple):
    """The result of one trial.

    Attributes:
        number: Position of the trial in the list given to ``run``.
        seconds: Time that the measurement took; 0 if the worker was lost.
        provenance: Kind of machine; None if the worker was lost.
    """

    number: int
    result: Score | Failure
    seconds: float
    provenance: Provenance | None = None


@runtime_checkable
class Runner(Protocol):
    """Measures students: in this process, in other processes or on other machines."""

    def run(
        self, trials: Sequence[Trial], teacher: Teacher, settings: Settings
    ) -> Iterator[Result]:
        """Yield the result of each trial as soon as the trial is finished."""

    def close(self) -> None:
        """Release processes and memory; the next ``run`` acquires them again."""


class InProcess:
    """Measures one student after another in this process."""

    def run(
        self, trials: Sequence[Trial], teacher: Teacher, settings: Settings
    ) -> Iterator[Result]:
        from n2n_gym.evaluators.distillation import measure, provenance

        here = provenance(settings.device)
        for number, trial in enumerate(trials):
            started = time.perf_counter()
            result = measure(
                trial.student, teacher, settings, seed=trial.seed, keep=trial.keep
            )
            yield Result(number, result, time.perf_counter() - started, here)

    def close(self) -> None:
        """Do nothing: this runner has no processes to end."""
