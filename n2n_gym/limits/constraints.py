"""Limits on a student's resources and accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Final, TypeAlias

ACCURACY: Final = "accuracy"  # on validation; the only quantity with a lower limit


@dataclass(frozen=True)
class Limit:
    """One row of A x <= b: a weighted sum with an upper bound.

    Attributes:
        name: Name of the limit in ``info["violated"]``.
        weights: Weight of each resource and of "accuracy", by name.
        bound: Upper bound of the weighted sum.

    Raises:
        ValueError: A weight or the bound is not a finite number, or there is no weight.
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
        """The weighted sum minus the bound; at most 0 if the limit is kept.

        Args:
            values: The student's resources and "accuracy", by name.
        """
        return sum(w * values[name] for name, w in self.weights.items()) - self.bound

    def can_be_kept(self, least: Mapping[str, float]) -> bool:
        """Whether a student can keep the limit, given lower bounds on its resources.

        Args:
            least: Lower bounds on resources, by name. A missing bound counts as 0.
        """
        total = 0.0
        for name, weight in self.weights.items():
            if name == ACCURACY:
                total += min(weight, 0.0)  # accuracy is in [0, 1]
            elif weight < 0:
                return True  # there is no upper bound
            else:
                total += weight * least.get(name, 0.0)
        return total <= self.bound


Constraints: TypeAlias = Mapping[str, float] | Sequence[Limit]


def read_limits(constraints: Constraints | None) -> tuple[Limit, ...]:
    """Limits from an environment's argument ``constraints``.

    Args:
        constraints: Upper limits of resources and a minimum "accuracy", by name. Or a
            list of ``Limit``s. None means no limits.

    Raises:
        ValueError: A limit is malformed, or two limits have the same name.
    """
    if constraints is None:
        return ()
    if isinstance(constraints, Mapping):
        return tuple(_plain(name, bound) for name, bound in constraints.items())
    given = constraints if isinstance(constraints, Sequence) else [constraints]
    for limit in given:  # a Limit counts as a list of one
        if not isinstance(limit, Limit):
            raise ValueError(
                f"constraints must be a mapping of bounds by name, or Limits, got "
                f"{limit!r}"
            )
    names = [limit.name for limit in given]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two limits have the name {name!r}")
    return tuple(given)


def _plain(name: str, bound: float) -> Limit:
    """An upper limit on one resource, or a minimum accuracy."""
    if not isinstance(name, str):
        raise ValueError(f"a limit needs the name of a resource, got {name!r}")
    if not _is_finite(bound) or bound <= 0:
        raise ValueError(
            f"the limit of {name} must be a positive number, got {bound!r}"
        )
    if name != ACCURACY:
        return Limit(name, {name: 1.0}, bound)
    if bound > 1:
        raise ValueError(f"a limit on the accuracy must be in (0, 1], got {bound!r}")
    return Limit(name, {name: -1.0}, -bound)


def limited_resources(limits: Sequence[Limit]) -> list[str]:
    """Names of the resources in these limits, without duplicates."""
    names = dict.fromkeys(name for limit in limits for name in limit.weights)
    return [name for name in names if name != ACCURACY]


def penalised(reward: float, epsilon: float) -> float:
    """The reward of a student that breaks a limit: eps (R + 1) - 1 (N2N learning).

    Args:
        reward: Reward R without a penalty.
        epsilon: Factor eps, from 0 (the reward is -1) to 1 (no penalty).
    """
    return epsilon * (reward + 1) - 1


def _is_finite(value: object) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is larger than any float
        return False
