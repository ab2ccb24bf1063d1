"""The decisions of a shrinkage: a rate for each width, kernel and padding."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from n2n_gym.envs.episode import EVERY_WIDTH, UNCHANGED, Episode, Mask, Widths
from n2n_gym.limits.bounds import Least, least_shrunk
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import (
    RATES,
    Shrinkage,
    kernels_at,
    shrink,
    widths_at,
)
from n2n_gym.networks.layers import ShapeError
from n2n_gym.networks.tally import Costs, Counts, Tally, affected_by_width

LOWEST, HIGHEST = RATES[0], RATES[-1]


def check_rates(rates: Sequence[float]) -> None:
    """Raise a ValueError if an environment cannot offer these rates.

    Raises:
        ValueError: A rate is none of 0.1, 0.2, ..., 1, or the rate 1 is missing.
    """
    is_several = isinstance(rates, Sequence)
    given = tuple(rates) if is_several else (rates,)
    are_known = all(isinstance(r, (int, float)) and r in RATES for r in given)
    if not is_several or not are_known or HIGHEST not in given:
        raise ValueError(f"rates must be some of {RATES} and include 1.0, got {given}")


class ShrinkageEpisode(Episode):
    """Decisions about shrinkages: an action is a rate's index or a number in [-1, 1].

    Args:
        rates: The rates that are offered.
        fit: Whether widths are scaled at the end; decisions about widths then leave
            ``floor`` unchanged.
        widths: Function that lists the widths to scale at the end.
        known: Cache of layer costs for `Tally`, for all networks of one teacher.
    """

    def __init__(
        self,
        start: Architecture,
        decisions: Sequence[Shrinkage],
        *,
        is_discrete: bool = True,
        rates: Sequence[float] = RATES,
        fit: bool = False,
        widths: Widths = EVERY_WIDTH,
        known: Costs | None = None,
    ) -> None:
        self.start = start
        self.decisions: tuple[Shrinkage, ...] = tuple(decisions)
        self.num_actions = len(RATES) if is_discrete else 0
        self._offered = np.array([rate in rates for rate in RATES], np.int8)
        self._fit, self._lowest = fit, min(rates)
        self._scaled = tuple(widths(start)) if fit else ()
        self._affected = [_affected(start, each) for each in decisions]
        # Deciding paddings changes map sizes, which a tally does not track.
        self._is_tallied = all(each.variable != "padding" for each in decisions)
        self._masks = [self._mask_of(each) for each in decisions]
        known = {} if known is None else known
        self._whole, self._narrow = Tally(start, known), Tally(start, known)
        if self._is_tallied:
            for place, each in enumerate(decisions):
                _shrink_in(
                    self._narrow, start, each, self._lowest, self._affected[place]
                )
            for each in self._scaled:
                _shrink_in(self._narrow, start, each, 0.0, _affected(start, each))
        self.restart()

    def _mask_of(self, decision: Shrinkage) -> Mask:
        """The mask of a decision, (A,): 1 for each offered rate.

        If several rates lead to the same kernel, only the highest has 1. With
        ``kernels="floor"`` all of ``rates`` have 1, because tasks were published with
        this mask.
        """
        mask = self._offered.copy()
        if decision.variable == "kernel" and decision.rule == "nearest":
            seen = set()
            for action in reversed(np.flatnonzero(mask)):
                sizes = tuple(kernels_at(self.start, decision, RATES[action]).values())
                mask[action] = sizes not in seen
                seen.add(sizes)
        return mask

    def restart(self) -> None:
        self.choices = ()
        self._now, self._low = self._whole.copy(), self._narrow.copy()

    @property
    def student(self) -> Architecture:
        return self._shrunk(self.choices)

    def _shrunk(self, rates: Sequence[float]) -> Architecture:
        made = zip(self.decisions[: len(rates)], rates, strict=True)
        return shrink(self.start, dict(made))

    @property
    def taken(self) -> Counts:
        if self._is_tallied:
            return self._now.counts
        student = self.student
        return Counts(student.num_params, student.num_macs)

    @property
    def floor(self) -> Counts:
        if self._is_tallied:
            return self._low.counts
        made = dict(zip(self.decisions, self.choices, strict=False))
        if self._fit:
            made = {each: r for each, r in made.items() if each.variable != "width"}
            made |= dict.fromkeys(self._scaled, 0.0)
        left = [
            each
            for each in self.decisions
            if each not in made and not (self._fit and each.variable == "width")
        ]
        return Counts(*least_shrunk(self.start, made, left, self._lowest))

    @property
    def narrowest(self) -> Architecture | None:
        if not self._is_tallied:  # smaller paddings and kernels have opposite effects
            return None
        rates = dict.fromkeys(self.decisions, self._lowest)
        rates |= zip(self.decisions, self.choices, strict=False)
        if self._fit:
            rates = {each: r for each, r in rates.items() if each.variable != "width"}
            rates |= dict.fromkeys(self._scaled, 0.0)
        return shrink(self.start, rates)

    def rate_of(self, action: Any) -> float:
        """The rate that an action stands for."""
        if self.num_actions:
            return float(RATES[action])
        return float(np.interp(action, (-1, 1), (LOWEST, HIGHEST)))

    def mask(self) -> Mask:
        if self.is_complete:
            return np.ones(len(RATES), np.int8)
        mask = self._masks[self.position].copy()
        if self.decisions[self.position].variable == "padding":
            for action in np.flatnonzero(mask):
                mask[action] = self.is_legal(action)
            if not mask.any():
                mask[UNCHANGED] = 1
        return mask

    def is_legal(self, action: Any) -> bool:
        if self.num_actions and not self._offered[action]:
            return False
        if self.decisions[self.position].variable != "padding":
            return True
        try:
            self._shrunk((*self.choices, self.rate_of(action)))
        except ShapeError:
            return False
        return True

    def least(self, action: Any) -> Least:
        place, rate = self.position, self.rate_of(action)
        if self._is_tallied and not self._fit:  # equal to the bound below, but fast
            low, decision = self._low.copy(), self.decisions[place]
            _shrink_in(low, self.start, decision, rate, self._affected[place])
            return Least(*low.counts)
        rates = (*self.choices, rate)
        made = zip(self.decisions[: len(rates)], rates, strict=True)
        undecided = self.decisions[len(rates) :]
        return least_shrunk(self.start, dict(made), undecided, self._lowest)

    @property
    def is_monotone(self) -> bool:
        # A larger kernel with an undecided padding can make a smaller map.
        return self._is_tallied

    def keep(self) -> Any:
        return UNCHANGED if self.num_actions else 1.0

    def decide(self, action: Any) -> None:
        place, rate = self.position, self.rate_of(action)
        if self._is_tallied:
            decision, affected = self.decisions[place], self._affected[place]
            _shrink_in(self._now, self.start, decision, rate, affected)
            if not (self._fit and decision.variable == "width"):
                _shrink_in(self._low, self.start, decision, rate, affected)
        self.choices += (rate,)

    def rates_of_widths(self) -> tuple[Architecture, dict[Shrinkage, float]]:
        made = dict(zip(self.decisions, self.choices, strict=False))
        free = dict.fromkeys(self._scaled, 1.0)
        decided = {p for each in made if each.variable == "width" for p in each.layers}
        rest = {w: r for w, r in free.items() if decided.isdisjoint(w.layers)}
        return self.start, made | rest

    def copy(self) -> ShrinkageEpisode:
        twin = copy.copy(self)
        twin._now, twin._low = self._now.copy(), self._low.copy()
        return twin


def _affected(start: Architecture, decision: Shrinkage) -> tuple[int, ...]:
    if decision.variable == "width":
        return affected_by_width(start, decision.layers)
    return decision.layers


def _shrink_in(
    tally: Tally,
    start: Architecture,
    decision: Shrinkage,
    rate: float,
    affected: Sequence[int],
) -> None:
    if decision.variable == "width":
        tally.change(affected, widths_at(start, decision, rate), {})
    else:
        tally.change(affected, {}, kernels_at(start, decision, rate))
