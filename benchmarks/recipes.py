"""How accurate a teacher becomes in equal CPU time, with variants of its recipe.

    python -m benchmarks.recipes                       # 2 CPU hours a variant
    python -m benchmarks.recipes --minutes 30 --variants today progressive tail
    python -m benchmarks.recipes --variants progressive+average   # both changes
    python -m benchmarks.recipes --show

The teacher is a ResNet-18 on all 45,000 training images of CIFAR-10, from random
weights. Each variant changes today's recipe in one place. A variant's epochs follow
from the minutes and from the CPU time of its steps, which are measured first. So a
variant with smaller images has more epochs. Variants whose steps do the same work share
one measurement. Arithmetic in bfloat16 is tried only where it makes steps faster.
Minutes are those of the training steps; the validation at the end is not included.

Each result is a line of ``results.jsonl`` in the output folder, with a bit for each
validation image. After a stop, the same command resumes, also within a training.
Trained weights are in the folder ``weights``, for ``n2n-gym compress --weights``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Final

import torch

from benchmarks.peers.spent import counted, read_spent
from benchmarks.peers.subject import check_alone
from benchmarks.results import Results
from benchmarks.variants import (
    TODAY,
    Changes,
    Line,
    answers,
    folder_of,
    gap,
    learned,
    made_with,
    measured_once,
    merged,
    per_cent,
    points,
    seconds_a_step,
    task_named,
    work_of,
)
from n2n_gym.comparison.statistics import as_table
from n2n_gym.pytorch.build import Network, build
from n2n_gym.pytorch.checkpoint import resumable
from n2n_gym.pytorch.determinism import isolated, seeded
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.pytorch.saving import save_weights
from n2n_gym.pytorch.training import Diverged, initialise, train
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.split import Split
from n2n_gym.teachers.learning import teacher_recipe
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher

CPU: Final = torch.device("cpu")
KEY: Final = ("variant", "minutes", "seed")
BFLOAT16: Final = "bfloat16"
VARIANTS: Final[Mapping[str, Changes]] = {
    TODAY: {},
    # From half of the side, or from three quarters of it.
    "progressive": {"smallest_side": 0.5},
    "progressive-75": {"smallest_side": 0.75},
    BFLOAT16: {"precision": "bfloat16"},
    "smoothing-0": {"label_smoothing": 0.0},
    "smoothing-20": {"label_smoothing": 0.2},
    "tail": {"fall_power": 2.0},
    "average": {"average_share": 0.05},
    "warm-up-10": {"warmup_share": 0.1},
    "rate-0.05": {"learning_rate": 0.05},
    "rate-0.2": {"learning_rate": 0.2},
    "momentum-95": {"momentum": 0.95, "learning_rate": 0.05},  # equal rate / (1 - m)
    "batch-128": {"batch_size": 128, "learning_rate": 0.2},  # as often per epoch
    "cutout": {"cutout": 0.25},  # 8 of 32 pixels
    "flip-alone": {"augmentation": Augmentation(flip=True)},
}
# The changes that alter the work of a step, other than the number of images.
WORK: Final = ("smallest_side", "precision", "average_share", "batch_size", "cutout")


def recipe_of(teacher: Teacher, changes: Changes) -> Recipe:
    """Today's recipe in float32, with changes; its number of epochs is not yet set."""
    recipe = teacher_recipe(teacher.task, teacher.architecture)
    fields = {name: value for name, value in changes.items() if name != "augmentation"}
    return replace(recipe, **fields)


def learn(
    teacher: Teacher,
    split: Split,
    recipe: Recipe,
    changes: Changes,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> Network:
    """A network of the teacher's architecture, trained from random weights.

    Args:
        split: The training images, or some of them.
        changes: Changes of a variant, for its augmentation.
        checkpoint: Path of the training's checkpoint; the caller removes it.

    Raises:
        Diverged: The loss became infinite or not a number.
    """
    augment = changes.get("augmentation", teacher.task.augmentation)
    with isolated(None), seeded(seed, CPU) as generator:
        network = build(teacher.architecture).to(memory_format=torch.channels_last)
        initialise(network)
        train(
            network,
            split,
            teacher.normalise,
            recipe,
            generator,
            augment=augment,
            **resumable(checkpoint, {"recipe": recipe.as_written(), "seed": seed}),
        )
    return network


def seconds_an_epoch(teacher: Teacher, changes: Changes) -> float:
    """CPU seconds of an epoch of training, from short trainings with few images."""
    split = teacher.task.split("train", CPU)
    recipe = replace(recipe_of(teacher, changes), epochs=1)
    size = min(recipe.batch_size, len(split))

    def some(steps: int) -> None:
        few = Split(split.images[: steps * size], split.labels[: steps * size])
        learn(teacher, few, recipe, changes)

    steps = len(split) // size
    return steps * seconds_a_step(some, steps)


def cost_of(teacher: Teacher, changes: Changes, costs: Results) -> float:
    """CPU seconds of an epoch, measured once for all variants with the same work."""
    work = work_of(changes, WORK)
    measure = partial(seconds_an_epoch, teacher, work)
    return measured_once(costs, measure, work=json.dumps(work, sort_keys=True))


def measure_all(
    teacher: Teacher, options: argparse.Namespace, results: Results, costs: Results
) -> None:
    """Train what the folder does not have yet."""
    usual = cost_of(teacher, {}, costs)
    for seed in options.seeds:
        for name in options.variants:
            key = (name, options.minutes, seed)
            if key in results.read():
                continue
            changes = merged(VARIANTS, name)
            cost = cost_of(teacher, changes, costs)
            if name == BFLOAT16 and cost >= usual:
                print(f"{name} is not tried: an epoch takes {cost / usual:.2f} times")
                continue
            print(f"{name}, seed {seed}: {cost:.0f} CPU seconds an epoch", flush=True)
            add(teacher, changes, key, cost, results)


def add(
    teacher: Teacher,
    changes: Changes,
    key: tuple[str, float, int],
    cost: float,
    results: Results,
) -> None:
    """Train one network and write its result.

    Args:
        key: Variant, CPU minutes and seed.
        cost: CPU seconds of an epoch.
    """
    name, minutes, seed = key
    recipe = replace(recipe_of(teacher, changes), epochs=60 * minutes / cost)
    folder = results.path.parent / "weights"
    folder.mkdir(exist_ok=True)
    file = f"{name}-{minutes:g}-{seed}"
    checkpoint, clock = folder / f"{file}.checkpoint", folder / f"{file}.spent"
    split = teacher.task.split("train", CPU)
    try:
        with counted(clock):
            network = learn(
                teacher, split, recipe, changes, seed=seed, checkpoint=checkpoint
            )
    except Diverged as error:
        found: dict[str, Any] = {"error": str(error)}
    else:
        save_weights(network, folder / f"{file}.safetensors")
        found = answers(network, teacher)
    results.add(
        **dict(zip(KEY, key, strict=True)),
        recipe=recipe.as_written(),
        epochs=recipe.epochs,
        seconds_an_epoch=cost,
        cpu_minutes=read_spent(clock).cpu,
        **found,
        **made_with(),
    )
    for path in (checkpoint, clock):
        path.unlink(missing_ok=True)


def table(lines: Iterable[Line]) -> str:
    """The variants, trained for equally many CPU minutes, and what they gain.

    The difference is that from today's recipe, paired by seed and validation image.
    """
    every: dict[str, list[Line]] = {}
    for line in lines:
        every.setdefault(line["variant"], []).append(line)
    rows = []
    for name, own in every.items():
        found = learned(own)
        gaps = None if name == TODAY else gap(found, learned(every.get(TODAY, ())))
        rows.append(
            [
                name,
                f"{own[0]['epochs']:.1f}",
                f"{own[0]['seconds_an_epoch']:.0f}",
                per_cent(found),
                "" if gaps is None else points(gaps),
                f"{mean(line['cpu_minutes'] for line in own):.0f}",
                str(len(found)),
            ]
        )
    head = ["variant", "epochs", "CPU seconds an epoch", "validation, %"]
    head += [f"minus {TODAY}, points", "CPU minutes", "seeds"]
    return as_table(head, rows)


def show(results: Results) -> None:
    lines = list(results.read().values())
    if not lines:
        print(f"{results.path} has no results yet")
    for minutes in sorted({line["minutes"] for line in lines}):
        print(f"{minutes:g} CPU minutes of training\n")
        print(table(line for line in lines if line["minutes"] == minutes))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--variants", nargs="+", default=list(VARIANTS), help="names; a+b for both"
    )
    parser.add_argument(
        "--minutes", type=float, default=120, help="CPU minutes of each training"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--teacher", default="resnet18")
    parser.add_argument("--task", default="cifar10")
    parser.add_argument("--images", type=int, help="for training; by default all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="default: runs/recipes")
    parser.add_argument("--show", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)
    folder = folder_of(options.output, "recipes", is_shown=options.show)
    results = Results(folder, *KEY)
    if not options.show:
        torch.set_num_threads(options.threads)
        alike = {name: getattr(options, name) for name in ("teacher", "task", "images")}
        try:
            for name in options.variants:
                merged(VARIANTS, name)
            check_alone(folder, alike)
        except ValueError as error:
            parser.error(str(error))
        (folder / "costs").mkdir(exist_ok=True)
        costs = Results(folder / "costs", "work")
        task = task_named(options.task, options.images)
        teacher = load_teacher(options.teacher, task, device="cpu")
        measure_all(teacher, options, results, costs)
    show(results)


if __name__ == "__main__":
    main()
