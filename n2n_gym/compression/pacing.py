"""Numbers of students, updates and epochs of a run, here as the options give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from n2n_gym.evaluators.rungs import FULL
from n2n_gym.networks.architecture import Architecture

# Successive halving (Jamieson and Talwalkar, 2016) of a search's best students: number
# of students, and fraction of the epochs, in each round.
ROUNDS: Final = ((12, 1 / 12), (6, 1 / 3), (3, 1.0))
SEEDS: Final = 2  # seeds in the last round; if time is short, epochs come first
# Trains students briefly and reports the seconds to ``Pacing.distilled``.
TimeTraining: TypeAlias = Callable[[Sequence[Architecture]], None]


class Pacing(Protocol):
    """The numbers of students, updates and epochs of a run."""

    def removal_updates(self) -> int: ...

    def shrinkage_updates(self) -> int: ...

    def local_updates(self) -> int:
        """Number of generations of the local search."""

    def is_enough(self, stage: str, count: int, *, is_replay: bool) -> bool:
        """Whether a stage ends after this many students.

        Args:
            is_replay: Whether an earlier process has scored further students.
        """

    def rounds(self, students: Sequence[Architecture]) -> Sequence[int]:
        """Number of finalists in each round.

        Args:
            students: The best students, best first.
        """

    def plan_round(
        self,
        number: int,
        students: Sequence[Architecture],
        time_training: TimeTraining,
    ) -> tuple[Sequence[int], float]:
        """Positions of the students that a round distils, and its number of epochs.

        Args:
            number: Index of the round of finalists, from 0.
            students: The students that may take part, best first.
            time_training: Function that times students before an only round.
        """

    @property
    def final_epochs(self) -> float:
        """Number of epochs of the last round; controls have as many."""

    def seeds(self) -> int:
        """Most seeds from which the last round distils each student."""

    def distilled(self, student: Architecture, epochs: float, seconds: float) -> None:
        """Record the seconds in which one process distilled a student."""

    def num_variants(self) -> int:
        """Largest number of augmented forms of each image for finalists."""

    def allows_seed(self, students: Sequence[Architecture]) -> bool:
        """Whether there is time to distil the last round from another seed."""

    def allows_controls(self, controls: Sequence[Architecture]) -> bool:
        """Whether there is time to distil the controls."""


@dataclass
class Fixed:
    """Numbers from the options: epochs of the last round, updates of both stages."""

    final_epochs: float
    removals: int = 0
    shrinkages: int = 0

    def removal_updates(self) -> int:
        return self.removals

    def shrinkage_updates(self) -> int:
        return self.shrinkages

    def local_updates(self) -> int:
        return self.shrinkages

    def is_enough(self, stage: str, count: int, *, is_replay: bool) -> bool:
        return False

    def rounds(self, students: Sequence[Architecture]) -> Sequence[int]:
        return [count for count, _ in ROUNDS]

    def plan_round(
        self,
        number: int,
        students: Sequence[Architecture],
        time_training: TimeTraining,
    ) -> tuple[Sequence[int], float]:
        count = self.rounds(students)[number]
        return range(min(count, len(students))), self._epochs(number)

    def _epochs(self, number: int) -> float:
        _, share = ROUNDS[number]
        if share == 1:
            return self.final_epochs
        return max(1, round(self.final_epochs * share))

    def seeds(self) -> int:
        return SEEDS

    def distilled(self, student: Architecture, epochs: float, seconds: float) -> None:
        pass

    def num_variants(self) -> int:
        return FULL.num_variants

    def allows_seed(self, students: Sequence[Architecture]) -> bool:
        return True

    def allows_controls(self, controls: Sequence[Architecture]) -> bool:
        return True
