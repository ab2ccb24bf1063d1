"""Rewards: functions of the student's and the teacher's score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from n2n_gym.common.plugins import check_call, lookup

DEGENERATE: Final = -1.0  # the reward of a student that cannot be scored


class Score(NamedTuple):
    """The measured properties of a student, or of the teacher.

    Attributes:
        accuracy: Accuracy on the validation split, in [0, 1].
        num_params: Number of trainable parameters.
        num_macs: Multiply-accumulates for one image.
        cost: Nominal student-epochs (passes over the training split) that this score
            costs, even if the store already had the score.
        cost_once: Nominal student-epochs spent once for all students of the teacher.
        resources: Resources by name. Evaluators leave this mapping empty; environments
            fill it in before they compute the reward.
    """

    accuracy: float
    num_params: int
    num_macs: int
    cost: float = 0.0
    cost_once: float = 0.0
    resources: Mapping[str, float] = {}

    def to_dict(self) -> dict[str, float]:
        """All values except the resources."""
        return {n: v for n, v in self._asdict().items() if n != "resources"}


class Failure(NamedTuple):
    """The reason why a student has no score."""

    reason: str
    retryable: bool  # whether another try may succeed
    needs_memory: bool = False  # whether to retry it with no other student


class Reward(Protocol):
    """The reward of a student: a function of its score and the teacher's.

    A reward that needs resources other than parameters and MACs names them in its
    attribute ``resources``. The ``resources`` of both scores then have these amounts.
    """

    def __call__(self, student: Score, teacher: Score) -> float: ...


def needed(reward: Reward) -> tuple[str, ...]:
    """Names of the resources that a reward needs."""
    return tuple(getattr(reward, "resources", ()))


def compression(student: Score, teacher: Score) -> float:
    """C = 1 - params_student / params_teacher (N2N learning)."""
    return 1 - student.num_params / teacher.num_params


def n2n(student: Score, teacher: Score) -> float:
    """R = C(2 - C) * accuracy_student / accuracy_teacher (N2N learning)."""
    c = compression(student, teacher)
    return c * (2 - c) * student.accuracy / teacher.accuracy


def accuracy(student: Score, teacher: Score) -> float:
    """R = accuracy_student / accuracy_teacher, for a search within limits."""
    return student.accuracy / teacher.accuracy


def log_size(student: Score, teacher: Score) -> float:
    """R = log10(params_teacher / params_student) * accuracy_student / accuracy_teacher.

    Unlike the paper's reward it does not saturate. For a student ten times smaller than
    the teacher, C(2 - C) is 0.99 and the logarithm is 1. For one a hundred times
    smaller, C(2 - C) is 0.9999 and the logarithm is 2.
    """
    times = teacher.num_params / student.num_params
    return math.log10(times) * student.accuracy / teacher.accuracy


@dataclass(frozen=True)
class Saving:
    """The paper's reward with another resource in place of the parameters.

    R = S(2 - S) * accuracy_student / accuracy_teacher. S is the fraction of the
    teacher's resource, for example latency, that the student saves. If the student
    needs more than the teacher, R is negative, but at least -1, the reward of a
    failure.
    """

    resource: str

    @property
    def resources(self) -> tuple[str, ...]:
        return (self.resource,)

    def __call__(self, student: Score, teacher: Score) -> float:
        s = saving(self.resource, student, teacher)
        return max(DEGENERATE, s * (2 - s) * student.accuracy / teacher.accuracy)


@dataclass(frozen=True)
class Toward:
    """The paper's reward within limits: savings beyond a limit do not count.

    R = S(2 - S) * accuracy_student / accuracy_teacher. A resource has to be reduced
    from the teacher's amount to the limit. S is the fraction of this reduction that the
    student achieves, at most 1. With several limits, the smallest S counts; limits that
    the teacher keeps do not count. So among students within all limits, only accuracy
    matters. If the student needs more than the teacher, R is negative, but at least -1,
    the reward of a failure.

    Attributes:
        bounds: Upper limit of each resource, by name.
    """

    bounds: Mapping[str, float]

    @property
    def resources(self) -> tuple[str, ...]:
        return tuple(self.bounds)

    def __call__(self, student: Score, teacher: Score) -> float:
        s = 1.0
        for name, bound in self.bounds.items():
            whole = teacher.resources[name]
            if whole > bound:
                s = min(s, (whole - student.resources[name]) / (whole - bound))
        return max(DEGENERATE, s * (2 - s) * accuracy(student, teacher))


@dataclass(frozen=True)
class Weighted:
    """R = a weighted sum of the relative accuracy and of savings.

    Attributes:
        weights: Weight of "accuracy" and of each resource, by name:
            ``{"accuracy": 1, "latency_ms": 0.3, "onnx_bytes": 0.1}``.
    """

    weights: Mapping[str, float]

    @property
    def resources(self) -> tuple[str, ...]:
        return tuple(name for name in self.weights if name != "accuracy")

    def __call__(self, student: Score, teacher: Score) -> float:
        values = objectives(self.weights, student, teacher)
        return sum(w * v for w, v in zip(self.weights.values(), values, strict=True))


def saving(resource: str, student: Score, teacher: Score) -> float:
    """The fraction of the teacher's resource that the student saves, at most 1.

    It is 0 if the teacher's amount is 0.
    """
    if teacher.resources[resource] == 0:
        return 0.0
    return 1 - student.resources[resource] / teacher.resources[resource]


def objectives(
    names: Iterable[str], student: Score, teacher: Score
) -> tuple[float, ...]:
    """The objectives to maximise: relative accuracy and savings, in the names' order.

    Args:
        names: "accuracy", and the names of resources.
    """
    return tuple(
        accuracy(student, teacher)
        if name == "accuracy"
        else saving(name, student, teacher)
        for name in names
    )


REWARDS: Final[Mapping[str, Reward]] = {
    "n2n": n2n,
    "accuracy": accuracy,
    "log_size": log_size,
    "latency": Saving("latency_ms"),
}


def load_reward(reward: str | Reward) -> Reward:
    """A reward, given by its name, as "module:attribute", or as a function.

    Raises:
        ValueError: There is no such reward, or it is not a function of two scores.
    """
    found: Reward = (
        lookup("reward", reward, REWARDS) if isinstance(reward, str) else reward
    )
    check_call("reward", reward, found, "student's", "teacher's")
    return found
