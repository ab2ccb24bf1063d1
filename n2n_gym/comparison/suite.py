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
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
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
from n2n_gym.comparison.entrants import REGRESSION, Entrant, entrant

SUITE: Final = "n2n-bench"
DEVELOPING: Final = "n2n-bench-development"  # the tasks of tables for development
SUITES: Final = (SUITE, DEVELOPING)
VERSION: Final = 2  # version of the lines
SEEDS: Final = 30  # the leaderboard has the seeds from 0
BUDGETS: Final = (5, 10, 30, 100, 300)  # distinct students
PATIENCE: Final = 300  # a run ends after so many episodes without a new student


@dataclass(frozen=True)
class SuiteRun:
    """One agent with one seed on one task.

    Attributes:
        rows: Distinct students of the run in order, as row numbers of the task's table.
        best: Highest validation reward within each budget, by the budget as text.
        scores: Hash of the table's scores, as ``Table.scores_hash``.
        seen: What the agent was pretrained on, names of tables or other words; empty
            without pretraining.
        source: Hash of the agent's own file; empty for agents of this package.
        command: Command that made the run, for readers.
        commit: Commit of the code that made the run, with a "+" if files differed.
    """

    task: str
    agent: str
    seed: int
    rows: Sequence[int]
    best: Mapping[str, float]
    scores: str = ""
    seen: Sequence[str] = ()
    source: str = ""
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
        seen: What the pretrained agents and the user's own were trained on.
        command, commit: Values for the new runs, as in ``SuiteRun``.
        workers: Number of processes. The runs are the same with any number.

    Raises:
        ValueError: An agent is refused by ``entrant``. No table is complete. The file
            has a line that is not a run, or runs of another version of an agent.
    """
    if not BENCH:
        raise ValueError("no table of N2N-Bench is complete yet")
    envs = partial(map, _env_of, BENCH)
    entrants = {agent: entrant(agent, seen, envs) for agent in agents}
    path.parent.mkdir(parents=True, exist_ok=True)
    runs = list(read_suite(path)) if path.exists() else []
    for one in runs:
        if one.agent in entrants:
            _check_same_agent(one, entrants[one.agent])
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
            one = SuiteRun(
                task,
                agent,
                seed,
                rows,
                best_within(task, rows),
                load_table(task).scores_hash,
                entrants[agent].seen,
                entrants[agent].source,
                command,
                commit,
            )
            file.write(
                json.dumps({"suite": SUITE, "version": VERSION, **asdict(one)}) + "\n"
            )
            file.flush()
            runs.append(one)
            bar.set_postfix_str(agent)
            bar.update()
    return runs


def _check_same_agent(one: SuiteRun, now_is: Entrant) -> None:
    """Refuse to add to runs that another version of an agent made."""
    for what, kept, now in (
        ("file of the agent", one.source, now_is.source),
        ("--seen", list(one.seen), list(now_is.seen)),
    ):
        if kept != now:
            raise ValueError(
                f"{one.name} was made with another {what}: {kept or 'none'}, now it is "
                f"{now or 'none'}; give another output folder"
            )


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
    return gym.make(MODULE + task, shows_regret=False)


def _regression(task: str, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return regression_search(load_table(task), BENCH[task], BUDGETS[-1], rng)


def best_within(task: str, rows: Sequence[int]) -> dict[str, float]:
    """The highest validation reward within each budget, by the budget as text."""
    rewards = load_table(task).values(BENCH[task])
    return {str(n): rewards[list(rows[:n])].max().item() for n in BUDGETS}


def read_suite(path: Path) -> Iterator[SuiteRun]:
    """The runs in a file.

    Raises:
        ValueError: A line is not a run of this suite, contradicts the task's table, is
            the run of an earlier line, or says something else about the agent.
    """
    known: set[str] = set()
    agents: dict[str, tuple[str, list[str]]] = {}
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
        if found.name in known:
            raise ValueError(f"{where}: {found.name} is there twice")
        known.add(found.name)
        about = found.source, list(found.seen)
        if agents.setdefault(found.agent, about) != about:
            raise ValueError(
                f"{where}: {found.agent!r} has another file, or has seen something "
                f"else, than in earlier lines"
            )
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
    are_words = isinstance(found.seen, list) and all(
        isinstance(word, str) and word for word in found.seen
    )
    if not are_words:
        raise ValueError(f"{where}: seen must be a list of words, got {found.seen!r}")
    table = load_table(found.task)
    if found.scores != table.scores_hash:
        raise ValueError(
            f"{where}: it was made with other scores of the table {table.name}: their "
            f"hash is {found.scores!r}, here it is {table.scores_hash!r}"
        )
    size, rows = len(table), found.rows
    wrong = [row for row in rows if type(row) is not int or not 0 <= row < size]
    if wrong or not rows:
        said = f"row {wrong[0]!r}" if wrong else "a run without rows"
        raise ValueError(f"{where}: rows must be from 0 to {size - 1}, got {said}")
    if len(rows) > BUDGETS[-1]:
        raise ValueError(
            f"{where}: a run has at most {BUDGETS[-1]} students, got {len(rows)}"
        )
    (often, count), *_ = Counter(rows).most_common(1)
    if count > 1:
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


def suite_of(runs: Sequence[SuiteRun]) -> str:
    """The smallest suite that has the tasks of all runs."""
    tasks = {one.task for one in runs}
    return DEVELOPING if tasks <= set(tasks_of_suite(DEVELOPING)) else SUITE


def lacking(runs: Sequence[SuiteRun], suite: str = SUITE) -> list[str]:
    """Names of the runs that are missing until a leaderboard can have the agents.

    Every agent must have run every task of the suite with each of the ``SEEDS`` seeds.
    """
    names = {one.name for one in runs}
    wanted = (
        SuiteRun(task, agent, seed, (), {}).name
        for agent in dict.fromkeys(one.agent for one in runs)
        for task in tasks_of_suite(suite)
        for seed in range(SEEDS)
    )
    return [name for name in wanted if name not in names]
