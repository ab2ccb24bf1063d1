"""Checks of a table: repeated scores, convergence, latency, speed.

    python -m benchmarks.n2n_bench again remove-residual
    python -m benchmarks.n2n_bench converge remove-residual --minutes 60
    python -m benchmarks.n2n_bench latency remove-residual
    python -m benchmarks.n2n_bench speed remove-residual

Each command prints what it finds. ``converge`` and ``latency`` also write it into the
table.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau
from tqdm.auto import tqdm

from benchmarks.n2n_bench.make import (
    FIDELITIES,
    here,
    open_table,
    path_of,
    score,
    scored_rows,
    student_of,
)
from benchmarks.n2n_bench.subjects import load_subject
from benchmarks.results import Results
from envs_registry.bench import BENCH, BenchTask
from n2n_gym.bench.env import BenchEnv, real_env
from n2n_gym.bench.table import SPLITS, Table, write_table
from n2n_gym.evaluators.rungs import BENCH_V1
from n2n_gym.networks.architecture import Architecture
from n2n_gym.resources.latency_table import PredictedLatency, latency_table
from n2n_gym.resources.machine import processor
from n2n_gym.resources.measured import Latency
from n2n_gym.teachers.teacher import Teacher

AGAIN: Final = 20  # students scored anew
CONVERGED: Final = 40  # students distilled to convergence
SEEDS: Final = 2  # of each student distilled to convergence
EPOCHS: Final = 5.0  # of this distillation, over all training images
RATE: Final = 0.1
FOLDER: Final = Path(__file__).parents[1] / "data" / "n2n_bench"
LONGEST: Final = 20.0  # seconds that speed is measured for

CONVERGENCE: Final = replace(
    BENCH_V1,
    name="converged",
    recipe=replace(BENCH_V1.recipe, epochs=EPOCHS, learning_rate=RATE, batch_size=64),
)


def again(name: str) -> None:
    """Score random students again; print how far the counts of right answers differ.

    Half of them were scored on a machine like this one, and half on other machines, as
    far as there are both.
    """
    torch.set_num_threads(1)
    table, teacher = open_table(name), load_subject(name)
    env = real_env(table, BenchTask(name, "n2n"), "size")
    machine = here()
    is_like = np.array([block == machine for block in table.header["blocks"]])
    rows = np.random.default_rng(1).permutation(scored_rows(table))
    like, other = (rows[is_like[table.block[rows]] == k] for k in (True, False))
    half = AGAIN // 2
    num_like = AGAIN - min(half, len(other))
    for what, chosen in (
        ("a machine like this one", like[:num_like]),
        ("another machine", other[: AGAIN - len(like[:num_like])]),
    ):
        differences: list[int] = []
        for row in tqdm(chosen, desc=what):
            student = student_of(table, row, env)
            differences += _differences(table, row, student, teacher)
        if differences:
            equal = sum(difference == 0 for difference in differences)
            print(
                f"{name}, scored on {what}: {len(chosen)} students, {equal} of "
                f"{len(differences)} counts equal; mean difference "
                f"{np.mean(differences):.2f} images, largest {max(differences)}"
            )


def _differences(
    table: Table, row: int, student: Architecture, teacher: Teacher
) -> list[int]:
    """How far the counts of right answers differ when a student is scored again."""
    found: list[int] = []
    for which, rung in enumerate(FIDELITIES):
        for seed in range(table.num_seeds(rung.name)):
            anew = score(student, teacher, rung, seed)
            assert anew is not None
            kept = dict(zip(SPLITS, table.correct[row, seed, which], strict=True))
            found += [abs(anew[each] - int(kept[each])) for each in SPLITS]
    return found


def by_size(sizes: NDArray[Any], count: int) -> list[int]:
    """Positions of random students of all sizes: one from each group by size."""
    order, rng = np.argsort(sizes, kind="stable"), np.random.default_rng(0)
    parts = np.array_split(order, count)
    return [int(rng.choice(part)) for part in parts]


def converge(name: str, minutes: float) -> None:
    """Distil forty students to convergence; after a stop, the same call resumes.

    The header gets two rank correlations (Kendall's tau). One compares the table's mean
    accuracy with the sum over two seeds of long distillation. The other compares these
    two seeds: it is the ceiling for a table.
    """
    torch.set_num_threads(1)
    table, teacher = open_table(name), load_subject(name)
    env = real_env(table, BenchTask(name, "n2n"), "size")
    results = Results(FOLDER / f"{name}-converged", "row", "seed")
    results.path.parent.mkdir(parents=True, exist_ok=True)
    done, rows = results.read(), by_size(table.num_params, CONVERGED)
    ends = time.monotonic() + 60 * minutes
    wanted = [(row, seed) for seed in range(SEEDS) for row in rows]
    for row, seed in tqdm([one for one in wanted if one not in done], desc=name):
        if time.monotonic() > ends:
            return
        started = time.process_time()
        found = score(student_of(table, row, env), teacher, CONVERGENCE, seed)
        assert found is not None
        seconds = round(time.process_time() - started, 1)
        results.add(row=row, seed=seed, seconds=seconds, **found)
    done = results.read()
    first, second = (
        np.array([done[row, seed]["validation"] for row in rows])
        for seed in range(SEEDS)
    )
    short = table.accuracy()[rows]
    table.header["convergence"] = {
        "students": CONVERGED,
        "epochs": EPOCHS,
        "tau": round(float(kendalltau(short, first + second).statistic), 3),
        "ceiling": round(float(kendalltau(first, second).statistic), 3),
    }
    write_table(path_of(name), table)
    print(json.dumps(table.header["convergence"]))


def latency(name: str) -> None:
    """Add this machine's column of predicted latencies, and measure its error."""
    table, teacher = open_table(name), load_subject(name).architecture
    clock = Latency()
    costs = latency_table(teacher, clock)
    predict = PredictedLatency(costs, clock(teacher, teacher))
    env = real_env(table, BenchTask(name, "n2n"), "size")
    students = [student_of(table, row, env) for row in tqdm(range(len(table)))]
    found = np.array([predict(student, teacher) for student in students], np.float32)
    rows = np.random.default_rng(2).permutation(len(table))[:AGAIN]
    errors = [abs(found[row] / clock(students[row], teacher) - 1) for row in tqdm(rows)]
    machine = {
        "processor": processor(),
        "onnxruntime": version("onnxruntime"),
        "threads": clock.threads,
        "batch": clock.batch,
        "median_error": round(float(np.median(errors)), 3),
    }
    table.header["machines"].append(machine)
    columns = np.column_stack([table.latency_ms, found])
    write_table(path_of(name), replace(table, latency_ms=columns))
    print(json.dumps({"table": name, **machine}))


def speed(name: str) -> None:
    """Print, for each task, milliseconds to import and to make it, and its speed."""
    for task in (task for task, of in BENCH.items() if of.table == name):
        program = (
            "import time; a = time.perf_counter(); import gymnasium, n2n_gym; "
            "b = time.perf_counter(); "
            f"gymnasium.make({task!r}); c = time.perf_counter(); import sys; "
            "print(1e3 * (b - a), 1e3 * (c - b), 'torch' in sys.modules)"
        )
        command = [sys.executable, "-c", program]
        printed = subprocess.check_output(command, text=True)
        imports, makes, has_torch = printed.split()
        env = gym.make(task).unwrapped
        assert isinstance(env, BenchEnv)
        steps, episodes, seconds = _play(env)
        print(
            f"{task}: import {float(imports):.0f} ms, make {float(makes):.0f} ms, "
            f"torch imported: {has_torch}, {steps / seconds:,.0f} steps a second over "
            f"{episodes:,} random episodes, from the first on"
        )


def _play(env: BenchEnv) -> tuple[int, int, float]:
    """Random episodes: number of steps, of episodes, and seconds of CPU time."""
    rng = np.random.default_rng(0)
    steps = episodes = 0
    started = time.process_time()
    while time.process_time() - started < LONGEST:
        _, info = env.reset()
        is_over = False
        draws = rng.random(64).tolist()
        while not is_over:
            legal = info["action_mask"].nonzero()[0]
            action = int(legal[int(draws.pop() * len(legal))])
            _, _, is_over, _, info = env.step(action)
            steps += 1
        episodes += 1
    return steps, episodes, time.process_time() - started
