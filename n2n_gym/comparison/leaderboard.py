"""The leaderboards of N2N-Bench: statistics of the test regrets of agents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs_registry import BENCH
from envs_registry.bench import DEVELOPMENT
from n2n_gym.bench import load_table
from n2n_gym.bench.env import regrets
from n2n_gym.comparison.statistics import (
    Estimate,
    as_table,
    estimate,
    improvement,
    iqm_of_all,
    mean_of_all,
)
from n2n_gym.comparison.suite import BUDGETS, SuiteRun

BOARDS: Final = ("Headline tables", "Development tables")
JUDGED: Final = 100  # budget of the probability of improvement and of the profiles
RANKED: Final = (5, 10, 30, 100)  # budgets of the mean that agents are ranked by
BASIS: Final = "random"

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Standing:
    """Test regrets of an agent, normalised as in ``normalised``.

    Attributes:
        at: Interquartile mean of regrets over tasks and seeds, by budget.
        better: Probability of a lower regret than random search's at 100 students; None
            for random search, or if it has not run.
        mean: Mean regret over the budgets of ``RANKED``, with regrets clipped at 1.
        values: Regret of each seed's run at 100 students, by task.
    """

    agent: str
    seen: tuple[str, ...]
    at: Mapping[int, Estimate]
    better: Estimate | None
    mean: Estimate
    values: Mapping[str, Values]


class Boards(NamedTuple):
    """Standings on the tables for the headline, and on those for development."""

    headline: list[Standing]
    development: list[Standing]


def boards(runs: Sequence[SuiteRun]) -> Boards:
    """The standings on each part of the tables; empty for a part without runs."""
    parts: tuple[list[SuiteRun], list[SuiteRun]] = ([], [])
    for one in runs:
        parts[BENCH[one.task].table in DEVELOPMENT].append(one)
    return Boards(*map(standings, parts))


def standings(runs: Sequence[SuiteRun]) -> list[Standing]:
    """One standing per agent that ran all tasks of these runs.

    Agents without pretraining come first, then pretrained agents. Each group begins
    with the lowest mean regret.
    """
    tasks = list(dict.fromkeys(one.task for one in runs))
    by_agent: dict[tuple[str, tuple[str, ...]], dict[str, list[SuiteRun]]]
    by_agent = defaultdict(lambda: defaultdict(list))
    for one in runs:
        by_agent[one.agent, tuple(one.seen)][one.task].append(one)
    whole = {key: of for key, of in by_agent.items() if len(of) == len(tasks)}
    values = {
        key: {
            budget: {task: normalised(task, of[task], budget) for task in tasks}
            for budget in BUDGETS
        }
        for key, of in whole.items()
    }
    basis = values.get((BASIS, ()))
    found = []
    for (agent, seen), at in values.items():
        groups = list(at[JUDGED].values())
        better = None
        if basis is not None and agent != BASIS:
            pairs = [-v for v in groups] + [-v for v in basis[JUDGED].values()]
            better = estimate(improvement, pairs)
        found.append(
            Standing(
                agent,
                seen,
                {n: estimate(iqm_of_all, list(at[n].values())) for n in BUDGETS},
                better,
                estimate(mean_of_all, _clipped(at)),
                at[JUDGED],
            )
        )
    return sorted(found, key=lambda one: (bool(one.seen), one.mean.value))


def _clipped(at: Mapping[int, Mapping[str, Values]]) -> list[Values]:
    """Each run's mean over the budgets of its clipped regret, by task."""
    return [
        np.mean([np.minimum(at[budget][task], 1) for budget in RANKED], 0)
        for task in at[JUDGED]
    ]


def normalised(task: str, runs: Sequence[SuiteRun], budget: int) -> Values:
    """Normalised test regret of each run at a budget, (runs,).

    The best student's regret is 0. The mean regret of all students within the task's
    limit is 1.
    """
    table, what = load_table(task), BENCH[task]
    rewards, lost = table.values(what), regrets(what, "test")
    chance = lost[table.within(what)].mean()
    held = []
    for one in runs:
        rows = np.array(one.rows[:budget])
        held.append(lost[rows[rewards[rows].argmax()]])
    found: Values = np.array(held) / chance
    return found


def as_markdown(found: Sequence[Standing]) -> str:
    """The leaderboard as a Markdown table, one row per agent."""
    head = ["agent", "mean", *(f"{n} students" for n in BUDGETS), "better than random"]
    rows = []
    for one in found:
        name = one.agent if not one.seen else f"{one.agent} ({', '.join(one.seen)})"
        cells = [str(one.at[n]) for n in BUDGETS]
        rows.append([name, str(one.mean), *cells, str(one.better or "")])
    return as_table(head, rows)


def boards_as_markdown(found: Boards) -> str:
    """Both leaderboards, as far as there are runs."""
    return "\n\n".join(
        f"## {title}\n\n{as_markdown(rows).rstrip()}"
        for title, rows in zip(BOARDS, found, strict=True)
        if rows
    )


def draw(found: Sequence[Standing], path: Path) -> None:
    """Plot regret by budget, and performance profiles at 100 students."""
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for one in found:
        middle = [one.at[n].value for n in BUDGETS]
        low, high = ([getattr(one.at[n], s) for n in BUDGETS] for s in ("low", "high"))
        (line,) = left.plot(BUDGETS, middle, marker="o", label=one.agent)
        left.fill_between(BUDGETS, low, high, alpha=0.15, color=line.get_color())
        regret = np.linspace(0, 1, 200)
        reached = [
            np.mean([(values <= r).mean() for values in one.values.values()])
            for r in regret
        ]
        right.plot(regret, reached, color=line.get_color())
    left.set_xscale("log")
    left.set_xticks(BUDGETS, map(str, BUDGETS))
    left.set_xlabel("distinct students")
    left.set_ylim(-0.02, 1.05)  # an agent worse than chance is above the frame
    left.set_ylabel("normalised test regret (IQM)")
    right.set_xlabel(f"normalised test regret at {JUDGED} students")
    right.set_ylabel("share of runs at or below")
    left.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
