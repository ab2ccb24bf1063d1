"""What cheap scores are worth: each rung against full distillation.

    python -m benchmarks.fidelity                     # 60 students, 3 seeds: hours
    python -m benchmarks.fidelity --students 16 --seeds 2 --part 1/2  # and 2/2 beside
                                                      # it: a first look, 45 minutes

CIFAR-10 (the folder that ``N2N_DATA`` names), 5,000 training images, a residual teacher
of widths 16, 32, 64 trained on them. Half of the students come from random legal play
of N2NRemove, half from random play of N2NShrink after that. Each is scored by every
rung and distilled to convergence, from several seeds ("paper" from one: it is dear).

Every result is a line of ``results.jsonl`` in the output folder as soon as it is there:
the same command goes on after a stop, and ``--part 1/2`` and ``--part 2/2`` share the
work of two cores. One thread each. ``--rungs short full`` measures only those.
What results.md shows is kept, with its teachers: ``--show --output
benchmarks/data/fidelity``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn
from tqdm.auto import tqdm

from benchmarks.results import Results
from benchmarks.subjects import Block, some_of_cifar10
from n2n_gym.envs import RemoveEnv, ShrinkEnv
from n2n_gym.evaluators.calibration import AccuracyMap
from n2n_gym.evaluators.distillation import Settings, measure
from n2n_gym.evaluators.elastic import elastic_teacher
from n2n_gym.evaluators.rungs import ELASTIC, FULL, INHERIT, PAPER, SHORT
from n2n_gym.evaluators.scoring import faster_precision
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.trace import trace
from n2n_gym.rewards import Score, n2n
from n2n_gym.teachers.learning import teacher_recipe, train_network
from n2n_gym.teachers.store import load_trained, save_trained
from n2n_gym.teachers.teacher import Teacher

CPU = torch.device("cpu")
NUM_IMAGES = 5_000
TEACHER_EPOCHS = 40
RUNGS = (INHERIT, ELASTIC, SHORT, PAPER)
CHEAP = [rung.name for rung in RUNGS]
CALIBRATED_BY = 24  # students, as the command does
FEWEST_UNSEEN = 10  # that a calibration is tried on
CALIBRATIONS = 50  # draws of those students
SIMILAR = 1.5  # pairs whose parameter counts differ by less are of a size


def residual(blocks: int = 2) -> nn.Module:
    """A residual network of widths 16, 32, 64 (He et al., 2016)."""
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for outputs in (16, 32, 64):
        for i in range(blocks):
            stride = 2 if i == 0 and outputs > 16 else 1
            layers.append(Block(inputs, outputs, stride))
            inputs = outputs
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10)
    )


def make_teacher(folder: Path) -> Teacher:
    task = some_of_cifar10(NUM_IMAGES)
    architecture = trace(residual(), task.input_shape)
    path = folder / "teacher.safetensors"
    trained = load_trained(path)
    if trained is None:
        recipe = replace(teacher_recipe(task, architecture), epochs=TEACHER_EPOCHS)
        trained = train_network("residual", task, architecture, recipe, CPU)
        save_trained(path, trained, {"teacher": "residual", "task": task.name})
    return Teacher("residual", task, architecture, lambda: trained)


def play_randomly(env: RemoveEnv | ShrinkEnv) -> Architecture:
    _, info = env.reset()
    is_over = False
    while not is_over:
        action = env.action_space.sample(info["action_mask"])
        _, _, is_over, _, info = env.step(action)
    return env.student


def random_students(teacher: Teacher, count: int) -> list[Architecture]:
    """Distinct ones from both stages, in turn."""
    remove = RemoveEnv(teacher, evaluator="size")
    remove.action_space.seed(0)
    found: dict[str, Architecture] = {}
    while len(found) < count:
        student = play_randomly(remove)
        if len(found) % 2:
            shrink = ShrinkEnv(teacher, start=student, evaluator="size")
            shrink.action_space.seed(len(found))
            student = play_randomly(shrink)
        found.setdefault(student.fingerprint, student)
    return list(found.values())


KEY = ("student", "rung", "seed")  # of a result


def measure_all(
    folder: Path,
    teacher: Teacher,
    students: list[Architecture],
    *,
    rungs: list[str],
    seeds: int,
    part: str,
) -> None:
    """Measure what is not in the folder yet; cheap rungs first."""
    share, parts = map(int, part.split("/"))
    results = Results(folder, *KEY)
    assert FULL.recipe is not None
    precision = faster_precision(teacher, CPU, FULL.recipe.batch_size, 1)
    runs = [(r, seed) for r in RUNGS for seed in range(1 if r is PAPER else seeds)]
    runs += [(FULL, seed) for seed in range(seeds)]
    jobs = [(rung, seed, student) for rung, seed in runs for student in students]
    mine = [job for job in jobs if job[0].name in rungs][share - 1 :: parts]
    elastic = make_elastic(teacher, Settings(ELASTIC, CPU, precision, 1), results)
    done = results.read()
    bar = tqdm(mine)
    for rung, seed, student in bar:
        bar.set_description(f"{rung.name}, seed {seed}")
        if (student.fingerprint, rung.name, seed) in done:
            continue
        settings = Settings(rung, CPU, rung.precision or precision, 1)
        start = elastic if rung.start == "elastic" else teacher
        before = time.process_time()
        result = measure(student, start, settings, seed=seed)
        used = time.process_time() - before
        assert isinstance(result, Score), result
        results.add(
            student=student.fingerprint,
            rung=rung.name,
            seed=seed,
            accuracy=result.accuracy,
            cpu_seconds=used,
            cost=result.cost,
        )


def make_elastic(teacher: Teacher, settings: Settings, results: Results) -> Teacher:
    before = time.process_time()
    elastic = elastic_teacher(teacher, settings)
    used = time.process_time() - before
    if used > 10:  # it was trained now, not read
        results.add(student="", rung="elastic once", seed=0, cpu_seconds=used)
    return elastic


# What the measurements say.


def tau_of_similar(a: np.ndarray, b: np.ndarray, params: np.ndarray) -> float:
    """Kendall's tau over the pairs of students that are of a size."""
    pairs = [
        (i, j)
        for i, j in combinations(range(len(a)), 2)
        if abs(math.log(params[i] / params[j])) < math.log(SIMILAR)
    ]
    signs = np.array([(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in pairs])
    untied = np.sqrt((signs != 0).sum(0).prod())  # tau-b, as scipy's
    return float(signs.prod(1).sum() / untied) if untied else float("nan")


def left_one_out(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Linear least squares, each value predicted from the others."""
    columns = np.column_stack([np.ones(len(values)), features])
    found = []
    for i in range(len(values)):
        others = np.arange(len(values)) != i
        weights = np.linalg.lstsq(columns[others], values[others], rcond=None)[0]
        found.append(columns[i] @ weights)
    return np.array(found)


def agreement(
    a: np.ndarray, b: np.ndarray, sizes: np.ndarray, whole: Score
) -> dict[str, float]:
    """Kendall's tau of accuracies, overall and of a size, and of the rewards.

    Args:
        sizes: (N, 2) parameters and MACs of the students.
        whole: The teacher's.
    """

    def rewards(accuracies: np.ndarray) -> list[float]:
        scores = scored(accuracies, sizes)
        return [n2n(score, whole) for score in scores]

    return {
        "overall": kendalltau(a, b).statistic,
        "similar": tau_of_similar(a, b, sizes[:, 0]),
        "reward": kendalltau(rewards(a), rewards(b)).statistic,
    }


def scored(accuracies: np.ndarray, sizes: np.ndarray) -> list[Score]:
    pairs = zip(accuracies, sizes, strict=True)
    return [Score(float(a), int(params), int(macs)) for a, (params, macs) in pairs]


def mean_of(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([each[key] for each in found])) for key in found[0]}


def calibrated(
    cheap: np.ndarray, full: np.ndarray, sizes: np.ndarray, whole: Score
) -> dict[str, float]:
    """How students agree that a calibration has not seen: of many, the mean.

    It is fitted to as many others as ``n2n-gym scores calibrate`` takes.
    """
    found = []
    rng = np.random.default_rng(0)
    for _ in range(CALIBRATIONS):
        seen, unseen = np.split(rng.permutation(len(cheap)), [CALIBRATED_BY])
        scores = scored(cheap, sizes)
        fitted = AccuracyMap.fit([scores[i] for i in seen], full[seen].tolist())
        mapped = np.array([fitted(scores[i]) for i in unseen])
        found.append(agreement(mapped, full[unseen], sizes[unseen], whole))
    return mean_of(found)


def analyse(
    folder: Path, teacher: Teacher, students: list[Architecture]
) -> dict[str, Any]:
    """Each rung's agreement with full distillation, over students that have all."""
    results = Results(folder, *KEY).read()
    by_rung: dict[tuple[str, int], dict[str, dict[str, Any]]] = defaultdict(dict)
    for (student, rung, seed), result in results.items():
        by_rung[rung, seed][student] = result
    if not any(rung == "full" for rung, _ in by_rung):
        raise SystemExit("nothing has been distilled fully yet")
    # Of runs that have not come far, only what is there would be left: drop those.
    most = max(len(found) for (rung, _), found in by_rung.items() if rung == "full")
    names = [*CHEAP, FULL.name]
    runs = [r for r in by_rung if r[0] in names and len(by_rung[r]) >= 0.8 * most]
    kept = [s for s in students if all(s.fingerprint in by_rung[run] for run in runs)]
    accuracy: dict[str, list[np.ndarray]] = {name: [] for name in names}
    used: dict[str, float] = {}
    for name, seed in sorted(runs):
        found = [by_rung[name, seed][student.fingerprint] for student in kept]
        accuracy[name].append(np.array([result["accuracy"] for result in found]))
        # The median, of the first seed: the machine may have had other work at times.
        used.setdefault(name, statistics.median(r["cpu_seconds"] for r in found))
    sizes = np.array([[s.num_params, s.num_macs] for s in kept])
    whole = teacher.score
    truths = accuracy.pop(FULL.name)
    mean_truth = np.mean(truths, 0)

    def against_full(
        predict: Callable[[np.ndarray], np.ndarray],
    ) -> dict[str, float]:
        """The mean over the seeds of full, each a single run."""
        return mean_of([agreement(predict(y), y, sizes, whole) for y in truths])

    table: dict[str, dict[str, float]] = {}
    pairs = combinations(truths, 2)
    if ceiling := [agreement(a, b, sizes, whole) for a, b in pairs]:
        table["full, another seed"] = mean_of(ceiling)
    for name, seeds in accuracy.items():
        if not seeds:  # it was left out with --rungs
            continue
        both = list(product(seeds, truths))  # the mean over the rung's seeds, too
        mean = np.mean(seeds, 0)
        table[name] = {
            **mean_of([agreement(a, y, sizes, whole) for a, y in both]),
            "bias": float((mean - mean_truth).mean()),
            "spread": float((mean - mean_truth).std(ddof=1)),
            "cpu_seconds": used[name],
        }
        if len(kept) > CALIBRATED_BY + FEWEST_UNSEEN:
            maps = [calibrated(a, y, sizes, whole) for a, y in both]
            table[f"{name}, calibrated"] = mean_of(maps)
    logs = np.log(sizes)
    table["log params, log MACs"] = against_full(lambda y: left_one_out(logs, y))
    table["constant accuracy"] = against_full(np.ones_like)
    once = results.get(("", "elastic once", 0), {}).get("cpu_seconds", float("nan"))
    return {
        "students": len(kept),
        "seeds": len(truths),
        "pairs_of_a_size": sum(
            abs(math.log(a / b)) < math.log(SIMILAR)
            for a, b in combinations(sizes[:, 0], 2)
        ),
        "full_cpu_seconds": used[FULL.name],
        "elastic_once_cpu_seconds": once,
        "table": table,
        "accuracy": {name: np.mean(a, 0).tolist() for name, a in accuracy.items() if a},
        "full": mean_truth.tolist(),
        "num_params": sizes[:, 0].tolist(),
    }


def show(found: dict[str, Any]) -> None:
    full = found["full_cpu_seconds"]
    print(
        f"{found['students']} students, {found['seeds']} seeds of full "
        f"({full:.1f} CPU-s a student), {found['pairs_of_a_size']} pairs of a size"
    )
    once = found["elastic_once_cpu_seconds"]
    print(f"elastic, once: {once:.0f} CPU-s, {once / full:.1f} times full")
    head = ("overall", "of a size", "reward", "bias", "spread", "CPU-s", "of full")
    print(f"{'Kendall tau':24}" + "".join(f" {name:>9}" for name in head))
    for name, row in found["table"].items():
        cells = [f"{row[key]:10.3f}" for key in ("overall", "similar", "reward")]
        if "bias" in row:
            cells += [f"{row['bias']:10.3f}", f"{row['spread']:10.3f}"]
            cells += [f"{row['cpu_seconds']:10.2f}"]
            cells += [f"{row['cpu_seconds'] / full:10.1%}"]
        print(f"{name:24}" + "".join(cells))


def draw(found: dict[str, Any], path: Path) -> None:
    """Each rung's accuracy against full distillation's, a point a student."""
    from matplotlib import pyplot as plt

    names = list(found["accuracy"])
    figure, axes = plt.subplots(
        1, len(names), figsize=(3 * len(names), 3.2), sharey=True, layout="constrained"
    )
    for axis, name in zip(axes, names, strict=True):
        points = axis.scatter(
            found["accuracy"][name],
            found["full"],
            c=np.log10(found["num_params"]),
            s=14,
        )
        axis.plot([0, 1], [0, 1], linewidth=0.8, color="grey", zorder=0)
        tau = found["table"][name]["similar"]
        axis.set_title(f"{name} (tau of a size {tau:.2f})", fontsize=10)
        axis.set_xlabel("accuracy on this rung")
        low = min(min(found["full"]), *found["accuracy"][name])
        axis.set_xlim(low - 0.03, max(found["full"]) + 0.03)
    axes[0].set_ylabel("accuracy distilled fully")
    figure.colorbar(points, ax=axes, label="log10 parameters")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3, help="of full distillation")
    parser.add_argument("--part", default="1/1", help="this process' share of the work")
    known = [*CHEAP, FULL.name]
    parser.add_argument("--rungs", nargs="+", choices=known, default=known)
    parser.add_argument("--output", type=Path, default=Path("runs/fidelity"))
    parser.add_argument("--show", action="store_true", help="measure nothing more")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    # What is made for this benchmark stays in its folder.
    os.environ["N2N_CACHE"] = str(options.output / "cache")
    teacher = make_teacher(options.output)
    students = random_students(teacher, options.students)
    if not options.show:
        measure_all(
            options.output,
            teacher,
            students,
            rungs=options.rungs,
            seeds=options.seeds,
            part=options.part,
        )
    found = analyse(options.output, teacher, students)
    show(found)
    (options.output / "fidelity.json").write_text(json.dumps(found, indent=1))
    draw(found, options.output / "fidelity.png")


if __name__ == "__main__":
    main()
