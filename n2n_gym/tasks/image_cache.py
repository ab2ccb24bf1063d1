"""Image files, decoded once to arrays of one size that are kept in memory maps."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from n2n_gym.common.files import cache_folder, to_disk
from n2n_gym.common.progress import progress
from n2n_gym.tasks.arrays import SPLITS, Arrays, Labelled, find_oddities
from n2n_gym.tasks.image_files import read_image
from n2n_gym.tasks.split import as_split
from n2n_gym.tasks.summary import (
    ImageSummary,
    compute_fingerprint,
    compute_normalisation,
)

logger = logging.getLogger(__name__)

_VERSION: Final = 2  # of what is kept; another one is made anew
_AT_ONCE: Final = 50_000_000  # bytes of images in memory while decoding


def keep_images(
    name: str, root: Path, files: Mapping[str, Labelled], side: int
) -> Path:
    """The folder in the cache with these images, which are decoded if need be.

    Args:
        root: What file names are relative to in the key.
        files: Of each split, the paths and the labels.
        side: Of the square images, in pixels.

    Raises:
        ValueError: A file is no image, or damaged; or there is no room for so many
            images of this size.
    """
    folder = cache_folder() / "images" / f"{name}-{_key(root, files, side)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Whoever comes second waits, then finds what the first has made.
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not _is_whole(folder):
            part = folder.with_name(f"{folder.name}.part")
            for leftover in (part, folder):
                if leftover.exists():
                    shutil.rmtree(leftover)
            _check_room(folder.parent, files, side)
            part.mkdir()
            _write(part, name, files, side)
            os.replace(part, folder)
    for oddity in _about(folder)["oddities"]:
        logger.warning("%s: %s", name, oddity)
    return folder


def open_images(folder: Path) -> Arrays:
    """Memory maps of the images, (N, H, W, C), with the labels."""
    return {
        split: (
            # Copy-on-write, which nobody uses: torch takes no read-only arrays.
            np.load(folder / f"{split}.npy", mmap_mode="c").transpose(0, 2, 3, 1),
            np.load(folder / f"{split}-labels.npy"),
        )
        for split in SPLITS
    }


def load_summary(folder: Path) -> ImageSummary:
    """What was computed when the images were decoded: they do not change after that."""
    about = _about(folder)
    mean, std = about["normalisation"]
    return ImageSummary(about["fingerprint"], (tuple(mean), tuple(std)))


def _about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "about.json").read_text())
    return found


def _key(root: Path, files: Mapping[str, Labelled], side: int) -> str:
    """SHA-256 of the files' names, sizes and times.

    Archives and copies bring old times of modification with them, and many formats give
    all images one size; nobody sets the time of the last change, ctime.

    Raises:
        ValueError: One is no file.
    """
    digest = hashlib.sha256(f"{_VERSION} {side}".encode())
    total = sum(len(labels) for _, labels in files.values())
    with progress(total, f"Sizes and times in {root}", "file") as bar:
        for split in SPLITS:
            for path, label in zip(*files[split], strict=True):
                found = _status(path)
                relative = str(path).removeprefix(str(root))
                times = f"{found.st_mtime_ns}\t{found.st_ctime_ns}"
                line = f"{split}\t{label}\t{relative}\t{found.st_size}\t{times}"
                digest.update(f"{line}\n".encode("utf-8", "surrogateescape"))
                bar.update()
    return digest.hexdigest()[:12]


def _status(path: str) -> os.stat_result:
    try:
        found = os.stat(path)
    except OSError as error:  # a link to nowhere
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is no file; it is named like an image")
    return found


def _is_whole(folder: Path) -> bool:
    if not folder.exists():
        return False
    try:
        load_summary(folder)
        _about(folder)["oddities"]
        open_images(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s) and is made anew", folder, error)
        return False
    return True


def _check_room(folder: Path, files: Mapping[str, Labelled], side: int) -> None:
    total = sum(len(labels) for _, labels in files.values())
    needed, free = total * _bytes(side), shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{total} images of {side}x{side} pixels take {needed / 1e9:,.1f} GB, and "
            f"{folder} has {free / 1e9:,.1f} GB left; take smaller ones, such "
            f"as <folder>@64, or set N2N_CACHE to a folder with more room"
        )


def _bytes(side: int) -> int:
    """Of one image, (3, side, side) uint8."""
    return 3 * side * side


def _write(folder: Path, name: str, files: Mapping[str, Labelled], side: int) -> None:
    total = sum(len(labels) for _, labels in files.values())
    with progress(total, f"Reading {name}", "image", is_long=True) as bar:
        for split, (paths, labels) in files.items():
            with open(folder / f"{split}.npy", "wb") as file:
                # Written, not mapped: a full disk is then an error, not a crash.
                shape = len(paths), 3, side, side
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for images in _decoded(iter(paths), side):
                    file.write(images.data)
                    bar.update(len(images))
                to_disk(file)
            with open(folder / f"{split}-labels.npy", "wb") as file:
                np.save(file, labels)
                to_disk(file)
    arrays = open_images(folder)
    splits = {split: as_split(*part) for split, part in arrays.items()}
    about = {
        "name": name,
        "fingerprint": compute_fingerprint(splits),
        "normalisation": compute_normalisation(splits["train"].images),
        "oddities": find_oddities(
            arrays, {s: paths for s, (paths, _) in files.items()}
        ),
    }
    with open(folder / "about.json", "w") as text:
        json.dump(about, text, indent=1)
        to_disk(text)


def _decoded(paths: Iterator[str], side: int) -> Iterator[NDArray[np.uint8]]:
    """The images in their order, in arrays of (n, C, H, W)."""
    count = max(1, _AT_ONCE // _bytes(side))
    with ThreadPoolExecutor(thread_name_prefix="decode") as pool:
        while some := list(islice(paths, count)):
            images = np.stack(list(pool.map(partial(_decode, side=side), some)))
            yield np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _decode(path: str, side: int) -> NDArray[np.uint8]:
    """The middle of the image, (H, W, C)."""
    from torchvision.transforms import functional  # slow to import

    resized = functional.resize(read_image(path), [side])  # antialiased
    return np.asarray(functional.center_crop(resized, [side]))
