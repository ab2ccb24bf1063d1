"""One episode's decisions about a network, without scores.

An episode knows the legal actions, the resulting student, and lower bounds on the
student's size. An episode is cheap to copy.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from n2n_gym.limits.bounds import Least, least_removed
from n2n_gym.limits.floor import Floor
from n2n_gym.networks.architecture import Architecture, Wiring
from n2n_gym.networks.decisions import (
    RATES,
    Removal,
    Shrinkage,
    legal_removal,
    positions_of,
    shrink,
    shrinkages,
)
from n2n_gym.networks.tally import Counts

Mask = NDArray[np.int8]
Decision = Removal | Shrinkage
KEEP, REMOVE = 0, 1
UNCHANGED: Final = len(RATES) - 1  # the action that changes no size
MOST_KNOWN: Final = 1_000  # networks after removals that an episode remembers


class Episode(ABC):
    """A sequence of decisions; each is made by an action.

    Attributes:
        start: The network that the decisions apply to.
        decisions: All decisions, in order.
        num_actions: Number of actions of each decision; 0 if actions are continuous.
        choices: Value of each decision made so far, as in the column ``choice``: the
            rate; or 1 for removed, 0 for kept.
    """

    start: Architecture
    decisions: tuple[Decision, ...]
    num_actions: int
    choices: tuple[float, ...]

    @property
    def position(self) -> int:
        """The number of decisions made so far."""
        return len(self.choices)

    @property
    def is_complete(self) -> bool:
        return len(self.choices) == len(self.decisions)

    @property
    def current(self) -> Decision:
        """The next decision."""
        return self.decisions[len(self.choices)]

    def make_space(self) -> gym.Space[Any]:
        """The action space."""
        if self.num_actions:
            return gym.spaces.Discrete(self.num_actions)
        return gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    @abstractmethod
    def restart(self) -> None:
        """Go back to before the first decision."""

    @property
    @abstractmethod
    def student(self) -> Architecture:
        """The student after the decisions so far; at first the start network."""

    @property
    @abstractmethod
    def taken(self) -> Counts:
        """Parameters and multiply-accumulates of the student so far."""

    @property
    @abstractmethod
    def floor(self) -> Counts:
        """Lower bounds on the counts of every student that is still possible."""

    @property
    @abstractmethod
    def narrowest(self) -> Architecture | None:
        """The student, among those still possible, with the least of every resource.

        None means that different students can have the least of different resources.
        """

    @abstractmethod
    def mask(self) -> Mask:
        """The actions offered for the next decision, as a new array, (A,) int8.

        1 marks an offered action. An action with the same result as an offered action
        can be left out.
        """

    @abstractmethod
    def is_legal(self, action: Any) -> bool:
        """Whether an action is legal for the next decision, offered or not."""

    @abstractmethod
    def least(self, action: Any) -> Least:
        """Lower bounds on the counts of all unscaled students after an action."""

    def least_fitted(self, action: Any) -> Counts:
        """Lower bounds on the counts of all scaled students after an action."""
        twin = self.copy()
        twin.decide(action)
        return twin.floor

    @property
    def is_monotone(self) -> bool:
        """Whether a higher action for the next decision never lowers a bound."""
        return False

    @abstractmethod
    def keep(self) -> Any:
        """The action that leaves the decision's layers unchanged."""

    @abstractmethod
    def decide(self, action: Any) -> None:
        """Make the next decision."""

    @abstractmethod
    def rates_of_widths(self) -> tuple[Architecture, dict[Shrinkage, float]]:
        """The network that ``fit`` scales, and its rates before scaling."""

    def copy(self) -> Episode:
        """An independent copy."""
        return copy.copy(self)


# Function that lists the widths of a network that can be scaled, as decisions.
Widths = Callable[[Architecture], Sequence[Shrinkage]]


def all_widths(kept: frozenset[str]) -> Widths:
    """A function that lists a network's widths, except those of the ``kept`` layers."""

    def widths(network: Architecture) -> Sequence[Shrinkage]:
        return shrinkages(network, ("width",), keep=kept)

    return widths


EVERY_WIDTH: Final = all_widths(frozenset())


class RemovalEpisode(Episode):
    """Decisions about removals: 0 keeps, 1 removes.

    Args:
        kept: Names of layers that every student must have.
        fit: Whether students are scaled at the end. ``floor`` then allows for layers as
            narrow as possible.
        widths: Function that lists the widths to scale at the end.
    """

    num_actions = 2

    def __init__(
        self,
        start: Architecture,
        decisions: Sequence[Removal],
        *,
        kept: frozenset[str] = frozenset(),
        fit: bool = False,
        widths: Widths = EVERY_WIDTH,
    ) -> None:
        self.start = start
        self.decisions: tuple[Removal, ...] = tuple(decisions)
        self._kept, self._fit = positions_of(start, kept), fit
        self._widths = widths
        self._floor = Floor(start, decisions, narrow=fit)
        self._untouched = start.rewire(frozenset(), frozenset())
        # Networks after removals, for all episodes and their copies.
        self._known: dict[tuple[int, int], Wiring | None] = {}
        self.restart()

    def restart(self) -> None:
        self.choices = ()
        self.removed: tuple[Removal, ...] = ()
        self.left: Wiring = self._untouched
        self._removable = (1 << len(self.decisions)) - 1
        self._without = self._try_next()

    def _try_next(self) -> Wiring | None:
        """The network after the next removal; None if it is illegal or none is left."""
        if self.is_complete:
            return None
        key = self.made, self.position
        if key not in self._known:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            removal = self.decisions[self.position]
            self._known[key] = legal_removal(
                self.start, self.removed, self.left, removal, keep=self._kept
            )
        return self._known[key]

    @property
    def made(self) -> int:
        """The decisions made, as bits: 0 if a layer is kept, otherwise 1."""
        return self._removable

    @property
    def student(self) -> Architecture:
        return self.start.keep(self.left)

    @property
    def taken(self) -> Counts:
        return Counts(self.left.num_params, self.left.num_macs)

    @property
    def floor(self) -> Counts:
        narrowest = self.narrowest
        if narrowest is None:
            return self._floor.without(self._removable)
        return Counts(narrowest.num_params, narrowest.num_macs)

    @property
    def narrowest(self) -> Architecture | None:
        """None before the end: no single student has the least of all resources."""
        if not self.is_complete:
            return None
        if not self._fit:
            return self.student
        student, rates = self.rates_of_widths()
        return shrink(student, dict.fromkeys(rates, 0.0))

    def mask(self) -> Mask:
        return np.array([1, self.is_complete or self._without is not None], np.int8)

    def is_legal(self, action: Any) -> bool:
        return bool(action == KEEP) or self._without is not None

    def least(self, action: Any) -> Least:
        taken = self.removed
        if action == REMOVE:
            taken = (*taken, self.decisions[self.position])
        return least_removed(self.start, taken, self.decisions[self.position + 1 :])

    def keep(self) -> int:
        return KEEP

    def decide(self, action: Any) -> None:
        if action == REMOVE:
            assert self._without is not None
            self.removed += (self.decisions[self.position],)
            self.left = self._without
        else:
            self._removable &= ~(1 << self.position)
        self.choices += (float(action),)
        self._without = self._try_next()

    def rates_of_widths(self) -> tuple[Architecture, dict[Shrinkage, float]]:
        student = self.student
        return student, dict.fromkeys(self._widths(student), 1.0)


def read_action(space: gym.Space[Any], action: Any) -> Any:
    """An action as a Python number.

    Raises:
        ValueError: The action is not in the space.
    """
    value = np.asarray(action)
    if isinstance(space, gym.spaces.Discrete):
        is_there = value.size == 1 and space.contains(value.item())
    else:
        is_number = np.issubdtype(value.dtype, np.number) and value.size == 1
        is_there = bool(is_number and -1 <= value.item() <= 1)
    if not is_there:
        raise ValueError(f"action {action!r} is not in {space}")
    return value.item()
