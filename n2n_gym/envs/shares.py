"""Limited resources in the observation, as fractions of the teacher's amounts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from n2n_gym.envs.columns import OTHER, RESOURCES
from n2n_gym.envs.episode import Episode
from n2n_gym.envs.limits import takes_of
from n2n_gym.limits.constraints import ACCURACY, Limit
from n2n_gym.networks.architecture import Architecture
from n2n_gym.resources import COUNTED, Meter, ResourceError
from n2n_gym.resources.resource import is_computed

# Every episode counts these, even without limits.
_COUNTED: Final = tuple(RESOURCES[name] for name in COUNTED)


class Amount(NamedTuple):
    """A limited resource, or a weighted sum of resources.

    Attributes:
        share: Name of this resource in the observation's columns; "other" for a sum.
        whole: The teacher's amount.
    """

    share: str
    weights: Mapping[str, float]
    whole: float

    def of(self, values: Mapping[str, float]) -> float:
        """A student's amount as a fraction of the teacher's, in [0, 1].

        It is 1 if the teacher's amount is not positive.

        Args:
            values: The student's resources, by name.
        """
        taken = sum(weight * values[name] for name, weight in self.weights.items())
        return min(1.0, max(0.0, taken / self.whole)) if self.whole > 0 else 1.0


def targets(limits: Sequence[Limit], whole: Mapping[str, float]) -> dict[str, float]:
    """Each limit as a fraction of the teacher's amount, by the names of ``SHARES``.

    If several limits belong to one column, the lowest fraction counts.

    Args:
        whole: The teacher's limited resources, by name.
    """
    found: dict[str, float] = {}
    for limit, amount in _amounts(limits, whole):
        bound = limit.bound / amount.whole if amount.whole > 0 else 1.0
        least = min(found.get(amount.share, 1.0), max(0.0, bound))
        found[amount.share] = least
    return found


def told(
    limits: Sequence[Limit], meter: Meter, whole: Mapping[str, float]
) -> tuple[Amount, ...]:
    """The amounts that every step shows, besides parameters and multiply-accumulates.

    These amounts can be computed from the layers, and have no negative weight.

    Args:
        whole: The teacher's limited resources, by name.
    """
    return tuple(
        amount
        for limit, amount in _amounts(limits, whole)
        if amount.share not in _COUNTED
        and ACCURACY not in limit.weights
        and all(is_computed(meter.functions[name]) for name in amount.weights)
        and min(amount.weights.values()) >= 0
    )


def shares(
    amounts: Sequence[Amount], meter: Meter, episode: Episode, teacher: Architecture
) -> dict[str, tuple[float, float]]:
    """Current amount and lower bound as fractions of the teacher's, by column name.

    If several amounts belong to one column, the largest fractions count. If a resource
    cannot be computed, the amount counts as 1 and the bound as 0.
    """
    names = dict.fromkeys(name for amount in amounts for name in amount.weights)
    takes = takes_of(meter, list(names), teacher)
    narrowest = episode.narrowest
    try:
        taken = takes(episode.student)
        least = takes(narrowest) if narrowest else dict.fromkeys(names, 0.0)
    except ResourceError:  # counts as the largest amount
        return {amount.share: (1.0, 0.0) for amount in amounts}
    found: dict[str, tuple[float, float]] = {}
    for amount in amounts:
        before = found.get(amount.share, (0.0, 0.0))
        now = amount.of(taken), amount.of(least)
        found[amount.share] = max(before[0], now[0]), max(before[1], now[1])
    return found


def tables(meter: Meter, names: Sequence[str]) -> dict[str, Any]:
    """The infos' entries for the tables that resources are predicted from."""
    functions = {name: meter.functions[name] for name in names}
    return {
        f"table_{name}": function.fingerprint
        for name, function in functions.items()
        if hasattr(function, "fingerprint")
    }


def _amounts(
    limits: Sequence[Limit], whole: Mapping[str, float]
) -> Iterator[tuple[Limit, Amount]]:
    for limit in limits:
        weights = {n: w for n, w in limit.weights.items() if n != ACCURACY}
        if weights:
            share = RESOURCES.get(next(iter(weights)), OTHER)
            total = sum(weight * whole[name] for name, weight in weights.items())
            yield limit, Amount(share if len(weights) == 1 else OTHER, weights, total)
