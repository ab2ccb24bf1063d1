"""Both stages in one episode: the teacher's removals, then its shrinkages."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from n2n_gym.envs.episode import (
    KEEP,
    REMOVE,
    UNCHANGED,
    Episode,
    Mask,
    RemovalEpisode,
    Widths,
)
from n2n_gym.envs.shrinking import ShrinkageEpisode
from n2n_gym.limits.bounds import Least
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import RATES, Removal, Shrinkage, shrinkages
from n2n_gym.networks.tally import Costs, Counts

REMOVES: Final = 0  # the action that removes
MOST_KNOWN: Final = 200  # networks after removals that an episode remembers
_REMOVAL: Final[Mapping[int, int]] = {REMOVES: REMOVE, UNCHANGED: KEEP}


class _Shrinkages(NamedTuple):
    """The shrinkages that are left after removals."""

    said: Mapping[int, list[int]]
    episode: ShrinkageEpisode  # before its first decision


class StagedEpisode(Episode):
    """Removals, then a rate for each width and kernel of the teacher.

    A removal can tie widths that are separate in the teacher. The first decision about
    one of these widths sets the rate of all of them. If a decision is about a removed
    layer, or about a width that is already set, only ``UNCHANGED`` is legal.

    Args:
        removals, shrinkages: The decisions about the teacher.
        kept: Names of layers that stay unchanged.
        rates, fit, widths: As in ``ShrinkageEpisode``.
    """

    num_actions = len(RATES)

    def __init__(
        self,
        start: Architecture,
        removals: Sequence[Removal],
        shrinkages: Sequence[Shrinkage],
        *,
        kept: frozenset[str],
        rates: Sequence[float],
        fit: bool,
        widths: Widths,
    ) -> None:
        self.start = start
        self.decisions = (*removals, *shrinkages)
        self._num_removals = len(removals)
        self._shrinkages = tuple(shrinkages)
        self._kept, self._rates = kept, tuple(rates)
        self._fit, self._widths = fit, widths
        self._known: Costs = {}  # layer costs of all its students
        # Shrinkages after removals, for all episodes and their copies.
        self._prepared: dict[int, _Shrinkages] = {}
        # Widths can shrink after any removal, so the floor is the narrowest student's.
        self._first = RemovalEpisode(
            start, removals, kept=kept, fit=True, widths=widths
        )
        self._place_of = {
            (each.variable, position): place
            for place, each in enumerate(shrinkages)
            for position in each.layers
        }
        self.restart()

    def restart(self) -> None:
        self.choices = ()
        self._first.restart()
        self._second: ShrinkageEpisode | None = None
        # Each index of a teacher's shrinkage that still counts, with the decisions
        # about the network after removal that get its rate.
        self._said: Mapping[int, list[int]] = {}
        if not self._num_removals:
            self._go_on()

    def _go_on(self) -> None:
        """After the last removal, go on with the remaining shrinkages."""
        key = self._first.made
        if key not in self._prepared:
            if len(self._prepared) >= MOST_KNOWN:
                self._prepared.clear()
            self._prepared[key] = self._prepare()
        self._said, second = self._prepared[key]
        self._second = second.copy()

    def _prepare(self) -> _Shrinkages:
        """List the remaining shrinkages."""
        left = self._first.student
        variables = dict.fromkeys(each.variable for each in self._shrinkages)
        rule = next((d.rule for d in self._shrinkages if d.variable == "kernel"), None)
        found: list[Shrinkage] = []
        said: dict[int, list[int]] = {}
        offered = shrinkages(
            left,
            tuple(variables),
            kernels=rule or "nearest",
            keep=self._kept,
        )
        for each in offered:
            positions = (self.start.positions[left.layers[p].name] for p in each.layers)
            candidates = (self._place_of.get((each.variable, p)) for p in positions)
            place = min((p for p in candidates if p is not None), default=None)
            if place is not None:
                said.setdefault(place, []).append(len(found))
                found.append(each)
        order = [i for place in sorted(said) for i in said[place]]
        second = ShrinkageEpisode(
            left,
            [found[i] for i in order],
            rates=self._rates,
            fit=self._fit,
            widths=self._widths,
            known=self._known,
        )
        return _Shrinkages(said, second)

    @property
    def student(self) -> Architecture:
        return (self._second or self._first).student

    @property
    def taken(self) -> Counts:
        return (self._second or self._first).taken

    @property
    def floor(self) -> Counts:
        return (self._second or self._first).floor

    @property
    def narrowest(self) -> Architecture | None:
        return self._second.narrowest if self._second else None

    @property
    def _place(self) -> int:
        """Index of the next decision among the teacher's shrinkages."""
        return self.position - self._num_removals

    def mask(self) -> Mask:
        mask = np.zeros(len(RATES), np.int8)
        if self.is_complete:
            mask[:] = 1
        elif self._second is None:
            mask[UNCHANGED], mask[REMOVES] = self._first.mask()
        elif self._place in self._said:
            return self._second.mask()
        else:
            mask[UNCHANGED] = 1
        return mask

    def is_legal(self, action: Any) -> bool:
        if self._second is None:
            return action in _REMOVAL and self._first.is_legal(_REMOVAL[action])
        if self._place not in self._said:
            return bool(action == UNCHANGED)
        return self._second.is_legal(action)

    def least(self, action: Any) -> Least:
        twin = self.copy()
        twin.decide(action)
        return Least(*twin.floor)

    @property
    def is_monotone(self) -> bool:
        return self._second is not None and self._second.is_monotone

    def keep(self) -> int:
        return UNCHANGED

    def decide(self, action: Any) -> None:
        if self._second is None:
            self._first.decide(_REMOVAL[action])
            self.choices += self._first.choices[-1:]
            if len(self.choices) == self._num_removals:
                self._go_on()
            return
        for _ in self._said.get(self._place, ()):
            self._second.decide(action)
        self.choices += (RATES[action],)

    def rates_of_widths(self) -> tuple[Architecture, dict[Shrinkage, float]]:
        return (self._second or self._first).rates_of_widths()

    def copy(self) -> StagedEpisode:
        twin = copy.copy(self)
        twin._first = copy.copy(self._first)
        twin._second = self._second and self._second.copy()
        return twin
