"""Samples for predictors: scored random students, each drawn for a random target.

Each sample is a line of JSON. It depends only on the suite, the teacher and the number
of the sample. So a sampling that was stopped can be resumed and writes the same file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from n2n_gym.envs import CompressionEnv
from n2n_gym.evaluators.evaluator import Evaluator, SizeEvaluator, evaluate
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import RATES, Removal
from n2n_gym.pretraining.encoding import Encoder
from n2n_gym.pretraining.lines import add_lines, read_lines
from n2n_gym.pretraining.predictor import Examples, Predicted
from n2n_gym.pretraining.stages import Target, aim, draw_target, make_env, starts
from n2n_gym.pretraining.suite import Subject, Suite
from n2n_gym.rewards import Failure
from n2n_gym.teachers.teacher import Teacher

TOGETHER: Final = 10  # students scored in one call
HELD_OUT: Final = 5  # every fifth student is held out, to judge the predictors
LOWEST: Final = 0.15  # lowest level of a student's rates, drawn log-uniformly up to 1
SPREAD: Final = 0.5  # largest standard deviation of the logarithm of a rate
NARROWEST: Final = 1e-3  # smallest such deviation: all rates are as good as equal
LEAST_KEPT: Final = 0.3  # least probability of keeping a layer or kernel, drawn up to 1
COMPRESSED: Final = 2  # students of "compress" for each student of other stages
UNIFORM: Final = 8  # students of uniform width, in "compress"
FRESH_WEIGHT: Final = 3.0  # weight of a policy's own student in the fit of predictors


class Drawn(NamedTuple):
    """A student that is not scored yet."""

    number: int
    stage: str
    target: Target
    student: Architecture


class Sample(NamedTuple):
    """A scored student.

    Attributes:
        resource, share: Target of the student, see `Target`.
        accuracy: Validation accuracy, in [0, 1]; None if scoring failed.
        predicted: Accuracy that an ensemble predicted cautiously, in [0, 1]; None
            without prediction. Policies' own students have one, random students none.
        expected: The ensemble's mean prediction, in [0, 1]; None without prediction.
        student: JSON of the student's architecture.
    """

    number: int
    stage: str
    resource: str
    share: float
    accuracy: float | None
    teacher_accuracy: float
    predicted: float | None
    expected: float | None
    student: str

    @property
    def is_held_out(self) -> bool:
        """Whether the sample is for judging predictors, not for fitting them."""
        return self.number % HELD_OUT == HELD_OUT - 1

    @property
    def weight(self) -> float:
        """The sample's weight in the fit of predictors."""
        return 1.0 if self.predicted is None else FRESH_WEIGHT


def seed_of(*parts: object) -> int:
    """A seed that depends only on these parts and is the same on every machine."""
    said = json.dumps([str(part) for part in parts])
    return int(hashlib.sha256(said.encode()).hexdigest()[:15], 16)


class Drawer:
    """Draws students of one teacher."""

    def __init__(self, suite: Suite, subject: Subject, teacher: Teacher) -> None:
        self.suite, self.subject, self.teacher = suite, subject, teacher
        self._starts = starts(teacher.architecture, seed_of(subject.key, "starts"))
        self._envs: dict[tuple[str, int], CompressionEnv] = {}

    def draw(self, number: int) -> Drawn:
        """Draw the student with this number, for a random target; stages alternate.

        The first ``UNIFORM`` students of "compress" have uniform widths, and targets at
        equal distances.
        """
        suite = self.suite
        rng = np.random.default_rng(seed_of(self.subject.key, "student", number))
        stage, rank = turn(suite.stages, number)
        target = draw_target(rng, suite.resources, *suite.targets)
        place = int(rng.integers(len(self._starts))) if stage == "shrink" else 0
        env = self._env(stage, place)
        act = random_actions(rng)
        if stage == "compress" and rank < UNIFORM:
            target, act = even_target(suite, rank, UNIFORM), keep_action
        _, info = env.reset(options=aim([env], target, suite.resources))
        is_over = False
        while not is_over:
            action = act(env.current, np.flatnonzero(info["action_mask"]))
            *_, is_over, _, info = env.step(action)
        student = Architecture.from_json(info["student"])
        return Drawn(number, stage, target, student)

    def _env(self, stage: str, place: int) -> CompressionEnv:
        if (stage, place) not in self._envs:
            self._envs[stage, place] = make_env(
                stage,
                self.teacher,
                SizeEvaluator(),
                self.suite.resources,
                self._starts[place],
            )
        return self._envs[stage, place]


def turn(stages: Sequence[str], number: int) -> tuple[str, int]:
    """The stage of the student with this number, and the student's rank in the stage.

    In each turn, "compress" gets ``COMPRESSED`` students for each other stage.
    """
    others = [stage for stage in stages if stage != "compress"]
    first = max(1, COMPRESSED * len(others)) if "compress" in stages else 0
    turns = ["compress"] * first + others
    before, place = divmod(number, len(turns))
    stage = turns[place]
    return stage, before * turns.count(stage) + turns[:place].count(stage)


def even_target(suite: Suite, rank: int, count: int) -> Target:
    """One of ``count`` targets at equal distances, from the largest to the smallest."""
    resource = suite.resources[rank % len(suite.resources)]
    least, most = suite.targets
    return Target(resource, most * (least / most) ** (rank / (count - 1)))


def keep_action(decision: Any, legal: NDArray[np.int64]) -> int:
    """The action that leaves a decision's layers unchanged."""
    # It is the highest action, except in N2NRemove, which has two actions.
    is_first = isinstance(decision, Removal) and legal.max() < len(RATES) - 1
    return int(legal.min() if is_first else legal.max())


def random_actions(
    rng: np.random.Generator,
) -> Callable[[Any, NDArray[np.int64]], int]:
    """A function that chooses random actions, for one student.

    The function draws all width rates near one level, and keeps each layer and each
    kernel with one probability. Each call of `random_actions` draws another level,
    another spread around it and another probability, so that students differ widely.
    Half of the students keep most layers and have similar rates: fresh policies and
    local searches begin with such students.
    """
    level = math.exp(rng.uniform(math.log(LOWEST), 0.0))
    kept, spread = rng.uniform(LEAST_KEPT, 1.0), SPREAD
    if rng.random() < 0.5:
        kept = 1 - (1 - LEAST_KEPT) * rng.random() ** 3
        spread = max(rng.uniform(0.0, SPREAD), NARROWEST)

    def act(decision: Any, legal: NDArray[np.int64]) -> int:
        if not isinstance(decision, Removal) and decision.variable == "width":
            return int(rng.choice(legal, p=width_probabilities(legal, level, spread)))
        keep = keep_action(decision, legal)
        others = legal[legal != keep]
        if rng.random() < kept or not len(others):
            return keep
        return int(rng.choice(others))

    return act


def width_probabilities(
    legal: NDArray[np.int64], level: float, spread: float = SPREAD
) -> NDArray[np.float64]:
    """Probabilities of the legal actions of a width, (L,).

    Action i stands for the rate (i + 1) / 10. The logarithm of the rate is normally
    distributed around the logarithm of the level.

    Args:
        legal: The legal actions, (L,).
        level: Rate in (0, 1] around which actions are likely.
        spread: Standard deviation of the logarithm of the rate.
    """
    squares = (np.log((legal + 1) / len(RATES) / level) / spread) ** 2
    weights = np.exp((squares.min() - squares) / 2)
    return np.asarray(weights / weights.sum())


# On disk.


def read_samples(path: Path) -> list[Sample]:
    """All samples in a file.

    Raises:
        ValueError: A line is not a sample.
    """
    try:
        return [Sample(**line) for line in read_lines(path)]
    except TypeError as error:
        raise ValueError(
            f"{path} is damaged, a line is not a scored student: {error}"
        ) from error


def score_into(
    path: Path,
    drawn: Iterable[Drawn],
    teacher: Teacher,
    evaluator: Evaluator,
    *,
    predicted: Callable[[Sequence[Architecture]], Sequence[Predicted]] | None = None,
    on_student: Callable[[], object] = lambda: None,
) -> None:
    """Score students and add a line for each to a file.

    Args:
        drawn: Students to score, drawn one by one when needed.
        predicted: Function that predicts the students' accuracies, which the file gets
            in addition to the real ones; by default the file gets no predictions.
        on_student: Callback after each student.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = evaluator.score_teacher(teacher).accuracy
    waiting: list[Drawn] = []

    def score() -> None:
        students = [each.student for each in waiting]
        said = predicted(students) if predicted else [(None, None)] * len(students)
        results = evaluate(students, teacher, evaluator)
        samples = [
            Sample(
                each.number,
                each.stage,
                *each.target,
                None if isinstance(result, Failure) else result.accuracy,
                whole,
                *before,
                each.student.to_json(),
            )
            for each, result, before in zip(waiting, results, said, strict=True)
        ]
        add_lines(path, [sample._asdict() for sample in samples])
        for _ in samples:
            on_student()
        waiting.clear()

    for each in drawn:
        waiting.append(each)
        if len(waiting) == TOGETHER:
            score()
    if waiting:
        score()


def draw_samples(
    path: Path,
    drawer: Drawer,
    evaluator: Evaluator,
    on_student: Callable[[], object] = lambda: None,
) -> None:
    """Draw and score the students that are not yet in a teacher's file.

    Args:
        on_student: Callback for each student, also for those already in the file.
    """
    done = {sample.number for sample in read_samples(path)}
    numbers = (n for n in range(drawer.suite.students) if n not in done)
    for _ in done:
        on_student()
    drawn = map(drawer.draw, numbers)
    score_into(path, drawn, drawer.teacher, evaluator, on_student=on_student)


def examples_of(samples: Sequence[Sample], encoder: Encoder) -> Examples:
    """The samples that have an accuracy, as examples for predictors."""
    scored = [sample for sample in samples if sample.accuracy is not None]
    students = [Architecture.from_json(sample.student) for sample in scored]
    rows, sizes = encoder.batch(students)
    accuracies = [(s.accuracy or 0.0) / s.teacher_accuracy for s in scored]
    return Examples(
        torch.from_numpy(rows),
        torch.from_numpy(sizes),
        torch.tensor(accuracies, dtype=torch.float32),
        torch.tensor([sample.weight for sample in scored]),
    )
