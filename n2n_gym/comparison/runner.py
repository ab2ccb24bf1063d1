"""Agents on environments at one budget: every run, kept as lines of JSON.

A run is one agent with one seed in one environment. Each distinct student counts once a
run, at its nominal cost, whether or not a store held its score; so that the comparison
does not depend on what was scored before. Runs share nothing but that store.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any, Final, TypeAlias

import gymnasium as gym
import torch

from envs_registry import KERNELS, MODULE
from n2n_agents.library import CONTINUOUS, find_agent
from n2n_gym.common.progress import progress
from n2n_gym.comparison.budget import Evaluation, Ledger, run
from n2n_gym.comparison.statistics import label

VERSION: Final = 1  # of the lines


@dataclass(frozen=True)
class AgentRun:
    """One agent with one seed in one environment.

    Attributes:
        env: An id, as ``gymnasium.make`` takes it.
        arguments: Of the environment: plain values.
        agent: As ``n2n_agents.library`` knows them, by name or ``"module:function"``.
        epochs: Nominal student-epochs it may spend.
        evaluations: Distinct students it may score.
    """

    env: str
    agent: str
    seed: int
    arguments: Mapping[str, Any]
    epochs: float | None = None
    evaluations: int | None = None

    @property
    def key(self) -> str:
        """What tells it from other runs."""
        return json.dumps(asdict(self), sort_keys=True)


def plan(
    envs: Sequence[tuple[str, Mapping[str, Any]]],
    agents: Sequence[str],
    seeds: Iterable[int],
    *,
    epochs: float | None = None,
    evaluations: int | None = None,
) -> list[AgentRun]:
    """Every agent with every seed in every environment.

    Raises:
        ValueError: An agent is unknown or takes other actions, or the budget makes no
            sense.
    """
    Ledger(epochs, evaluations)
    for agent in agents:
        find_agent(agent)
        for env, arguments in envs:
            if agent in CONTINUOUS and arguments.get("action") != "continuous":
                raise ValueError(
                    f"{agent} takes continuous actions, and {env} has discrete ones; "
                    f"N2NShrink-v0 has both, with the argument action='continuous'"
                )
    return [
        AgentRun(env, agent, seed, {**_said(env), **arguments}, epochs, evaluations)
        for seed, (env, arguments), agent in product(seeds, envs, agents)
    ]


def _said(env: str) -> Mapping[str, str]:
    """Of an environment's arguments, what results say even where nobody gave it."""
    shrinks = ("N2NShrink-v0", "N2NCompress-v0")
    return KERNELS if env.removeprefix(MODULE) in shrinks else {}


class Results:
    """The file that runs are kept in: lines of evaluations, and one at a run's end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> Iterator[dict[str, Any]]:
        """All whole lines.

        Raises:
            ValueError: One is of another version, or no JSON.
        """
        if not self.path.exists():
            return
        with open(self.path) as file:
            for number, text in enumerate(file, 1):
                if not text.endswith("\n"):
                    return  # it was being written when the process was killed
                try:
                    line = json.loads(text)
                    version = line["version"]
                except (ValueError, KeyError, TypeError) as error:
                    where = f"{self.path}, line {number}"
                    raise ValueError(f"{where} is no result: {error!r}") from error
                if version != VERSION:
                    raise ValueError(
                        f"{self.path} is of version {version}, not {VERSION}"
                    )
                if not {"run", "kind"} <= line.keys():
                    where = f"{self.path}, line {number}"
                    raise ValueError(f"{where} is no result: no run or no kind")
                yield line

    def done(self) -> set[str]:
        """The keys of the runs that are there to their end."""
        return _ended(self.lines())

    def keep_whole_runs(self) -> set[str]:
        """Drop what is there of others: they are made again. Gives those that stay."""
        lines = list(self.lines())
        done = _ended(lines)
        if self.path.exists():
            kept = [json.dumps(line) + "\n" for line in lines if line["run"] in done]
            partial = self.path.with_suffix(".part")
            partial.write_text("".join(kept))
            partial.replace(self.path)
        return done

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """A whole run, written at once."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with open(self.path, "a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _ended(lines: Iterable[Mapping[str, Any]]) -> set[str]:
    return {line["run"] for line in lines if line["kind"] == "end"}


def compare(runs: Sequence[AgentRun], path: Path, *, workers: int = 1) -> None:
    """Make the runs that the file does not hold yet, several at a time.

    What a run raises is raised when the others have been made.

    Raises:
        ValueError: The file holds something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    results = Results(path)
    done = results.keep_whole_runs()
    _refuse_mixture(path, done, runs)
    left = [one for one in runs if one.key not in done]
    total = sum(_size(one) for one in left)
    failed = []
    title = f"{len(left)} runs"
    with progress(total, title, _unit(left), is_long=True) as bar:
        is_here = min(workers, len(left)) <= 1
        attempts = (_attempt(one, bar.update) for one in left)
        for made in attempts if is_here else _in_processes(left, bar.update, workers):
            if isinstance(made, BaseException):
                failed.append(made)
            else:
                results.add(made)
    if failed:  # the others are kept
        raise failed[0]


def _refuse_mixture(path: Path, done: Iterable[str], runs: Iterable[AgentRun]) -> None:
    """One report is about one budget, and about one way of scoring in a task."""
    for key in done:
        kept = json.loads(key)
        for one in runs:
            planned = json.loads(one.key)  # as a file has it: tuples are lists there
            alike = ["epochs", "evaluations"]
            if label(kept) == label(planned):
                alike.append("arguments")
            for name in alike:
                if kept[name] != planned[name]:
                    raise ValueError(
                        f"{path} holds runs with {name} {kept[name]}, not "
                        f"{planned[name]}: give others another output folder"
                    )


# What is told how much more a run has spent.
Spend: TypeAlias = Callable[[float], object]
Made: TypeAlias = list[dict[str, Any]] | BaseException


def _attempt(one: AgentRun, spend: Spend) -> Made:
    try:
        return perform(one, spend)
    except Exception as error:  # raised when the others have been made
        return error


def _in_processes(
    runs: Sequence[AgentRun], spend: Spend, workers: int
) -> Iterator[Made]:
    context = multiprocessing.get_context("spawn")
    size = min(workers, len(runs))
    with context.Manager() as manager, ProcessPoolExecutor(size, context) as pool:
        progress: Any = manager.Queue()
        follower = Thread(target=_follow, args=(progress, spend), daemon=True)
        follower.start()
        try:
            futures = [pool.submit(perform, one, progress.put) for one in runs]
            for future in as_completed(futures):
                yield future.exception() or future.result()
        finally:
            pool.shutdown(cancel_futures=True)
            progress.put(None)
            follower.join()


def _size(one: AgentRun) -> float:
    size = one.evaluations if one.epochs is None else one.epochs
    assert size is not None
    return size


def _unit(runs: Sequence[AgentRun]) -> str:
    return " students" if any(one.epochs is None for one in runs) else " epochs"


def _follow(progress: Any, spend: Spend) -> None:
    while (spent := progress.get()) is not None:
        spend(spent)


def perform(one: AgentRun, spend: Spend = lambda _: None) -> list[dict[str, Any]]:
    """Make one run, in this process; gives its lines."""
    torch.set_num_threads(1)
    spent = 0.0

    def report(evaluation: Evaluation) -> None:
        nonlocal spent
        now = float(evaluation.number) if one.epochs is None else evaluation.cost
        spend(now - spent)
        spent = now

    ledger = Ledger(one.epochs, one.evaluations, on_evaluation=report)
    started = time.perf_counter()
    env = gym.make(one.env, **one.arguments)
    try:
        run(env, find_agent(one.agent), ledger, seed=one.seed)
    finally:
        env.close()
    spend(_size(one) - spent)
    common = {"version": VERSION, "run": one.key, **asdict(one)}
    lines = [
        {
            **common,
            "kind": "evaluation",
            "number": evaluation.number,
            "cost": evaluation.cost,
            "episodes": evaluation.episodes,
            "reward": evaluation.reward,
            "actions": list(evaluation.actions),
            "info": evaluation.info,
        }
        for evaluation in ledger.found.values()
    ]
    end = {
        **common,
        "kind": "end",
        "reason": ledger.reason,
        "cost": ledger.cost,
        "episodes": ledger.episodes,
        "students": len(ledger.found),
        "seconds": time.perf_counter() - started,
    }
    return [*lines, end]
