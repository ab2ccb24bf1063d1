"""How fast students are scored, compared with a simple form of the paper's recipe.

    python -m benchmarks.speed

The data set is CIFAR-10 (in the folder that ``N2N_DATA`` names), with 5,000 training
and 500 validation images. The teacher is a ResNet-18. Its students, at uniform width,
have all, a quarter and a tenth of its parameters. Our evaluators and the reference are
measured in turns, in one run.

The reference trains the student from scratch for 5 epochs. A DataLoader with two
workers decodes and augments PNG images one by one. There is a pass of the teacher for
every batch of 128, Adam, float32, and torch's default number of threads. Our evaluators
run in one worker process. CPU time is that of all processes and threads, in user and
kernel mode. Takes about 35 minutes. ``--only accelerator`` measures students per minute
on a GPU, in about 10 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from tqdm.auto import tqdm

from benchmarks.peak import best_matmul, products, step_seconds, wall_seconds
from benchmarks.plain import Files, reference_epoch
from benchmarks.steps import steps_per_second
from benchmarks.subjects import some_of_cifar10
from n2n_gym.common.files import data_folder
from n2n_gym.envs import RemoveEnv
from n2n_gym.evaluators import elastic
from n2n_gym.evaluators.distillation import Settings
from n2n_gym.evaluators.rungs import ELASTIC, FULL, INHERIT, SHORT, Rung
from n2n_gym.evaluators.runner import Trial
from n2n_gym.evaluators.scoring import DistillationEvaluator, faster_precision
from n2n_gym.evaluators.workers import Workers
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.scaling import uniform_student
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.determinism import thread_count
from n2n_gym.pytorch.devices import pick_device
from n2n_gym.resources.machine import processor
from n2n_gym.rewards import Score
from n2n_gym.scores import ScoreStore
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher

CPU = torch.device("cpu")
NUM_IMAGES, NUM_VALIDATION = 5_000, 500
SIZES = {"full size": 1.0, "1/4": 0.25, "1/10": 0.1}
REFERENCE_EPOCHS = 5


def make_teacher() -> Teacher:
    """A ResNet-18 with stored weights; without them, it is trained for one epoch."""
    task = some_of_cifar10(NUM_IMAGES, NUM_VALIDATION)
    weights = data_folder() / "resnet18_cifar10.safetensors"
    if weights.exists():
        norms = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
        return load_teacher("resnet18", task, weights=weights, normalisation=norms)
    return load_teacher("resnet18", task, epochs=1)


# Measuring.


def cpu_seconds(work: Callable[..., object], *arguments: Any) -> float:
    """CPU time of all threads of this process and of its children, alive or ended."""

    def used() -> float:
        both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        total = sum(usage.ru_utime + usage.ru_stime for usage in both)
        for child in psutil.Process().children(recursive=True):
            times = child.cpu_times()
            total += times.user + times.system
        return total

    before = used()
    work(*arguments)
    return used() - before


@dataclass
class Ours:
    """One worker, as the environments use it."""

    teacher: Teacher
    settings: Settings
    pool: Workers = field(default_factory=lambda: Workers(1))

    def score(self, student: Architecture, rung: Rung) -> None:
        settings = replace(self.settings, rung=rung)
        (done,) = self.pool.run([Trial(student, 0)], self.teacher, settings)
        assert isinstance(done.result, Score), done.result

    def cpu_of_epoch(self, student: Architecture) -> float:
        """CPU time of one epoch of "full", without building and validating."""
        assert FULL.recipe is not None
        # With one variant: the teacher's logits of the others are computed once for all
        # students, so they cost a student hardly anything.
        bare = replace(FULL, recipe=None, statistics=0, num_variants=1)
        whole = replace(bare, recipe=replace(FULL.recipe, epochs=1))
        return cpu_seconds(self.score, student, whole) - cpu_seconds(
            self.score, student, bare
        )


class Figures:
    """The measurements, as JSON and as lines."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}

    def add(self, name: str, value: Any, line: str) -> None:
        self.figures[name] = value
        tqdm.write(line)


def compare_with_reference(
    ours: Ours, students: dict[str, Architecture], repeats: int, report: Figures
) -> None:
    """Measure our epoch, each cheap evaluator's score and the reference, in turns."""
    teacher = ours.teacher
    files = Files(teacher.task, teacher.normalise.mean, teacher.normalise.std)
    whole = teacher.network(CPU)
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tqdm(total=repeats * len(students), desc="Against the reference") as bar:
        for _ in range(repeats):
            for name, student in students.items():
                seconds = cpu_seconds(reference_epoch, build(student), whole, files)
                taken["reference", name].append(seconds)
                taken["epoch", name].append(ours.cpu_of_epoch(student))
                for rung in (SHORT, INHERIT, ELASTIC):
                    # Elastic students inherit other weights, but cost the same.
                    ruled = replace(rung, start="teacher")
                    seconds = cpu_seconds(ours.score, student, ruled)
                    taken[rung.name, name].append(seconds)
                bar.update()
    middle = {key: statistics.median(each) for key, each in taken.items()}
    for (what, name), each in taken.items():
        if what == "reference":
            continue
        epochs = 1 if what == "epoch" else REFERENCE_EPOCHS
        ratio = epochs * middle["reference", name] / middle[what, name]
        label = "an epoch" if what == "epoch" else f'a score on "{what}"'
        report.add(
            f"{what} {name}",
            {"ours": each, "reference": taken["reference", name], "ratio": ratio},
            f"{label:20} {name:9} {middle[what, name]:7.2f} CPU-s, reference "
            f"{epochs * middle['reference', name]:7.1f}: {ratio:.3g}x",
        )
    # On one thread, because threads that wait for each other cost CPU time.
    name, student = list(students.items())[-1]
    with thread_count(1):
        seconds = cpu_seconds(reference_epoch, build(student), whole, files)
    report.add(
        "reference, one thread",
        seconds,
        f"the reference's epoch on one thread, {name}: {seconds:.1f} CPU-s",
    )
    recipe = elastic.recipe_for(NUM_IMAGES)
    one = replace(recipe, epochs=1)
    once = recipe.epochs * cpu_seconds(
        elastic.train_elastic, teacher, ours.settings, one
    )
    evaluations = once / (REFERENCE_EPOCHS * middle["reference", "full size"])
    report.add(
        "elastic once",
        {"cpu_seconds": once, "reference_evaluations": evaluations},
        f"elastic, once: {once:.0f} CPU-s (from 1 of {recipe.epochs:.0f} epochs), "
        f"{evaluations:.1f} reference evaluations",
    )


def compare_with_peak(
    teacher: Teacher,
    students: dict[str, Architecture],
    settings: Settings,
    report: Figures,
) -> None:
    """Report how much of a step matrix products take, and the step's FLOP/s.

    The step's FLOP/s are compared with those of the fastest product.
    """
    dtype = getattr(torch, settings.precision)
    assert FULL.recipe is not None
    batch = FULL.recipe.batch_size
    matrix_products = {name: products(s, batch, dtype) for name, s in students.items()}
    best = max(best_matmul(dtype), *(each["best"] for each in matrix_products.values()))
    for name, student in students.items():
        step = step_seconds(student, teacher, settings)
        share = matrix_products[name]["seconds"] / step
        # Forward, and backward to weights and inputs: three times the products.
        rate = 6 * student.num_macs * batch / step
        report.add(
            f"peak {name}",
            {"share": share, "flops": rate, "best_flops": best},
            f"a step, {name:9} products alone {share:.0%} of it; {rate / 1e9:.0f} "
            f"GFLOP/s, {rate / best:.0%} of the best shape's {best / 1e9:.0f}",
        )


def run_all(
    pool: Workers, work: list[Trial], teacher: Teacher, settings: Settings
) -> None:
    for done in pool.run(work, teacher, settings):
        assert isinstance(done.result, Score), done.result


def compare_workers(
    teacher: Teacher,
    students: dict[str, Architecture],
    settings: Settings,
    report: Figures,
) -> None:
    """Measure students per minute with two workers and with one, in turns."""
    ruled = replace(settings, rung=SHORT)
    work = [Trial(students["1/10"], seed) for seed in range(8)]
    pools = {1: Workers(1), 2: Workers(2)}
    for pool in pools.values():  # all workers start, and load the teacher
        run_all(pool, work, teacher, ruled)
    taken: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(3):
        for count, pool in pools.items():
            seconds = wall_seconds(run_all, pool, work, teacher, ruled)
            taken[count].append(60 * len(work) / seconds)
    rates = {count: statistics.median(each) for count, each in taken.items()}
    for pool in pools.values():
        pool.close()
    report.add(
        "workers",
        {**taken, "ratio": rates[2] / rates[1]},
        f'"short" students of 1/10 a minute: one worker {rates[1]:.1f}, two '
        f"{rates[2]:.1f}: {rates[2] / rates[1]:.2f}x",
    )


def time_a_stored_score(teacher: Teacher, folder: Path, report: Figures) -> None:
    """Time the last step of episodes whose student has a score in the store."""
    store = ScoreStore(folder / "scores.sqlite")
    seconds = []
    for i in range(51):
        # A new evaluator has only the store's scores.
        evaluator = DistillationEvaluator(INHERIT, device=CPU, store=store)
        evaluator.settings(teacher)
        env = RemoveEnv(teacher, evaluator=evaluator)
        env.reset(options={"decisions": [0] * (len(env.decisions) - 1)})
        taken = wall_seconds(env.step, 0)
        if i:
            seconds.append(taken)
    middle = statistics.median(seconds)
    report.add(
        "stored",
        {"seconds": middle, "highest": max(seconds)},
        f"last step, stored student: {1e3 * middle:.2f} ms (highest of "
        f"{len(seconds)}: {1e3 * max(seconds):.2f})",
    )


def time_steps(report: Figures) -> None:
    env = RemoveEnv("resnet18", evaluator="size")
    env.action_space.seed(0)
    steps_per_second(env)
    rates = [steps_per_second(env) for _ in range(5)]
    rate = statistics.median(rates)
    report.add("steps", rates, f"steps without evaluation, resnet18: {rate:,.0f}/s")


def measure_on_cpu(repeats: int, folder: Path, report: Figures) -> None:
    teacher = make_teacher()
    whole = teacher.architecture
    students = {
        name: whole
        if share == 1
        else uniform_student(whole, int(share * whole.num_params))
        for name, share in SIZES.items()
    }
    assert FULL.recipe is not None
    precision = faster_precision(teacher, CPU, FULL.recipe.batch_size, 1)
    settings = Settings(FULL, CPU, precision, 1)
    print(f"reference: {torch.get_num_threads()} threads, float32")
    print(f"ours: one thread, {precision}")
    ours = Ours(teacher, settings)
    ours.score(whole, replace(INHERIT, statistics=0))  # the worker loads the teacher
    compare_with_reference(ours, students, repeats, report)
    ours.pool.close()
    with thread_count(1):
        compare_with_peak(teacher, students, settings, report)
        time_steps(report)
        time_a_stored_score(teacher, folder, report)
    compare_workers(teacher, students, settings, report)


def measure_on_accelerator(device: torch.device, report: Figures) -> None:
    """Measure students per minute on all of CIFAR-10, with 1 to 8 processes."""
    teacher = load_teacher("resnet18", "cifar10", device=device)
    whole = teacher.architecture
    precision = faster_precision(teacher, device, 64, 1)
    settings = Settings(SHORT, device, precision, None)
    a, b = (torch.randn(8192, 8192, device=device).bfloat16() for _ in range(2))

    def product() -> None:
        _ = a @ b
        torch.accelerator.synchronize()

    product()
    peak = 2 * 8192**3 / statistics.median(wall_seconds(product) for _ in range(10))
    num_images = len(teacher.task.splits["train"])
    for name in ("full size", "1/10"):
        student = uniform_student(whole, round(SIZES[name] * whole.num_params))
        recipe = SHORT.recipe_for(num_images, student.num_macs / whole.num_macs)
        assert recipe is not None
        for count in (1, 2, 4, 8):
            pool = Workers(count)
            jobs = [Trial(student, seed) for seed in range(4 * count)]
            run_all(pool, jobs, teacher, settings)  # they load the teacher
            seconds = wall_seconds(run_all, pool, jobs, teacher, settings) / len(jobs)
            pool.close()
            flops = 6 * student.num_macs * num_images * recipe.epochs / seconds
            report.add(
                f"{device.type} {name}, {count} workers",
                {"students_per_minute": 60 / seconds, "share_of_peak": flops / peak},
                f"{device.type}, {name}, {count} workers: {60 / seconds:.1f} students "
                f"a minute, {flops / peak:.0%} of the measured bf16 peak",
            )


def draw(figures: dict[str, Any], path: Path) -> None:
    """Plot ratios to the reference as bars, on a logarithmic scale."""
    from matplotlib import pyplot as plt

    rows = [("one epoch", "epoch"), ("short", "short"), ("elastic", "elastic")]
    rows.append(("inherit", "inherit"))
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    height = 0.25
    for i, name in enumerate(SIZES):
        ratios = [figures[f"{key} {name}"]["ratio"] for _, key in rows]
        kinds = np.arange(len(rows)) + (1 - i) * height
        bars = axes.barh(kinds, ratios, height, label=name)
        axes.bar_label(bars, [f"{r:.1f}x" if r < 10 else f"{r:.0f}x" for r in ratios])
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(1, axes.get_xlim()[1] * 2)
    axes.set_xlabel("times less CPU time than the paper's recipe written plainly")
    axes.legend(title="student", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="of each epoch")
    parser.add_argument("--output", type=Path, default=Path("runs/speed"))
    kinds = ("cpu", "accelerator")
    parser.add_argument("--only", choices=kinds, help="both by default, where there")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    report = Figures()
    started = time.perf_counter()
    print(f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}, ")
    print(f"Python {platform.python_version()}")
    if options.only != "accelerator":
        measure_on_cpu(options.repeats, options.output, report)
        draw(report.figures, options.output / "speed.png")
    if options.only == "accelerator" or (
        options.only is None and torch.accelerator.is_available()
    ):
        measure_on_accelerator(pick_device(None), report)
    (options.output / "speed.json").write_text(json.dumps(report.figures, indent=1))
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes; {options.output}")


if __name__ == "__main__":
    main()
