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
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np

from envs_registry import BENCH, MODULE
from envs_registry.bench import DEVELOPMENT
from n2n_agents.library import find_agent
from n2n_gym.bench import load_table
from n2n_gym.bench.rivals import regression_search
from n2n_gym.common.progress import progress
from n2n_gym.comparison.budget import Ledger, run

SUITE: Final = "n2n-bench"
DEVELOPING: Final = "n2n-bench-development"  # the tasks of tables for development
SUITES: Final = (SUITE, DEVELOPING)
VERSION: Final = 1  # version of the lines
BUDGETS: Final = (5, 10, 30, 100, 300)  # distinct students
PATIENCE: Final = 300  # a run ends after so many episodes without a new student
REGRESSION: Final = "regression"  # the regression of n2n_gym/bench/rivals.py


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

    @property
    def name(self) -> str:
        """Text that only one run may have."""
        return f"the run of {self.agent!r} with seed {self.seed} on {self.task}"


def tasks_of_suite(suite: str) -> list[str]:
    """Names of a suite's tasks."""
    is_whole = suite == SUITE
    return [name for name in BENCH if is_whole or BENCH[name].table in DEVELOPMENT]


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
    ledger = Ledger(evaluations=min(BUDGETS[-1], len(table)), patience=PATIENCE)
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
        ValueError: A line is not a run of this suite, contradicts the task's table, or
            is the run of an earlier line.
    """
    seen: set[str] = set()
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
        if found.name in seen:
            raise ValueError(f"{where}: {found.name} is there twice")
        seen.add(found.name)
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
    wrong = [row for row in rows if type(row) is not int or not 0 <= row < size]
    if wrong or not rows:
        said = f"row {wrong[0]!r}" if wrong else "a run without rows"
        raise ValueError(f"{where}: rows must be from 0 to {size - 1}, got {said}")
    if len(rows) > BUDGETS[-1]:
        raise ValueError(
            f"{where}: a run has at most {BUDGETS[-1]} students, got {len(rows)}"
        )
    (often, count), *_ = Counter(rows).most_common(1)
    if found.agent != REGRESSION and count > 1:
        raise ValueError(f"{where}: row {often}, a student, is listed twice")
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


def lacking(runs: Sequence[SuiteRun]) -> list[str]:
    """Names of the runs that are missing until the leaderboard can have the agents.

    Every agent must have run every task with each seed that one of its runs has.
    """
    seeds: dict[str, set[int]] = defaultdict(set)
    for one in runs:
        seeds[one.agent].add(one.seed)
    names = {one.name for one in runs}
    wanted = (
        SuiteRun(task, agent, seed, (), {}).name
        for agent in seeds
        for task in BENCH
        for seed in sorted(seeds[agent])
    )
    return [name for name in wanted if name not in names]
