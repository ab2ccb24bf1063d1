"""How much of each limit is taken, and must be, where that needs no measuring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from n2n_gym.envs.columns import OTHER, RESOURCES
from n2n_gym.envs.episode import Episode
from n2n_gym.envs.limits import takes_of
from n2n_gym.limits.constraints import ACCURACY, Limit
from n2n_gym.networks.architecture import Architecture
from n2n_gym.resources import Meter, ResourceError
from n2n_gym.resources.resource import is_computed

# Every episode counts these, with and without limits.
_COUNTED: Final = (RESOURCES["num_params"], RESOURCES["num_macs"])


class Amount(NamedTuple):
    """What a limit is on.

    Attributes:
        share: Which columns show it.
        whole: What the teacher takes of it.
    """

    share: str
    weights: Mapping[str, float]
    whole: float

    def of(self, values: Mapping[str, float]) -> float:
        """As a share of the teacher's."""
        taken = sum(weight * values[name] for name, weight in self.weights.items())
        return min(1.0, max(0.0, taken / self.whole)) if self.whole > 0 else 1.0


def targets(limits: Sequence[Limit], whole: Mapping[str, float]) -> dict[str, float]:
    """Each limit as a share of what the teacher takes, by the columns' names."""
    found: dict[str, float] = {}
    for limit, amount in _amounts(limits, whole):
        bound = limit.bound / amount.whole if amount.whole > 0 else 1.0
        least = min(found.get(amount.share, 1.0), max(0.0, bound))
        found[amount.share] = least
    return found


def told(
    limits: Sequence[Limit], meter: Meter, whole: Mapping[str, float]
) -> tuple[Amount, ...]:
    """The amounts that steps can tell, beside parameters and multiply-accumulates.

    They follow from the layers, and do not fall where a student takes more.
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
    """What the student so far takes, and the least in reach; of several, the most."""
    names = dict.fromkeys(name for amount in amounts for name in amount.weights)
    takes = takes_of(meter, list(names), teacher)
    narrowest = episode.narrowest
    try:
        taken = takes(episode.student)
        least = takes(narrowest) if narrowest else dict.fromkeys(names, 0.0)
    except ResourceError:  # it counts as too much
        return {amount.share: (1.0, 0.0) for amount in amounts}
    found: dict[str, tuple[float, float]] = {}
    for amount in amounts:
        before = found.get(amount.share, (0.0, 0.0))
        now = amount.of(taken), amount.of(least)
        found[amount.share] = max(before[0], now[0]), max(before[1], now[1])
    return found


def tables(meter: Meter, names: Sequence[str]) -> dict[str, Any]:
    """What infos say of tables that resources are predicted by."""
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
