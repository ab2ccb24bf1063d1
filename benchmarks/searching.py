"""The processes that are killed: random searches that log their events."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import gymnasium as gym
import torch
from torch import nn

import envs_registry
from benchmarks.subjects import Basic
from n2n_agents.search import random_search
from n2n_gym.evaluators.distillation import Settings
from n2n_gym.evaluators.loading import load_rung
from n2n_gym.evaluators.rungs import Rung
from n2n_gym.evaluators.runner import InProcess, Result, Runner, Trial
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.evaluators.workers import Workers
from n2n_gym.networks.decisions import removals
from n2n_gym.networks.random_students import random_student
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.rewards import Failure
from n2n_gym.scores import ScoreStore
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher

ROOT: Final = Path(__file__).parent.parent


TOGETHER: Final = 8  # episodes of a vector


EPISODES: Final = 48  # of a search


WORKERS: Final = 2


WILD: Final = Rung("wild", recipe=Recipe(1, 32, learning_rate=1e30))


class Search(NamedTuple):
    """What a child process does: random searches, one for each seed."""

    seeds: Sequence[int]
    store: str | bool
    log: str | None = None  # file of its events, written as they happen
    episodes: int = EPISODES  # with each seed; few, or a multiple of TOGETHER
    workers: int | None = WORKERS
    rung: str = "short"
    largest_file: int | None = None  # in bytes, to act like a full disk


def small_network(task: Task) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(task.input_shape[0], 8, 3, 1, 1), nn.ReLU()),
        *(Basic(8, 8, 1), Basic(8, 12, 2), Basic(12, 12, 1), Basic(12, 16, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, task.num_classes)),
    )


class Noted:
    """A runner that logs each result, and when the receiver has stored it."""

    def __init__(self, runner: Runner, log: str) -> None:
        self.runner = runner
        self.log = log

    def run(
        self, trials: Sequence[Trial], teacher: Teacher, settings: Settings
    ) -> Iterator[Result]:
        for result in self.runner.run(trials, teacher, settings):
            found = result.result
            if isinstance(found, Failure) and found.retryable:
                yield result  # two of its workers were killed: measured again later
                continue
            fingerprint = trials[result.number].student.fingerprint
            note(self.log, "measured", fingerprint)
            yield result
            note(self.log, "kept", fingerprint)

    def close(self) -> None:
        self.runner.close()


def note(log: str, event: str, fingerprint: str = "") -> None:
    """Write a line that a kill leaves complete."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{os.getpid()} {event} {fingerprint}\n".encode())
    os.close(file)


def search(chosen: Search) -> list[list[Any]]:
    """Play random searches; return a list of episodes for each search.

    An episode is [student's fingerprint, return, accuracy or None, error or None].
    """
    envs_registry.register()
    torch.set_num_threads(1)
    if chosen.largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (chosen.largest_file,) * 2)
    scored: dict[str, Any] = {
        "evaluator": chosen.rung,
        "evaluator_workers": chosen.workers,
        "store": chosen.store,
    }
    if chosen.rung == WILD.name:
        runner = Workers(chosen.workers) if chosen.workers else InProcess()
        store = ScoreStore(str(chosen.store))
        own = DistillationEvaluator(WILD, device="cpu", runner=runner, store=store)
        scored = {"evaluator": own}
    envs = gym.make_vec(
        "N2NRemove-v0",
        num_envs=min(TOGETHER, chosen.episodes),
        teacher=small_network,
        task="digits",
        device="cpu",
        **scored,
    )
    if chosen.log is not None:
        note(chosen.log, "searching")
        evaluator = envs.unwrapped.get_attr("evaluator")[0]  # type: ignore[attr-defined]
        evaluator.runner = Noted(evaluator.runner, chosen.log)
    played: list[list[Any]] = []

    def on_episode(total: float, info: dict[str, Any]) -> None:
        result = info.get("accuracy"), info.get("error")
        played[-1].append([info["fingerprint"], total, *result])

    for seed in chosen.seeds:
        played.append([])
        random_search(envs, episodes=chosen.episodes, seed=seed, on_episode=on_episode)
    if chosen.log is not None:
        note(chosen.log, "closing")
    envs.close()
    return played


def share(store: str, number: int) -> dict[str, float]:
    """Score students while other processes use the same store; return accuracies.

    Args:
        number: Number of this process; neighbours score overlapping students.
    """
    torch.set_num_threads(1)
    teacher = load_teacher(small_network, "digits", device="cpu")
    offered, scores = removals(teacher.architecture), {}
    evaluator = load_rung("inherit", "cpu", store=ScoreStore(store))
    seeds = list(range(10 * number, 10 * number + 30))
    random.Random(number).shuffle(seeds)
    print("ready", flush=True)
    sys.stdin.readline()
    for seed in seeds:
        student = random_student(teacher.architecture, offered, random.Random(seed))
        (score,) = evaluator([student], teacher)
        scores[student.fingerprint] = score.accuracy
    return scores


def be_child(what: str, options: str) -> None:
    chosen = json.loads(options)
    answer: Any = search(Search(**chosen)) if what == "search" else share(**chosen)
    print(json.dumps(answer), flush=True)


def start(
    what: str, options: dict[str, Any], folder: Path, **more: Any
) -> subprocess.Popen[str]:
    """Start a child in a new session; its cache and temporary files are in a folder."""
    temporary = folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    folders = {"N2N_CACHE": str(folder / "cache"), "TMPDIR": str(temporary)}
    environment = folders | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.searching", what, json.dumps(options)],
        cwd=ROOT,
        env=os.environ | environment | more.pop("env", {}),
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
        **more,
    )


if __name__ == "__main__":
    be_child(*sys.argv[1:])
