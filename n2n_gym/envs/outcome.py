"""The end of an episode: the student's reward, and the entries of the last info."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.limits.constraints import ACCURACY, Limit, penalised
from n2n_gym.networks.architecture import Architecture
from n2n_gym.resources import Meter, ResourceError
from n2n_gym.rewards import DEGENERATE, Failure, Reward, Score, objectives
from n2n_gym.teachers.teacher import Teacher

logger = logging.getLogger(__name__)

SUCCESS_MARGIN: Final = 0.01  # accuracy that a successful student may lose


class Worth(NamedTuple):
    """The settings that turn a student's score into a reward.

    Attributes:
        epsilon: A student that breaks a limit gets epsilon (R + 1) - 1 instead of R.
        objectives: Names of the entries of ``info["reward_vector"]``.
    """

    teacher: Teacher
    evaluator: Evaluator
    reward: Reward
    meter: Meter
    limits: Sequence[Limit]
    epsilon: float
    objectives: tuple[str, ...]


def describe_student(teacher: Teacher, student: Architecture) -> dict[str, Any]:
    """The info's entries that describe a student and need no score."""
    return {
        "num_params": student.num_params,
        "num_macs": student.num_macs,
        "compression": 1 - student.num_params / teacher.architecture.num_params,
        "fingerprint": student.fingerprint,
        "student": student.to_json(),
    }


def failed(reason: str) -> dict[str, Any]:
    """The info's entries for a student without a score."""
    return {"error": reason, "cost": 0.0, "cost_once": 0.0, "is_success": False}


def conclude(
    worth: Worth, student: Architecture, result: Score | Failure
) -> tuple[float, dict[str, Any]]:
    """The reward of a finished student, and the last info's entries for it.

    Raises:
        ValueError: The teacher's accuracy is 0, or the reward is not a finite number.
    """
    teacher, meter = worth.teacher, worth.meter
    info = describe_student(teacher, student)
    if isinstance(result, Failure):
        return DEGENERATE, info | failed(result.reason)
    # If the teacher cannot be measured, the arguments are wrong, not the student.
    whole = teacher.architecture
    theirs = worth.evaluator.score_teacher(teacher)
    if theirs.accuracy == 0:
        raise ValueError(
            f"teacher {teacher.name} has a validation accuracy of 0, so no student can "
            f"be compared with it; are its classes in the order of the task's?"
        )
    theirs = theirs._replace(resources=meter(whole, whole))
    try:
        mine = result._replace(resources=meter(student, whole))
    except ResourceError as error:
        logger.warning("a student is not scored: %s", error)
        return DEGENERATE, info | failed(str(error))
    values = {**mine.resources, ACCURACY: mine.accuracy}
    excesses = {limit.name: limit.excess(values) for limit in worth.limits}
    violated = [name for name, excess in excesses.items() if excess > 0]
    reward = _as_number(worth.reward(mine, theirs))
    is_accurate = mine.accuracy >= theirs.accuracy - SUCCESS_MARGIN
    info = {
        **mine.resources,
        **info,
        "accuracy": float(mine.accuracy),
        "teacher_accuracy": float(theirs.accuracy),
        **{f"excess_{name}": excess for name, excess in excesses.items()},
        "violated": ", ".join(violated),
        "reward_vector": objectives(worth.objectives, mine, theirs),
        "cost": float(mine.cost),
        "cost_once": float(mine.cost_once),
        "is_success": is_accurate and not violated,
    }
    return penalised(reward, worth.epsilon) if violated else reward, info


def _as_number(reward: Any) -> float:
    """The value of a reward function, checked because users may write their own.

    Raises:
        ValueError: The value is not a finite number.
    """
    try:
        number = float(reward)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a reward must be a number, got {reward!r}") from error
    if not math.isfinite(number):
        raise ValueError(f"a reward must be finite, got {number}")
    return number
