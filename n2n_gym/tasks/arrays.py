"""Labelled images as arrays: what is refused or odd, and how they are divided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from n2n_gym.common.progress import progress

SPLITS: Final = ("train", "validation", "test")
# How folders and arrays of a split may be called, in upper or lower case.
SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
_FEW: Final = 64  # images
_DARK: Final = 16  # images no brighter than this of 255 were hardly scaled to it
_SPLIT_SEED: Final = 0
UNKNOWN: Final = -1  # in the place of each label of a split that has none
# The splits that can be without labels: none of them, training alone, or all.
UNLABELLED: Final[tuple[tuple[str, ...], ...]] = ((), ("train",), SPLITS)

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
                advice = "; a Task of images without labels has unlabelled=('train',)"
                if name == "images" or array is not None:
                    advice = ""
                raise ValueError(
                    f"{where}: {split}_{name} must be a numpy array, got "
                    f"{type(array).__name__}{advice}"
                )
            if isinstance(array, np.ma.MaskedArray):
                raise ValueError(
                    f"{where}: {split}_{name} is a masked array; leave out what is "
                    f"masked, and give a plain one"
                )


def no_labels(count: int) -> NDArray[np.int64]:
    """What stands for the labels of so many images that have none, (N,)."""
    return np.full(count, UNKNOWN, np.int64)


def check_unlabelled(where: str, unlabelled: object) -> None:
    """Refuse other splits without labels than a task can have."""
    if unlabelled not in UNLABELLED:
        raise ValueError(
            f"{where}: without labels can be the training images alone, "
            f"unlabelled=('train',), or all of them, unlabelled={SPLITS}; got "
            f"{unlabelled!r}"
        )


def fill_labels(where: str, arrays: object, unlabelled: Sequence[str]) -> object:
    """The same with ``UNKNOWN`` for the labels None of the splits that have none.

    What is no mapping of pairs is left for ``check_splits`` to refuse.
    """
    if not isinstance(arrays, Mapping):
        return arrays
    filled = dict(arrays)
    for split, pair in arrays.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            continue
        images, labels = pair
        if split not in unlabelled:
            continue
        if labels is None:
            if isinstance(images, np.ndarray):
                filled[split] = images, no_labels(len(images))
        elif not is_unlabelled(labels):
            raise ValueError(
                f"{where}: {split} is said to have no labels, and has some; its labels "
                f"are None"
            )
    return filled


def is_unlabelled(labels: object) -> bool:
    """Whether these stand for labels that nobody knows."""
    return isinstance(labels, np.ndarray) and bool((labels == UNKNOWN).all())


def check_images(where: str, split: str, images: NDArray[Any]) -> None:
    """Refuse what is not uint8, (N, H, W) or (N, H, W, C)."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        advice = "; np.rint(255 * images).astype(np.uint8) converts values in [0, 1]"
        raise ValueError(
            f"{where}: {split}_images must be uint8, (N, H, W) or (N, H, W, C), got "
            f"{images.dtype} {images.shape}{advice if images.dtype != np.uint8 else ''}"
        )
    if 0 in images.shape[1:]:
        raise ValueError(
            f"{where}: {split}_images, {images.shape}, have no pixels; (N, H, W) or "
            f"(N, H, W, C) is needed"
        )


def check_layout(where: str, split: str, images: NDArray[Any]) -> None:
    """Refuse images whose channels seem to come first.

    The last of their axes is then a width: more than channels mostly are, and more than
    the first. (Hyperspectral images have as many channels, but are no less high.)
    """
    if images.ndim != 4:
        return
    height, width, channels = images.shape[1:]
    if channels > 4 and (height in (1, 3, 4) or height < min(width, channels)):
        raise ValueError(
            f"{where}: {split}_images have the shape {images.shape}, which looks like "
            f"(N, C, H, W); (N, H, W, C) is needed: images.transpose(0, 2, 3, 1)"
        )


def check_labels(
    where: str,
    split: str,
    labels: NDArray[Any],
    num_images: int,
    *,
    is_known: bool = True,
) -> None:
    """Refuse what is not one integer from 0 for each image.

    Args:
        is_known: Whether they are labels, and not what stands for none.
    """
    if labels.dtype.kind not in "iu" or labels.ndim != 1:  # numpy has more integers
        advice = "; labels.argmax(1) gives the classes of one-hot labels"
        raise ValueError(
            f"{where}: {split}_labels must be integers, (N,), got {labels.dtype} "
            f"{labels.shape}{advice if labels.ndim == 2 else ''}"
        )
    if num_images != len(labels) or num_images == 0:
        raise ValueError(
            f"{where}: {split} has {num_images} images and {len(labels)} labels"
        )
    if is_known and labels.min() < 0:
        raise ValueError(
            f"{where}: {split}_labels has the negative class {labels.min()}"
        )


def check_classes(
    where: str,
    labels: Mapping[str, NDArray[Any]],
    num_classes: int,
    class_names: Sequence[str] | None = None,
) -> None:
    """Refuse a single class, and splits that do not all have all classes.

    Args:
        labels: Of the splits that have them.

    A student could forget a class that validation lacks and be none the worse, and
    the test split could not tell; one that training lacks, no network can learn.
    """
    if num_classes < 2:
        raise ValueError(
            f"{where} has {num_classes} class{'es' * (num_classes != 1)}; two or more "
            f"are needed to tell apart"
        )
    for split in labels:
        present = np.unique(labels[split])
        if present[-1] >= num_classes:
            raise ValueError(
                f"{where}: {split} has the class {present[-1]}; the {num_classes} "
                f"classes are 0 to {num_classes - 1}"
            )
        if len(present) < num_classes:
            missing = next(i for i in range(num_classes) if i not in present[i : i + 1])
            named = f" ({class_names[missing]})" if class_names else ""
            if missing == 0:
                named += " (labels count from 0)"
            raise ValueError(
                f"{where}: {split} lacks the class {missing}{named}; every split "
                f"needs images of each of the {num_classes} classes, or a student "
                f"could forget one unpunished"
            )


def are_equal(images: NDArray[Any]) -> bool:
    """Whether there are several, and all are the same; a few tell most often.

    Those of a file that is only mapped are not read for this.
    """
    if isinstance(images, np.memmap) or len(images) < 2:
        return False
    if (images[:_FEW] != images[0]).any():
        return False
    return bool((images == images[0]).all())


def find_oddities(
    arrays: Arrays, names: Mapping[str, NDArray[Any]] | None = None
) -> list[str]:
    """Sentences on data that can be learned from, but are hardly meant to be so.

    Args:
        names: Of the images in each split; their positions by default.
    """
    hashes = {split: _hashes(images) for split, (images, _) in arrays.items()}

    def first(split: str, which: NDArray[Any]) -> str:
        position = int(np.flatnonzero(which)[0])
        return names[split][position] if names else f"number {position}"

    found = []
    for split, (images, _) in arrays.items():
        if len(images) > 1 and (hashes[split] == hashes[split][0]).all():
            found.append(f"all {len(images)} {split} images are equal")
        brightest = int(images.max())
        if brightest < _DARK:
            found.append(f"no pixel of {split} is brighter than {brightest} of 255")
        is_known = np.isin(hashes[split], hashes["train"])
        if split != "train" and is_known.any():
            found.append(
                f"{is_known.sum()} of {len(images)} {split} images are in train too, "
                f"{first(split, is_known)} for one: accuracies on them flatter"
            )
    labelled = {s: labels for s, (_, labels) in arrays.items() if UNKNOWN not in labels}
    if not labelled:
        return found
    several = _of_several_classes(
        np.concatenate([hashes[split] for split in labelled]),
        np.concatenate(list(labelled.values())),
    )
    for split, is_so in ((s, np.isin(hashes[s], several)) for s in arrays):
        if is_so.any():
            found.append(
                f"{is_so.sum()} of {len(is_so)} {split} images, "
                f"{first(split, is_so)} for one, are in another class too"
            )
    return found


def _hashes(images: NDArray[Any]) -> NDArray[np.int64]:
    """Of each image; 64 bits tell millions apart."""
    found = np.empty(len(images), np.int64)
    with progress(len(images), "Looking for images that are there twice") as bar:
        for i, image in enumerate(images):
            found[i] = hash(image.tobytes())
            bar.update()
    return found


def _of_several_classes(
    hashes: NDArray[np.int64], labels: NDArray[Any]
) -> NDArray[np.int64]:
    """Hashes that come with more than one label."""
    order = np.lexsort((labels, hashes))
    ordered, classes = hashes[order], labels[order]
    is_other = (ordered[1:] == ordered[:-1]) & (classes[1:] != classes[:-1])
    return np.asarray(ordered[1:][is_other])


def divide(images: NDArray[Any], labels: NDArray[Any], share: float) -> list[Labelled]:
    """A division with a fixed seed: the rest, then the share.

    It is stratified where the images have labels.
    """
    from sklearn.model_selection import train_test_split  # takes a second to import

    rest, part = train_test_split(
        np.arange(len(labels)),
        test_size=share,
        stratify=None if is_unlabelled(labels) else labels,
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
