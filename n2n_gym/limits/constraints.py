"""What a student must keep: limits on what it takes, and on its accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Final, TypeAlias

ACCURACY: Final = "accuracy"  # on validation: the one that is to be large


@dataclass(frozen=True)
class Limit:
    """One row of A x <= b: a weighted sum that stays below a bound.

    Attributes:
        name: What ``info["violated"]`` calls it.
        weights: Of resources, and of "accuracy", by name.
        bound: In the resources' units.

    Raises:
        ValueError: A weight or the bound is no finite number, or there is no weight.
    """

    name: str
    weights: Mapping[str, float]
    bound: float

    def __post_init__(self) -> None:
        numbers = (*self.weights.values(), self.bound)
        if not self.weights or not all(map(_is_finite, numbers)):
            raise ValueError(
                f"the limit {self.name!r} needs finite numbers, got weights "
                f"{dict(self.weights)} and the bound {self.bound!r}"
            )

    def excess(self, values: Mapping[str, float]) -> float:
        """How much too large the sum is; at most 0 where the limit is kept."""
        return sum(w * values[name] for name, w in self.weights.items()) - self.bound

    def can_be_kept(self, least: Mapping[str, float]) -> bool:
        """Whether a student that takes no less than this might keep it.

        Args:
            least: Lower bounds of resources; 0 for what is not among them.
        """
        total = 0.0
        for name, weight in self.weights.items():
            if name == ACCURACY:
                total += min(weight, 0.0)  # it is in [0, 1]
            elif weight < 0:
                return True  # there is no upper bound
            else:
                total += weight * least.get(name, 0.0)
        return total <= self.bound


Constraints: TypeAlias = Mapping[str, float] | Sequence[Limit]


def read_limits(constraints: Constraints | None) -> tuple[Limit, ...]:
    """Limits as the environments take them.

    Args:
        constraints: The most that is allowed of each resource, and of "accuracy" the
            least; or any ``Limit``s.

    Raises:
        ValueError: A bound makes no sense.
    """
    if constraints is None:
        return ()
    if isinstance(constraints, Mapping):
        return tuple(_plain(name, bound) for name, bound in constraints.items())
    given = constraints if isinstance(constraints, Sequence) else [constraints]
    for limit in given:  # a Limit by itself is one
        if not isinstance(limit, Limit):
            raise ValueError(
                f"constraints are a mapping of bounds by name, or Limits, got {limit!r}"
            )
    names = [limit.name for limit in given]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two limits have the name {name!r}")
    return tuple(given)


def _plain(name: str, bound: float) -> Limit:
    """At most so much of one resource, or at least this accuracy."""
    if not isinstance(name, str):
        raise ValueError(f"a limit is on a resource by its name, got {name!r}")
    if not _is_finite(bound) or bound <= 0:
        raise ValueError(
            f"the limit of {name} must be a positive number, got {bound!r}"
        )
    if name != ACCURACY:
        return Limit(name, {name: 1.0}, bound)
    if bound > 1:
        raise ValueError(f"an accuracy is in (0, 1], got the limit {bound!r}")
    return Limit(name, {name: -1.0}, -bound)


def limited_resources(limits: Sequence[Limit]) -> list[str]:
    """Names of the resources that limits are on, each once."""
    names = dict.fromkeys(name for limit in limits for name in limit.weights)
    return [name for name in names if name != ACCURACY]


def penalised(reward: float, epsilon: float) -> float:
    """What a student that breaks a limit earns: eps (R + 1) - 1 (N2N learning)."""
    return epsilon * (reward + 1) - 1


def _is_finite(value: object) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is larger than any float
        return False
