"""A search within limits that begins where a network of equal widths is.

One rate for all widths is a good student, and a policy that knows nothing yet comes
upon none as good for a long time: of the rates that it draws, nine in ten make a 3x3
kernel 1x1, and of so many layers some are always left with a tenth of their width. So
this one changes a few things about the best student so far, and takes all widths up or
down by one factor to what the limits allow: an evolution strategy on the limits'
surface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from n2n_gym.envs import CompressionEnv
from n2n_gym.evaluators.evaluator import evaluate
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import (
    RATES,
    Removal,
    Shrinkage,
    removals,
    shrink,
    shrinkages,
    without,
)
from n2n_gym.networks.layers import Conv, DepthwiseConv
from n2n_gym.networks.scaling import OutOfReach, widest_rates
from n2n_gym.resources import ResourceError

MOST_CHANGES: Final = 3  # of a child
SPREAD: Final = 0.5  # of the logarithm of a width's change
WIDER: Final = 2.0  # the most that all widths together grow by
STEPS: Final = 8  # in which the factor of all widths is found
TRIES: Final = 20  # at a child that keeps the limits and is new


class Plan(NamedTuple):
    """What becomes of the teacher.

    Attributes:
        removed: What goes, as far as it is legal in the order of the decisions.
        rates: Of the teacher's widths and kernels.
    """

    removed: frozenset[Removal]
    rates: Mapping[Shrinkage, float]


class LocalSearch:
    """Students around the best so far, all of them within the limits.

    Args:
        env: Its teacher is compressed, its limits are kept; they have to be on what
            can be measured without scoring.
        granularity: Of removals.
        block: Of channels, of which widths are multiples where layers are wider.
        keep: Names of layers that stay as they are.
    """

    def __init__(
        self,
        env: CompressionEnv,
        granularity: str = "unit",
        *,
        block: int = 1,
        keep: frozenset[str] = frozenset(),
        seed: int = 0,
    ) -> None:
        self.env = env
        self.teacher: Architecture = env.teacher.architecture
        self._removals = removals(self.teacher, granularity, keep=keep)
        self._block, self._keep = block, keep
        shrunk = shrinkages(self.teacher, block=block, keep=keep)
        self._widths = [each for each in shrunk if each.variable == "width"]
        self._kernels = [each for each in shrunk if each.variable == "kernel"]
        self._decision_of = {
            (each.variable, position): each
            for each in shrunk
            for position in each.layers
        }
        self._rng = np.random.default_rng(seed)
        self._best: Plan
        self._reward = -np.inf
        self._seen: set[str] = set()

    def run(
        self,
        generations: int,
        size: int,
        on_student: Callable[[float, dict[str, Any]], None],
    ) -> None:
        """Score so many generations, or fewer where nothing new keeps the limits.

        Args:
            size: Students that are scored together.
            on_student: Called with the reward and the info of each.
        """
        begun = next(filter(None, map(self._fit, self._starts())), None)
        if begun is None:
            return
        self._best, _ = begun
        waiting = [begun]
        for _ in range(generations):
            # Many are measured for each that is scored.
            with self.env.meter.written_once():
                children = waiting + self._children(size - len(waiting))
            if not children:
                return
            waiting = []
            students = [student for _, student in children]
            results = evaluate(students, self.env.teacher, self.env.evaluator)
            for (plan, student), result in zip(children, results, strict=True):
                reward, info = self.env.conclude(student, result)
                on_student(reward, info)
                if reward >= self._reward:
                    self._best, self._reward = plan, reward

    def _starts(self) -> Iterator[Plan]:
        """Uniform width; where that is out of reach, with the least of all else."""
        yield Plan(frozenset(), dict.fromkeys((*self._widths, *self._kernels), 1.0))
        kernels = dict.fromkeys(self._kernels, RATES[0])
        yield Plan(
            frozenset(self._removals), dict.fromkeys(self._widths, 1.0) | kernels
        )

    def _children(self, size: int) -> list[tuple[Plan, Architecture]]:
        """So many changed ones of the best so far, or fewer."""
        found: list[tuple[Plan, Architecture]] = []
        for _ in range(size * TRIES):
            fitted = self._fit(self._changed())
            if fitted is not None:
                found.append(fitted)
            if len(found) == size:
                break
        return found

    def _changed(self) -> Plan:
        """The best with one to three changes, each as likely of either kind."""
        removed, rates = set(self._best.removed), dict(self._best.rates)
        kinds = [each for each in (self._removals, self._widths, self._kernels) if each]
        for _ in range(self._rng.integers(1, MOST_CHANGES + 1)):
            decisions = kinds[self._rng.integers(len(kinds))]
            decision = decisions[self._rng.integers(len(decisions))]
            if isinstance(decision, Removal):
                removed ^= {decision}
            elif decision.variable == "width":
                rates[decision] *= np.exp(SPREAD * self._rng.standard_normal())
            else:
                longest = self._length(decision)
                length = self._rng.choice(np.arange(1, longest + 1, 2))
                rates[decision] = float(length / longest)
        return Plan(frozenset(removed), rates)

    def _length(self, decision: Shrinkage) -> int:
        layer = self.teacher.layers[decision.layers[0]]
        assert isinstance(layer, (Conv, DepthwiseConv))
        return max(layer.kernel)

    def _fit(self, plan: Plan) -> tuple[Plan, Architecture] | None:
        """As wide as the limits allow; None where that is nothing, or nothing new."""
        gone = (each for each in self._removals if each in plan.removed)
        start = without(self.teacher, gone, keep=self._keep)
        origin = self._origins(start)
        rates = {each: plan.rates[teachers] for each, teachers in origin.items()}
        try:
            fitted = widest_rates(start, rates, self._keeps, STEPS, most=WIDER)
        except OutOfReach:
            return None
        student = shrink(start, fitted)
        if student.fingerprint in self._seen:
            return None
        self._seen.add(student.fingerprint)
        new = {origin[each]: rate for each, rate in fitted.items()}
        return Plan(plan.removed, {**plan.rates, **new}), student

    def _origins(self, start: Architecture) -> dict[Shrinkage, Shrinkage]:
        """The teacher's decision that says the rate of each of a start's.

        After removals other layers may be tied: the first of them says it.
        """
        found = {}
        for each in shrinkages(start, block=self._block, keep=self._keep):
            position = self.teacher.positions[start.layers[each.layers[0]].name]
            if (origin := self._decision_of.get((each.variable, position))) is not None:
                found[each] = origin
        return found

    def _keeps(self, student: Architecture) -> bool:
        try:
            values = self.env.meter(student, self.teacher)
        except ResourceError:
            return False
        return all(limit.excess(values) <= 0 for limit in self.env.limits)
