"""Numbers of students and epochs, given by the options or fitted to the minutes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from n2n_agents import reinforce
from n2n_gym.compression.plan import EPOCHS, Pace, Plan
from n2n_gym.evaluators.rungs import FULL
from n2n_gym.runs.options import REINFORCE

ROLLOUTS: Final = reinforce.MODERN.rollouts  # episodes an update
# Successive halving (Jamieson and Talwalkar, 2016) of a search's best students: number
# of students, and fraction of the epochs, in each round.
ROUNDS: Final = ((12, 1 / 12), (6, 1 / 3), (3, 1.0))
# With little time, fewer students take part, so that the last round has at least
# ENOUGH_EPOCHS.
SHORTER: Final = (ROUNDS, ((6, 1 / 4), (3, 1.0)), ((4, 1 / 3), (2, 1.0)), ((2, 1.0),))
ENOUGH_EPOCHS: Final = 20
SEEDS: Final = 2  # seeds in the last round; if time is short, epochs come first
MOST_EPOCHS: Final = 240  # more do not help
MOST_UPDATES: Final = 400  # largest number of updates in a stage
SEARCH: Final = 0.45  # share of the time after the teacher; the finalists get the rest
REMOVAL: Final = 0.3  # of the search
SHRINKAGE: Final = 0.4  # share of the search, if a local search follows
VARIANTS: Final = 0.15  # share of the finalists' time for the teacher's logits
FINISH: Final = 12.0  # seconds that files, measuring and the report take
FINISH_SHARE: Final = 0.04  # share of the whole time, besides those seconds


class Pacing(Protocol):
    """The numbers of students, updates and epochs of a run."""

    def removal_updates(self) -> int: ...

    def shrinkage_updates(self) -> int: ...

    def local_updates(self) -> int:
        """Number of generations of the local search."""

    def is_enough(self, stage: str, count: int) -> bool:
        """Whether a stage ends after this many students."""

    def rounds(self) -> Sequence[int]:
        """Number of finalists in each round."""

    def epochs(self, number: int) -> int:
        """Number of epochs of a round; controls have as many as the last round.

        Args:
            number: Index of the round of finalists, from 0.
        """

    def seeds(self) -> int:
        """Number of seeds from which the last round distils each student."""

    def distilled(self, students: int, epochs: int, seconds: float) -> None:
        """Record the seconds in which these students were distilled together."""

    def num_variants(self) -> int:
        """Largest number of augmented forms of each image for finalists."""

    def allows_controls(self) -> bool: ...


@dataclass
class Fixed:
    """Numbers from the options: epochs of the last round, updates of both stages."""

    final_epochs: int
    removals: int = 0
    shrinkages: int = 0

    def removal_updates(self) -> int:
        return self.removals

    def shrinkage_updates(self) -> int:
        return self.shrinkages

    def local_updates(self) -> int:
        return self.shrinkages

    def is_enough(self, stage: str, count: int) -> bool:
        return False

    def rounds(self) -> Sequence[int]:
        return [count for count, _ in ROUNDS]

    def epochs(self, number: int) -> int:
        _, share = ROUNDS[number]
        return max(1, round(self.final_epochs * share))

    def seeds(self) -> int:
        return SEEDS

    def distilled(self, students: int, epochs: int, seconds: float) -> None:
        pass

    def num_variants(self) -> int:
        return FULL.num_variants

    def allows_controls(self) -> bool:
        return True


@dataclass
class Timed:
    """Numbers that fit into the run's minutes, from the times measured so far.

    Attributes:
        scores: Speed of scoring students, over all processes.
        workers: Number of processes that distil students.
        epochs_a_score: Cost of one score, in passes over the training images.
        seconds_a_variant: Function that measures the seconds that the teacher needs for
            the logits of one augmented variant of all training images.
        with_controls: Whether other networks of the chosen student's size are distilled
            at the end, for comparison.
        is_limited: Whether a local search follows the agent's search.
        most_seeds: Largest number of seeds from which each finalist of the last round
            is distilled.
        agent: Name of the agent that searches.
    """

    plan: Plan
    scores: Pace
    workers: int
    epochs_a_score: float
    seconds_a_variant: Callable[[], float]
    with_controls: bool
    is_limited: bool
    most_seeds: int = SEEDS
    agent: str = REINFORCE
    _finals: Pace = field(default_factory=Pace)
    _left: dict[str, float] = field(default_factory=dict)
    _decided: dict[int, int] = field(default_factory=dict)
    _rounds: Sequence[tuple[int, float]] = ()
    _num_variants: int | None = None

    @property
    def reserve(self) -> float:
        """Seconds reserved for the end of a run."""
        return FINISH + FINISH_SHARE * (self.plan.seconds or 0)

    def start_search(self) -> None:
        """Decide when each stage of the search has to end."""
        now = self.plan.left
        search = SEARCH * max(0.0, now - self.reserve)
        ends = {f"{self.agent}: remove": REMOVAL, f"{self.agent}: shrink": 1.0}
        if self.is_limited:
            ends[f"{self.agent}: shrink"] = REMOVAL + SHRINKAGE
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
            each = self.scores.of(ROLLOUTS, guess=1.0)
            return min(MOST_UPDATES, max(2, int(seconds / each)))

        return self.plan.decide(f"updates of {stage}", fit, 2)

    def is_enough(self, stage: str, count: int) -> bool:
        until = self._left.get(stage, 0.0)
        return count % ROLLOUTS == 0 and self.plan.is_enough(stage, count, until)

    def rounds(self) -> Sequence[int]:
        def fit() -> int:
            fits = (
                n
                for n, rounds in enumerate(SHORTER)
                if self._final_epochs(rounds) >= ENOUGH_EPOCHS
            )
            return next(fits, len(SHORTER) - 1)

        if not self._rounds:
            self._rounds = SHORTER[self.plan.decide("rounds of finalists", fit, 0)]
        return [count for count, _ in self._rounds]

    def epochs(self, number: int) -> int:
        def fit() -> int:
            _, share = self._rounds[number]
            return max(1, int(self._final_epochs(self._rounds[number:]) * share))

        self.rounds()
        if number not in self._decided:
            what = f"{EPOCHS} {number + 1}"
            self._decided[number] = self.plan.decide(what, fit, 1)
        return self._decided[number]

    def _final_epochs(self, rounds: Sequence[tuple[int, float]]) -> float:
        """Number of epochs that fit into the last round; controls have as many.

        Args:
            rounds: Number of students, and fraction of the epochs, of each round.
        """
        work = sum(self._waves(count) * share for count, share in rounds)
        repeats = self._seeds_in(self._rounds or rounds) - 1
        work += repeats * self._waves(rounds[-1][0])
        if self.with_controls:
            work += self._waves(2)
        seconds = self.plan.left - self.reserve
        each = self._finals.of(1.0, self._guess())
        return min(MOST_EPOCHS, max(1.0, seconds / (each * work)))

    def seeds(self) -> int:
        return self._seeds_in(self._rounds)

    def _seeds_in(self, rounds: Sequence[tuple[int, float]]) -> int:
        return min(self.most_seeds, seeds_in(rounds))

    def num_variants(self) -> int:
        def fit() -> int:
            seconds = VARIANTS * max(0.0, self.plan.left - self.reserve)
            each = self.seconds_a_variant()
            others = seconds / each if each else FULL.num_variants
            return int(min(FULL.num_variants, 1 + others))

        if self._num_variants is None:
            self._num_variants = self.plan.decide(
                "forms of each image", fit, FULL.num_variants
            )
        return self._num_variants

    def _guess(self) -> float:
        """Estimated seconds for one epoch of one student, from the search's pace."""
        return self.scores.of(1.0, guess=1.0) * self.workers / self.epochs_a_score

    def _waves(self, count: int) -> int:
        return math.ceil(count / self.workers)

    def distilled(self, students: int, epochs: int, seconds: float) -> None:
        self._finals.amount += self._waves(students) * epochs
        self._finals.seconds += seconds

    def allows_controls(self) -> bool:
        def fit() -> int:
            last = self._decided[len(self._rounds) - 1]
            needed = self._finals.of(self._waves(2) * last, self._guess())
            return int(self.plan.left - self.reserve >= 0.8 * needed)

        return bool(self.plan.decide("controls", fit, 1))


def seeds_in(rounds: Sequence[tuple[int, float]]) -> int:
    """Number of seeds from which the last of these rounds distils each student."""
    return SEEDS if len(rounds) > 1 else 1
