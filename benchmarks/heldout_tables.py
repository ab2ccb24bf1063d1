"""The tables of ``benchmarks.heldout``: what its runs say, with intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from n2n_gym.comparison.statistics import RESAMPLES, Estimate, as_table

BUDGETS: Final = (5, 20, 100, 200)
MOST: Final = BUDGETS[-1]
FIRST: Final = BUDGETS[0]  # of the policy, which others have to match
PLAYED: Final = "frozen@trained"  # the policy itself
FEWER: Final = {PLAYED: 20, "reinforce@trained": 100}  # students of these agents
BASIS: Final = "local"  # the agent that others are compared with

Values = NDArray[np.float64]
Line: TypeAlias = dict[str, Any]  # a run
Known: TypeAlias = dict[tuple[Any, ...], Line]  # distilled students
# For each teacher and target: a value for each run, by the SHA-256 of the policy.
Groups: TypeAlias = list[dict[str, Values]]
# A statistic of a bootstrap sample; None stands for the runs themselves.
Statistic: TypeAlias = "Callable[[Resample | None], float]"


def most_of(agent: str) -> int:
    """The most students that an agent scores."""
    return min(MOST, FEWER.get(agent, MOST))


def first_match(scores: list[float], least: float) -> float:
    """Number of students scored until one has at least the score ``least``.

    It is infinite if no score is that high.
    """
    reaching = np.flatnonzero(np.array(scores) >= least)
    return int(reaching[0]) + 1 if len(reaching) else math.inf


def by_pair(lines: Iterable[Line]) -> dict[str, dict[Any, list[Line]]]:
    """The runs of each agent, by teacher, task and target."""
    found: dict[str, dict[Any, list[Line]]]
    found = defaultdict(lambda: defaultdict(list))
    for line in lines:
        pair = line["teacher"], line["task"], line["share"]
        found[line["agent"]][pair].append(line)
    return found


def chosen(lines: Iterable[Line], policies: Collection[str]) -> list[Line]:
    """The runs without a policy, and the runs of these policies.

    Args:
        policies: SHA-256 of each policy's file; if there are none, all runs count.
    """
    return [
        line
        for line in lines
        if not policies or not line["policy"] or line["policy"] in policies
    ]


class Resample:
    """A bootstrap sample of runs: policies are drawn first, then the runs of each.

    A policy is one training seed and plays on all teachers, so all pairs of teacher and
    target get the same draw of policies. Agents without a policy have one, called "".
    """

    def __init__(self, rng: np.random.Generator, policies: Sequence[str]) -> None:
        self.rng = rng
        self.policies = [policies[k] for k in self.places(len(policies))]

    def places(self, count: int) -> NDArray[np.int64]:
        return self.rng.integers(count, size=count)

    def mean(self, group: dict[str, Values]) -> float:
        """The mean of a pair's runs in this sample; each policy has equal weight."""
        drawn = self.policies if "" not in group else [""]
        means = [group[p][self.places(len(group[p]))].mean() for p in drawn]
        return float(np.mean(means))


def plain_mean(group: dict[str, Values]) -> float:
    """The mean of a pair's runs; each policy has equal weight."""
    return float(np.mean([values.mean() for values in group.values()]))


def interval(statistic: Statistic, policies: Sequence[str]) -> Estimate:
    """A statistic with its 95 % interval.

    Args:
        statistic: Function of a bootstrap sample; None stands for the runs themselves.
    """
    rng = np.random.default_rng(0)
    drawn = [statistic(Resample(rng, policies)) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(statistic(None), float(low), float(high))


def mean_difference(groups: Groups, others: Groups) -> Statistic:
    """The mean over pairs of the difference between two agents, as a statistic.

    All pairs have equal weight.
    """

    def statistic(sample: Resample | None) -> float:
        mean = plain_mean if sample is None else sample.mean
        return float(
            np.mean([mean(a) - mean(b) for a, b in zip(groups, others, strict=True)])
        )

    return statistic


class Match(NamedTuple):
    """Numbers of students that an agent needs, at one teacher and target.

    Attributes:
        needed: For each policy, (policy's runs, agent's runs).
        is_own: Whether the agent plays the same policy. Its runs then differ between
            policies.
    """

    needed: dict[str, Values]
    is_own: bool


def to_match(lines: Sequence[Line], agent: str) -> list[Match]:
    """Numbers of students that an agent needs to match the policy's first five.

    There is an entry for each teacher and target. An agent with a policy is compared
    with the first five of the same policy.
    """
    runs = by_pair(lines)
    found = []
    for pair, played in runs[PLAYED].items():
        others = runs[agent][pair]
        is_own = any(other["policy"] for other in others)
        needed = {}
        for policy in dict.fromkeys(one["policy"] for one in played):
            rivals = [o for o in others if not is_own or o["policy"] == policy]
            wanted = [max(o["scores"][:FIRST]) for o in played if o["policy"] == policy]
            needed[policy] = np.array(
                [[first_match(o["scores"], x) for o in rivals] for x in wanted],
                float,
            ).reshape(len(wanted), len(rivals))
        found.append(Match(needed, is_own))
    return found


def mean_needed(matches: Sequence[Match], most: int) -> Statistic:
    """The mean number of students over pairs, with equal weights, as a statistic.

    It is a lower bound, because higher numbers than ``most`` count as ``most``. In a
    bootstrap sample, policies, their runs and the agent's runs are drawn, and then
    all drawn runs are combined.
    """

    def mean(match: Match, sample: Resample | None) -> float:
        if sample is None:
            return plain_mean({p: np.minimum(v, most) for p, v in match.needed.items()})
        means, columns = [], None
        for policy in sample.policies:
            values = np.minimum(match.needed[policy], most)
            if columns is None or match.is_own:
                columns = sample.places(values.shape[1])
            rows = sample.places(len(values))
            means.append(values[rows][:, columns].mean())
        return float(np.mean(means))

    return lambda sample: float(np.mean([mean(match, sample) for match in matches]))


def table(lines: Sequence[Line], known: Known | None) -> str:
    """Each agent's mean at each budget, minus the mean of ``BASIS``.

    Differences are taken for each teacher and target, and averaged with equal weights.
    The row of ``BASIS`` has its own mean.

    Args:
        known: Distilled students, for test accuracies; None for elastic scores.
    """
    runs = by_pair(lines)
    pairs = sorted({pair for pairs in runs.values() for pair in pairs})
    rows = []
    for agent in runs:
        cells = [agent]
        for budget in BUDGETS:
            groups = _groups(runs[agent], pairs, budget, known)
            basis = (
                _groups(runs[BASIS], pairs, budget, known) if BASIS in runs else None
            )
            if groups is None or basis is None:
                cells.append("")
                continue
            policies = sorted({policy for group in groups for policy in group})
            zero = [{"": np.zeros(1)} for _ in pairs]
            others = zero if agent == BASIS else basis
            found = interval(mean_difference(groups, others), policies)
            cells.append(str(found) if agent == BASIS else signed(found))
        rows.append(cells)
    return as_table(["agent", *map(str, BUDGETS)], rows)


def signed(found: Estimate) -> str:
    return f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def _groups(
    runs: dict[Any, list[Line]],
    pairs: Sequence[Any],
    budget: int,
    known: Known | None,
) -> Groups | None:
    """Values of an agent's runs; None if a pair, a run or a value is missing."""
    groups: Groups = []
    for pair in pairs:
        found: dict[str, list[float]] = {}
        for one in runs.get(pair, ()):
            value = _value(one, budget, known)
            if value is None:
                return None
            found.setdefault(one["policy"], []).append(value)
        if not found or (groups and found.keys() != groups[0].keys()):
            return None
        groups.append({policy: np.array(values) for policy, values in found.items()})
    return groups


def _value(line: Line, budget: int, known: Known | None) -> float | None:
    if budget > most_of(line["agent"]):
        return None
    if known is None:
        return float(max(line["scores"][:budget]))
    best = line["best"][str(budget)]["fingerprint"]
    found = known.get((line["teacher"], line["task"], best), {})
    # A student whose distillation diverged counts as one that is always wrong.
    return found.get("test", 0.0 if "error" in found else None)


def show(lines: Sequence[Line], distilled: Known) -> None:
    """Print all tables."""
    agents = list(by_pair(lines))
    print(f"{len(lines)} runs of {len(agents)} agents\n")
    print(f"Test accuracy, distilled: the mean of {BASIS}, and differences from it\n")
    print(table(lines, distilled))
    print("Score, by the elastic teacher's weights: likewise\n")
    print(table(lines, None))
    if PLAYED in agents:
        print(f"Students to match the policy's first {FIRST}\n")
        head = ["agent", "mean, at least", "median", "most", "not matched within most"]
        rivals = [agent for agent in agents if agent != PLAYED]
        print(as_table(head, filter(None, (_matched(lines, one) for one in rivals))))
    print("All intervals are for these teachers and targets alone.")


def _matched(lines: Sequence[Line], agent: str) -> list[str]:
    """The cells of an agent that has played all pairs; otherwise none."""
    matches, most = to_match(lines, agent), most_of(agent)
    if any(values.size == 0 for match in matches for values in match.needed.values()):
        return []
    every = np.concatenate(
        [values.ravel() for match in matches for values in match.needed.values()]
    )
    found = interval(mean_needed(matches, most), list(matches[0].needed))
    mean = f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"
    median = float(np.quantile(every, 0.5, method="lower"))
    shown = f"{median:g}" if median <= most else f"over {most}"
    return [agent, mean, shown, str(most), f"{(every > most).mean():.0%}"]
