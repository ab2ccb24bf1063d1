"""The choice among the best students of a search: distilled further, or to the end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, pairwise, zip_longest
from pathlib import Path
from statistics import mean
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from n2n_gym.common.progress import Bar, progress
from n2n_gym.compression.choice import (
    Offer,
    Scored,
    burden,
    is_told_from,
    right_answers,
    smallest_alike,
)
from n2n_gym.compression.student_files import Finished
from n2n_gym.compression.timing import Pacing
from n2n_gym.envs.outcome import SUCCESS_MARGIN
from n2n_gym.evaluators.evaluator import evaluate
from n2n_gym.evaluators.rungs import FULL
from n2n_gym.evaluators.runner import Runner
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.limits.feasibility import smallest
from n2n_gym.limits.fitting import fitted, widest_uniform
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.scaling import OutOfReach
from n2n_gym.pytorch.build import Network
from n2n_gym.pytorch.inference import compute_accuracy
from n2n_gym.pytorch.recipe import read_precision
from n2n_gym.resources import ResourceError
from n2n_gym.rewards import Failure, Score, compression, n2n
from n2n_gym.runs.history import FINAL
from n2n_gym.scores import ScoreStore
from n2n_gym.teachers.teacher import Teacher

logger = logging.getLogger(__name__)

# Within limits so many are measured for them, and more only where none keeps those.
MEASURED: Final = 60


# Told of a student: the search, the stage, its reward, and what is known of it.
Tell: TypeAlias = Callable[[str, str, float, dict[str, Any]], object]


class Failed(ValueError):
    """No student could be distilled, or none keeps the limits."""


@dataclass
class Finalists:
    """The choice among the best students of a search.

    Attributes:
        timing: How many take part in each round, and for how many epochs.
        requirements: Students that leave room in the limits on resources become wider;
            those that break one narrower where that is enough, or are left out.
        report: Told of what was distilled to the end.
        precision: Of students' arithmetic; None for the faster one.
        weights: A folder for those of the students that are distilled; without one the
            chosen student is distilled twice.
    """

    teacher: Teacher
    timing: Pacing
    device: torch.device
    runner: Runner
    store: ScoreStore | None
    requirements: Requirements
    report: Tell | None = None
    precision: str | None = None
    weights: Path | None = None
    # The best of the last round so far; once it is chosen, what follows are rivals.
    best: Offer | None = None
    is_chosen: bool = False
    falls_short: bool = False  # whether what is chosen can be told from the teacher
    _others: list[Architecture] = field(default_factory=list)  # of its last round

    def choose(
        self, found: list[Scored], what: str, last: Iterable[Scored] = ()
    ) -> Finished:
        """Distil the best fully, choose by validation, then read the test split.

        The reward hardly sees size above 10x (it is 1 - 1/x^2 there), so that the
        choice is the smallest student that cannot be told from the teacher, and only if
        all can the smallest that cannot be told from the one of the highest reward.
        Within limits on resources that is the most accurate, and where a least accuracy
        is asked for it is the smallest that has it.

        Args:
            last: Students to turn to where none that was found keeps the limits.
        """
        unique = {scored.student.fingerprint: scored for scored in found}
        left = self._within(self._in_turns(unique.values()), last)
        counts = self.timing.rounds()
        for number, (count, fewer) in enumerate(pairwise((*counts, 0))):
            if len(left) > fewer:
                seeds = 1 if fewer else self._seeds(left[:count])
                epochs = self.timing.epochs(number)
                evaluators = [self.evaluator(epochs, repeat=n) for n in range(seeds)]
                left = self._in_turns(self._distil(left[:count], evaluators, what))
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
        """What was distilled to the end beside the student that was chosen."""
        assert self.best is not None
        evaluator = self.best.evaluator
        return [self.finished(Offer(each, evaluator)) for each in self._others]

    def finished(self, offer: Offer) -> Finished:
        """The student with its weights, and what they get right on the test images."""
        student, evaluator = offer
        (score,) = evaluator([student], self.teacher)  # known
        assert isinstance(score, Score)
        network = evaluator.network(student, self.teacher)
        on_test = test_accuracy(network, self.teacher, self.device)
        return Finished(student, network, score, on_test)

    def _seeds(self, left: Sequence[Scored]) -> int:
        """That they are distilled from; what is written is of the first.

        A least accuracy is one of what is written.
        """
        if len(left) == 1 or self.requirements.least_accuracy is not None:
            return 1
        return self.timing.seeds()

    def _smallest_alike(self, left: Sequence[Scored]) -> tuple[Architecture, bool]:
        """The choice of the last round, and whether it is told from the teacher."""
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
        whole = self._right([self.teacher.network(self.device)])
        chosen = left.index(first)
        if self.requirements.least_accuracy is None:
            rewards = [scored.reward for scored in left]
            best = None if self.requirements else whole
            chosen = smallest_alike(students, rewards, right, best)
        return students[chosen], is_told_from(right[chosen], whole)

    def _right(self, networks: Sequence[Network]) -> Tensor:
        return right_answers(networks, self.teacher, self.device)

    def _in_turns(self, found: Iterable[Scored]) -> list[Scored]:
        """The highest rewards and the smallest that are as good, one after the other.

        Where images are few, one of them more outweighs any size in the reward.
        """
        by_reward = sorted(found, key=lambda scored: -scored.reward)
        turns = chain.from_iterable(zip_longest(by_reward, self._as_good(by_reward)))
        return list(dict.fromkeys(scored for scored in turns if scored is not None))

    def _as_good(self, found: Sequence[Scored]) -> list[Scored]:
        """Those as accurate as the teacher, smallest first; none within limits.

        Small is what has few parameters and multiply-accumulates: their product.

        Where a least accuracy is asked for that none has, the most accurate first.
        """
        if self.requirements:
            return []
        least = self.requirements.least_accuracy
        bar = self.teacher.score.accuracy if least is None else least
        as_good = [scored for scored in found if scored.accuracy >= bar]
        if not as_good and least is not None:
            return sorted(found, key=lambda scored: -scored.accuracy)
        return sorted(as_good, key=lambda scored: burden(scored.student))

    def _within(self, found: list[Scored], last: Iterable[Scored] = ()) -> list[Scored]:
        """As many as take part, the first that keep the limits, or can be made to."""
        most, *_ = self.timing.rounds()
        if not self.requirements:
            return found[:most]
        kept: dict[str, Scored] = {}
        with progress(most, "Measuring finalists", is_long=True) as bar:
            for number, scored in enumerate(chain(found, last)):
                if kept and number >= min(MEASURED, len(found)):
                    break
                student = scored.student
                try:
                    if not scored.is_fixed:
                        student = fitted(self.requirements, student)
                except OutOfReach:
                    continue
                except ResourceError as error:
                    logger.warning("a finalist is left out: %s", error)
                    continue
                kept.setdefault(student.fingerprint, scored._replace(student=student))
                bar.update(len(kept) - bar.n)
                if len(kept) == most:
                    break
        if not kept:
            raise Failed(
                f"none of {len(found)} students keeps the limits; where a search "
                f"found them, more updates of the policies may find one"
            )
        return list(kept.values())

    def smallest(self, granularity: str) -> Iterator[Scored]:
        """The last that are measured: they may keep limits that no other does.

        What says before a search that a limit can be kept are these.
        """
        whole, keep = self.teacher.architecture, self.requirements.keep
        for student in smallest(whole, granularity, keep=keep):
            yield Scored(-math.inf, student)

    def uniform(self) -> list[Scored]:
        """Within limits, the teacher at one rate of all widths: always a finalist.

        In whole blocks of channels too where those are faster. A search that is short
        for its network finds nothing better than that.
        """
        if not self.requirements:
            return []
        blocks = dict.fromkeys((1, self.requirements.block))
        return list(chain.from_iterable(map(self._uniform, blocks)))

    def _uniform(self, block: int) -> list[Scored]:
        try:
            student = widest_uniform(self.requirements, block)
            return [Scored(math.inf, student, is_fixed=True)]
        except (OutOfReach, ResourceError) as error:
            logger.warning("uniform width is no finalist: %s", error)
            return []

    def compare(self, found: list[Scored], what: str) -> Finished | None:
        """What the student is compared with, chosen likewise; None if that fails."""
        try:
            return self.choose(found, what)
        except Failed as error:
            logger.warning("%s: %s", what, error)
            return None

    def compare_sizes(
        self, makes: Mapping[str, Callable[[], Architecture]]
    ) -> dict[str, Finished | None]:
        """The teacher made as small as the student in some ways, by their names.

        They are distilled together; None stands for what cannot be, or fails.
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
        last = len(self.timing.rounds()) - 1
        evaluator = self.evaluator(self.timing.epochs(last))
        if made:
            with suppress(Failed):  # each says it by itself
                self._distil(list(made.values()), [evaluator], " and ".join(made))
        return {
            what: self.compare([made[what]], what) if what in made else None
            for what in makes
        }

    def _tell(
        self, left: Sequence[Scored], evaluator: DistillationEvaluator, what: str
    ) -> None:
        """Tell those of the last round."""
        if self.report is None:
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
            self.report(what, FINAL, n2n(score, teacher_score), info)

    def evaluator(
        self, epochs: int, views: int | None = None, repeat: int = 0
    ) -> DistillationEvaluator:
        """Full distillation for so many epochs, on so many forms of each image."""
        views = self.timing.views() if views is None else views
        rung = FULL.with_epochs(epochs).with_views(views)
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
        """Those that have a score, with the mean of what each evaluator finds."""
        recipe = evaluators[0].rung.recipe
        assert recipe is not None
        students = [scored.student for scored in left]
        seeds = f" from {len(evaluators)} seeds" if len(evaluators) > 1 else ""
        epochs = f"{recipe.epochs} epochs{seeds}"
        title = f"Final distillation of {what}, {len(students)} for {epochs}"
        distilled = []
        with progress(len(students) * len(evaluators), title, is_long=True) as bar:
            found = [
                self._results(students, each, bar, int(recipe.epochs))
                for each in evaluators
            ]
        for student, results in zip(students, zip(*found, strict=True), strict=True):
            first, *others = results
            if isinstance(first, Failure):  # what would be written
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
        epochs: int,
    ) -> list[Score | Failure]:
        count = 0

        def is_done() -> None:
            nonlocal count
            count += 1
            bar.update()

        evaluator.on_result = is_done
        started = time.monotonic()
        results = evaluate(students, self.teacher, evaluator)
        if count == len(students):
            self.timing.distilled(count, epochs, time.monotonic() - started)
        bar.update(len(students) - count)  # by those whose scores were known
        return results

    def _worth(self, score: Score) -> float:
        return score.accuracy if self.requirements else n2n(score, self.teacher.score)


def test_accuracy(network: Network, teacher: Teacher, device: torch.device) -> float:
    """Read the test split, once for what is written out."""
    split = teacher.task.split("test", device)
    return compute_accuracy(network, split, teacher.normalise)
