"""Runs of agents in environments, all at one budget; the results are lines of JSON.

A run is one agent with one seed in one environment. Each distinct student of a run
counts at its nominal cost, even if the store already had the score. So the comparison
does not depend on earlier scores. Runs have only the store in common.
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

VERSION: Final = 1  # version of the lines


@dataclass(frozen=True)
class AgentRun:
    """One agent with one seed in one environment.

    Attributes:
        env: An id for ``gymnasium.make``.
        arguments: The environment's arguments, as values that JSON can hold.
        agent: An agent's name in ``n2n_agents.library``, or ``"module:function"``.
        epochs: Budget in nominal student-epochs; None for no limit.
        evaluations: Budget in distinct students; None for no limit.
    """

    env: str
    agent: str
    seed: int
    arguments: Mapping[str, Any]
    epochs: float | None = None
    evaluations: int | None = None

    @property
    def key(self) -> str:
        """A string that identifies the run: its fields as JSON."""
        return json.dumps(asdict(self), sort_keys=True)


def plan(
    envs: Sequence[tuple[str, Mapping[str, Any]]],
    agents: Sequence[str],
    seeds: Iterable[int],
    *,
    epochs: float | None = None,
    evaluations: int | None = None,
) -> list[AgentRun]:
    """The runs of every agent with every seed in every environment.

    Args:
        envs: Pairs of an environment's id and its arguments.

    Raises:
        ValueError: An agent is unknown, an agent needs continuous actions but an
            environment has discrete ones, or the budget is malformed.
    """
    Ledger(epochs, evaluations)
    for agent in agents:
        find_agent(agent)
        for env, arguments in envs:
            if agent in CONTINUOUS and arguments.get("action") != "continuous":
                raise ValueError(
                    f"{agent} needs continuous actions, and {env} has discrete ones; "
                    f"use N2NShrink-v0 with action='continuous'"
                )
    return [
        AgentRun(env, agent, seed, {**_said(env), **arguments}, epochs, evaluations)
        for seed, (env, arguments), agent in product(seeds, envs, agents)
    ]


def _said(env: str) -> Mapping[str, str]:
    """Default arguments that results record even if they are not given."""
    shrinks = ("N2NShrink-v0", "N2NCompress-v0")
    return KERNELS if env.removeprefix(MODULE) in shrinks else {}


class Results:
    """The file of runs: one line per evaluation, then a line for the end of the run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> Iterator[dict[str, Any]]:
        """All complete lines.

        Raises:
            ValueError: A line is not JSON, or has another version.
        """
        if not self.path.exists():
            return
        with open(self.path) as file:
            for number, text in enumerate(file, 1):
                if not text.endswith("\n"):
                    return  # a line that a kill cut short
                try:
                    line = json.loads(text)
                    version = line["version"]
                except (ValueError, KeyError, TypeError) as error:
                    where = f"{self.path}, line {number}"
                    raise ValueError(f"{where} is not a result: {error!r}") from error
                if version != VERSION:
                    raise ValueError(
                        f"{self.path} has version {version} of the format; this "
                        f"version of n2n-gym reads {VERSION}"
                    )
                if not {"run", "kind"} <= line.keys():
                    where = f"{self.path}, line {number}"
                    raise ValueError(
                        f"{where} is not a result: it has no 'run' or no 'kind'"
                    )
                yield line

    def done(self) -> set[str]:
        """The keys of the complete runs."""
        return _ended(self.lines())

    def keep_whole_runs(self) -> set[str]:
        """Drop incomplete runs from the file; return the keys of the complete ones."""
        lines = list(self.lines())
        done = _ended(lines)
        if self.path.exists():
            kept = [json.dumps(line) + "\n" for line in lines if line["run"] in done]
            partial = self.path.with_suffix(".part")
            partial.write_text("".join(kept))
            partial.replace(self.path)
        return done

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append all lines of a complete run."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with open(self.path, "a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _ended(lines: Iterable[Mapping[str, Any]]) -> set[str]:
    return {line["run"] for line in lines if line["kind"] == "end"}


def compare(runs: Sequence[AgentRun], path: Path, *, workers: int = 1) -> None:
    """Make the runs that the file lacks, ``workers`` of them at a time.

    If a run raises an error, the other runs finish before the error is raised again.

    Raises:
        ValueError: The file has runs with another budget or other arguments, or a line
            that does not belong to a run.
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
    if failed:  # the other runs are kept
        raise failed[0]


def _refuse_mixture(path: Path, done: Iterable[str], runs: Iterable[AgentRun]) -> None:
    """Raise a ValueError if finished and planned runs do not belong together.

    All runs must have the same budget. Runs in one environment must have the same
    arguments.
    """
    for key in done:
        kept = json.loads(key)
        for one in runs:
            planned = json.loads(one.key)  # as in a file: tuples are lists
            alike = ["epochs", "evaluations"]
            if label(kept) == label(planned):
                alike.append("arguments")
            for name in alike:
                if kept[name] != planned[name]:
                    raise ValueError(
                        f"{path} has runs with {name} {kept[name]}; runs with "
                        f"{planned[name]} need another output folder"
                    )


# Callback with the amount that a run has spent since the last call.
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
    """Make one run in this process; return its lines.

    Args:
        spend: Callback with the budget spent since the previous call.
    """
    torch.set_num_threads(1)
    spent = 0.0

    def tell(evaluation: Evaluation) -> None:
        nonlocal spent
        now = float(evaluation.number) if one.epochs is None else evaluation.cost
        spend(now - spent)
        spent = now

    ledger = Ledger(one.epochs, one.evaluations, on_evaluation=tell)
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
