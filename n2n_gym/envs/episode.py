"""One walk through the decisions about a network, without what it is worth.

An episode knows which actions are legal, what student they leave, and how small that
can still become. Its state is cheap to copy.
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
UNCHANGED: Final = len(RATES) - 1  # the action that leaves a size as it is


class Episode(ABC):
    """A walk through decisions, in their order, each made by an action.

    Attributes:
        start: What the decisions are about.
        decisions: In their order.
        num_actions: Of each decision; 0 where actions are continuous.
        choices: What was decided so far, as the observation shows it.
    """

    start: Architecture
    decisions: tuple[Decision, ...]
    num_actions: int
    choices: tuple[float, ...]

    @property
    def position(self) -> int:
        """How many decisions have been made."""
        return len(self.choices)

    @property
    def is_complete(self) -> bool:
        return len(self.choices) == len(self.decisions)

    @property
    def current(self) -> Decision:
        """The decision at hand."""
        return self.decisions[len(self.choices)]

    def make_space(self) -> gym.Space[Any]:
        """Of actions."""
        if self.num_actions:
            return gym.spaces.Discrete(self.num_actions)
        return gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    @abstractmethod
    def restart(self) -> None:
        """Forget all decisions."""

    @property
    @abstractmethod
    def student(self) -> Architecture:
        """What the decisions so far leave; with none, the start."""

    @property
    @abstractmethod
    def taken(self) -> Counts:
        """What that student takes."""

    @property
    @abstractmethod
    def floor(self) -> Counts:
        """A lower bound for every student that can still be reached."""

    @property
    @abstractmethod
    def narrowest(self) -> Architecture | None:
        """A student that takes no more than any in reach, if there is one to name."""

    @abstractmethod
    def mask(self) -> Mask:
        """1 for each action that is offered, a fresh (A,) array.

        Of actions that lead to the same, one is offered.
        """

    @abstractmethod
    def is_legal(self, action: Any) -> bool:
        """Whether the decision at hand may be made so, offered or not."""

    @abstractmethod
    def least(self, action: Any) -> Least:
        """A lower bound for students behind an action, tight where it can be."""

    @abstractmethod
    def keep(self) -> Any:
        """The action that leaves the decision's layers as they are."""

    @abstractmethod
    def decide(self, action: Any) -> None:
        """Make the decision at hand."""

    @abstractmethod
    def rates_of_widths(self) -> tuple[Architecture, dict[Shrinkage, float]]:
        """What widths are scaled together: a network, and the rates of its sizes."""

    def copy(self) -> Episode:
        """One that goes its own way."""
        return copy.copy(self)


# Decisions about all widths of a network that may be scaled.
Widths = Callable[[Architecture], Sequence[Shrinkage]]


def all_widths(kept: frozenset[str]) -> Widths:
    """Of any network, but for layers of these names."""

    def widths(network: Architecture) -> Sequence[Shrinkage]:
        return shrinkages(network, ("width",), keep=kept)

    return widths


EVERY_WIDTH: Final = all_widths(frozenset())


class RemovalEpisode(Episode):
    """What to remove: 0 keeps, 1 removes.

    Args:
        kept: Names of layers that nothing may be left without.
        fit: Whether students become narrower in the end, so that the floor is that of
            the narrowest.
        widths: What is scaled then.
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
        self.restart()

    def restart(self) -> None:
        self.choices = ()
        self.removed: tuple[Removal, ...] = ()
        self.left: Wiring = self._untouched
        self._removable = (1 << len(self.decisions)) - 1
        self._without = self._try_next()

    def _try_next(self) -> Wiring | None:
        """What removing the decision at hand would leave, None if that is illegal."""
        if self.is_complete:
            return None
        removal = self.decisions[self.position]
        return legal_removal(
            self.start, self.removed, self.left, removal, keep=self._kept
        )

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
        """What is least of one resource may not be of another, while layers can go."""
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
    """An action as a plain value.

    Raises:
        ValueError: It is not in the space.
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
