"""What a finished student is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol


class Score(NamedTuple):
    """What was measured of a student, or of the teacher.

    Attributes:
        accuracy: On the validation split, in [0, 1].
        num_params: Trainable parameters.
        num_macs: Multiply-accumulates for one image.
        cost: What finding it out costs, in nominal student-epochs: passes over the
            training split, whether or not the score was known already.
        cost_once: What is spent once for all students of the teacher, likewise.
    """

    accuracy: float
    num_params: int
    num_macs: int
    cost: float = 0.0
    cost_once: float = 0.0


class Failure(NamedTuple):
    """Why a student has no score."""

    reason: str
    retryable: bool  # whether the same student may get one the next time
    needs_memory: bool = False  # so that it had better be alone then


class Reward(Protocol):
    """A student's worth, from its score and its teacher's."""

    def __call__(self, student: Score, teacher: Score) -> float: ...


def compression(student: Score, teacher: Score) -> float:
    """C = 1 - params_student / params_teacher (N2N learning)."""
    return 1 - student.num_params / teacher.num_params


def n2n(student: Score, teacher: Score) -> float:
    """R = C(2 - C) * accuracy_student / accuracy_teacher (N2N learning)."""
    c = compression(student, teacher)
    return c * (2 - c) * student.accuracy / teacher.accuracy


REWARDS: Final[Mapping[str, Reward]] = {"n2n": n2n}
