"""Tasks by name, by path, or from a module."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from n2n_gym.common.files import data_folder
from n2n_gym.common.plugins import check_call, lookup
from n2n_gym.tasks.classes import of_classes
from n2n_gym.tasks.folders import caltech256, from_folder, imagenet
from n2n_gym.tasks.npz import from_npz
from n2n_gym.tasks.sets import (
    cifar10,
    cifar10x16,
    cifar100,
    digits,
    emnist,
    fashion_mnist,
    kmnist,
    mnist,
    svhn,
)
from n2n_gym.tasks.task import Task

logger = logging.getLogger(__name__)

_OF_ANY_SIDE: Final[Mapping[str, Callable[[int], Task]]] = {
    "caltech256": caltech256,
    "imagenet": imagenet,
}
TASKS: Final[Mapping[str, Callable[[], Task]]] = {
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar10x16": cifar10x16,
    "fashion_mnist": fashion_mnist,
    "kmnist": kmnist,
    "emnist": emnist,
    "cifar100": cifar100,
    "svhn": svhn,
    "caltech256": caltech256,
    "imagenet": imagenet,
}

# Paths in the data folder where torchvision, or this package, expects each data set.
_PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    "digits": (),  # comes with scikit-learn
    "mnist": ("MNIST/raw",),
    "cifar10": ("cifar10.npz", "cifar-10-batches-py"),
    "cifar10x16": ("cifar10.npz", "cifar-10-batches-py"),
    "fashion_mnist": ("FashionMNIST/raw",),
    "kmnist": ("KMNIST/raw",),
    "emnist": ("EMNIST/raw",),
    "cifar100": ("cifar-100-python",),
    "svhn": ("train_32x32.mat",),
    "caltech256": ("caltech256/256_ObjectCategories",),
    "imagenet": ("imagenet/train",),
}


def is_here(task: str) -> bool:
    """Whether the images of a named task are already on this machine."""
    candidates = (data_folder() / place for place in _PATHS[task])
    return task == "digits" or any(place.exists() for place in candidates)


def load_task(task: str | Task) -> Task:
    """A task from its name, a path, or ``"module:function"``.

    A path leads to an .npz file or to a folder of images. For a folder, ``caltech256``
    and ``imagenet``, ``@`` sets the side of the images in pixels: ``"imagenet@32"``,
    ``"path/to/flowers@96"``. ``"cifar10:0-4"`` keeps only the classes 0 to 4, and
    ``"cifar10:0-4:5000"`` only 5,000 of their training images.

    Raises:
        ValueError: There is no such task, or its data are wrong.
        OSError: The data are missing and cannot be downloaded.
    """
    if isinstance(task, Task):
        return task
    if not isinstance(task, str):
        raise ValueError(f"a task must be a name, a path or a Task, got {task!r}")
    if task.lower().endswith(".npz"):
        return from_npz(task)
    if task not in TASKS and _is_folder(task):
        return from_folder(task)
    whole, colon, classes = task.partition(":")
    if colon and whole in TASKS:
        return of_classes(TASKS[whole](), classes)
    name, at, side = task.rpartition("@")
    published = name if at else task
    if published in TASKS and _is_folder(published):
        advice = "%s is the published data set; the folder of that name is ./%s"
        logger.warning(advice, published, task)
    if at and name.lower().endswith(".npz"):
        raise ValueError(
            f"the images of {name} have one size; a side, as in {task!r}, is for "
            f"{', '.join(_OF_ANY_SIDE)} and folders of images"
        )
    if at and not side.isdecimal() and (name in TASKS or _is_folder(name)):
        raise ValueError(
            f"the side of images must be a number, as in {name}@64, got {side!r}"
        )
    if at and side.isdecimal():
        if name in _OF_ANY_SIDE:
            return _OF_ANY_SIDE[name](int(side))
        if name in TASKS:
            raise ValueError(
                f"the images of {name} have one size; a side, as in {task!r}, is for "
                f"{', '.join(_OF_ANY_SIDE)} and folders of images"
            )
        if _is_folder(name):
            return from_folder(name, int(side))
    paths = "the path of an .npz file", "that of a folder of images"
    make: Any = lookup("task", task, TASKS, also=paths)
    if callable(make):
        check_call("task", task, make)
    made = make() if callable(make) else make
    if not isinstance(made, Task):
        raise ValueError(f"task {task!r} must return a Task, got {made!r}")
    return made


def _is_folder(path: str) -> bool:
    return Path(path).expanduser().is_dir()
