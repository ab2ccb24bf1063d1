"""Labelled images: a data set with its three disjoint splits."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, TypeAlias

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from n2n_gym.layers import Shape
from n2n_gym.lookup import lookup

SPLITS: Final = ("train", "validation", "test")
_SPLIT_SEED: Final = 0

Labelled: TypeAlias = tuple[NDArray[Any], NDArray[Any]]  # images, labels
Arrays: TypeAlias = Mapping[str, Labelled]


class Split(NamedTuple):
    """Images with their labels."""

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Task:
    """What a teacher has learned: images with labels, split three ways.

    The teacher learns from ``train``, rewards come from ``validation``; ``test`` is
    read once, for a final student.

    Attributes:
        input_shape: Of one image, (C, H, W).
        read: Gives each split as uint8 images, (N, H, W) or (N, H, W, C), and integer
            labels, (N,); called once, at the first use.
    """

    name: str
    input_shape: Shape
    num_classes: int
    read: Callable[[], Arrays] = field(repr=False)

    @cached_property
    def splits(self) -> Mapping[str, Split]:
        return {
            name: Split(_as_maps(images), torch.from_numpy(labels.astype(np.int64)))
            for name, (images, labels) in self.read().items()
        }

    @cached_property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel of the training images, in [0, 1]."""
        images = self.splits["train"].images
        channels = images.transpose(0, 1).flatten(1)  # (C, N*H*W)
        counts = torch.stack([torch.bincount(c, minlength=256) for c in channels])
        values = torch.arange(256, dtype=torch.float64) / 255
        shares = counts.double() / counts.sum(1, keepdim=True)
        mean = shares @ values
        variance = (shares * (values - mean[:, None]) ** 2).sum(1)
        return tuple(mean.tolist()), tuple(variance.sqrt().clamp_min(1e-3).tolist())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the data in all splits."""
        digest = hashlib.sha256()
        for name in SPLITS:
            for tensor in self.splits[name]:
                digest.update(f"{name} {tuple(tensor.shape)}".encode())
                digest.update(tensor.numpy().data)
        return digest.hexdigest()

    def split(self, name: str, device: torch.device) -> Split:
        """The split on a device, where it stays for the next call."""
        key = name, str(device)
        if key not in self._resident:
            self._resident[key] = self.splits[name].to(device)
        return self._resident[key]

    @cached_property
    def _resident(self) -> dict[tuple[str, str], Split]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Task:
        return self


def _as_maps(images: NDArray[Any]) -> Tensor:
    """(N, H, W) or (N, H, W, C) uint8 -> (N, C, H, W)."""
    if images.ndim == 3:
        images = images[..., None]
    # A copy, since torch takes no arrays that cannot be written to.
    return torch.from_numpy(np.array(images.transpose(0, 3, 1, 2), order="C"))


def _divide(
    images: NDArray[Any], labels: NDArray[Any], share: float
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """A stratified division with a fixed seed: the rest, then the share."""
    rest, part = train_test_split(
        np.arange(len(labels)),
        test_size=share,
        stratify=labels,
        random_state=_SPLIT_SEED,
    )
    return images[rest], labels[rest], images[part], labels[part]


def _with_validation(train: Labelled, test: Labelled) -> Arrays:
    """A tenth of the training images becomes the validation split."""
    images, labels, *validation = _divide(*train, 0.1)
    return {
        "train": (images, labels),
        "validation": (validation[0], validation[1]),
        "test": test,
    }


def digits() -> Task:
    """scikit-learn's 1,797 real 8x8 images of handwritten digits, split 60/20/20."""

    def read() -> Arrays:
        bunch = load_digits()
        images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
        images, labels, *test = _divide(images, bunch.target, 0.2)
        images, labels, *validation = _divide(images, labels, 0.25)
        return {
            "train": (images, labels),
            "validation": (validation[0], validation[1]),
            "test": (test[0], test[1]),
        }

    return Task("digits", (1, 8, 8), 10, read)


def mnist() -> Task:
    """MNIST through torchvision; a tenth of the training images validates."""

    def read() -> Arrays:
        return _with_validation(*_from_torchvision("MNIST"))

    return Task("mnist", (1, 28, 28), 10, read)


def cifar10() -> Task:
    """CIFAR-10: ``$N2N_DATA/cifar10.npz`` if it exists, else through torchvision."""
    local = data_folder() / "cifar10.npz"
    if local.exists():
        return from_npz(local, name="cifar10")

    def read() -> Arrays:
        return _with_validation(*_from_torchvision("CIFAR10"))

    return Task("cifar10", (3, 32, 32), 10, read)


def data_folder() -> Path:
    """Where data sets are looked for and downloaded to: ``N2N_DATA`` or the cache."""
    named = os.environ.get("N2N_DATA")
    return Path(named) if named else cache_folder() / "data"


def cache_folder() -> Path:
    """Where what is made once is kept: ``N2N_CACHE`` or the user's cache folder."""
    named = os.environ.get("N2N_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("n2n-gym"))


def _from_torchvision(name: str) -> tuple[Labelled, Labelled]:
    """(images, labels) of the training and of the test part, downloaded if need be."""
    import torchvision  # slow to import, and needed here only

    root, parts = data_folder(), []
    for is_train in (True, False):
        try:
            data = getattr(torchvision.datasets, name)(root, is_train, download=True)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"{name} is not in {root} and could not be downloaded ({error}); put "
                f"torchvision's files there, or set N2N_DATA to the folder with them"
            ) from error
        parts.append((np.asarray(data.data), np.asarray(data.targets)))
    return parts[0], parts[1]


def from_npz(path: str | Path, name: str | None = None) -> Task:
    """Your own images: a file that ``numpy.savez`` wrote.

    It holds ``train_images``, ``train_labels``, ``test_images``, ``test_labels`` and
    perhaps ``validation_images``, ``validation_labels``: uint8 images, (N, H, W) or
    (N, H, W, C), and integer labels from 0, (N,). Without a validation split, a tenth
    of the training images becomes one.

    Raises:
        ValueError: A key is missing, or an array has the wrong type, shape or length.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; a task's .npz must exist")
    arrays = _checked_arrays(path)
    images, labels = arrays["train"]
    shape = (images.shape[3] if images.ndim == 4 else 1, *images.shape[1:3])
    return Task(name or path.stem, shape, int(labels.max()) + 1, lambda: arrays)


def _arrays_in(file: BinaryIO) -> dict[str, NDArray[Any]]:
    found = np.load(file, allow_pickle=False)
    if not isinstance(found, Mapping):
        raise ValueError("it holds a single array")
    return dict(found)


def _checked_arrays(path: Path) -> Arrays:
    try:
        with open(path, "rb") as file:
            data = _arrays_in(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as an .npz file: {error}") from error
    parts: dict[str, Labelled] = {}
    for split in SPLITS:
        keys = f"{split}_images", f"{split}_labels"
        if split == "validation" and not set(keys) & data.keys():
            continue
        for key in keys:
            if key not in data:
                raise ValueError(
                    f"{path} lacks {key}; it has {', '.join(sorted(data))}"
                )
        parts[split] = _checked_split(path, split, data[keys[0]], data[keys[1]])
    images, labels = parts["train"]
    for split, (others, other_labels) in parts.items():
        if others.shape[1:] != images.shape[1:]:
            raise ValueError(
                f"{path}: {split}_images are {others.shape[1:]}, train_images "
                f"{images.shape[1:]}"
            )
        unknown = np.setdiff1d(other_labels, labels)
        if unknown.size:
            raise ValueError(
                f"{path}: {split}_labels has the class {unknown[-1]}, which "
                f"train_labels lacks"
            )
    if "validation" in parts:
        return parts
    try:
        return _with_validation(parts["train"], parts["test"])
    except ValueError as error:
        raise ValueError(f"{path} has no validation split, and {error}") from error


def _checked_split(
    path: Path, split: str, images: NDArray[Any], labels: NDArray[Any]
) -> Labelled:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"{path}: {split}_images must be uint8, (N, H, W) or (N, H, W, C), got "
            f"{images.dtype} {images.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise ValueError(
            f"{path}: {split}_labels must be integers, (N,), got {labels.dtype} "
            f"{labels.shape}"
        )
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(
            f"{path}: {split} has {len(images)} images and {len(labels)} labels"
        )
    if labels.min() < 0:
        raise ValueError(
            f"{path}: {split}_labels has the negative class {labels.min()}"
        )
    return images, labels


TASKS: Final[Mapping[str, Callable[[], Task]]] = {
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
}


def load_task(task: str | Task) -> Task:
    """A task from its name, the path of an .npz file, or ``"module:function"``.

    Raises:
        ValueError: There is no such task, or its file is not as it should be.
    """
    if isinstance(task, Task):
        return task
    if not isinstance(task, str):
        raise ValueError(f"a task is a name, a path or a Task, got {task!r}")
    if task.endswith(".npz"):
        return from_npz(task)
    make: Any = lookup("task", task, TASKS)
    made = make() if callable(make) else make
    if not isinstance(made, Task):
        raise ValueError(f"task {task!r} gives {made!r}, not a Task")
    return made
