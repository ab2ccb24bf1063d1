"""Labelled images as arrays: what is refused, and how they are divided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

SPLITS: Final = ("train", "validation", "test")
_SPLIT_SEED: Final = 0

Labelled: TypeAlias = tuple[NDArray[Any], NDArray[Any]]  # images, labels
Arrays: TypeAlias = Mapping[str, Labelled]
# Mean and deviation of each channel, of pixels in [0, 1].
Statistics: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]


def check_splits(where: str, arrays: object) -> None:
    """Refuse what is no mapping of the splits to pairs of arrays, images and labels."""
    form = "{'train': (images, labels), 'validation': ..., 'test': ...}, numpy arrays"
    if not isinstance(arrays, Mapping):
        kind = type(arrays).__name__
        raise ValueError(f"{where}: its images are {form}; read() gives {kind}")
    for split in SPLITS:
        if split not in arrays:
            there = ", ".join(map(str, arrays))
            raise ValueError(f"{where} lacks {split}; it has {there or 'nothing'}")
        pair = arrays[split]
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            kind = type(pair).__name__
            of = f" of {len(pair)}" if isinstance(pair, (tuple, list)) else ""
            raise ValueError(
                f"{where}: {split} is a pair, (images, labels); read() gives {kind}{of}"
            )
        for name, array in zip(("images", "labels"), pair, strict=True):
            if not isinstance(array, np.ndarray):
                raise ValueError(
                    f"{where}: {split}_{name} must be a numpy array, got "
                    f"{type(array).__name__}"
                )


def check_images(where: str, split: str, images: NDArray[Any]) -> None:
    """Refuse what is not uint8, (N, H, W) or (N, H, W, C)."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"{where}: {split}_images must be uint8, (N, H, W) or (N, H, W, C), got "
            f"{images.dtype} {images.shape}"
        )
    if images.ndim == 4 and images.shape[1] in (1, 3, 4) and images.shape[3] > 4:
        raise ValueError(
            f"{where}: {split}_images have the shape {images.shape}, which looks like "
            f"(N, C, H, W); (N, H, W, C) is needed"
        )


def check_labels(where: str, split: str, labels: NDArray[Any], num_images: int) -> None:
    """Refuse what is not one integer from 0 for each image."""
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise ValueError(
            f"{where}: {split}_labels must be integers, (N,), got {labels.dtype} "
            f"{labels.shape}"
        )
    if num_images != len(labels) or num_images == 0:
        raise ValueError(
            f"{where}: {split} has {num_images} images and {len(labels)} labels"
        )
    if labels.min() < 0:
        raise ValueError(
            f"{where}: {split}_labels has the negative class {labels.min()}"
        )


def check_classes(
    where: str,
    labels: Mapping[str, NDArray[Any]],
    num_classes: int,
    class_names: Sequence[str] | None = None,
) -> None:
    """Refuse splits that do not all have all classes.

    A student could forget a class that validation lacks and be none the worse, and
    the test split could not tell; one that training lacks, no network can learn.
    """
    for split in SPLITS:
        present = np.unique(labels[split])
        if present[-1] >= num_classes:
            raise ValueError(
                f"{where}: {split} has the class {present[-1]}; the {num_classes} "
                f"classes of training are 0 to {num_classes - 1}"
            )
        missing = np.setdiff1d(np.arange(num_classes), present)
        if missing.size:
            named = f" ({class_names[missing[0]]})" if class_names else ""
            if missing[0] == 0:
                named += " (labels count from 0)"
            raise ValueError(
                f"{where}: {split} lacks the class {missing[0]}{named}; every split "
                f"needs images of each of the {num_classes} classes, or a student "
                f"could forget one unpunished"
            )


def divide(images: NDArray[Any], labels: NDArray[Any], share: float) -> list[Labelled]:
    """A stratified division with a fixed seed: the rest, then the share."""
    from sklearn.model_selection import train_test_split  # takes a second to import

    rest, part = train_test_split(
        np.arange(len(labels)),
        test_size=share,
        stratify=labels,
        random_state=_SPLIT_SEED,
    )
    return [(images[rest], labels[rest]), (images[part], labels[part])]


def with_validation(train: Labelled, test: Labelled) -> Arrays:
    """A tenth of the training images becomes the validation split."""
    train, validation = divide(*train, 0.1)
    return {"train": train, "validation": validation, "test": test}


def three_ways(images: NDArray[Any], labels: NDArray[Any]) -> Arrays:
    """60/20/20."""
    rest, test = divide(images, labels, 0.2)
    train, validation = divide(*rest, 0.25)
    return {"train": train, "validation": validation, "test": test}
