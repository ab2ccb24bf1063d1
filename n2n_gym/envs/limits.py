"""The limits of an episode: fixed, drawn or given; and students put on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from n2n_gym.limits.constraints import (
    ACCURACY,
    Constraints,
    Limit,
    limited_resources,
    read_limits,
)
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import Shrinkage
from n2n_gym.networks.scaling import widest_in_proportion
from n2n_gym.resources import Meter, ResourceError
from n2n_gym.resources.resource import is_computed, measure

MODES: Final = ("fixed", "sample")

# Of a resource: the least and the most that a limit on it may be drawn as.
Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class LimitSettings:
    """Where an episode's limits come from.

    Attributes:
        fixed: Those of every episode.
        ranges: Of those that each reset draws, log-uniformly.
    """

    fixed: tuple[Limit, ...]
    ranges: Ranges

    @classmethod
    def read(cls, constraints: Constraints | Ranges | None, mode: str) -> LimitSettings:
        """As the environments take them.

        Raises:
            ValueError: The mode is unknown, or a bound or a range makes no sense.
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
                f"a range of limits goes with limits='sample', and only a range does; "
                f"got {dict(constraints)} and limits={mode!r}"
            )
        for name, bounds in ranges.items():
            if len(bounds) != 2:
                raise ValueError(f"a range is (least, most), got {bounds!r} for {name}")
            read_limits({name: bounds[0]})
            read_limits({name: bounds[1]})
            if bounds[0] > bounds[1]:
                raise ValueError(f"the range of {name} ends before it begins: {bounds}")
        plain: dict[str, Any] = {
            n: b for n, b in constraints.items() if n not in ranges
        }
        return cls(read_limits(plain), {n: (b[0], b[1]) for n, b in ranges.items()})

    @property
    def names(self) -> list[str]:
        """Resources that some limit is on."""
        drawn = [name for name in self.ranges if name != ACCURACY]
        return list(dict.fromkeys((*limited_resources(self.fixed), *drawn)))

    def draw(
        self, rng: np.random.Generator, given: Mapping[str, float] | None
    ) -> tuple[Limit, ...]:
        """The limits of an episode.

        Args:
            given: Bounds by name, in place of what would be drawn or is fixed.

        Raises:
            ValueError: A bound is given of what no limit is on, or makes no sense.
        """
        if given is not None and not isinstance(given, Mapping):
            raise ValueError(f"limits are bounds by name, got {given!r}")
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
        """What infos say of limits that were drawn or given."""
        return {
            f"limit_{each.name}": abs(float(each.bound))  # an accuracy's is a least
            for each in limits
            if each not in self.fixed
        }


def _is_plain(limit: Limit) -> bool:
    """Whether it is on the one resource that it is named after."""
    return limit.weights.keys() == {limit.name} and abs(limit.weights[limit.name]) == 1


def _drawn(rng: np.random.Generator, least: float, most: float) -> float:
    """A bound, log-uniformly; exp(log(x)) is not quite x, and may be outside."""
    found = math.exp(rng.uniform(math.log(least), math.log(most)))
    return float(min(max(found, least), most))


def check_fits(limits: Sequence[Limit], meter: Meter, names: Sequence[str]) -> None:
    """Refuse limits that students cannot be fitted to.

    Raises:
        ValueError: There is none, or one that falls with a resource, or one on what has
            to be measured.
    """
    if not names:
        raise ValueError("fit=True needs a limit on a resource: constraints={...}")
    for limit in limits:
        if ACCURACY in limit.weights and len(limit.weights) > 1:
            raise ValueError(
                f"fit=True cannot know an accuracy: the limit {limit.name} mixes it "
                f"with what a student takes"
            )
        if any(weight < 0 and n != ACCURACY for n, weight in limit.weights.items()):
            raise ValueError(
                f"fit=True needs limits that grow with what a student takes; "
                f"{limit.name} has the weights {dict(limit.weights)}"
            )
    for name in names:
        if not is_computed(meter.functions[name]):
            raise ValueError(
                f"fit=True makes students fit at the end of each episode, and {name} "
                f"has to be measured; give resources=predicted(...), or a function "
                f"with is_computed = True"
            )


def fitted(
    start: Architecture,
    rates: Mapping[Shrinkage, float],
    limits: Sequence[Limit],
    meter: Meter,
    teacher: Architecture,
) -> Architecture:
    """All widths times the largest factor with which the limits are kept.

    With the lowest factor where they never are.
    """
    binding = [limit for limit in limits if ACCURACY not in limit.weights]
    takes = takes_of(meter, limited_resources(binding), teacher)

    def keeps(student: Architecture) -> bool:
        try:
            values = takes(student)
        except ResourceError:  # it counts as too much; what is left is then measured
            return False
        return all(limit.excess(values) <= 0 for limit in binding)

    return widest_in_proportion(start, rates, keeps)


def takes_of(
    meter: Meter, names: Sequence[str], teacher: Architecture
) -> Callable[[Architecture], dict[str, Any]]:
    """What a student takes of the limited resources, without a memo."""

    def takes(student: Architecture) -> dict[str, Any]:
        return {
            name: measure(name, meter.functions[name], student, teacher)
            for name in names
        }

    return takes


Mode = Literal["fixed", "sample"]
