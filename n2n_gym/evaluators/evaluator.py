"""Evaluators turn students into scores. Environments use torch only through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from n2n_gym.networks.architecture import Architecture
from n2n_gym.rewards import Failure, Score
from n2n_gym.teachers.teacher import Teacher


class Evaluator(Protocol):
    """Scores students. A score never depends on other students in the call."""

    def __call__(
        self, students: Sequence[Architecture], teacher: Teacher
    ) -> list[Score | Failure]:
        """One result per student, in the same order; failures are not raised."""

    def score_teacher(self, teacher: Teacher) -> Score:
        """The score of the teacher, with which the scores of students are compared."""


class SizeEvaluator:
    """Scores students only by size: the accuracy of students and teacher is set to 1.

    Its scores have exact sizes, cost nothing and need no trained teacher. It is meant
    for tests of environments and agents.
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
    """Score each distinct student once, and retry each retryable failure once.

    Students that ran out of memory are retried one at a time.

    Returns:
        One result per student, in the order of ``students``.
    """
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
    # A student that shared a device may have enough memory when it runs alone.
    for again in (lost, *([key] for key in too_large)):
        if again:
            results |= ask(again)
    return [results[student.fingerprint] for student in students]
