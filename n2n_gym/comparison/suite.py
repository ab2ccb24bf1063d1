"""The protocol of N2N-Bench: test regrets of agents on its tasks at several budgets.

An agent sees only validation rewards. At each budget, the student with the highest
validation reward so far is judged by its regret on test images.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs_registry import BENCH, MODULE
from envs_registry.bench import DEVELOPMENT
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
VERSION: Final = 1  # version of the lines
BUDGETS: Final = (5, 10, 30, 100, 300)  # distinct students
JUDGED: Final = 100  # budget of the probability of improvement and of the gap
BASIS: Final = "random"
BOARDS: Final = ("Headline tables", "Development tables")
REGRESSION: Final = "regression"  # the regression of n2n_gym/bench/rivals.py

Values = NDArray[np.float64]


@dataclass(frozen=True)
class SuiteRun:
    """One agent with one seed on one task.

    Attributes:
        rows: Distinct students of the run in order, as row numbers of the task's table.
        best: Highest validation reward within each budget, by the budget as text.
        seen: Tables that the agent was pretrained on; empty without pretraining.
        command: Command that made the run, for readers.
        commit: Commit of the code that made the run, with a "+" if files differed.
    """

    task: str
    agent: str
    seed: int
    rows: Sequence[int]
    best: Mapping[str, float]
    seen: Sequence[str] = ()
    command: str = ""
    commit: str = ""


def perform_suite(
    agents: Sequence[str],
    seeds: Iterable[int],
    path: Path,
    *,
    tasks: Sequence[str] | None = None,
    seen: Sequence[str] = (),
    command: str = "",
    commit: str = "",
    workers: int = 1,
) -> list[SuiteRun]:
    """Make all runs that a file lacks, and add them to it; return all its runs.

    Args:
        tasks: Names of the tasks; by default all tasks with a complete table.
        seen, command, commit: Values for the new runs, as in ``SuiteRun``.
        workers: Number of processes. The runs are the same with any number.

    Raises:
        ValueError: An agent is unknown, no table is complete, or the file has a line
            that is not a run.
    """
    if not BENCH:
        raise ValueError("no table of N2N-Bench is complete yet")
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
    bar = progress(len(wanted), SUITE, " runs", is_long=True)
    with open(path, "a") as file, bar, _mapped(workers) as mapped:
        made = mapped(_rows, *zip(*wanted, strict=True)) if wanted else ()
        for (task, agent, seed), rows in zip(wanted, made, strict=True):
            best = best_within(task, rows)
            one = SuiteRun(task, agent, seed, rows, best, seen, command, commit)
            file.write(
                json.dumps({"suite": SUITE, "version": VERSION, **asdict(one)}) + "\n"
            )
            file.flush()
            runs.append(one)
            bar.set_postfix_str(agent)
            bar.update()
    return runs


@contextmanager
def _mapped(workers: int) -> Iterator[Any]:
    """Context of a function like ``map`` that calls in this number of processes."""
    if workers == 1:
        yield map
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _rows(task: str, agent: str, seed: int) -> list[int]:
    """The row numbers of one run's students, in order."""
    if agent == REGRESSION:
        return _regression(task, seed)
    play, table = find_agent(agent), load_table(task)
    if "torch" in sys.modules:  # only agents that learn need it, and it loads slowly
        sys.modules["torch"].set_num_threads(1)
    ledger = Ledger(evaluations=min(BUDGETS[-1], len(table)))
    run(_env_of(task), play, ledger, seed=seed)
    return [table.row_of[name] for name in ledger.found]


@lru_cache(maxsize=1)  # the runs of a task share look-ups
def _env_of(task: str) -> gym.Env[Any, Any]:
    return gym.make(MODULE + task)


def _regression(task: str, seed: int) -> list[int]:
    """Row that the regression chooses at each budget, repeated to fill the budget."""
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
    """The highest validation reward within each budget, by the budget as text."""
    rewards = load_table(task).values(BENCH[task])
    return {str(n): rewards[list(rows[:n])].max().item() for n in BUDGETS}


def read_suite(path: Path) -> Iterator[SuiteRun]:
    """The runs in a file.

    Raises:
        ValueError: A line is not a run of this suite, or contradicts the task's table.
    """
    for number, text in enumerate(_text(path).splitlines(), 1):
        where = f"{path}, line {number}"
        try:
            line = json.loads(text)
            suite, version = line.pop("suite"), line.pop("version")
            found = SuiteRun(**line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where} is not a run of {SUITE}: {error!r}") from error
        if (suite, version) != (SUITE, VERSION):
            raise ValueError(f"{where} is of {suite} {version}, not {SUITE} {VERSION}")
        check_run(found, where)
        yield found


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def is_suite(path: Path) -> bool:
    """Whether a file holds runs of this suite, by its suffix or its first line."""
    if not path.is_file():
        return False
    if path.suffix == ".gz":
        return True
    with open(path) as file:
        return f'"suite": "{SUITE}"' in file.readline()


def check_run(found: SuiteRun, where: str) -> None:
    """Check a run against the table of its task.

    Args:
        where: Location of the run, for errors.

    Raises:
        ValueError: The run does not match the table.
    """
    if found.task not in BENCH:
        raise ValueError(f"{where}: unknown task {found.task!r}")
    size = len(load_table(found.task))
    rows = found.rows
    if not rows or not all(type(row) is int and 0 <= row < size for row in rows):
        raise ValueError(f"{where}: rows must be from 0 to {size - 1}")
    if len(rows) > BUDGETS[-1]:
        raise ValueError(
            f"{where}: a run has at most {BUDGETS[-1]} students, got {len(rows)}"
        )
    if found.agent != REGRESSION and len(set(rows)) < len(rows):
        raise ValueError(f"{where}: a student is listed twice")
    if found.agent == REGRESSION and list(rows) != _regression(found.task, found.seed):
        raise ValueError(
            f"{where}: the rows are not those that {REGRESSION!r} finds with seed "
            f"{found.seed}"
        )
    expected = best_within(found.task, rows)
    for budget, reward in expected.items():
        if found.best.get(budget) != reward:
            raise ValueError(
                f"{where}: the best reward of the first {budget} students must be "
                f"{reward}, got {found.best.get(budget)}"
            )


# Statistics.


@dataclass(frozen=True)
class Standing:
    """Test regrets of an agent, normalised as in ``normalised``.

    Attributes:
        at: Interquartile mean of regrets over tasks and seeds, by budget.
        better: Probability of a lower regret than random search's at 100 students; None
            for random search, or if it has not run.
        gap: Mean regret at 100 students, with regrets clipped at 1.
        values: Regret of each seed's run at 100 students, by task.
    """

    agent: str
    seen: tuple[str, ...]
    at: Mapping[int, Estimate]
    better: Estimate | None
    gap: Estimate
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
    with the lowest regret at 100 students.
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
                estimate(_gap, groups),
                at[JUDGED],
            )
        )
    return sorted(found, key=lambda one: (bool(one.seen), one.at[JUDGED].value))


def _gap(groups: Sequence[Values]) -> float:
    return float(np.mean([np.minimum(group, 1).mean() for group in groups]))


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
    head = ["agent", *(f"{n} students" for n in BUDGETS), "better than random", "gap"]
    rows = []
    for one in found:
        name = one.agent if not one.seen else f"{one.agent} ({', '.join(one.seen)})"
        cells = [str(one.at[n]) for n in BUDGETS]
        rows.append([name, *cells, str(one.better or ""), str(one.gap)])
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
    left.set_ylabel("normalised test regret (IQM)")
    right.set_xlabel(f"normalised test regret at {JUDGED} students")
    right.set_ylabel("share of runs at or below")
    left.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
