"""Where students are measured: one after another here, or as other runners do it."""

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
        seed: That it is trained with.
        keep: A file for its weights, if they are wanted; not where other machines
            measure, which may not reach it.
    """

    student: Architecture
    seed: int
    keep: Path | None = None


class Result(NamedTuple):
    """What was found of the trial with this number, and where."""

    number: int
    result: Score | Failure
    seconds: float
    provenance: Provenance | None = None


@runtime_checkable
class Runner(Protocol):
    """Where students are measured."""

    def run(
        self, trials: Sequence[Trial], teacher: Teacher, settings: Settings
    ) -> Iterator[Result]:
        """The results of all trials, each as soon as it is there."""

    def close(self) -> None:
        """Give back what it holds; a later use takes it again."""


class InProcess:
    """Measures one student after another, here."""

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
        """Nothing is held."""
