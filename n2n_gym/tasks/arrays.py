"""Labelled images as arrays: checks, warnings and splitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from n2n_gym.common.progress import progress

SPLITS: Final = ("train", "validation", "test")
# Accepted names of a split's folder or array, in upper or lower case.
SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
_FEW: Final = 64  # images
_DARK: Final = 16  # images no brighter than this were probably not scaled to 255
_SPLIT_SEED: Final = 0
UNKNOWN: Final = -1  # placeholder label in splits without labels
# Splits that may have no labels: none, only training, or all.
UNLABELLED: Final[tuple[tuple[str, ...], ...]] = ((), ("train",), SPLITS)

Labelled: TypeAlias = tuple[NDArray[Any], NDArray[Any]]  # images, labels
Arrays: TypeAlias = Mapping[str, Labelled]
# Mean and standard deviation of each channel, for pixels in [0, 1].
Statistics: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]


def check_splits(where: str, arrays: object) -> None:
    """Refuse anything but a mapping from split names to pairs of images and labels."""
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
    """Placeholder labels for images without labels, (N,)."""
    return np.full(count, UNKNOWN, np.int64)


def check_unlabelled(where: str, unlabelled: object) -> None:
    """Raise a ValueError unless the argument is one of ``UNLABELLED``."""
    if unlabelled not in UNLABELLED:
        raise ValueError(
            f"{where}: unlabelled must be ('train',) or {SPLITS}, got {unlabelled!r}"
        )


def fill_labels(where: str, arrays: object, unlabelled: Sequence[str]) -> object:
    """The given arrays, with the label ``UNKNOWN`` for images of unlabelled splits.

    Arguments that are not mappings, and entries that are not pairs, are returned
    unchanged; ``check_splits`` refuses them.

    Raises:
        ValueError: A split in ``unlabelled`` has labels.
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
                f"{where}: {split} is unlabelled but has labels; its labels must be "
                f"None"
            )
    return filled


def is_unlabelled(labels: object) -> bool:
    """Whether these are placeholder labels."""
    return isinstance(labels, np.ndarray) and bool((labels == UNKNOWN).all())


def check_images(where: str, split: str, images: NDArray[Any]) -> None:
    """Refuse images that are not uint8 of shape (N, H, W) or (N, H, W, C)."""
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

    Images are (N, H, W, C). They are refused if C is above 4 and H looks like a number
    of channels: H is 1, 3 or 4, or below both W and C. (Hyperspectral images also have
    many channels, but a larger height.)
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
    """Refuse labels unless there is one integer of at least 0 for each image.

    Args:
        is_known: Whether these are real labels. Placeholders can be negative.
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
    """Refuse fewer than two classes, too high labels, and splits that lack a class.

    If a class were missing in validation or test, nobody would notice that a student
    forgot it. If it were missing in training, no network could learn it.

    Args:
        labels: Labels of the splits that have labels.
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
                f"{where}: {split} lacks the class {missing}{named}; every split needs "
                f"images of each of the {num_classes} classes"
            )


def are_equal(images: NDArray[Any]) -> bool:
    """Whether there are several images and all are equal.

    For memory-mapped images the answer is False, because reading them takes long. For
    other images, a comparison of the first ones is usually enough.
    """
    if isinstance(images, np.memmap) or len(images) < 2:
        return False
    if (images[:_FEW] != images[0]).any():
        return False
    return bool((images == images[0]).all())


def find_oddities(
    arrays: Arrays, names: Mapping[str, NDArray[Any]] | None = None
) -> list[str]:
    """Warnings about data that are valid but probably a mistake.

    Args:
        names: Names of the images in each split; by default their positions.
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
    """A 64-bit hash of each image; equal hashes are unlikely even among millions."""
    found = np.empty(len(images), np.int64)
    with progress(len(images), "Looking for images that are there twice") as bar:
        for i, image in enumerate(images):
            found[i] = hash(image.tobytes())
            bar.update()
    return found


def _of_several_classes(
    hashes: NDArray[np.int64], labels: NDArray[Any]
) -> NDArray[np.int64]:
    """Hashes that occur with more than one label."""
    order = np.lexsort((labels, hashes))
    ordered, classes = hashes[order], labels[order]
    is_other = (ordered[1:] == ordered[:-1]) & (classes[1:] != classes[:-1])
    return np.asarray(ordered[1:][is_other])


def divide(images: NDArray[Any], labels: NDArray[Any], share: float) -> list[Labelled]:
    """Divide images at random into two parts, with a fixed seed.

    The division is stratified if the images have labels.

    Args:
        share: Fraction of the images in the second part.
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
    """The three splits, with a tenth of the training images moved to validation."""
    train, validation = divide(*train, 0.1)
    return {"train": train, "validation": validation, "test": test}


def three_ways(images: NDArray[Any], labels: NDArray[Any]) -> Arrays:
    """Divide images at random: 60% for training, 20% for validation, 20% for test."""
    rest, test = divide(images, labels, 0.2)
    train, validation = divide(*rest, 0.25)
    return {"train": train, "validation": validation, "test": test}
