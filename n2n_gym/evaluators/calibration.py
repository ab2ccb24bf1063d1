"""What a cheap rung's score says of full distillation's: a monotone map between."""

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

from n2n_gym.evaluators.elastic import random_student
from n2n_gym.evaluators.evaluator import evaluate
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import removals
from n2n_gym.rewards import Failure, Score
from n2n_gym.scores import Key, canonical
from n2n_gym.teachers.teacher import Teacher

logger = logging.getLogger(__name__)

FORMAT: Final = 2  # of the file
FEWEST: Final = 5  # students that a map can be fitted to
DRAWS: Final = 50  # for each student wanted
NEAREST: Final = 1e-3  # to 0 or 1 that an accuracy is taken to be


@dataclass(frozen=True)
class AccuracyMap:
    """What a cheap score says of the accuracy after full distillation.

    The logit of that is linear in the cheap accuracy's logit and in the logarithms of
    the sizes: a cheap rung underrates small students more than large ones, so that its
    accuracy alone would not do. The map is monotone: more of any of the three never
    lowers it.

    Attributes:
        intercept: Where all three are 0.
        accuracy, log_params, log_macs: The weights, at least 0; natural logarithms.
    """

    intercept: float
    accuracy: float
    log_params: float
    log_macs: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, astuple(self))) or min(self._weights) < 0:
            raise ValueError(f"weights are finite and at least 0, got {self!r}")

    def __call__(self, score: Score) -> float:
        """The accuracy, in (0, 1)."""
        linear = self.intercept + np.dot(self._weights, _features(score))
        return float(expit(linear))

    def __str__(self) -> str:
        return (
            f"{self.intercept:.3f} + {self.accuracy:.3f} logit(accuracy) + "
            f"{self.log_params:.3f} log(parameters) + {self.log_macs:.3f} log(MACs)"
        )

    @classmethod
    def fit(cls, cheap: Sequence[Score], full: Sequence[float]) -> AccuracyMap:
        """By least squares under the constraint that no weight is negative."""
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
    """A map from a rung's scores to full distillation's accuracies.

    Attributes:
        rung, teacher, task, settings, version: What it holds for, as in a score's key.
        accuracy_map: The map.
        num_students: Distilled to fit it.
        cost: Nominal student-epochs that fitting it took.
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
        """SHA-256 of all of it."""
        return hashlib.sha256(canonical(asdict(self)).encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """The calibration in a file.

        Raises:
            ValueError: There is none.
        """
        try:
            content = json.loads(Path(path).read_text())
            if content.get("format") != FORMAT:
                raise ValueError("it is in another format; make it anew")
            fitted = AccuracyMap(**content["accuracy_map"])
            found = cls(**content | {"accuracy_map": fitted})
            if not 0 <= float(found.cost) < float("inf"):
                raise ValueError(f"a cost is at least 0, got {found.cost}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no calibration: {error}") from error
        return found


class CalibratedEvaluator:
    """A cheap rung whose accuracies are mapped to what full distillation would give."""

    def __init__(
        self, evaluator: DistillationEvaluator, calibration: Calibration
    ) -> None:
        self.evaluator = evaluator
        self.calibration = calibration

    def key(self, student: Architecture, teacher: Teacher) -> Key:
        """All that the student's score depends on, the map included.

        Raises:
            ValueError: The map is of another teacher, task or settings.
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
        """End the workers and close the store; a later use takes them again."""
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
    """Of two settings, the entries in which they differ."""
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
    """Fit the map to a random sample of the teacher's students.

    Raises:
        ValueError: Fewer than five students were asked for, or had both scores.
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
            once = high.cost_once  # the cheap rung's goes with each of its scores
    if len(lows) < FEWEST:
        raise ValueError(f"only {len(lows)} students could be scored")
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
