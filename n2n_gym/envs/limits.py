"""The limits of an episode, and the scaling of students to these limits."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from n2n_gym.limits.constraints import (
    ACCURACY,
    Constraints,
    Limit,
    limited_resources,
    read_limits,
)
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import Shrinkage
from n2n_gym.networks.scaling import widest_by_counts, widest_in_proportion
from n2n_gym.networks.tally import Costs, Counts
from n2n_gym.resources import COUNTED, Meter, ResourceError
from n2n_gym.resources.resource import is_computed, measure

MODES: Final = ("fixed", "sample")

# For each resource by name, the range that its limit is drawn from.
Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class LimitSettings:
    """The source of an episode's limits.

    Attributes:
        fixed: Limits of every episode, unless an option of ``reset`` replaces them.
        ranges: Ranges of the limits that each reset draws, log-uniformly.
    """

    fixed: tuple[Limit, ...]
    ranges: Ranges

    @classmethod
    def read(cls, constraints: Constraints | Ranges | None, mode: str) -> LimitSettings:
        """Settings from an environment's arguments ``constraints`` and ``limits``.

        Args:
            mode: The argument ``limits``.

        Raises:
            ValueError: The mode is unknown, or a limit or a range makes no sense.
        """
        if mode not in MODES:
            raise ValueError(f"unknown limits={mode!r}; known: {', '.join(MODES)}")
        if not isinstance(constraints, Mapping):
            if mode == "sample":
                raise ValueError(
                    'limits="sample" needs ranges: constraints={"num_params": (1e5, '
                    "1e6)}"
                )
            return cls(read_limits(constraints), {})
        ranges = {n: b for n, b in constraints.items() if isinstance(b, (tuple, list))}
        if bool(ranges) != (mode == "sample"):
            raise ValueError(
                f"limits='sample' needs ranges (least, most), and other modes need "
                f"single bounds; got {dict(constraints)} with limits={mode!r}"
            )
        for name, bounds in ranges.items():
            if len(bounds) != 2:
                raise ValueError(
                    f"the range of {name} must be (least, most), got {bounds!r}"
                )
            read_limits({name: bounds[0]})
            read_limits({name: bounds[1]})
            if bounds[0] > bounds[1]:
                raise ValueError(
                    f"the range of {name} must be (least, most) with least <= most, "
                    f"got {bounds}"
                )
        plain: dict[str, Any] = {
            n: b for n, b in constraints.items() if n not in ranges
        }
        return cls(read_limits(plain), {n: (b[0], b[1]) for n, b in ranges.items()})

    @property
    def names(self) -> list[str]:
        """Names of the limited resources."""
        drawn = [name for name in self.ranges if name != ACCURACY]
        return list(dict.fromkeys((*limited_resources(self.fixed), *drawn)))

    def draw(
        self, rng: np.random.Generator, given: Mapping[str, float] | None
    ) -> tuple[Limit, ...]:
        """The limits of one episode.

        Args:
            given: Limits by name, which replace the drawn or fixed limits of that name.

        Raises:
            ValueError: A given limit has an unknown name, or makes no sense.
        """
        if given is not None and not isinstance(given, Mapping):
            raise ValueError(
                f"limits must be a mapping of bounds by name, got {given!r}"
            )
        if not self.ranges and not given:
            return self.fixed
        bounds = {
            name: _drawn(rng, least, most)
            for name, (least, most) in self.ranges.items()
            if given is None or name not in given
        }
        named = {limit.name: limit for limit in self.fixed}
        for name, bound in (given or {}).items():
            if name not in self.ranges and name not in named:
                known = ", ".join((*named, *self.ranges)) or "none"
                raise ValueError(f"there is no limit on {name!r}; known: {known}")
            bounds[name] = bound.item() if isinstance(bound, np.generic) else bound
        own = {name: named[name] for name in named if not _is_plain(named[name])}
        drawn = [
            replace(own[name], bound=bound)
            for name, bound in bounds.items()
            if name in own
        ]
        drawn += read_limits({n: b for n, b in bounds.items() if n not in own})
        kept = [limit for limit in self.fixed if limit.name not in bounds]
        return (*kept, *drawn)

    def info(self, limits: Sequence[Limit]) -> dict[str, float]:
        """The entries of an info for limits that were drawn, or set by ``reset``."""
        return {
            f"limit_{each.name}": abs(float(each.bound))  # accuracy's is negative
            for each in limits
            if each not in self.fixed
        }


def _is_plain(limit: Limit) -> bool:
    """Whether the limit is on one resource, and named after it."""
    return limit.weights.keys() == {limit.name} and abs(limit.weights[limit.name]) == 1


def _drawn(rng: np.random.Generator, least: float, most: float) -> float:
    """A log-uniform limit, clipped: exp(log(x)) may round to outside the range."""
    found = math.exp(rng.uniform(math.log(least), math.log(most)))
    return float(min(max(found, least), most))


def check_fits(limits: Sequence[Limit], meter: Meter, names: Sequence[str]) -> None:
    """Raise a ValueError if students cannot be scaled to these limits.

    Raises:
        ValueError: No resource has a limit, a limit gives a resource a negative weight,
            a limit mixes accuracy with resources, or a limited resource has to be
            measured.
    """
    if not names:
        raise ValueError("fit=True needs a limit on a resource: constraints={...}")
    for limit in limits:
        if ACCURACY in limit.weights and len(limit.weights) > 1:
            raise ValueError(
                f"fit=True cannot keep the limit {limit.name}: it includes the "
                f"accuracy, which is known only after scoring"
            )
        if any(weight < 0 and n != ACCURACY for n, weight in limit.weights.items()):
            raise ValueError(
                f"fit=True needs limits with weights of at least 0; {limit.name} has "
                f"{dict(limit.weights)}"
            )
    for name in names:
        if not is_computed(meter.functions[name]):
            raise ValueError(
                f"fit=True cannot scale students to {name}, which has to be measured; "
                f"give resources=predicted(...), or a function with is_computed = True"
            )


def feasible(
    offered: NDArray[np.int8],
    limits: Sequence[Limit],
    least: Callable[[int], NamedTuple],
    *,
    is_monotone: bool,
) -> NDArray[np.int8]:
    """The offered actions after which every limit can still be kept, (A,).

    Args:
        offered: 1 for each offered action, (A,).
        least: Function that computes lower bounds on counts after an action.
        is_monotone: Whether no bound falls from an action to a higher action. Then the
            feasible actions are the lowest ones, and a bisection finds them.
    """

    def is_feasible(action: int) -> bool:
        bounds = least(action)._asdict()
        return all(limit.can_be_kept(bounds) for limit in limits)

    actions = np.flatnonzero(offered).tolist()
    if is_monotone:
        # The highest action is tried first, because it is usually feasible.
        if not is_feasible(actions[-1]):
            actions = actions[: bisect_left(actions[:-1], 1, key=_not(is_feasible))]
    else:
        actions = list(filter(is_feasible, actions))
    found = np.zeros_like(offered)
    found[actions] = 1
    return found


def _not(is_true: Callable[[int], bool]) -> Callable[[int], int]:
    return lambda value: 1 - is_true(value)


def fitted(
    start: Architecture,
    rates: Mapping[Shrinkage, float],
    limits: Sequence[Limit],
    meter: Meter,
    teacher: Architecture,
    costs: Costs | None = None,
) -> Architecture:
    """The student with its widths scaled by the largest factor that keeps the limits.

    If no factor keeps the limits, the result is the narrowest student. Limits on
    accuracy are ignored.

    Args:
        start: The network that the rates refer to.
        costs: Known costs of layers, for all networks of one teacher.
    """
    binding = [limit for limit in limits if ACCURACY not in limit.weights]
    names = limited_resources(binding)
    takes = takes_of(meter, names, teacher)

    def counts_keep(counts: Counts) -> bool:
        return all(limit.excess(counts._asdict()) <= 0 for limit in binding)

    def keeps(student: Architecture) -> bool:
        try:
            values = takes(student)
        except ResourceError:  # counts as breaking the limit
            return False
        return all(limit.excess(values) <= 0 for limit in binding)

    has_padding = any(each.variable == "padding" for each in rates)
    if set(names) <= set(COUNTED) and not has_padding:
        known = {} if costs is None else costs
        return widest_by_counts(start, rates, counts_keep, known)
    return widest_in_proportion(start, rates, keeps)


def takes_of(
    meter: Meter, names: Sequence[str], teacher: Architecture
) -> Callable[[Architecture], dict[str, Any]]:
    """A function that computes the named resources of a student at every call."""

    def takes(student: Architecture) -> dict[str, Any]:
        return {
            name: measure(name, meter.functions[name], student, teacher)
            for name in names
        }

    return takes


Mode = Literal["fixed", "sample"]
