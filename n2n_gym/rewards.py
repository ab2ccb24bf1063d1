"""What a finished student is worth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from n2n_gym.common.plugins import check_call, lookup

DEGENERATE: Final = -1.0  # the reward of what cannot be scored


class Score(NamedTuple):
    """What was measured of a student, or of the teacher.

    Attributes:
        accuracy: On the validation split, in [0, 1].
        num_params: Trainable parameters.
        num_macs: Multiply-accumulates for one image.
        cost: What finding it out costs, in nominal student-epochs: passes over the
            training split, whether or not the score was known already.
        cost_once: What is spent once for all students of the teacher, likewise.
        resources: What was measured of it beside the accuracy, by name; filled in
            for the reward.
    """

    accuracy: float
    num_params: int
    num_macs: int
    cost: float = 0.0
    cost_once: float = 0.0
    resources: Mapping[str, float] = {}

    def to_dict(self) -> dict[str, float]:
        """What was found out of it, but for the resources."""
        return {n: v for n, v in self._asdict().items() if n != "resources"}


class Failure(NamedTuple):
    """Why a student has no score."""

    reason: str
    retryable: bool  # whether the same student may get one the next time
    needs_memory: bool = False  # so that it had better be alone then


class Reward(Protocol):
    """A student's worth, from its score and its teacher's.

    One that asks for more than parameters and MACs names it in an attribute
    ``resources``, and finds it in the scores' ``resources``.
    """

    def __call__(self, student: Score, teacher: Score) -> float: ...


def needed(reward: Reward) -> tuple[str, ...]:
    """Names of the resources that a reward asks for."""
    return tuple(getattr(reward, "resources", ()))


def compression(student: Score, teacher: Score) -> float:
    """C = 1 - params_student / params_teacher (N2N learning)."""
    return 1 - student.num_params / teacher.num_params


def n2n(student: Score, teacher: Score) -> float:
    """R = C(2 - C) * accuracy_student / accuracy_teacher (N2N learning)."""
    c = compression(student, teacher)
    return c * (2 - c) * student.accuracy / teacher.accuracy


def accuracy(student: Score, teacher: Score) -> float:
    """R = accuracy_student / accuracy_teacher: for a search within limits."""
    return student.accuracy / teacher.accuracy


def log_size(student: Score, teacher: Score) -> float:
    """R = log10(params_teacher / params_student) * accuracy_student / accuracy_teacher.

    It goes on where the paper's reward ends: C(2 - C) is 0.99 at ten times smaller and
    1 at the most, this is 1 at ten times, 2 at a hundred.
    """
    times = teacher.num_params / student.num_params
    return math.log10(times) * student.accuracy / teacher.accuracy


@dataclass(frozen=True)
class Saving:
    """The paper's reward with any resource in the parameters' place.

    R = S(2 - S) * accuracy_student / accuracy_teacher, where S is the share of the
    teacher's latency, say, that the student saves. A student that takes more than the
    teacher is worth less than nothing, but not less than a failed one, -1.
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
    """The paper's reward, for a search within limits: no more saving than they ask for.

    R = S(2 - S) * accuracy_student / accuracy_teacher, where S is the share of the way
    that the student has gone from what the teacher takes to the limit, 1 at the most;
    of several limits, that of which least. So within the limits accuracy is all. What
    takes more than the teacher is worth less than nothing, but not less than a failed
    student, -1.

    Attributes:
        bounds: The most of each resource, by name.
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
    """R = a weighted sum of the accuracy against the teacher's and of savings.

    Attributes:
        weights: Of "accuracy" and of resources, by name:
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
    """The share of what the teacher takes that the student does not, at most 1.

    0 where the teacher takes nothing: there is nothing to save.
    """
    if teacher.resources[resource] == 0:
        return 0.0
    return 1 - student.resources[resource] / teacher.resources[resource]


def objectives(
    names: Iterable[str], student: Score, teacher: Score
) -> tuple[float, ...]:
    """What is to be large: accuracy against the teacher's, and savings."""
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
    """A reward by its name, from "module:attribute", or as it is given.

    Raises:
        ValueError: There is no such reward, or it is no function of two scores.
    """
    found: Reward = (
        lookup("reward", reward, REWARDS) if isinstance(reward, str) else reward
    )
    check_call("reward", reward, found, "student's", "teacher's")
    return found
