"""The end of an episode: what a finished student is worth, and what infos say of it."""

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

SUCCESS_MARGIN: Final = 0.01  # of accuracy that a successful student may lose


class Worth(NamedTuple):
    """What a student is worth by.

    Attributes:
        epsilon: The share that is left of the reward of a student that breaks a limit.
        objectives: Names of the parts of ``info["reward_vector"]``.
    """

    teacher: Teacher
    evaluator: Evaluator
    reward: Reward
    meter: Meter
    limits: Sequence[Limit]
    epsilon: float
    objectives: tuple[str, ...]


def describe_student(teacher: Teacher, student: Architecture) -> dict[str, Any]:
    """What infos say of a student that was not scored."""
    return {
        "num_params": student.num_params,
        "num_macs": student.num_macs,
        "compression": 1 - student.num_params / teacher.architecture.num_params,
        "fingerprint": student.fingerprint,
        "student": student.to_json(),
    }


def failed(reason: str) -> dict[str, Any]:
    """What infos say of a student that has no score."""
    return {"error": reason, "cost": 0.0, "cost_once": 0.0, "is_success": False}


def conclude(
    worth: Worth, student: Architecture, result: Score | Failure
) -> tuple[float, dict[str, Any]]:
    """The reward of a finished student, and what the last info says of it.

    Raises:
        ValueError: The teacher is never right, or the reward is no finite number.
    """
    teacher, meter = worth.teacher, worth.meter
    info = describe_student(teacher, student)
    if isinstance(result, Failure):
        return DEGENERATE, info | failed(result.reason)
    # What cannot be measured of the teacher is an error of whoever asks for it.
    whole = teacher.architecture
    theirs = worth.evaluator.score_teacher(teacher)
    if theirs.accuracy == 0:
        raise ValueError(
            f"teacher {teacher.name} is right on none of the validation images, so no "
            f"student can be compared with it; are its classes in the order of the "
            f"task's?"
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
    """What a reward gave, which may be the user's; ValueError unless it is finite."""
    try:
        number = float(reward)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a reward must be a number, got {reward!r}") from error
    if not math.isfinite(number):
        raise ValueError(f"a reward must be finite, got {number}")
    return number
