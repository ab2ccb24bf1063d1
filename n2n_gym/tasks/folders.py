"""Tasks made of image files in folders, one folder a class."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np

from n2n_gym.common.files import data_folder
from n2n_gym.tasks.arrays import (
    Labelled,
    check_classes,
    three_ways,
    with_validation,
)
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.image_cache import keep_images, load_summary, open_images
from n2n_gym.tasks.sets import from_torchvision
from n2n_gym.tasks.task import Task

T = TypeVar("T")

DEFAULT_SIDE: Final = 64
_VALIDATION_NAMES: Final = ("val", "validation", "valid")


def from_folder(
    folder: str | Path, side: int = DEFAULT_SIDE, name: str | None = None
) -> Task:
    """Your own images: a folder with a subfolder of image files for each class.

    Such folders of classes may lie in ``train/`` and ``test/``, and perhaps ``val/``
    (or ``validation/``, ``valid/``). Without ``val/``, a tenth of ``train/``
    validates; without ``test/``, ``val/`` is the test split and a tenth of ``train/``
    validates. Folders of classes alone are split 60/20/20. All this is stratified,
    with a fixed seed. Other subfolders beside ``train/`` are left out.

    Images become RGB squares, decoded once and kept in the cache; they may be far
    larger than memory.

    Args:
        side: Of the images that networks see, in pixels.
        name: The folder's own by default.

    Raises:
        ValueError: There is no such folder, or it has no splits of the same classes.
            At the first use: a file is no image, or a class has too few of them.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    parts = _find_parts(folder)
    classes = {part: _class_names(place) for part, place in parts.items()}
    class_names = classes["train" if "train" in classes else "all"]
    for part, others in classes.items():
        for odd in sorted(set(class_names) ^ set(others)):
            lacking, having = ("train", part) if odd in others else (part, "train")
            raise ValueError(
                f"{folder}: the class {odd} is in {having} but not in {lacking}"
            )
    if len(class_names) < 2:
        raise ValueError(
            f"{folder} needs a subfolder of images for each of two or more classes, "
            f"or train/ and test/ with such subfolders; it has "
            f"{', '.join(class_names) or 'no subfolders'}"
        )

    def find() -> Mapping[str, Labelled]:
        found = {part: _files(place, class_names) for part, place in parts.items()}
        return _divided(folder, found)

    named = name or folder.resolve().name
    return _folder_task(named, folder, side, class_names, len(class_names), find)


def imagenet(side: int = DEFAULT_SIDE) -> Task:
    """ImageNet: ``imagenet/train`` and ``imagenet/val`` in the data folder.

    Its labelled validation images are the test split; a tenth of training validates.

    Raises:
        OSError: It is not there: it cannot be downloaded without an account.
    """
    folder = data_folder() / "imagenet"
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise OSError(
                f"there is no folder {folder / part} with ImageNet's images; put them "
                f"there, a subfolder for each class, or set N2N_DATA to the folder "
                f"that has imagenet/"
            )
    return from_folder(folder, side, "imagenet")


def caltech256(side: int = DEFAULT_SIDE) -> Task:
    """Caltech-256 through torchvision, without its class of clutter; split 60/20/20.

    Its class names are known from when it has been downloaded.
    """
    folder = data_folder() / "caltech256" / "256_ObjectCategories"
    num_classes = 256  # the 257th is the clutter

    def find() -> Mapping[str, Labelled]:
        from_torchvision("Caltech256", {})
        class_names = _class_names(folder)[:num_classes]
        return _divided(folder, {"all": _files(folder, class_names)})

    known = _class_names(folder)[:num_classes] if folder.is_dir() else None
    return _folder_task("caltech256", folder, side, known, num_classes, find)


def _folder_task(
    name: str,
    root: Path,
    side: int,
    class_names: tuple[str, ...] | None,
    num_classes: int,
    find: Callable[[], Mapping[str, Labelled]],
) -> Task:
    """A task of the image files that ``find`` gives for each split, with labels."""
    if side < 1:
        raise ValueError(f"the side of images must be at least 1, got {side}")
    name = f"{name}@{side}"

    @cache
    def kept() -> Path:
        files = find()
        labels_of = {split: labels for split, (_, labels) in files.items()}
        check_classes(str(root), labels_of, num_classes, class_names)
        return keep_images(name, root, files, side)

    return Task(
        name,
        (3, side, side),
        num_classes,
        _OfFolder(open_images, kept),
        class_names=class_names,
        augmentation=Augmentation(padding=side // 8, flip=True),
        preprocessing=(
            f"RGB, shorter side resized to {side} (bilinear, antialiased), centre crop "
            f"{side}x{side}, as by torchvision's Resize and CenterCrop of a PIL image"
        ),
        summary=_OfFolder(load_summary, kept),
    )


@dataclass(frozen=True)
class _OfFolder(Generic[T]):
    """What is read from decoded images; another process is sent where they are."""

    read: Callable[[Path], T]
    kept: Callable[[], Path]  # decodes them first, if need be

    def __call__(self) -> T:
        return self.read(self.kept())

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (self.read, self.kept())


def _find_parts(folder: Path) -> Mapping[str, Path]:
    """Where train, test and perhaps validation are, or all."""
    names = [name for name in _VALIDATION_NAMES if (folder / name).is_dir()]
    has_test = (folder / "test").is_dir()
    # A folder named train alone holds images of trains.
    if not (folder / "train").is_dir() or not (names or has_test):
        return {"all": folder}
    if len(names) > 1:
        raise ValueError(f"{folder} has {' and '.join(names)}; only one can validate")
    parts = {"train": folder / "train"}
    if has_test and names:
        parts["validation"] = folder / names[0]
    parts["test"] = folder / ("test" if has_test else names[0])
    return parts


def _class_names(folder: Path) -> tuple[str, ...]:
    subfolders = (entry.name for entry in os.scandir(folder) if entry.is_dir())
    return tuple(sorted(name for name in subfolders if not name.startswith(".")))


def _files(folder: Path, class_names: tuple[str, ...]) -> Labelled:
    """Paths of all images, with their labels."""
    from torchvision.datasets import ImageFolder  # slow to import
    from torchvision.datasets import folder as formats

    def is_image(path: str) -> bool:
        is_hidden = os.path.basename(path).startswith(".")
        return not is_hidden and path.lower().endswith(formats.IMG_EXTENSIONS)

    label_of = {name: label for label, name in enumerate(class_names)}
    try:
        found = ImageFolder.make_dataset(str(folder), label_of, is_valid_file=is_image)
    except FileNotFoundError as error:
        raise ValueError(f"{folder}: {error}") from error
    paths, labels = zip(*found, strict=True)
    return np.array(paths, dtype=object), np.array(labels)


def _divided(where: Path, found: Mapping[str, Labelled]) -> Mapping[str, Labelled]:
    if "validation" in found:
        return found
    try:
        if "train" in found:
            return with_validation(found["train"], found["test"])
        return three_ways(*found["all"])
    except ValueError as error:
        raise ValueError(f"{where} has too few images to split: {error}") from error
