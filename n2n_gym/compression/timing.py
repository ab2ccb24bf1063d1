"""How many students and epochs: as the options say, or as many as the minutes allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from n2n_agents import reinforce
from n2n_gym.compression.plan import EPOCHS, Pace, Plan
from n2n_gym.evaluators.rungs import FULL

ROLLOUTS: Final = reinforce.MODERN.rollouts  # episodes an update
# Successive halving (Jamieson and Talwalkar, 2016) of a search's best students: so many
# of them are distilled for this share of the epochs, and the best go on.
ROUNDS: Final = ((12, 1 / 12), (6, 1 / 3), (3, 1.0))
# With less time fewer take part, so that the last are distilled for so many epochs.
SHORTER: Final = (ROUNDS, ((6, 1 / 4), (3, 1.0)), ((4, 1 / 3), (2, 1.0)), ((2, 1.0),))
ENOUGH_EPOCHS: Final = 20
SEEDS: Final = 2  # of each of the last; where time is short their epochs come first
MOST_EPOCHS: Final = 240  # more do not help
MOST_UPDATES: Final = 400  # of a stage
SEARCH: Final = 0.45  # of the time after the teacher; the finalists take the rest
REMOVAL: Final = 0.3  # of the search
SHRINKAGE: Final = 0.4  # of the search, where a local search follows
VIEWS: Final = 0.15  # of the finalists' time, for the teacher's logits
FINISH: Final = 12.0  # seconds that files, measuring and the report take
FINISH_SHARE: Final = 0.04  # of all, beside those


class Pacing(Protocol):
    """How much of everything is done."""

    def removal_updates(self) -> int: ...

    def shrinkage_updates(self) -> int: ...

    def local_updates(self) -> int:
        """Generations of a local search."""

    def is_enough(self, stage: str, count: int) -> bool:
        """Whether a stage ends after so many students."""

    def rounds(self) -> Sequence[int]:
        """How many finalists take part in each round."""

    def epochs(self, number: int) -> int:
        """Of a round of the finalists; of the last for what they are compared with."""

    def seeds(self) -> int:
        """That those of the last round are distilled from."""

    def distilled(self, students: int, epochs: int, seconds: float) -> None:
        """Learn how long a round took."""

    def views(self) -> int:
        """In how many augmented forms finalists see each image, at most."""

    def allows_controls(self) -> bool: ...


@dataclass
class Fixed:
    """As the options say: epochs of the last round, and updates of both stages."""

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

    def views(self) -> int:
        return FULL.views

    def allows_controls(self) -> bool:
        return True


@dataclass
class Timed:
    """As many as the minutes allow, by what was measured so far.

    Attributes:
        scores: How long students of the search take, all processes together.
        workers: Processes that students are distilled in.
        epochs_a_score: Passes over the training images that a score is worth.
        seconds_a_view: Measures how long the teacher takes for one form of all training
            images.
        with_controls: Whether others are distilled to the student's size at the end.
        is_limited: Whether a local search follows the policies.
    """

    plan: Plan
    scores: Pace
    workers: int
    epochs_a_score: float
    seconds_a_view: Callable[[], float]
    with_controls: bool
    is_limited: bool
    _finals: Pace = field(default_factory=Pace)
    _left: dict[str, float] = field(default_factory=dict)
    _decided: dict[int, int] = field(default_factory=dict)
    _rounds: Sequence[tuple[int, float]] = ()
    _views: int | None = None

    @property
    def reserve(self) -> float:
        """Seconds that the end of a run takes."""
        return FINISH + FINISH_SHARE * (self.plan.seconds or 0)

    def start_search(self) -> None:
        """Decide when each stage of the search has to end."""
        now = self.plan.left
        search = SEARCH * max(0.0, now - self.reserve)
        ends = {"reinforce: remove": REMOVAL, "reinforce: shrink": 1.0}
        if self.is_limited:
            ends["reinforce: shrink"] = REMOVAL + SHRINKAGE
            ends["local search: shrink"] = 1.0
        for stage, share in ends.items():
            left = round(now - share * search, 1) if self.plan.has_clock else 0.0
            what = f"seconds left after {stage}"
            self._left[stage] = self.plan.decide(what, partial(float, left), 0.0)

    def removal_updates(self) -> int:
        return self._updates("reinforce: remove")

    def shrinkage_updates(self) -> int:
        return self._updates("reinforce: shrink")

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
        """That the last of these rounds can have, and what is compared with it."""
        work = sum(self._waves(count) * share for count, share in rounds)
        work += (seeds_in(self._rounds or rounds) - 1) * self._waves(rounds[-1][0])
        if self.with_controls:
            work += self._waves(2)
        seconds = self.plan.left - self.reserve
        each = self._finals.of(1.0, self._guess())
        return min(MOST_EPOCHS, max(1.0, seconds / (each * work)))

    def seeds(self) -> int:
        return seeds_in(self._rounds)

    def views(self) -> int:
        def fit() -> int:
            seconds = VIEWS * max(0.0, self.plan.left - self.reserve)
            each = self.seconds_a_view()
            others = seconds / each if each else FULL.views
            return int(min(FULL.views, 1 + others))

        if self._views is None:
            self._views = self.plan.decide("forms of each image", fit, FULL.views)
        return self._views

    def _guess(self) -> float:
        """Seconds of an epoch of one student, by those of the search."""
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
    """That the last of these rounds is distilled from."""
    return SEEDS if len(rounds) > 1 else 1
