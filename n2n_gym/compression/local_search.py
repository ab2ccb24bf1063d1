"""A local search within limits that starts from uniform width.

One rate for all widths gives a good student. An untrained policy finds no better
student for a long time. Its random rates make many 3x3 kernels 1x1, and in a network
with many layers, some layers always get only a tenth of their width. So this search
changes a few decisions of the best student so far. Then it scales all widths by one
factor until the limits are just kept. The search is an evolution strategy along the
boundary of the limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from n2n_agents.proposals import SPREAD, some_of
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

WIDER: Final = 2.0  # largest factor of all widths
STEPS: Final = 8  # bisection steps for the factor of all widths
TRIES: Final = 20  # tries per new child that keeps the limits


class Plan(NamedTuple):
    """Decisions that turn the teacher into a student.

    Attributes:
        removed: Removals to apply in the environment's order; illegal ones are skipped.
        rates: Rate of each of the teacher's widths and kernels.
    """

    removed: frozenset[Removal]
    rates: Mapping[Shrinkage, float]


class LocalSearch:
    """Searches around the best student so far, always within the limits.

    Args:
        env: Environment with the teacher and the limits. The limits must be on
            resources that can be measured without scoring.
        granularity: Granularity of removals.
        block: Number of channels in a block. New widths are multiples of it, except in
            layers no wider than a block.
        keep: Names of layers that stay unchanged.
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
        """Score this many generations, or fewer if no new student keeps the limits.

        Args:
            size: Number of students that are scored together.
            on_student: Callback with the reward and the info of each student.
        """
        begun = next(filter(None, map(self._fit, self._starts())), None)
        if begun is None:
            return
        self._best, _ = begun
        waiting = [begun]
        for _ in range(generations):
            # Many students are measured for each one that is scored.
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
        """A plan of uniform width, then one with all removals and smallest kernels."""
        yield Plan(frozenset(), dict.fromkeys((*self._widths, *self._kernels), 1.0))
        kernels = dict.fromkeys(self._kernels, RATES[0])
        yield Plan(
            frozenset(self._removals), dict.fromkeys(self._widths, 1.0) | kernels
        )

    def _children(self, size: int) -> list[tuple[Plan, Architecture]]:
        """Up to this many new students within the limits, near the best one so far."""
        found: list[tuple[Plan, Architecture]] = []
        for _ in range(size * TRIES):
            fitted = self._fit(self._changed())
            if fitted is not None:
                found.append(fitted)
            if len(found) == size:
                break
        return found

    def _changed(self) -> Plan:
        """The best plan so far with up to three changes, each of a random kind."""
        removed, rates = set(self._best.removed), dict(self._best.rates)
        every: list[Sequence[Removal | Shrinkage]]
        every = [self._removals, self._widths, self._kernels]
        kinds = [each for each in every if each]
        for decision in some_of(kinds, self._rng):
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
        """The plan, scaled to the limits, and its student.

        None if no factor of the widths keeps the limits, or if the student is not new.
        """
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
        """For each decision about the start, the teacher's decision that sets its rate.

        Removals can tie layers that are not tied in the teacher. The teacher's decision
        about the first of the tied layers then sets the rate.

        Args:
            start: The teacher after removals.
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
