"""A task with some of the classes of another task: ``"cifar10:0-4"``.

Two tasks of one data set that have no class in common have no image in common. So what
an agent learned on one task can be judged fairly on the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from n2n_gym.tasks.arrays import SPLITS, Arrays
from n2n_gym.tasks.task import Task

FORM = "'0-4', '0,2,5-7', or '0-4:5000' for 5,000 training images"


def of_classes(task: Task, said: str) -> Task:
    """The task with only some classes, renumbered from 0 in ascending order.

    Args:
        said: Classes, ``"0-4"`` or ``"0,2"``, and optionally the total number of
            training images, ``"0-4:5000"``. With this number, each class keeps equally
            many training images, its first ones.

    Raises:
        ValueError: ``said`` does not name two or more classes of the task, or the
            number of images is not a multiple of the number of classes. When images are
            first read: a class has too few training images.
    """
    classes_said, colon, count_said = said.partition(":")
    classes = _classes(task, classes_said)
    count = _count(task, count_said, len(classes)) if colon else None
    names = task.class_names
    return replace(
        task,
        name=f"{task.name}:{said}",
        num_classes=len(classes),
        class_names=names and tuple(names[each] for each in classes),
        read=partial(_read, task.read, task.name, classes, count),
        preprocessing=f"{task.preprocessing}; classes {classes_said} of {task.name}",
        summary=None,
    )


def read_classes(name: str, said: str) -> tuple[int, ...]:
    """The classes that a text names: ``"0-4"``, ``"0,2,5-7"``.

    Raises:
        ValueError: The text does not name two or more classes, each once.
    """
    found: list[int] = []
    for part in said.split(","):
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise ValueError(f"classes of {name} must be {FORM}, got {said!r}")
        found += range(int(first), int(last if dash else first) + 1)
    if len(set(found)) < len(found) or len(found) < 2:
        raise ValueError(
            f"classes of {name} must be at least two, each once, got {said!r}"
        )
    return tuple(sorted(found))


def _classes(task: Task, said: str) -> tuple[int, ...]:
    found = read_classes(task.name, said)
    if max(found) >= task.num_classes:
        raise ValueError(
            f"{task.name} has the classes 0 to {task.num_classes - 1}, got {said!r}"
        )
    return found


def _count(task: Task, said: str, num_classes: int) -> int:
    """Number of training images of each class."""
    if not said.isdecimal() or int(said) == 0 or int(said) % num_classes:
        raise ValueError(
            f"the number of training images of {task.name} must be a multiple of its "
            f"{num_classes} classes, got {said!r}"
        )
    return int(said) // num_classes


def _read(
    read: Callable[[], Arrays], name: str, classes: tuple[int, ...], count: int | None
) -> Arrays:
    given = read()
    found = {}
    for split in SPLITS:
        images, labels = given[split]
        kept = _kept(labels, classes, count if split == "train" else None, name)
        new = np.searchsorted(classes, labels[kept])
        found[split] = images[kept], new.astype(np.int64)
    return found


def _kept(
    labels: NDArray[np.int64], classes: tuple[int, ...], count: int | None, name: str
) -> NDArray[np.int64]:
    """Ascending positions of the classes' images.

    Args:
        count: Number of images to keep of each class, the first ones in the data set.
            None keeps all images.
    """
    if count is None:
        return np.flatnonzero(np.isin(labels, classes))
    members = [np.flatnonzero(labels == each) for each in classes]
    if (fewest := min(map(len, members))) < count:
        raise ValueError(
            f"{name} has {fewest} training images of one of these classes, but {count} "
            f"of each are needed"
        )
    return np.sort(np.concatenate([each[:count] for each in members]))
