"""How many students agents score, on tasks with complete tables of scores.

    python -m benchmarks.tables                        # the agents, on the tables kept
    python -m benchmarks.tables --make remove-digits   # a table anew: half an hour

Three tasks have at most 4,096 students each. Each student was distilled once (with
"short"), and ``benchmarks/data/tables`` has the scores. So scores are only looked up,
and runs of many agents with many seeds take minutes. The result of a run is the number
of distinct students that it scores until it finds one of the best 0.2 % of the table.

Making ``remove-cifar10`` needs the folder that ``N2N_DATA`` names.
"""

from __future__ import annotations

import argparse
import copy
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm.auto import tqdm

from benchmarks.results import Results
from benchmarks.subjects import Basic, some_of_cifar10
from n2n_agents.library import find_agent
from n2n_gym.comparison.budget import Ledger, run
from n2n_gym.comparison.statistics import Estimate, as_table, estimate, iqm_of_all
from n2n_gym.envs import CompressionEnv, RemoveEnv, ShrinkEnv
from n2n_gym.evaluators.evaluator import evaluate
from n2n_gym.evaluators.rungs import SHORT
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.evaluators.workers import Workers
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.trace import trace
from n2n_gym.rewards import Failure, Score, n2n
from n2n_gym.scores import ScoreStore
from n2n_gym.tasks.sets import digits
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.learning import teacher_recipe, train_network
from n2n_gym.teachers.store import load_trained, save_trained
from n2n_gym.teachers.teacher import Teacher

CPU = torch.device("cpu")
FOLDER = Path(__file__).parent / "data" / "tables"
TOP = 0.002  # of a table
MOST = 4_096  # students of a table
PATIENCE = 200  # a run ends after this many episodes without a new student
AGENTS = (
    "random",
    "reinforce",
    "reinforce-paper",
    "greedy",
    "beam",
    "evolution",
    "ppo",
    "maskable-ppo",
    "dqn",
)


# The tasks.


def units(inputs: int, *widths: int, kernel: int = 3) -> list[nn.Module]:
    """Convolutions with normalisation and activation, one after another."""
    layers: list[nn.Module] = []
    for width in widths:
        conv = nn.Conv2d(inputs, width, kernel, padding=kernel // 2, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    return layers


def ends(inputs: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10)]


def residual() -> nn.Module:
    """Twelve residual blocks in three stages, for digits."""
    layers = units(1, 16)
    for width in (16, 32, 64):
        if width > 16:
            layers += [nn.MaxPool2d(2), *units(width // 2, width)]
        layers += [Basic(width, width, 1) for _ in range(4)]
    return nn.Sequential(*layers, *ends(64))


def plain() -> nn.Module:
    """Thirteen units in sequence, in four stages (after VGG), for CIFAR-10.

    A pool after the first unit saves time, because 4,096 students are distilled.
    """
    return nn.Sequential(
        *units(3, 16),
        nn.MaxPool2d(2),
        *units(16, 16, 16, 16),
        nn.MaxPool2d(2),
        *units(16, 32, 32, 32, 32),
        nn.MaxPool2d(2),
        *units(32, 64, 64, 64, 64, 64),
        *ends(64),
    )


def narrow() -> nn.Module:
    """Three units in sequence, the last of them pointwise, for digits."""
    return nn.Sequential(
        *units(1, 24, 32), nn.MaxPool2d(2), *units(32, 48, kernel=1), *ends(48)
    )


class Subject(NamedTuple):
    """A task with a table."""

    env: Callable[..., CompressionEnv]
    network: Callable[[], nn.Module]
    task: Callable[[], Task]


SUBJECTS = {
    # Whole branches, so that random play finds every student equally often.
    "remove-digits": Subject(
        functools.partial(RemoveEnv, granularity="block"), residual, digits
    ),
    "remove-cifar10": Subject(RemoveEnv, plain, lambda: some_of_cifar10(5_000, 2_000)),
    "shrink-digits": Subject(ShrinkEnv, narrow, digits),
}


def load_subject(name: str, folder: Path | None = None) -> Teacher:
    """The teacher; it is trained when its weights are first needed, and stored."""
    subject = SUBJECTS[name]
    task = subject.task()
    architecture = trace(subject.network(), task.input_shape)

    def provide() -> Any:
        assert folder is not None, "a table needs no weights"
        path = folder / f"{name}.safetensors"
        trained = load_trained(path)
        if trained is None:
            recipe = teacher_recipe(task, architecture)
            trained = train_network(name, task, architecture, recipe, CPU)
            save_trained(path, trained, {"teacher": name, "task": task.name})
        return trained

    return Teacher(name, task, architecture, provide)


def every_student(env: CompressionEnv) -> list[Architecture]:
    """All students of legal decisions; an error if there are too many for a table."""
    env.reset()
    found: dict[str, Architecture] = {}
    left = [env]
    while left:
        here = left.pop()
        for action in np.flatnonzero(here.action_masks()):
            after = copy.deepcopy(here)
            _, _, is_over, _, _ = after.step(int(action))
            if is_over:
                found[after.student.fingerprint] = after.student
            else:
                left.append(after)
    assert len(found) <= MOST, f"{len(found)} students"
    return list(found.values())


# The tables.


class Table:
    """The scores of all students, as an evaluator."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            names, values = file["fingerprints"], file["scores"]
            self.teacher = _score(file["teacher"])
        self.scores = {
            str(name): _score(row) for name, row in zip(names, values, strict=True)
        }
        rewards = sorted(n2n(score, self.teacher) for score in self.scores.values())
        self.num_top = max(1, round(TOP * len(rewards)))
        self.bar = rewards[-self.num_top]
        self.best = rewards[-1]

    def __call__(
        self, students: Sequence[Architecture], teacher: Teacher
    ) -> list[Score | Failure]:
        return [self.scores[student.fingerprint] for student in students]

    def score_teacher(self, teacher: Teacher) -> Score:
        return self.teacher


def _score(row: NDArray[np.float64]) -> Score:
    accuracy, num_params, num_macs, cost = row
    return Score(float(accuracy), int(num_params), int(num_macs), float(cost))


def make(name: str, folder: Path, workers: int) -> None:
    """Score every student. Scores stay in a store, so the work can be resumed."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["N2N_CACHE"] = str(folder / "cache")
    teacher = load_subject(name, folder)
    students = every_student(SUBJECTS[name].env(teacher, evaluator="size"))
    runner = Workers(workers)
    store = ScoreStore(folder / f"{name}.sqlite")
    evaluator = DistillationEvaluator(SHORT, device=CPU, runner=runner, store=store)
    with tqdm(total=len(students), desc=name) as bar:
        evaluator.on_result = lambda *_: bar.update()
        results = evaluate(students, teacher, evaluator)
    evaluator.close()
    scores = [result for result in results if isinstance(result, Score)]
    assert len(scores) == len(results), "a distillation failed"
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(
        FOLDER / f"{name}.npz",
        fingerprints=np.array([student.fingerprint for student in students]),
        scores=np.array([score[:4] for score in scores]),
        teacher=np.array(teacher.score[:4]),
    )


# The agents.


def evaluations_needed(name: str, agent: str, seed: int) -> int | None:
    """Distinct students scored until one of the best is found; None without success."""
    table = Table(FOLDER / f"{name}.npz")
    env = SUBJECTS[name].env(load_subject(name), evaluator=table)
    needed: list[int] = []

    class Reached(Exception):
        """One of the best has been found."""

    def look(evaluation: Any) -> None:
        if evaluation.reward >= table.bar:
            needed.append(evaluation.number)
            raise Reached

    ledger = Ledger(
        evaluations=len(table.scores), patience=PATIENCE, on_evaluation=look
    )
    try:
        run(gym.Wrapper(env), find_agent(agent), ledger, seed=seed)
    except Reached:
        return needed[0]
    return None


def compare(folder: Path, names: list[str], agents: list[str], seeds: int) -> None:
    """Make all runs that the folder does not have yet, then a table of all runs."""
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(folder, "task", "agent", "seed")
    done = {key: result["needed"] for key, result in results.read().items()}
    wanted = [(n, a, s) for n in names for a in agents for s in range(seeds)]
    bar = tqdm([one for one in wanted if one not in done])
    for name, agent, seed in bar:
        bar.set_description(f"{name}, {agent}, seed {seed}")
        needed = done[name, agent, seed] = evaluations_needed(name, agent, seed)
        results.add(task=name, agent=agent, seed=seed, needed=needed)
    rows = summarise({one: done[one] for one in wanted})
    text = as_markdown(rows, names)
    print(text)
    (folder / "table.md").write_text(text)
    draw(rows, names, folder / "tables.png")


class Row(NamedTuple):
    """How many students an agent needs on a task."""

    needed: Estimate  # interquartile mean
    reached: int
    runs: int


def summarise(
    done: dict[tuple[str, str, int], int | None],
) -> dict[str, dict[str, Row]]:
    """Results by agent and task.

    A run that finds none of the best students counts as if it had scored the whole
    table.
    """
    sizes = {name: len(Table(FOLDER / f"{name}.npz").scores) for name, _, _ in done}
    found: dict[str, dict[str, Row]] = {}
    for name, agent in dict.fromkeys((name, agent) for name, agent, _ in done):
        runs = [v for (n, a, _), v in done.items() if (n, a) == (name, agent)]
        values = np.array([sizes[name] if v is None else v for v in runs], float)
        reached = sum(v is not None for v in runs)
        needed = estimate(iqm_of_all, [values])
        found.setdefault(agent, {})[name] = Row(needed, reached, len(runs))
    return found


def as_markdown(rows: dict[str, dict[str, Row]], names: list[str]) -> str:
    lines = []
    for agent, row in rows.items():
        cells = []
        for name in names:
            (value, low, high), reached, runs = row[name]
            missed = "" if reached == runs else f", {runs - reached} of {runs} never"
            cells.append(f"{value:.0f} [{low:.0f}, {high:.0f}]{missed}")
        lines.append([agent, *cells])
    return as_table(["agent", *names], lines)


def draw(rows: dict[str, dict[str, Row]], names: list[str], path: Path) -> None:
    """Plot the students that each agent needs, one panel per task."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1,
        len(names),
        figsize=(4 * len(names), 0.35 * len(rows) + 1),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, name in zip(axes[0], names, strict=True):
        found = [row[name].needed for row in rows.values()]
        errors = [[f.value - f.low for f in found], [f.high - f.value for f in found]]
        values = [f.value for f in found]
        axis.errorbar(values, range(len(rows)), xerr=errors, fmt="o", capsize=3)
        axis.set_xscale("log")
        axis.set_title(name)
        axis.set_xlabel("distinct students until one of the best 0.2 %")
        axis.grid(axis="x", alpha=0.3)
    axes[0, 0].set_yticks(range(len(rows)), rows)
    axes[0, 0].invert_yaxis()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--make", choices=SUBJECTS, help="score all of its students")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of --make")
    parser.add_argument("--tasks", nargs="+", choices=SUBJECTS, default=[*SUBJECTS])
    parser.add_argument("--agents", nargs="+", default=AGENTS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("runs/tables"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.make:
        make(options.make, options.output, options.workers)
    else:
        compare(options.output, options.tasks, options.agents, options.seeds)


if __name__ == "__main__":
    main()
