"""Variants of a recipe, and their paired differences on validation images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.answers import packed, right_answers
from benchmarks.peers.show import right_of
from benchmarks.results import Results, made_here
from n2n_gym.common.plugins import refuse_unknown
from n2n_gym.tasks.loading import load_task
from n2n_gym.teachers.teacher import Teacher

TODAY: Final = "today"  # the variant that the others are compared with
DATA: Final = Path(__file__).parent / "data"
STEPS: Final = 16  # steps that are timed
FIRST: Final = 5  # steps of the training that is subtracted

Values: TypeAlias = NDArray[np.float64]
Line: TypeAlias = Mapping[str, Any]  # one result
Changes: TypeAlias = Mapping[str, Any]  # fields of a recipe or a rung


def merged(known: Mapping[str, Changes], name: str) -> dict[str, Any]:
    """The changes of a variant; ``"a+b"`` has those of both, b's last.

    Raises:
        ValueError: There is no such variant.
    """
    found: dict[str, Any] = {}
    for part in name.split("+"):
        refuse_unknown("variant", part, tuple(known))
        found |= known[part]
    return found


def task_named(name: str, images: int | None) -> str:
    """The name of a task with only some training images, equally many of each class.

    Args:
        images: Number of images, the first of each class; None for all.
    """
    if images is None:
        return name
    return f"{name}:0-{load_task(name).num_classes - 1}:{images}"


def answers(network: torch.nn.Module, teacher: Teacher) -> dict[str, Any]:
    """Validation accuracy, and a bit for each validation image: 1 for a right answer.

    Args:
        network: A network on the CPU.
        teacher: The teacher, for its validation images and its normalisation.
    """
    right = right_answers(network, teacher, "validation")
    return {
        "validation": float(right.mean()),
        "num_images": len(right),
        "right": packed(right),
    }


def seconds_a_step(learn: Callable[[int], object], most: int) -> float:
    """CPU seconds of a training step: a long training minus a short one.

    So the work before the first step does not count. Image sizes may change in the
    course of a training, and both trainings pass through all sizes.

    Args:
        learn: Function that trains from the beginning, for a number of steps.
        most: Largest number of steps that are possible.
    """

    def seconds(steps: int) -> float:
        started = time.process_time()
        learn(steps)
        return time.process_time() - started

    short, long = min(FIRST, most - 1), min(FIRST + STEPS, most)
    seconds(short)  # the first steps with each size of images are slower
    before = seconds(short)
    return max(1e-6, seconds(long) - before) / (long - short)


def made_with() -> dict[str, Any]:
    """The versions and the machine that a result depends on."""
    return {**made_here(("torch",)), "threads": torch.get_num_threads()}


def measured_once(costs: Results, measure: Callable[[], float], **key: Any) -> float:
    """Seconds from a file of measurements; measured now if the file lacks them.

    Args:
        measure: Function that measures the seconds.
        key: Fields that identify the measurement, in the order of the file's key.
    """
    if tuple(key.values()) not in costs.read():
        costs.add(**key, seconds=measure(), **made_with())
    return float(costs.read()[tuple(key.values())]["seconds"])


def work_of(changes: Changes, names: Iterable[str]) -> dict[str, Any]:
    """The changes that alter the work of a step."""
    return {name: changes[name] for name in names if name in changes}


def learned(lines: Iterable[Line]) -> dict[int, Line]:
    """The results by seed, without those that diverged."""
    return {line["seed"]: line for line in lines if "error" not in line}


def gap(ours: Mapping[int, Line], usual: Mapping[int, Line]) -> Values | None:
    """Right answers minus today's for each image, the mean over common seeds, (N,).

    None if no seed has both results.

    Args:
        ours: A variant's results by seed.
        usual: Today's results by seed.
    """
    seeds = sorted(ours.keys() & usual.keys())
    if not seeds:
        return None
    return np.stack([right_of(ours[s]) - right_of(usual[s]) for s in seeds]).mean(0)


def points(gaps: Values) -> str:
    """A mean difference over images, in percentage points, with its standard error.

    The standard error measures the variation between images. If results are of several
    seeds, it does not include the variation between seeds.

    Args:
        gaps: Difference of right answers for each image, (N,).
    """
    error = gaps.std(ddof=1) / math.sqrt(len(gaps))
    return f"{100 * gaps.mean():+.2f} ± {100 * error:.2f}"


def per_cent(found: Mapping[int, Line]) -> str:
    """Mean validation accuracy over seeds."""
    if not found:
        return ""
    return f"{100 * mean(line['validation'] for line in found.values()):.2f}"


def folder_of(given: Path | None, name: str, *, is_shown: bool) -> Path:
    """The folder of a study's results.

    Args:
        given: Folder that the user named, which always counts.
        is_shown: Whether results are only printed: by default those of the repository.
    """
    return given or (DATA / name if is_shown else Path("runs") / name)
