"""Images from a file that ``numpy.savez`` wrote."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from n2n_gym.tasks.arrays import (
    SPLITS,
    Arrays,
    Labelled,
    check_classes,
    check_images,
    check_labels,
    with_validation,
)
from n2n_gym.tasks.task import Task


def from_npz(path: str | Path, name: str | None = None) -> Task:
    """Your own images: a file that ``numpy.savez`` wrote.

    It holds ``train_images``, ``train_labels``, ``test_images``, ``test_labels`` and
    perhaps ``validation_images``, ``validation_labels``: uint8 images, (N, H, W) or
    (N, H, W, C), and integer labels from 0, (N,). Without a validation split, a tenth
    of the training images becomes one. It is read whole: what does not fit in memory
    belongs in a folder of images, which is streamed.

    Raises:
        ValueError: A key is missing, an array has the wrong type, shape or length, or
            a split lacks a class.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; a task's .npz must exist")
    arrays = _checked_arrays(path)
    images, labels = arrays["train"]
    height, width, channels = (*images.shape[1:], 1)[:3]
    colours = {1: "grey ", 3: "RGB "}.get(channels, "")
    return Task(
        name or path.stem,
        (channels, height, width),
        int(labels.max()) + 1,
        lambda: arrays,
        preprocessing=f"{height}x{width} {colours}images, as in {path.name}",
    )


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
        raise ValueError(
            f"{path} cannot be read as an .npz file of plain arrays"
        ) from error
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
        images, labels = data[keys[0]], data[keys[1]]
        check_images(str(path), split, images)
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
    labels_of = {split: labels for split, (_, labels) in parts.items()}
    check_classes(str(path), labels_of, int(labels_of["train"].max()) + 1)
    return parts
