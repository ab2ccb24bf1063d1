"""How well cheap scores rank students, compared with full distillation.

    python -m benchmarks.fidelity                     # 60 students, 3 seeds: hours
    python -m benchmarks.fidelity --students 16 --seeds 2   # a first look: 90 minutes

The data set is CIFAR-10 (in the folder that ``N2N_DATA`` names), with 5,000 training
images. The teacher is a residual network of widths 16, 32 and 64. Half of the students
come from random legal play of N2NRemove, half from N2NRemove followed by N2NShrink.
Each student is scored by every evaluator and distilled to convergence, with several
seeds (by "paper" with one seed, because it is expensive).

Each result is written at once as a line of ``results.jsonl`` in the output folder.
After a stop, the same command resumes. To use two cores, start one process with
``--part 1/2`` and one with ``--part 2/2``. ``--rungs short full`` measures only those
evaluators. ``--show --output benchmarks/data/fidelity`` prints the stored results, as
shown in results.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from benchmarks.agreement import SIMILAR, Measured, agreements
from benchmarks.results import Results
from benchmarks.subjects import Basic, some_of_cifar10
from n2n_gym.envs import RemoveEnv, ShrinkEnv
from n2n_gym.evaluators.distillation import Settings, measure
from n2n_gym.evaluators.elastic import elastic_teacher
from n2n_gym.evaluators.rungs import ELASTIC, FULL, INHERIT, PAPER, SHORT
from n2n_gym.evaluators.scoring import faster_precision
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.trace import trace
from n2n_gym.rewards import Score
from n2n_gym.teachers.learning import teacher_recipe, train_network
from n2n_gym.teachers.store import load_trained, save_trained
from n2n_gym.teachers.teacher import Teacher

CPU = torch.device("cpu")
NUM_IMAGES = 5_000
TEACHER_EPOCHS = 40
RUNGS = (INHERIT, ELASTIC, SHORT, PAPER)
CHEAP = [rung.name for rung in RUNGS]


def residual(blocks: int = 2) -> nn.Module:
    """A residual network of widths 16, 32, 64 (He et al., 2016)."""
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for outputs in (16, 32, 64):
        for i in range(blocks):
            stride = 2 if i == 0 and outputs > 16 else 1
            layers.append(Basic(inputs, outputs, stride))
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


def played_students(teacher: Teacher, count: int) -> list[Architecture]:
    """Distinct random students, from both stages in turn."""
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
    """Measure what the folder does not have yet, cheap evaluators first."""
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


# Statistics.


def measured(
    results: Mapping[tuple[str, str, int], dict[str, Any]],
    students: list[Architecture],
) -> Measured:
    by_rung: dict[tuple[str, int], dict[str, dict[str, Any]]] = defaultdict(dict)
    for (student, rung, seed), result in results.items():
        by_rung[rung, seed][student] = result
    if not any(rung == "full" for rung, _ in by_rung):
        raise SystemExit("nothing has been distilled fully yet")
    # Drop evaluators with few students: the others would be compared only on these.
    most = max(len(found) for (rung, _), found in by_rung.items() if rung == "full")
    names = [*CHEAP, FULL.name]
    runs = [r for r in by_rung if r[0] in names and len(by_rung[r]) >= 0.8 * most]
    kept = [s for s in students if all(s.fingerprint in by_rung[run] for run in runs)]
    accuracy: dict[str, list[np.ndarray]] = {name: [] for name in names}
    used: dict[str, float] = {}
    for name, seed in sorted(runs):
        found = [by_rung[name, seed][student.fingerprint] for student in kept]
        accuracy[name].append(np.array([result["accuracy"] for result in found]))
        # The median over students, of the first seed, because the machine may have been
        # busy.
        used.setdefault(name, statistics.median(r["cpu_seconds"] for r in found))
    truths = accuracy.pop(FULL.name)
    # Evaluators that were left out with --rungs have no seeds.
    cheap = {name: seeds for name, seeds in accuracy.items() if seeds}
    return Measured(kept, truths, cheap, used)


def analyse(
    folder: Path, teacher: Teacher, students: list[Architecture]
) -> dict[str, Any]:
    """Agreement of evaluators with full distillation, on students with all scores."""
    results = Results(folder, *KEY).read()
    found = measured(results, students)
    sizes = np.array([[s.num_params, s.num_macs] for s in found.students])
    once = results.get(("", "elastic once", 0), {}).get("cpu_seconds", float("nan"))
    return {
        "students": len(found.students),
        "seeds": len(found.full),
        "pairs_of_a_size": sum(
            abs(math.log(a / b)) < math.log(SIMILAR)
            for a, b in combinations(sizes[:, 0], 2)
        ),
        "full_cpu_seconds": found.cpu_seconds[FULL.name],
        "elastic_once_cpu_seconds": once,
        "table": agreements(found, sizes, teacher.score),
        "accuracy": {name: np.mean(a, 0).tolist() for name, a in found.cheap.items()},
        "full": np.mean(found.full, 0).tolist(),
        "num_params": sizes[:, 0].tolist(),
    }


def show(found: dict[str, Any]) -> None:
    full = found["full_cpu_seconds"]
    print(
        f"{found['students']} students, {found['seeds']} seeds of full "
        f"({full:.1f} CPU-s a student), {found['pairs_of_a_size']} similar pairs"
    )
    once = found["elastic_once_cpu_seconds"]
    print(f"elastic, once: {once:.0f} CPU-s, {once / full:.1f} times full")
    head = ("overall", "similar", "reward", "bias", "spread", "CPU-s", "of full")
    print(f"{'Kendall tau':24}" + "".join(f" {name:>9}" for name in head))
    for name, row in found["table"].items():
        cells = [f"{row[key]:10.3f}" for key in ("overall", "similar", "reward")]
        if "bias" in row:
            cells += [f"{row['bias']:10.3f}", f"{row['spread']:10.3f}"]
            cells += [f"{row['cpu_seconds']:10.2f}"]
            cells += [f"{row['cpu_seconds'] / full:10.1%}"]
        print(f"{name:24}" + "".join(cells))


def draw(found: dict[str, Any], path: Path) -> None:
    """Plot each student's cheap accuracy against its fully distilled accuracy."""
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
        axis.set_title(f"{name} (tau at similar size {tau:.2f})", fontsize=10)
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
    # Teachers of this benchmark stay in its folder.
    os.environ["N2N_CACHE"] = str(options.output / "cache")
    teacher = make_teacher(options.output)
    students = played_students(teacher, options.students)
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
