"""The results of a comparison: tables and curves, with intervals.

After Agarwal et al. (2021): interquartile means over runs with stratified bootstrap
intervals, and probabilities of improvement. Rewards are normalised: the
interquartile mean of random search becomes 0, the best known reward becomes 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean

RESAMPLES: Final = 2_000
BASIS: Final = "random"  # the agent with a normalised reward of 0
POINTS: Final = 200  # points of a curve
TIE: Final = 1e-9  # difference of rewards that counts as a tie

Values: TypeAlias = NDArray[np.float64]


class Estimate(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Curve:
    """The best reward so far in one run, after each distinct student."""

    costs: Values  # ascending
    best: Values

    def at(self, costs: Values) -> Values:
        """The best reward so far at each cost; nan before the first student."""
        place = np.searchsorted(self.costs, costs, side="right") - 1
        return np.where(place < 0, np.nan, self.best[place])


# Curves of the runs by environment, agent and seed.
Curves = Mapping[str, Mapping[str, Mapping[int, Curve]]]


def read_curves(lines: Iterable[Mapping[str, Any]]) -> Curves:
    """The curves of a file's runs, with costs in the unit of the budget."""
    found: dict[str, dict[str, dict[int, tuple[list[float], list[float]]]]]
    found = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        if line["kind"] != "evaluation":
            continue
        runs = found[label(line)][line["agent"]]
        costs, rewards = runs.setdefault(line["seed"], ([], []))
        costs.append(line["number"] if line["epochs"] is None else line["cost"])
        rewards.append(line["reward"])
    return {
        env: {
            agent: {
                seed: Curve(np.array(costs, float), np.maximum.accumulate(rewards))
                for seed, (costs, rewards) in runs.items()
            }
            for agent, runs in agents.items()
        }
        for env, agents in found.items()
    }


def label(line: Mapping[str, Any]) -> str:
    """A short name of a run's environment."""
    arguments = line["arguments"]
    parts = [arguments[k] for k in ("teacher", "task") if k in arguments]
    return " ".join([line["env"].rpartition(":")[2], *map(str, parts)])


# The statistics.


def iqm(values: Values) -> float:
    """The interquartile mean: the mean of the middle half."""
    return float(trim_mean(values, 0.25))


def estimate(
    statistic: Callable[[Sequence[Values]], float], groups: Sequence[Values]
) -> Estimate:
    """A statistic of several groups, with its stratified bootstrap interval."""
    rng = np.random.default_rng(0)
    drawn = [
        statistic([rng.choice(group, len(group)) for group in groups])
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(statistic(groups), float(low), float(high))


def _band(values: Values) -> tuple[Values, Values, Values]:
    """Interquartile means over runs at each point, and the ends of their intervals.

    Args:
        values: Rewards, (runs, points).
    """
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(values), size=(RESAMPLES, len(values)))
    means = trim_mean(values[chosen], 0.25, axis=1)  # (resamples, points)
    low, high = np.percentile(means, (2.5, 97.5), axis=0)
    return trim_mean(values, 0.25, axis=0), low, high


# For each agent: costs, mean best rewards so far, and the ends of their intervals.
Bands: TypeAlias = dict[str, tuple[Values, Values, Values, Values]]


def bands(agents: Mapping[str, Mapping[int, Curve]]) -> Bands:
    """Each agent's costs, interquartile means of best rewards so far, and intervals.

    Args:
        agents: Curves of runs, by agent and seed.
    """
    most = max(c.costs[-1] for runs in agents.values() for c in runs.values())
    grid = np.linspace(0, most, POINTS + 1)[1:]
    found = {}
    for agent, runs in agents.items():
        values = np.array([curve.at(grid) for curve in runs.values()])
        is_there = ~np.isnan(values).any(0)
        found[agent] = (grid[is_there], *_band(values[:, is_there]))
    return found


def heights(found: Bands) -> tuple[float, float]:
    """The range of a plot's reward axis: the final intervals of all agents, widened.

    If the axis included the first rewards, differences between agents would be too
    small to see.
    """
    lowest = min(low[-1] for _, _, low, _ in found.values())
    highest = max(high[-1] for *_, high in found.values())
    room = max(0.1 * (highest - lowest), 1e-6)
    return float(lowest - room), float(highest + room)


def iqm_of_all(groups: Sequence[Values]) -> float:
    """The interquartile mean of all groups together."""
    return iqm(np.concatenate(groups))


def mean_of_all(groups: Sequence[Values]) -> float:
    """The mean over groups of their means."""
    return float(np.mean([group.mean() for group in groups]))


def improvement(groups: Sequence[Values]) -> float:
    """The probability that a run of one agent earns more than a run of another agent.

    A tie counts half.

    Args:
        groups: The first agent's rewards in each environment, then the other agent's.
    """
    half = len(groups) // 2
    pairs = zip(groups[:half], groups[half:], strict=True)
    each = [
        np.mean((a[:, None] > b).astype(float) + 0.5 * (a[:, None] == b))
        for a, b in pairs
    ]
    return float(np.mean(each))


class Row(NamedTuple):
    """The results of one agent."""

    agent: str
    by_env: dict[str, Estimate]  # best rewards
    normalised: Estimate | None  # over all environments, if it ran in all
    is_better: Estimate | None  # probability to be better than random search


def summarise(
    curves: Curves, best_known: Mapping[str, float] | None = None
) -> list[Row]:
    """Each agent's best rewards at the end of the runs, the best agent first.

    Args:
        best_known: Best known reward of each environment, by name. The best reward of
            these runs replaces a reward that is lower or missing.
    """
    ends = {
        env: {
            agent: np.array([curve.best[-1] for curve in runs.values()])
            for agent, runs in agents.items()
        }
        for env, agents in curves.items()
    }
    tops = {
        env: max((best_known or {}).get(env, -1.0), *(v.max() for v in of.values()))
        for env, of in ends.items()
    }
    names = list(dict.fromkeys(agent for of in ends.values() for agent in of))
    rows = []
    for agent in names:
        by_env = {
            env: estimate(iqm_of_all, [of[agent]])
            for env, of in ends.items()
            if agent in of
        }
        normalised = is_better = None
        if all(agent in of and BASIS in of for of in ends.values()):
            scaled = [
                _scaled(of[agent], iqm(of[BASIS]), tops[env])
                for env, of in ends.items()
            ]
            normalised = estimate(iqm_of_all, scaled)
            pairs = [of[agent] for of in ends.values()]
            pairs += [of[BASIS] for of in ends.values()]
            is_better = None if agent == BASIS else estimate(improvement, pairs)
        rows.append(Row(agent, by_env, normalised, is_better))
    return sorted(rows, key=_rank)


def _scaled(values: Values, zero: float, one: float) -> Values:
    if one - zero < TIE:  # random search finds the best known reward: nothing to gain
        return np.zeros_like(values)
    return (values - zero) / (one - zero)


def _rank(row: Row) -> float:
    if row.normalised is not None:
        return -row.normalised.value
    return 2 - float(np.mean([found.value for found in row.by_env.values()]))


# Output.


def as_markdown(rows: Sequence[Row]) -> str:
    """The results as a Markdown table, one row per agent."""
    envs = list(dict.fromkeys(env for row in rows for env in row.by_env))
    lines = []
    for row in rows:
        cells = [str(row.by_env.get(env, "")) for env in envs]
        more = [str(found or "") for found in (row.normalised, row.is_better)]
        lines.append([row.agent, *cells, *more])
    return as_table(["agent", *envs, "normalised", f"better than {BASIS}"], lines)


def as_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells as a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def draw(curves: Curves, path: Path, unit: str) -> None:
    """Plot the best reward so far over the budget spent, one panel per environment."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1,
        len(curves),
        figsize=(5.5 * len(curves), 4),
        squeeze=False,
        layout="constrained",
    )
    for axis, (env, agents) in zip(axes[0], curves.items(), strict=True):
        found = bands(agents)
        for agent, (grid, middle, low, high) in found.items():
            (line,) = axis.plot(grid, middle, label=agent)
            axis.fill_between(grid, low, high, alpha=0.15, color=line.get_color())
        axis.set_ylim(heights(found))
        axis.set_title(env)
        axis.set_xlabel(unit)
    axes[0, 0].set_ylabel("best reward so far")
    lines, names = axes[0, -1].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
