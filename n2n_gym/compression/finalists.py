"""The finalists: the best students of a search, distilled to the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from statistics import mean
from typing import Any, TypeAlias

import torch
from torch import Tensor

from n2n_gym.common.progress import Bar, progress
from n2n_gym.compression.candidates import Failed, within
from n2n_gym.compression.choice import (
    Offer,
    Scored,
    burden,
    is_told_from,
    right_answers,
    smallest_alike,
)
from n2n_gym.compression.costs import SHOWN, time_training
from n2n_gym.compression.pacing import Pacing
from n2n_gym.compression.plan import Plan
from n2n_gym.compression.student_files import Finished
from n2n_gym.compression.timing import Timed
from n2n_gym.envs.outcome import SUCCESS_MARGIN
from n2n_gym.evaluators.distillation import Settings
from n2n_gym.evaluators.evaluator import evaluate
from n2n_gym.evaluators.rungs import FULL
from n2n_gym.evaluators.runner import Result, Runner
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.scaling import OutOfReach
from n2n_gym.pytorch.build import Network
from n2n_gym.pytorch.inference import predict
from n2n_gym.pytorch.recipe import read_precision
from n2n_gym.resources import ResourceError
from n2n_gym.rewards import Failure, Score, compression, n2n
from n2n_gym.runs.history import FINAL
from n2n_gym.scores import ScoreStore
from n2n_gym.teachers.augmented_logits import seconds_a_variant
from n2n_gym.teachers.teacher import Teacher

logger = logging.getLogger(__name__)

# Callback for each scored student: (search, stage, reward, info).
Tell: TypeAlias = Callable[[str, str, float, dict[str, Any]], object]


@dataclass
class Finalists:
    """The choice among the best students of a search.

    Attributes:
        timing: Number of students and epochs of each round.
        requirements: Limits on resources. Students with room below the limits become
            wider. Students that break a limit become narrower, or are left out if this
            is not enough.
        tell: Callback for each student that was distilled to the end.
        precision: Precision of students' arithmetic; None for the faster one.
        weights: Folder for the weights of distilled students. Without it, the chosen
            student is distilled twice.
    """

    teacher: Teacher
    timing: Pacing
    device: torch.device
    runner: Runner
    store: ScoreStore | None
    requirements: Requirements
    tell: Tell | None = None
    precision: str | None = None
    weights: Path | None = None
    # Best student of the last round so far. Once chosen, it stays; only rivals follow.
    best: Offer | None = None
    is_chosen: bool = False
    falls_short: bool = False  # whether the choice can be told from the teacher
    _others: list[Architecture] = field(default_factory=list)  # of the last round

    def prepare(self, plan: Plan, timing: Timed) -> None:
        """Compute what all finalists learn from; the rounds get the time that is left.

        The precision of their arithmetic and the number of augmented forms are
        decisions of the plan.
        """

        def settings() -> Settings:
            return self.evaluator(1, num_variants=1).settings(self.teacher)

        if self.precision is None:
            self.precision = plan.decide(
                "precision of finalists", lambda: str(settings().precision), "float32"
            )
        alike = settings()
        timing.decide_variants(
            lambda: seconds_a_variant(
                self.teacher, self.device, alike.precision, alike.threads
            )
        )
        self.evaluator(1).prepare(self.teacher)

    def choose(
        self, found: list[Scored], what: str, last: Iterable[Scored] = ()
    ) -> Finished:
        """Distil the best students fully, choose one by validation, then test it.

        The paper's reward hardly grows for students more than 10 times smaller (x times
        smaller gives 1 - 1/x^2). So the choice is the smallest student that cannot be
        told from the teacher. If all can be told from the teacher, the choice is the
        smallest that cannot be told from the student of the highest reward. With limits
        on resources, it is the smallest that cannot be told from the most accurate.
        With a minimum accuracy, it is the smallest with that accuracy. With both, it is
        the most accurate.

        Args:
            last: Further students, tried if no student in ``found`` keeps the limits.
        """
        unique = {scored.student.fingerprint: scored for scored in found}
        left = self._in_turns(unique.values())
        counts = self.timing.rounds([scored.student for scored in left])
        left = within(self.requirements, left, counts[0], last)
        for number, fewer in enumerate((*counts[1:], 0)):
            if len(left) > fewer:
                students = [scored.student for scored in left]
                positions, epochs = self.timing.plan_round(
                    number, students, self._time_training
                )
                left = [left[n] for n in positions]
                seeds = 1 if fewer else self._seeds(left)
                evaluators = [self.evaluator(epochs, repeat=n) for n in range(seeds)]
                left = self._in_turns(self._distil(left, evaluators, what))
                evaluator = evaluators[0]
                offer = Offer((self._as_good(left) or left)[0].student, evaluator)
                if not self.is_chosen:
                    self.best = offer
        student, falls_short = self._smallest_alike(left)
        offer = Offer(student, evaluator)
        if not self.is_chosen:
            self.best, self.falls_short = offer, falls_short
        self._tell(left, evaluator, what)
        if not self.is_chosen:
            every = [scored.student for scored in left]
            self._others = [each for each in every if each != offer.student]
        self.is_chosen = True
        return self.finished(offer)

    def runners_up(self) -> list[Finished]:
        """The students that were distilled to the end but not chosen."""
        assert self.best is not None
        evaluator = self.best.evaluator
        return [self.finished(Offer(each, evaluator)) for each in self._others]

    def finished(self, offer: Offer) -> Finished:
        """The student with its weights, and its results on the test images."""
        student, evaluator = offer
        (score,) = evaluator([student], self.teacher)  # known
        assert isinstance(score, Score)
        network = evaluator.network(student, self.teacher)
        answers = test_answers(network, self.teacher, self.device)
        labels = self.teacher.task.split("test", self.device).labels.cpu()
        on_test = (answers == labels).double().mean().item()
        return Finished(student, network, score, on_test, answers)

    def _time_training(self, students: Sequence[Architecture]) -> None:
        def passing(epochs: float) -> DistillationEvaluator:
            return replace(self, store=None, weights=None).evaluator(epochs)

        count = len(SHOWN) * len(students)
        with progress(count, "Timing of the finalists", is_long=True) as bar:
            for timed in time_training(students, self.teacher, passing, bar.update):
                self.timing.distilled(*timed)

    def _seeds(self, left: Sequence[Scored]) -> int:
        """Number of seeds from which each student of the last round is distilled.

        The first seed's weights are written. If they need a minimum accuracy, only this
        seed is used.
        """
        if len(left) == 1 or self.requirements.least_accuracy is not None:
            return 1
        return self.timing.seeds()

    def _smallest_alike(self, left: Sequence[Scored]) -> tuple[Architecture, bool]:
        """The choice of the last round, and whether it can be told from the teacher."""
        first = (self._as_good(left) or left)[0]
        if len(left) == 1:
            lost = self.teacher.score.accuracy - first.accuracy
            return first.student, lost > SUCCESS_MARGIN
        students = [scored.student for scored in left]
        right = [
            self._right(
                [e.network(each.student, self.teacher) for e in each.evaluators]
            )
            for each in left
        ]
        whole = self._whole
        chosen = left.index(first)
        if self.requirements.least_accuracy is None:
            rewards = [scored.reward for scored in left]
            best = None if self.requirements else whole
            chosen = smallest_alike(students, rewards, right, best)
        return students[chosen], is_told_from(right[chosen], whole)

    @cached_property
    def _whole(self) -> Tensor:
        return self._right([self.teacher.network(self.device)])

    def _right(self, networks: Sequence[Network]) -> Tensor:
        return right_answers(networks, self.teacher, self.device)

    def _in_turns(self, found: Iterable[Scored]) -> list[Scored]:
        """All students by reward, merged in turns with the ``_as_good`` ones by size.

        With few images, one more right answer changes the reward more than any size.
        """
        by_reward = sorted(found, key=lambda scored: -scored.reward)
        turns = chain.from_iterable(zip_longest(by_reward, self._as_good(by_reward)))
        return list(dict.fromkeys(scored for scored in turns if scored is not None))

    def _as_good(self, found: Sequence[Scored]) -> list[Scored]:
        """Students that are accurate enough, smallest first; empty if there are limits.

        Enough means the minimum accuracy or, without a minimum, the teacher's accuracy.
        Size is parameters times MACs. If no student has the minimum accuracy, the
        result has all students, the most accurate first.
        """
        if self.requirements:
            return []
        least = self.requirements.least_accuracy
        bar = self.teacher.score.accuracy if least is None else least
        as_good = [scored for scored in found if scored.accuracy >= bar]
        if not as_good and least is not None:
            return sorted(found, key=lambda scored: -scored.accuracy)
        return sorted(as_good, key=lambda scored: burden(scored.student))

    def compare(self, found: list[Scored], what: str) -> Finished | None:
        """The student that ``choose`` chooses from a rival search; None if it fails."""
        try:
            return self.choose(found, what)
        except Failed as error:
            logger.warning("%s: %s", what, error)
            return None

    def compare_sizes(
        self, makes: Mapping[str, Callable[[], Architecture]]
    ) -> dict[str, Finished | None]:
        """Distil the controls of ``makes`` together; None for each that fails.

        Without time for them, the result is empty.
        """
        made: dict[str, Scored] = {}
        for what, make in makes.items():
            try:
                student = make()
                is_kept = self.requirements.keeps(student)
            except (OutOfReach, ResourceError) as error:
                logger.warning("%s: %s", what, error)
                continue
            if is_kept:
                made[what] = Scored(0.0, student, is_fixed=True)
            else:
                logger.warning("%s: a limit is not kept at the student's size", what)
        if not self.timing.allows_controls([each.student for each in made.values()]):
            return {}
        evaluator = self.evaluator(self.timing.final_epochs)
        if made:
            with suppress(Failed):  # each failure is reported separately
                self._distil(list(made.values()), [evaluator], " and ".join(made))
        return {
            what: self.compare([made[what]], what) if what in made else None
            for what in makes
        }

    def _tell(
        self, left: Sequence[Scored], evaluator: DistillationEvaluator, what: str
    ) -> None:
        """Report the students of the last round."""
        if self.tell is None:
            return
        students = [scored.student for scored in left]
        teacher_score = self.teacher.score
        scores = evaluator(students, self.teacher)  # known
        for student, score in zip(students, scores, strict=True):
            assert isinstance(score, Score)
            info = {
                **score.to_dict(),
                "compression": compression(score, teacher_score),
                "fingerprint": student.fingerprint,
                "student": student.to_json(),
            }
            self.tell(what, FINAL, n2n(score, teacher_score), info)

    def evaluator(
        self, epochs: float, num_variants: int | None = None, repeat: int = 0
    ) -> DistillationEvaluator:
        """Full distillation with this many epochs and augmented forms of each image."""
        if num_variants is None:
            num_variants = self.timing.num_variants()
        rung = FULL.with_epochs(epochs).with_variants(num_variants)
        return DistillationEvaluator(
            rung,
            device=self.device,
            precision=read_precision(self.precision),
            runner=self.runner,
            store=self.store,
            weights=self.weights,
            repeat=repeat,
        )

    def _distil(
        self,
        left: Sequence[Scored],
        evaluators: Sequence[DistillationEvaluator],
        what: str,
    ) -> list[Scored]:
        """The students with their scores, averaged over evaluators, one per seed."""
        recipe = evaluators[0].rung.recipe
        assert recipe is not None
        students = [scored.student for scored in left]
        seeds = f" from {len(evaluators)} seeds" if len(evaluators) > 1 else ""
        epochs = f"{recipe.epochs} epochs{seeds}"
        title = f"Final distillation of {what}, {len(students)} for {epochs}"
        distilled = []
        found: list[list[Score | Failure]] = []
        with progress(len(students) * len(evaluators), title, is_long=True) as bar:
            for evaluator in evaluators:
                if found and not self.timing.allows_seed(students):
                    break
                found.append(self._results(students, evaluator, bar, recipe.epochs))
        evaluators = evaluators[: len(found)]
        for student, results in zip(students, zip(*found, strict=True), strict=True):
            first, *others = results
            if isinstance(first, Failure):  # the first seed's weights are written
                logger.warning("a finalist is left out: %s", first.reason)
                continue
            scores = {evaluators[0]: first}
            for evaluator, result in zip(evaluators[1:], others, strict=True):
                if isinstance(result, Failure):
                    logger.warning("a finalist counts once: %s", result.reason)
                else:
                    scores[evaluator] = result
            worth = mean(map(self._worth, scores.values()))
            accuracy = mean(score.accuracy for score in scores.values())
            distilled.append(Scored(worth, student, accuracy, evaluators=tuple(scores)))
        if not distilled:
            raise Failed("the distillation of every finalist failed")
        return distilled

    def _results(
        self,
        students: list[Architecture],
        evaluator: DistillationEvaluator,
        bar: Bar,
        epochs: float,
    ) -> list[Score | Failure]:
        count = 0
        # What is left of a training says little of the time of a whole one.
        begun = [each for each in students if evaluator.is_begun(each, self.teacher)]

        def is_done(student: Architecture, done: Result) -> None:
            nonlocal count
            count += 1
            bar.update()
            if isinstance(done.result, Score) and student not in begun:
                self.timing.distilled(student, epochs, done.seconds)

        evaluator.on_result = is_done
        results = evaluate(students, self.teacher, evaluator)
        bar.update(len(students) - count)  # count students with known scores
        return results

    def _worth(self, score: Score) -> float:
        return score.accuracy if self.requirements else n2n(score, self.teacher.score)


def test_answers(network: Network, teacher: Teacher, device: torch.device) -> Tensor:
    """Predicted classes of the test images, only for networks written to files."""
    split = teacher.task.split("test", device)
    return predict(network, split, teacher.normalise)
