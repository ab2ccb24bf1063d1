"""N2N-Bench's protocol: agents on its tasks, judged on test images at several budgets.

An agent searches on validation rewards. What counts at a budget is the test regret of
the student that it then holds to be the best.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs_registry import BENCH, MODULE
from n2n_agents.library import find_agent
from n2n_gym.bench import load_table
from n2n_gym.bench.env import regrets
from n2n_gym.bench.rivals import regression_search
from n2n_gym.common.progress import progress
from n2n_gym.comparison.budget import Ledger, run
from n2n_gym.comparison.statistics import (
    Estimate,
    as_table,
    estimate,
    improvement,
    iqm_of_all,
)

SUITE: Final = "n2n-bench"
VERSION: Final = 1  # of the lines
BUDGETS: Final = (5, 10, 30, 100, 300)  # distinct students
JUDGED: Final = 100  # the budget of the probability and of the gap
BASIS: Final = "random"
REGRESSION: Final = "regression"  # of two numbers: see n2n_gym/bench/rivals.py

Values = NDArray[np.float64]


@dataclass(frozen=True)
class SuiteRun:
    """One agent with one seed on one task.

    Attributes:
        rows: Of the table: the distinct students, in the order of their scores.
        best: The highest reward within each budget.
        seen: Tables that the agent had seen before; none for one from scratch.
        command: That made it, for readers.
    """

    task: str
    agent: str
    seed: int
    rows: Sequence[int]
    best: Mapping[str, float]
    seen: Sequence[str] = ()
    command: str = ""


def perform_suite(
    agents: Sequence[str],
    seeds: Iterable[int],
    path: Path,
    *,
    tasks: Sequence[str] | None = None,
    seen: Sequence[str] = (),
    command: str = "",
) -> list[SuiteRun]:
    """All runs that the file does not hold yet are made, and added to it.

    Raises:
        ValueError: There is no such agent, or the file holds something else.
    """
    if not BENCH:
        raise ValueError("no table of N2N-Bench is whole yet")
    for agent in agents:
        if agent != REGRESSION:
            find_agent(agent)
    path.parent.mkdir(parents=True, exist_ok=True)
    runs = list(read_suite(path)) if path.exists() else []
    done = {(one.task, one.agent, one.seed) for one in runs}
    wanted = [
        (task, agent, seed)
        for task in tasks or BENCH
        for agent in agents
        for seed in seeds
        if (task, agent, seed) not in done
    ]
    envs: dict[str, Any] = {}  # what one run has looked up is known to the next
    bar = progress(len(wanted), SUITE, " runs", is_long=True)
    with open(path, "a") as file, bar:
        for task, agent, seed in wanted:
            bar.set_postfix_str(agent)
            if task not in envs:
                envs = {task: gym.make(MODULE + task)}
            rows = _rows(task, agent, seed, envs[task])
            best = best_within(task, rows)
            made = SuiteRun(task, agent, seed, rows, best, seen, command)
            file.write(
                json.dumps({"suite": SUITE, "version": VERSION, **asdict(made)}) + "\n"
            )
            file.flush()
            runs.append(made)
            bar.update()
    return runs


def _rows(task: str, agent: str, seed: int, env: Any) -> list[int]:
    """The students of one run, in their order."""
    table = load_table(task)
    if agent == REGRESSION:
        return _regression(task, seed)
    ledger = Ledger(evaluations=min(BUDGETS[-1], len(table)))
    run(env, find_agent(agent), ledger, seed=seed)
    return [table.row_of[name] for name in ledger.found]


def _regression(task: str, seed: int) -> list[int]:
    """Its best row at each budget stands for all that it has tried."""
    table, what = load_table(task), BENCH[task]
    rows: list[int] = []
    for budget in BUDGETS:
        (row,) = regression_search(
            table,
            what,
            table.values(what),
            table.accuracy(),
            [budget],
            np.random.default_rng(seed),
        )
        rows += [row] * (budget - len(rows))
    return rows


def best_within(task: str, rows: Sequence[int]) -> dict[str, float]:
    """The highest validation reward within each budget."""
    rewards = load_table(task).values(BENCH[task])
    return {str(n): rewards[list(rows[:n])].max().item() for n in BUDGETS}


def read_suite(path: Path) -> Iterator[SuiteRun]:
    """The runs of a file.

    Raises:
        ValueError: A line is no run of this suite, or a reward is not the table's.
    """
    for number, text in enumerate(path.read_text().splitlines(), 1):
        where = f"{path}, line {number}"
        try:
            line = json.loads(text)
            suite, version = line.pop("suite"), line.pop("version")
            found = SuiteRun(**line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where} is no run of {SUITE}: {error!r}") from error
        if (suite, version) != (SUITE, VERSION):
            raise ValueError(f"{where} is of {suite} {version}, not {SUITE} {VERSION}")
        check_run(found, where)
        yield found


def is_suite(path: Path) -> bool:
    """Whether a file's first line is of this suite."""
    if not path.is_file():
        return False
    with open(path) as file:
        return f'"suite": "{SUITE}"' in file.readline()


def check_run(found: SuiteRun, where: str) -> None:
    """Whether a run is what it says, by the table.

    Raises:
        ValueError: It is not.
    """
    if found.task not in BENCH:
        raise ValueError(f"{where}: unknown task {found.task!r}")
    size = len(load_table(found.task))
    rows = found.rows
    if not rows or not all(type(row) is int and 0 <= row < size for row in rows):
        raise ValueError(f"{where}: rows must be from 0 to {size - 1}")
    if len(rows) > BUDGETS[-1]:
        raise ValueError(f"{where}: {len(rows)} students of {BUDGETS[-1]}")
    if found.agent != REGRESSION and len(set(rows)) < len(rows):
        raise ValueError(f"{where}: a student is there twice")
    if found.agent == REGRESSION and list(rows) != _regression(found.task, found.seed):
        raise ValueError(f"{where}: the regression finds other students")
    expected = best_within(found.task, rows)
    for budget, reward in expected.items():
        if found.best.get(budget) != reward:
            raise ValueError(
                f"{where}: the best reward of {budget} students is {reward}, the file "
                f"says {found.best.get(budget)}"
            )


# What the runs say.


@dataclass(frozen=True)
class Standing:
    """What an agent reached, as test regrets: 0 the best student, 1 a random one.

    Attributes:
        at: Interquartile mean over tasks and seeds, by budget.
        better: Probability of a lower regret than random search, at 100 students.
        gap: Mean regret at 100 students, what is above 1 counting as 1.
        values: By task: one a seed, at 100 students.
    """

    agent: str
    seen: tuple[str, ...]
    at: Mapping[int, Estimate]
    better: Estimate | None
    gap: Estimate
    values: Mapping[str, Values]


def standings(runs: Sequence[SuiteRun]) -> list[Standing]:
    """One an agent that has run on all tasks; the lowest regret at 100 first."""
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
                estimate(_gap, groups),
                at[JUDGED],
            )
        )
    return sorted(found, key=lambda one: (bool(one.seen), one.at[JUDGED].value))


def _gap(groups: Sequence[Values]) -> float:
    return float(np.mean([np.minimum(group, 1).mean() for group in groups]))


def normalised(task: str, runs: Sequence[SuiteRun], budget: int) -> Values:
    """Test regrets of the runs at a budget, over that of a random legal student."""
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
    """The leaderboard; agents from scratch, then those that had seen tables."""
    head = ["agent", *(f"{n} students" for n in BUDGETS), "better than random", "gap"]
    rows = []
    for one in found:
        name = one.agent if not one.seen else f"{one.agent} ({', '.join(one.seen)})"
        cells = [str(one.at[n]) for n in BUDGETS]
        rows.append([name, *cells, str(one.better or ""), str(one.gap)])
    return as_table(head, rows)


def draw(found: Sequence[Standing], path: Path) -> None:
    """Regret by budget, and performance profiles at 100 students."""
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
    left.set_ylabel("normalised test regret (IQM)")
    right.set_xlabel(f"normalised test regret at {JUDGED} students")
    right.set_ylabel("share of runs at or below")
    left.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
