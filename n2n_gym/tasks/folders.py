"""Tasks made of image files in folders, one folder per class."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np

from n2n_gym.common.files import data_folder
from n2n_gym.tasks.arrays import (
    SPELLINGS,
    SPLITS,
    Labelled,
    check_classes,
    no_labels,
    three_ways,
    with_validation,
)
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.image_cache import keep_images, load_summary, open_images
from n2n_gym.tasks.image_files import AS_SHOWN, SUFFIXES, find_files
from n2n_gym.tasks.sets import from_torchvision
from n2n_gym.tasks.task import Task

logger = logging.getLogger(__name__)
T = TypeVar("T")

DEFAULT_SIDE: Final = 64


def from_folder(
    folder: str | Path, side: int = DEFAULT_SIDE, name: str | None = None
) -> Task:
    """Your own images: a folder with one subfolder of image files per class.

    The class folders can be inside ``train/``, ``test/`` and optionally ``val/`` (or
    ``validation/``, ``valid/``). Without ``val/``, a tenth of ``train/`` is the
    validation split. Without ``test/``, ``val/`` is the test split and a tenth of
    ``train/`` is the validation split. Without ``train/``, all images are split
    60/20/20. All these divisions are stratified, with a fixed seed. Further subfolders
    beside ``train/`` and files that are not images are skipped with a warning; hidden
    files and folders are skipped silently.

    Images are converted to RGB as a viewer shows them, resized, and cropped to squares.
    Images are decoded once. The cache keeps the decoded images, which can be far larger
    than memory.

    A folder of images without subfolders has no labels: students then learn only a
    trained teacher's logits, and accuracy is agreement with the teacher. The same holds
    if there are split folders and none has subfolders. If only ``train/`` has no class
    folders, accuracy is measured with the labels of the other splits.

    Args:
        side: Side of the images that networks see, in pixels.
        name: Name of the task; by default the folder's name.

    Raises:
        ValueError: There is no such folder, or its splits have different classes. At
            the first use: a file is not an image that can be shown correctly, or a
            class has too few images.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    parts = _find_parts(folder)
    flat = [part for part, place in parts.items() if _is_flat(place)]
    if flat in (list(parts), ["train"]):
        return _unlabelled(folder, side, name, parts, flat)
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
        return _found(folder, parts, class_names)

    named = name or folder.resolve().name
    return _folder_task(named, folder, side, class_names, len(class_names), find)


def _found(
    folder: Path,
    parts: Mapping[str, Path],
    class_names: tuple[str, ...] | None,
    flat: Sequence[str] = (),
) -> Mapping[str, Labelled]:
    """The files and labels of each split; parts in ``flat`` have no real labels."""
    if "all" not in parts:
        _warn_of_others(folder, {place.name for place in parts.values()})
    found = {
        part: _plain_files(place) if part in flat else _files(place, class_names)
        for part, place in parts.items()
    }
    return _divided(folder, found)


def _unlabelled(
    folder: Path,
    side: int,
    name: str | None,
    parts: Mapping[str, Path],
    flat: list[str],
) -> Task:
    """A task of a folder in which training images, or all images, have no classes."""
    class_names = None
    if flat == ["train"] and len(parts) > 1:
        if "validation" not in parts:
            raise ValueError(
                f"{folder}: the images in train have no classes, so a tenth of them "
                f"cannot serve for validation; give val and test, both with a "
                f"subfolder for each class, or both without"
            )
        class_names = _class_names(parts["test"])
        if _class_names(parts["validation"]) != class_names or len(class_names) < 2:
            raise ValueError(
                f"{folder}: validation has the classes "
                f"{', '.join(_class_names(parts['validation']))}, test has "
                f"{', '.join(class_names)}; two or more, the same in both, are needed"
            )

    def find() -> Mapping[str, Labelled]:
        return _found(folder, parts, class_names, flat)

    named = name or folder.resolve().name
    return _folder_task(
        named,
        folder,
        side,
        class_names,
        len(class_names or ()),
        find,
        unlabelled=SPLITS if class_names is None else ("train",),
    )


def imagenet(side: int = DEFAULT_SIDE) -> Task:
    """ImageNet: ``imagenet/train`` and ``imagenet/val`` in the data folder.

    Its labelled validation images are the test split; a tenth of its training images is
    the validation split.

    Raises:
        OSError: The files are missing; they cannot be downloaded without an account.
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
    """Caltech-256 through torchvision, without its clutter class; split 60/20/20.

    Its class names are known only after the download.
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
    unlabelled: tuple[str, ...] = (),
) -> Task:
    """A task of the image files and labels that ``find`` returns for each split."""
    if side < 1:
        raise ValueError(f"the side of images must be at least 1, got {side}")
    name = f"{name}@{side}"

    @cache
    def kept() -> Path:
        files = find()
        labels_of = {s: labels for s, (_, labels) in files.items()}
        labels_of = {s: labels_of[s] for s in SPLITS if s not in unlabelled}
        if labels_of:
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
            f"{AS_SHOWN}, shorter side resized to {side} (bilinear, antialiased), "
            f"centre crop {side}x{side}, as by torchvision's Resize and CenterCrop of "
            f"a PIL image"
        ),
        summary=_OfFolder(load_summary, kept),
        unlabelled=unlabelled,
    )


@dataclass(frozen=True)
class _OfFolder(Generic[T]):
    """Reads from the folder of decoded images; another process gets only its path."""

    read: Callable[[Path], T]
    kept: Callable[[], Path]  # decodes them first, if need be

    def __call__(self) -> T:
        return self.read(self.kept())

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (self.read, self.kept())


def _find_parts(folder: Path) -> Mapping[str, Path]:
    """The folder of each split; without split folders, the given one as ``"all"``."""
    parts = _splits_in(folder)
    # A folder "train" without other splits is the class of trains.
    if "train" not in parts or len(parts) == 1:
        for part in parts.values():
            if _class_names(part) and not any(map(os.path.isfile, _in(part))):
                raise ValueError(
                    f"{folder} has {part.name} with subfolders, which looks like a "
                    f"split; train and test, or train and val, are needed beside it"
                )
        return {"all": folder}
    if "test" not in parts:
        return {"train": parts["train"], "test": parts["validation"]}
    return parts


def _splits_in(folder: Path) -> dict[str, Path]:
    """The subfolders that have the name of a split, by split."""
    entries, found = _in(folder), {}
    for split, spellings in SPELLINGS.items():
        named = [entry for entry in entries if entry.name.lower() in spellings]
        subfolders = [folder / entry.name for entry in named if os.path.isdir(entry)]
        if len(subfolders) > 1:
            raise ValueError(
                f"{folder} has {' and '.join(sorted(p.name for p in subfolders))}; "
                f"only one can be the {split} split"
            )
        if subfolders:
            found[split] = subfolders[0]
    return found


def _in(folder: Path) -> list[os.DirEntry[str]]:
    """Entries of a folder that are not hidden."""
    return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]


def _class_names(folder: Path) -> tuple[str, ...]:
    # An entry's own is_dir() raises if a link leads to itself.
    return tuple(sorted(entry.name for entry in _in(folder) if os.path.isdir(entry)))


def _is_flat(folder: Path) -> bool:
    """Whether a folder has images, and no subfolders that could be classes."""
    names = [entry.name for entry in _in(folder)]
    return not _class_names(folder) and any(
        name.lower().endswith(SUFFIXES) for name in names
    )


def _plain_files(folder: Path) -> Labelled:
    """Paths of all images in an unlabelled folder, with placeholder labels."""
    found = find_files(folder)
    _warn_of_files(folder, found.others)
    return np.array(found.images, dtype=object), no_labels(len(found.images))


def _files(folder: Path, class_names: tuple[str, ...] | None) -> Labelled:
    """Paths of all images, with their labels."""
    assert class_names is not None
    images: list[str] = []
    labels: list[int] = []
    others = [entry.name for entry in _in(folder) if not os.path.isdir(entry)]
    for label, name in enumerate(class_names):
        _refuse_splits(folder / name)
        found = find_files(folder / name)
        if not found.images:
            raise ValueError(
                f"{folder}: the class {name} has no images; their names end in "
                f"{', '.join(SUFFIXES)}"
            )
        images += found.images
        labels += [label] * len(found.images)
        others += found.others
    _warn_of_files(folder, others)
    return np.array(images, dtype=object), np.array(labels)


def _warn_of_files(folder: Path, others: list[str]) -> None:
    """Warn of files that are not images, or not in a class folder."""
    if others:
        counts = Counter(
            os.path.splitext(name)[1] or "without suffix" for name in others
        )
        named = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
        logger.warning(
            "%s: files passed over: %s (%s for one); read are %s files in a folder of "
            "their class",
            folder,
            named,
            others[0],
            ", ".join(SUFFIXES),
        )


def _refuse_splits(folder: Path) -> None:
    """Refuse a class folder with split folders, whose images would be mixed."""
    splits = _splits_in(folder)
    if "train" in splits and len(splits) > 1:
        named = " and ".join(place.name for place in splits.values())
        raise ValueError(
            f"{folder} has {named} within a class; a split is a folder that has a "
            f"subfolder for each class"
        )


def _warn_of_others(folder: Path, used: set[str]) -> None:
    """Warn of entries in a folder that are not used as splits."""
    others = sorted({entry.name for entry in _in(folder)} - used)
    if others:
        logger.warning(
            "%s: %d passed over beside %s: %s",
            folder,
            len(others),
            ", ".join(sorted(used)),
            ", ".join(others[:5]) + (", ..." if len(others) > 5 else ""),
        )


def _divided(where: Path, found: Mapping[str, Labelled]) -> Mapping[str, Labelled]:
    if "validation" in found:
        return found
    try:
        if "train" in found:
            return with_validation(found["train"], found["test"])
        return three_ways(*found["all"])
    except ValueError as error:
        raise ValueError(f"{where} has too few images to split: {error}") from error
