"""Images from a file that ``numpy.savez`` wrote."""

from __future__ import annotations

import io
import logging
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray

from n2n_gym.common.progress import progress
from n2n_gym.tasks.arrays import (
    SPELLINGS,
    SPLITS,
    Arrays,
    Labelled,
    check_classes,
    check_images,
    check_labels,
    check_layout,
    find_oddities,
    is_unlabelled,
    no_labels,
    with_validation,
)
from n2n_gym.tasks.task import Task

logger = logging.getLogger(__name__)

_IMAGES: Final = ("images", "x")
_LABELS: Final = ("labels", "y")
# Each accepted key with its array: train_images, x_train, Y_val, ...
_KEYS: Final[Mapping[str, str]] = {
    key: f"{split}_{kinds[0]}"
    for split, spellings in SPELLINGS.items()
    for spelling in spellings
    for kinds in (_IMAGES, _LABELS)
    for kind in kinds
    for key in (f"{spelling}_{kind}", f"{kind}_{spelling}")
}


def from_npz(path: str | Path, name: str | None = None) -> Task:
    """Your own images: a file that ``numpy.savez`` wrote.

    The file holds ``train_images``, ``train_labels``, ``test_images``, ``test_labels``,
    and optionally ``validation_images`` and ``validation_labels``. Images are uint8,
    (N, H, W) or (N, H, W, C); labels are integers from 0, (N,) or (N, 1). Splits can be
    named as in folders ("val_images"), and arrays can be called x and y ("x_train",
    "y_train"). Without a validation split, a tenth of the training images becomes the
    validation split.

    Without ``train_labels``, students learn only a trained teacher's logits. Such a
    file must have either both validation and test labels, or no labels at all. Without
    any labels, accuracy is agreement with the teacher.

    The file is read into memory. For data larger than memory, use a folder of images,
    which is streamed.

    Raises:
        ValueError: A key is missing or unknown, an array has the wrong type, shape or
            length, or a split lacks a class.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file {path}; a task's .npz must exist")
    arrays = _checked_arrays(path)
    images, _ = arrays["train"]
    unlabelled = tuple(s for s in SPLITS if is_unlabelled(arrays[s][1]))
    if unlabelled:
        logger.warning(
            "%s has no %s: students learn the teacher's answers instead",
            path,
            " and no ".join(f"{split}_labels" for split in unlabelled),
        )
    height, width, channels = (*images.shape[1:], 1)[:3]
    colours = {1: "grey ", 3: "RGB "}.get(channels, "")
    return Task(
        name or path.stem,
        (channels, height, width),
        int(arrays["validation" if unlabelled else "train"][1].max()) + 1,
        lambda: arrays,
        preprocessing=f"{height}x{width} {colours}images, as in {path.name}",
        unlabelled=unlabelled,
    )


class _Counting(io.RawIOBase):
    """A file that reports how much of it has been read."""

    def __init__(self, file: BinaryIO, tell: Callable[[int], object]) -> None:
        self._file, self._tell = file, tell

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(size)
        self._tell(len(found))
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def _arrays_in(file: io.RawIOBase) -> dict[str, NDArray[Any]]:
    found = np.load(cast(BinaryIO, file), allow_pickle=False)
    if not isinstance(found, Mapping):
        raise ValueError("it holds a single array")
    return dict(found)


def _checked_arrays(path: Path) -> Arrays:
    try:
        size = path.stat().st_size
        with open(path, "rb") as file, progress(size, f"Reading {path.name}", "B") as b:
            data = _arrays_in(_Counting(file, b.update))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as an .npz file of plain arrays"
        ) from error
    data = _renamed(path, data)
    labelled = _labelled(path, data)
    parts: dict[str, Labelled] = {}
    for split in SPLITS:
        keys = f"{split}_images", f"{split}_labels"
        if split == "validation" and not set(keys) & data.keys():
            continue
        for key in keys[: 1 + (split in labelled)]:
            if key not in data:
                raise ValueError(
                    f"{path} lacks {key}; it has {', '.join(sorted(data))}"
                )
        images = data[keys[0]]
        if split not in labelled:
            check_images(str(path), split, images)
            check_layout(str(path), split, images)
            parts[split] = images, no_labels(len(images))
            check_labels(str(path), split, parts[split][1], len(images), is_known=False)
            continue
        labels = data[keys[1]]
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        check_images(str(path), split, images)
        check_layout(str(path), split, images)
        check_labels(str(path), split, labels, len(images))
        parts[split] = images, labels
    shape = parts["train"][0].shape[1:]
    for split, (images, _) in parts.items():
        if images.shape[1:] != shape:
            raise ValueError(
                f"{path}: {split}_images are {images.shape[1:]}, train_images {shape}"
            )
    if "validation" not in parts:
        try:
            parts = dict(with_validation(parts["train"], parts["test"]))
        except ValueError as error:
            raise ValueError(f"{path} has no validation split, and {error}") from error
    labels_of = {s: labels for s, (_, labels) in parts.items() if s in labelled}
    if labels_of:
        labels = next(iter(labels_of.values()))  # training's labels, if it has any
        check_classes(str(path), labels_of, int(labels.max()) + 1)
    for oddity in find_oddities(parts):
        logger.warning("%s: %s", path, oddity)
    return parts


def _labelled(path: Path, data: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """The splits whose labels are given or required.

    Raises:
        ValueError: The training split has no labels, and only one of validation and
            test has labels.
    """
    given = [split for split in SPLITS if f"{split}_labels" in data]
    if not given and "train_images" in data:
        return ()
    if "train" in given or "train_images" not in data:
        return SPLITS
    if given == ["validation", "test"]:
        return SPLITS[1:]
    raise ValueError(
        f"{path} lacks train_labels, and has {given[0]}_labels; without labels of the "
        f"training images, validation_images and test_images both have labels, or "
        f"neither has"
    )


def _renamed(path: Path, data: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays by standard names, such as ``train_images``."""
    renamed: dict[str, str] = {}
    for key in data:
        name = _KEYS.get(key.lower())
        if name is None:
            splits = "; ".join(", ".join(names) for names in SPELLINGS.values())
            raise ValueError(
                f"{path} has the unknown key {key!r}; accepted are train_images or "
                f"x_train, train_labels or y_train, and so on, of the splits {splits}"
            )
        if name in renamed:
            raise ValueError(
                f"{path} has {renamed[name]} and {key}; only one can be {name}"
            )
        renamed[name] = key
    return {name: data[key] for name, key in renamed.items()}
