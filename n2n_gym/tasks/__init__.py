"""Labelled images: data sets with three disjoint splits."""

from n2n_gym.common.files import cache_folder, data_folder
from n2n_gym.tasks.arrays import SPLITS, Arrays, Labelled
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.folders import caltech256, from_folder, imagenet
from n2n_gym.tasks.loading import TASKS, is_here, load_task
from n2n_gym.tasks.npz import from_npz
from n2n_gym.tasks.sets import (
    cifar10,
    cifar100,
    digits,
    emnist,
    fashion_mnist,
    kmnist,
    mnist,
    svhn,
)
from n2n_gym.tasks.split import Batch, Split
from n2n_gym.tasks.task import Task

__all__ = [
    "SPLITS",
    "TASKS",
    "Arrays",
    "Augmentation",
    "Batch",
    "Labelled",
    "Split",
    "Task",
    "cache_folder",
    "caltech256",
    "cifar10",
    "cifar100",
    "data_folder",
    "digits",
    "emnist",
    "fashion_mnist",
    "from_folder",
    "from_npz",
    "imagenet",
    "is_here",
    "kmnist",
    "load_task",
    "mnist",
    "svhn",
]
