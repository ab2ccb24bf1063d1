"""What a cheap rung's accuracy says of full distillation's: a monotone map between."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression

from n2n_gym.architecture import Architecture
from n2n_gym.decisions import removals
from n2n_gym.evaluators.elastic import random_student
from n2n_gym.evaluators.evaluator import evaluate
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.rewards import Failure, Score
from n2n_gym.scores import Key, canonical
from n2n_gym.teachers import Teacher

logger = logging.getLogger(__name__)

VERSION: Final = 1
FEWEST: Final = 3  # students that a map can be fitted to
DRAWS: Final = 50  # for each student wanted


@dataclass(frozen=True)
class Calibration:
    """A monotone map from a rung's accuracy to full distillation's.

    Attributes:
        rung, teacher, task, settings: What it holds for, as in a score's key.
        cheap, full: Accuracies that it goes through, both ascending; straight between.
        num_students: Distilled to fit it.
        cost: Nominal student-epochs that fitting it took.
    """

    rung: str
    teacher: str
    task: str
    settings: str
    cheap: tuple[float, ...]
    full: tuple[float, ...]
    num_students: int
    cost: float
    version: int = VERSION

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(canonical(asdict(self)).encode()).hexdigest()

    def __call__(self, accuracy: float) -> float:
        """What full distillation would give, in [0, 1]."""
        return float(np.interp(accuracy, self.cheap, self.full))

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
            found = cls(**{**content, "cheap": (), "full": ()})
            cheap, full = (np.array(content[k], float) for k in ("cheap", "full"))
            ascend = all((np.diff(values) >= 0).all() for values in (cheap, full))
            if not (len(cheap) == len(full) > 0 and ascend):
                raise ValueError("its accuracies do not ascend together")
            ends = (*cheap[[0, -1]], *full[[0, -1]])
            if not all(0 <= end <= 1 for end in ends):
                raise ValueError(f"accuracies are in [0, 1], got {ends}")
            if not 0 <= float(found.cost) < float("inf"):
                raise ValueError(f"a cost is at least 0, got {found.cost}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no calibration: {error}") from error
        if found.version != VERSION:
            raise ValueError(
                f"{path} is of version {found.version} of calibrations; this is "
                f"{VERSION}: make it anew"
            )
        return replace(found, cheap=tuple(cheap.tolist()), full=tuple(full.tolist()))


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
        for name in ("rung", "teacher", "task", "settings"):
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
            accuracy=self.calibration(result.accuracy),
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

    Isotonic regression (Barlow et al., 1972): the monotone map of least squares.

    Raises:
        ValueError: Fewer than three students were asked for, or had both scores.
    """
    if num_students < FEWEST:
        raise ValueError(
            f"a calibration needs at least {FEWEST} students, got {num_students}"
        )
    rng, whole = random.Random(seed), teacher.architecture
    offered = removals(whole)
    sample = {whole.fingerprint: whole}  # the map is sure of its upper end
    for _ in range(DRAWS * num_students):  # a small network has few students
        student = random_student(whole, offered, rng)
        sample[student.fingerprint] = student
        if len(sample) >= num_students:
            break
    students = list(sample.values())
    pairs, cost, once = [], 0.0, 0.0
    for low, high in zip(
        evaluate(students, teacher, cheap),
        evaluate(students, teacher, full),
        strict=True,
    ):
        for result in (low, high):
            if isinstance(result, Failure):
                logger.warning("a student is left out: %s", result.reason)
        if isinstance(low, Score) and isinstance(high, Score):
            pairs.append((low.accuracy, high.accuracy))
            cost += low.cost + high.cost
            once = high.cost_once  # the cheap rung's goes with each of its scores
    if len(pairs) < FEWEST:
        raise ValueError(f"only {len(pairs)} students could be scored")
    low_accuracy, high_accuracy = np.array(sorted(pairs)).T
    fitted = IsotonicRegression().fit(low_accuracy, high_accuracy)
    key = cheap.key(whole, teacher)
    return Calibration(
        rung=key.rung,
        teacher=key.teacher,
        task=key.task,
        settings=key.settings,
        cheap=tuple(fitted.X_thresholds_.tolist()),
        full=tuple(fitted.y_thresholds_.tolist()),
        num_students=len(pairs),
        cost=cost + once,
    )
