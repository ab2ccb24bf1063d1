"""The one seam between an environment and torch: students go in, scores come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from n2n_gym.networks.architecture import Architecture
from n2n_gym.rewards import Failure, Score
from n2n_gym.teachers.teacher import Teacher


class Evaluator(Protocol):
    """Scores students, each one by itself: never by what else is in the batch."""

    def __call__(
        self, students: Sequence[Architecture], teacher: Teacher
    ) -> list[Score | Failure]:
        """One result a student, in their order; raises for none of them."""

    def score_teacher(self, teacher: Teacher) -> Score:
        """What its students' scores are compared with."""


class SizeEvaluator:
    """Scores by size alone: every student is taken to be as accurate as its teacher.

    It is exact, needs no trained teacher and costs nothing: for tests of environments
    and agents.
    """

    def __call__(
        self, students: Sequence[Architecture], teacher: Teacher
    ) -> list[Score | Failure]:
        return [Score(1.0, s.num_params, s.num_macs) for s in students]

    def score_teacher(self, teacher: Teacher) -> Score:
        whole = teacher.architecture
        return Score(1.0, whole.num_params, whole.num_macs)


def evaluate(
    students: Sequence[Architecture], teacher: Teacher, evaluator: Evaluator
) -> list[Score | Failure]:
    """Each student's result: equal ones have one, a failure may get a second chance."""
    distinct = {student.fingerprint: student for student in students}

    def ask(fingerprints: Sequence[str]) -> dict[str, Score | Failure]:
        found = evaluator([distinct[key] for key in fingerprints], teacher)
        return dict(zip(fingerprints, found, strict=True))

    results = ask(list(distinct))
    lost: list[str] = []
    too_large: list[str] = []
    for key, result in results.items():
        if isinstance(result, Failure) and result.retryable:
            (too_large if result.needs_memory else lost).append(key)
    # Where several share a device, one that is alone may find the memory it needs.
    for again in (lost, *([key] for key in too_large)):
        if again:
            results |= ask(again)
    return [results[student.fingerprint] for student in students]
