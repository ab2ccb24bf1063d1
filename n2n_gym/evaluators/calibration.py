"""Calibration: predicts the accuracy after full distillation from a cheap score."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from scipy.special import expit, logit

from n2n_gym.evaluators.evaluator import evaluate
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import removals
from n2n_gym.networks.random_students import random_student
from n2n_gym.rewards import Failure, Score
from n2n_gym.scores import Key, canonical
from n2n_gym.teachers.teacher import Teacher

logger = logging.getLogger(__name__)

FORMAT: Final = 2  # version of the file
FEWEST: Final = 5  # least number of students to fit a map
DRAWS: Final = 50  # draws per wanted student
NEAREST: Final = 1e-3  # accuracies are clipped to this distance from 0 and 1


@dataclass(frozen=True)
class AccuracyMap:
    """Predicts the accuracy after full distillation from a cheap evaluator's score.

    The logit of the prediction is a linear function of the logit of the score's
    accuracy and of the logarithms of its parameters and MACs. The map uses these sizes
    because a cheap evaluator underrates small students more than large ones. The map is
    monotone: the prediction never falls when the accuracy, the parameters or the MACs
    grow.

    Attributes:
        intercept: Constant term of the linear function.
        accuracy, log_params, log_macs: Weights of the logit of the accuracy and of the
            natural logarithms of parameters and MACs; each at least 0.
    """

    intercept: float
    accuracy: float
    log_params: float
    log_macs: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, astuple(self))) or min(self._weights) < 0:
            raise ValueError(f"weights must be finite and at least 0, got {self!r}")

    def __call__(self, score: Score) -> float:
        """The predicted accuracy, in (0, 1)."""
        linear = self.intercept + np.dot(self._weights, _features(score))
        return float(expit(linear))

    def __str__(self) -> str:
        return (
            f"{self.intercept:.3f} + {self.accuracy:.3f} logit(accuracy) + "
            f"{self.log_params:.3f} log(parameters) + {self.log_macs:.3f} log(MACs)"
        )

    @classmethod
    def fit(cls, cheap: Sequence[Score], full: Sequence[float]) -> AccuracyMap:
        """Fit a map by least squares, with weights of at least 0.

        Args:
            cheap: Cheap scores of students.
            full: Accuracies of the same students after full distillation, in the same
                order.
        """
        from sklearn.linear_model import LinearRegression  # workers do without it

        model = LinearRegression(positive=True)
        model.fit([_features(score) for score in cheap], [_logit(y) for y in full])
        return cls(float(model.intercept_), *map(float, model.coef_))

    @property
    def _weights(self) -> tuple[float, float, float]:
        return self.accuracy, self.log_params, self.log_macs


def _features(score: Score) -> tuple[float, float, float]:
    return _logit(score.accuracy), math.log(score.num_params), math.log(score.num_macs)


def _logit(accuracy: float) -> float:
    return float(logit(min(max(accuracy, NEAREST), 1 - NEAREST)))


@dataclass(frozen=True)
class Calibration:
    """A map from cheap scores to accuracies after full distillation.

    Attributes:
        rung, teacher, task, settings, version: Values of these fields of `Key`. The map
            is valid only for cheap scores whose keys have the same values.
        accuracy_map: The fitted map.
        num_students: Number of students whose scores the map was fitted to.
        cost: Cost of all scores that the map was fitted to, in nominal student-epochs.
    """

    rung: str
    teacher: str
    task: str
    settings: str
    version: int
    accuracy_map: AccuracyMap
    num_students: int
    cost: float
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """SHA-256 of all fields of the calibration, in hexadecimal digits."""
        return hashlib.sha256(canonical(asdict(self)).encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """Read a calibration from its JSON file.

        Raises:
            ValueError: The file cannot be read, or has no calibration of this format.
        """
        try:
            content = json.loads(Path(path).read_text())
            if content.get("format") != FORMAT:
                raise ValueError(
                    f"its format is {content.get('format')!r}, expected {FORMAT!r}; "
                    f"make it anew"
                )
            fitted = AccuracyMap(**content["accuracy_map"])
            found = cls(**content | {"accuracy_map": fitted})
            if not 0 <= float(found.cost) < float("inf"):
                raise ValueError(
                    f"a cost must be finite and at least 0, got {found.cost}"
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no calibration: {error}") from error
        return found


class CalibratedEvaluator:
    """Maps a cheap evaluator's accuracies to accuracies after full distillation.

    Args:
        evaluator: The cheap evaluator.
        calibration: Calibration that was made for this evaluator.
    """

    def __init__(
        self, evaluator: DistillationEvaluator, calibration: Calibration
    ) -> None:
        self.evaluator = evaluator
        self.calibration = calibration

    def key(self, student: Architecture, teacher: Teacher) -> Key:
        """Everything that the student's score depends on, including the map.

        Raises:
            ValueError: The map was fitted for another rung, teacher, task or version,
                or for other settings.
        """
        key = self.evaluator.key(student, teacher)
        made_for = self.calibration
        for name in ("rung", "teacher", "task", "settings", "version"):
            found, wanted = getattr(key, name), getattr(made_for, name)
            if name == "settings":
                found, wanted = _difference(found, wanted)
            if found != wanted:
                raise ValueError(
                    f"the calibration was made for {name} {wanted}, not {found}; "
                    f"make one with `n2n-gym scores calibrate`"
                )
        settings = json.loads(key.settings) | {"calibration": made_for.digest}
        return replace(key, settings=canonical(settings))

    @torch.inference_mode(False)
    def __call__(
        self, students: Sequence[Architecture], teacher: Teacher
    ) -> list[Score | Failure]:
        if students:
            self.key(students[0], teacher)  # the map fits, or this raises
        return [self._map(result) for result in self.evaluator(students, teacher)]

    def score_teacher(self, teacher: Teacher) -> Score:
        return self.evaluator.score_teacher(teacher)

    def close(self) -> None:
        """End the workers and close the store; the next use opens both again."""
        self.evaluator.close()

    def _map(self, result: Score | Failure) -> Score | Failure:
        if isinstance(result, Failure):
            return result
        return result._replace(
            accuracy=self.calibration.accuracy_map(result),
            cost_once=result.cost_once + self.calibration.cost,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> CalibratedEvaluator:
        return self


def _difference(one: str, other: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries of two JSON objects that differ: those of one, those of the other."""
    a, b = json.loads(one), json.loads(other)
    names = [name for name in sorted({*a, *b}) if a.get(name) != b.get(name)]
    return {n: a.get(n) for n in names}, {n: b.get(n) for n in names}


@torch.inference_mode(False)
def calibrate(
    teacher: Teacher,
    cheap: DistillationEvaluator,
    full: DistillationEvaluator,
    *,
    num_students: int,
    seed: int = 0,
) -> Calibration:
    """Fit a calibration to a random sample of the teacher's students.

    Args:
        cheap: Evaluator whose scores the map takes.
        full: Evaluator whose accuracies the map predicts.
        num_students: Number of students to score with both evaluators, at least 5. One
            of them is the uncut teacher. Fewer are scored if the teacher has fewer
            students.
        seed: Seed of the random sample.

    Raises:
        ValueError: ``num_students`` is below 5, or fewer than 5 students got a score
            from both evaluators.
    """
    if num_students < FEWEST:
        raise ValueError(
            f"a calibration needs at least {FEWEST} students, got {num_students}"
        )
    rng, whole = random.Random(seed), teacher.architecture
    offered = removals(whole)
    sample = {whole.fingerprint: whole}
    for _ in range(DRAWS * num_students):  # a small network has few students
        student = random_student(whole, offered, rng)
        sample[student.fingerprint] = student
        if len(sample) >= num_students:
            break
    students = list(sample.values())
    lows: list[Score] = []
    highs: list[float] = []
    cost = once = 0.0
    for low, high in zip(
        evaluate(students, teacher, cheap),
        evaluate(students, teacher, full),
        strict=True,
    ):
        for result in (low, high):
            if isinstance(result, Failure):
                logger.warning("a student is left out: %s", result.reason)
        if isinstance(low, Score) and isinstance(high, Score):
            lows.append(low)
            highs.append(high.accuracy)
            cost += low.cost + high.cost
            once = high.cost_once  # that of the cheap rung is in each cheap score
    if len(lows) < FEWEST:
        raise ValueError(
            f"a calibration needs at least {FEWEST} scored students, got {len(lows)}"
        )
    key = cheap.key(whole, teacher)
    return Calibration(
        rung=key.rung,
        teacher=key.teacher,
        task=key.task,
        settings=key.settings,
        version=key.version,
        accuracy_map=AccuracyMap.fit(lows, highs),
        num_students=len(lows),
        cost=cost + once,
    )
