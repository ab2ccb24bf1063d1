"""Numbers of students and epochs that fit into the minutes of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import mean
from typing import Final

from n2n_agents import reinforce
from n2n_gym.compression.assessment import SECONDS
from n2n_gym.compression.costs import SHOWN, Costs, together
from n2n_gym.compression.pacing import ROUNDS, SEEDS, TimeTraining
from n2n_gym.compression.plan import EPOCHS, Plan
from n2n_gym.evaluators.rungs import FULL, QUICK
from n2n_gym.networks.architecture import Architecture
from n2n_gym.runs.options import REINFORCE

ROLLOUTS: Final = reinforce.MODERN.rollouts  # episodes an update
# With little time, fewer students take part, so that the last round has at least
# ENOUGH_EPOCHS.
SHORTER: Final = (ROUNDS, ((6, 1 / 4), (3, 1.0)), ((4, 1 / 3), (2, 1.0)), ((2, 1.0),))
ENOUGH_EPOCHS: Final = 20
MOST_EPOCHS: Final = 240  # more do not help
MOST_UPDATES: Final = 400  # largest number of updates in a stage
SEARCH: Final = 0.45  # share of the time after the teacher; the finalists get the rest
REMOVAL: Final = 0.3  # of the search
# Within limits a local search follows, and finds more in less time: the two stages of
# the agent get these shares of the search, the local search gets the rest.
REMOVAL_WITHIN: Final = 0.15
SHRINKAGE_WITHIN: Final = 0.2
VARIANTS: Final = 0.15  # share of the finalists' time for the teacher's logits
A_FILE: Final = 0.5  # seconds to export a student and to open its file
FINISH: Final = 3.0  # seconds for the report and all else at the end
FINISH_SHARE: Final = 0.03  # share of the whole time, for what estimates miss
TIMING: Final = 0.1  # most of the finalists' time for timing them beforehand
LEEWAY: Final = 0.9  # share of an estimated time that suffices to begin
EXPECTED: Final = 1 / 16  # share of the teacher's MACs, until finalists are known


@dataclass
class Timed:
    """Numbers that fit into the run's minutes, from the costs measured so far.

    Attributes:
        workers: Number of processes that score and distil students.
        num_validation, num_test: Numbers of images.
        whole: The teacher's number of multiply-accumulates.
        with_controls: Whether other networks of the chosen student's size are distilled
            at the end, for comparison.
        is_limited: Whether a local search follows the agent's search.
        most_seeds: Largest number of seeds from which each finalist of the last round
            is distilled.
        agent: Name of the agent that searches.
    """

    plan: Plan
    costs: Costs
    workers: int
    num_validation: int
    num_test: int
    whole: int
    with_controls: bool
    is_limited: bool
    most_seeds: int = SEEDS
    agent: str = REINFORCE
    _left: dict[str, float] = field(default_factory=dict)
    _decided: dict[int, float] = field(default_factory=dict)
    _rounds: Sequence[tuple[int, float]] = ()
    _macs: float = 0.0  # of a finalist: the mean of those that are left
    _num_variants: int | None = None

    def __post_init__(self) -> None:
        self._macs = self.whole * EXPECTED

    @property
    def reserve(self) -> float:
        """Seconds reserved for what follows the last distillation of a finalist."""
        whole, student = (self.costs.image(each) for each in (self.whole, self._macs))
        answers = whole + self._num_last * self._seeds_in(self._rounds) * student
        return self.num_validation * answers + self._files

    @property
    def evaluation(self) -> float:
        """Seconds in which the teacher answers the images that no search looks at."""
        return (self.num_validation + self.num_test) * self.costs.image(self.whole)

    @property
    def _files(self) -> float:
        """Seconds for test accuracies, files, latencies and the report."""
        whole, student = (self.costs.image(each) for each in (self.whole, self._macs))
        count = self._num_last + 2 * self.with_controls
        seconds = self.num_test * (whole + count * student)
        # The shelf's files are timed, then the teacher's and the student's.
        seconds += (count + 2) * (SECONDS + A_FILE)
        return seconds + FINISH + FINISH_SHARE * (self.plan.seconds or 0)

    @property
    def _num_last(self) -> int:
        count, _ = (self._rounds or ROUNDS)[-1]
        return count

    def start_search(self) -> None:
        """Decide when each stage of the search has to end."""
        now = self.plan.left
        search = SEARCH * max(0.0, now - self.reserve)
        remove, shrink = f"{self.agent}: remove", f"{self.agent}: shrink"
        ends = {remove: REMOVAL, shrink: 1.0}
        if self.is_limited:
            until_shrunk = REMOVAL_WITHIN + SHRINKAGE_WITHIN
            ends = {remove: REMOVAL_WITHIN, shrink: until_shrunk}
            ends["local search: shrink"] = 1.0
        for stage, share in ends.items():
            left = round(now - share * search, 1) if self.plan.has_clock else 0.0
            what = f"seconds left after {stage}"
            self._left[stage] = self.plan.decide(what, partial(float, left), 0.0)

    def removal_updates(self) -> int:
        return self._updates(f"{self.agent}: remove")

    def shrinkage_updates(self) -> int:
        return self._updates(f"{self.agent}: shrink")

    def local_updates(self) -> int:
        return self._updates("local search: shrink")

    def _updates(self, stage: str) -> int:
        def fit() -> int:
            seconds = self.plan.left - self._left[stage]
            each = together([self.costs.score()] * ROLLOUTS, self.workers)
            most = seconds / each if each else MOST_UPDATES
            return min(MOST_UPDATES, max(2, int(most)))

        return self.plan.decide(f"updates of {stage}", fit, 2)

    def is_enough(self, stage: str, count: int, *, is_replay: bool) -> bool:
        if count % ROLLOUTS:
            return False
        until = self._left.get(stage, 0.0)
        return self.plan.is_enough(stage, count, until, is_replay=is_replay)

    def rounds(self, students: Sequence[Architecture]) -> Sequence[int]:
        def fit() -> int:
            fits = (
                n
                for n, rounds in enumerate(SHORTER)
                if self._final_epochs(rounds, students) >= ENOUGH_EPOCHS
            )
            return next(fits, len(SHORTER) - 1)

        if not self._rounds:
            most, _ = ROUNDS[0]
            if students:
                self._macs = mean(each.num_macs for each in students[:most])
            self._rounds = SHORTER[self.plan.decide("rounds of finalists", fit, 0)]
        return [count for count, _ in self._rounds]

    def plan_round(
        self,
        number: int,
        students: Sequence[Architecture],
        time_training: TimeTraining,
    ) -> tuple[list[int], float]:
        every = list(range(len(students)))
        if number in self._decided:  # a control
            return every, self._decided[number]
        count, share = self._rounds[number]
        cheapest = sorted(every, key=lambda n: students[n].num_macs)

        def best_of(num_cheapest: int) -> list[int]:
            return sorted(cheapest[:num_cheapest])[:count]

        def epochs_of(positions: Sequence[int]) -> float:
            chosen = [students[n] for n in positions]
            return share * self._final_epochs(self._rounds[number:], chosen)

        def fit_students() -> int:
            counts = range(len(every), 1, -1)
            return next((n for n in counts if epochs_of(best_of(n)) >= 1), 1)

        def fit_epochs() -> float:
            if self._is_worth_timing(number, [students[n] for n in kept]):
                time_training([students[n] for n in kept])
            epochs = epochs_of(kept)
            if epochs >= 1:
                return int(epochs)
            least = min(1.0, QUICK.fewest_images / self.costs.num_images)
            return max(round(least, 3), math.floor(100 * epochs) / 100)

        what = f"candidates of round {number + 1}"  # the others are too large
        kept = best_of(self.plan.decide(what, fit_students, len(every)))
        self._macs = mean(students[n].num_macs for n in kept)
        epochs = self.plan.decide(f"{EPOCHS} {number + 1}", fit_epochs, 1.0)
        self._decided[number] = epochs
        return kept, epochs

    def _is_worth_timing(self, number: int, students: Sequence[Architecture]) -> bool:
        """Whether to time a round's students before its epochs are fixed.

        An earlier round would have told what finalists cost. Without one, the line of
        the search's students can be far off.
        """
        if self.costs.knows_finalists or number + 1 < len(self._rounds):
            return False
        epochs = sum(SHOWN) / self.costs.num_images
        answers = len(SHOWN) * self.num_validation
        seconds = together(
            (
                epochs * self.costs.epoch(each.num_macs)
                + answers * self.costs.image(each.num_macs)
                for each in students
            ),
            self.workers,
        )
        return seconds <= TIMING * (self.plan.left - self.reserve)

    @property
    def final_epochs(self) -> float:
        return self._decided[len(self._rounds) - 1]

    def _final_epochs(
        self, rounds: Sequence[tuple[int, float]], students: Sequence[Architecture]
    ) -> float:
        """Number of epochs that fit into the last round; controls have as many.

        Args:
            rounds: Number of students, and fraction of the epochs, of each round.
            students: Students of the first of these rounds, best first.
        """
        (count, share), *later = rounds
        costs = [self.costs.epoch(each.num_macs) for each in students[:count]]
        costs = costs or [self.costs.epoch(self.whole)]
        typical = mean(costs)  # who gets into later rounds is not known

        def work(number: int) -> float:
            return together([typical] * number, self.workers)

        last = together(costs, self.workers)
        needed = share * last
        for count, share in later:
            last = work(count)
            needed += share * last
        needed += (self._seeds_in(self._rounds or rounds) - 1) * last
        if self.with_controls:
            needed += work(2)
        seconds = max(0.0, self.plan.left - self.reserve)
        return min(MOST_EPOCHS, seconds / needed if needed else MOST_EPOCHS)

    def seeds(self) -> int:
        return self.most_seeds  # `allows_seed` decides on the second one

    def _seeds_in(self, rounds: Sequence[tuple[int, float]]) -> int:
        return min(self.most_seeds, seeds_in(rounds or ROUNDS))

    def decide_variants(self, seconds_a_variant: Callable[[], float]) -> None:
        """Decide on the number of augmented forms.

        Args:
            seconds_a_variant: Function that measures the seconds for the teacher's
                logits of one form of all training images.
        """

        def fit() -> int:
            each = seconds_a_variant()
            seconds = VARIANTS * max(0.0, self.plan.left - self.reserve)
            others = seconds / each if each else FULL.num_variants
            return int(min(FULL.num_variants, 1 + others))

        self._num_variants = self.plan.decide(
            "forms of each image", fit, FULL.num_variants
        )

    def num_variants(self) -> int:
        return self._num_variants or FULL.num_variants

    def distilled(self, student: Architecture, epochs: float, seconds: float) -> None:
        self.costs.distilled(student.num_macs, epochs, seconds)
        self.plan.keep_time()

    def allows_seed(self, students: Sequence[Architecture]) -> bool:
        after = self.reserve
        if self.with_controls:
            after += self.final_epochs * together(
                [self.costs.epoch(self._macs)] * 2, self.workers
            )
        return self._has_time("second seed", students, after)

    def allows_controls(self, controls: Sequence[Architecture]) -> bool:
        return self._has_time("controls", controls, self._files)

    def _has_time(
        self, what: str, students: Sequence[Architecture], after: float
    ) -> bool:
        """Whether students can be distilled for as long as the last round's.

        Args:
            after: Seconds that must remain.
        """

        def fit() -> int:
            costs = [self.costs.epoch(each.num_macs) for each in students]
            needed = self.final_epochs * together(costs, self.workers)
            return int(self.plan.left - after >= LEEWAY * needed)

        return bool(self.plan.decide(what, fit, 1))


def seeds_in(rounds: Sequence[tuple[int, float]]) -> int:
    """Number of seeds that are planned for each student of the last of these rounds."""
    return SEEDS if len(rounds) > 1 else 1
