"""Image files, decoded once into memory-mapped arrays of one size."""

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

from n2n_gym.common.files import cache_folder, read_kept, to_disk
from n2n_gym.common.progress import progress
from n2n_gym.common.quantities import show_quantity
from n2n_gym.tasks.arrays import SPLITS, Arrays, Labelled, find_oddities
from n2n_gym.tasks.image_files import read_image
from n2n_gym.tasks.split import as_split
from n2n_gym.tasks.summary import (
    ImageSummary,
    compute_fingerprint,
    compute_normalisation,
)

logger = logging.getLogger(__name__)

_VERSION: Final = 2  # version of the cached files; older files are made again
_AT_ONCE: Final = 50_000_000  # bytes of images in memory while decoding


def keep_images(
    name: str, root: Path, files: Mapping[str, Labelled], side: int
) -> Path:
    """The cache folder of decoded images; if it is missing, the images are decoded.

    Args:
        root: Folder of the image files. The cache folder's key depends on their paths
            relative to it.
        files: Paths and labels of each split.
        side: Side of the square images, in pixels.

    Raises:
        ValueError: A file is not an image or is damaged, or there is no room for the
            decoded images.
    """
    folder = cache_folder() / "images" / f"{name}-{_key(root, files, side)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A second process waits, then finds the first one's result.
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if read_kept(folder, _read) is None:
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
    """Memory maps of each split's images, (N, H, W, C), with the labels."""
    return {
        split: (
            # Copy-on-write, because torch takes no read-only arrays; nobody writes.
            np.load(folder / f"{split}.npy", mmap_mode="c").transpose(0, 2, 3, 1),
            np.load(folder / f"{split}-labels.npy"),
        )
        for split in SPLITS
    }


def load_summary(folder: Path) -> ImageSummary:
    """The summary that was computed when the images were decoded."""
    about = _about(folder)
    mean, std = about["normalisation"]
    return ImageSummary(about["fingerprint"], (tuple(mean), tuple(std)))


def _about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "about.json").read_text())
    return found


def _key(root: Path, files: Mapping[str, Labelled], side: int) -> str:
    """Key of image files: a SHA-256 of their names, labels, sizes and times, shortened.

    Sizes and modification times do not show every change: archives and copies keep old
    times, and in many formats all images with the same number of pixels give files of
    one size. So the key also contains ctime, which programs cannot set.

    Raises:
        ValueError: A path is not a file that can be read.
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
        raise ValueError(f"{path} is named like an image, but is not a file")
    return found


def _read(folder: Path) -> Arrays:
    """The images; raises an error if a file of the folder is missing or damaged."""
    load_summary(folder)
    _about(folder)["oddities"]
    return open_images(folder)


def _check_room(folder: Path, files: Mapping[str, Labelled], side: int) -> None:
    total = sum(len(labels) for _, labels in files.values())
    needed, free = total * _bytes(side), shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{total} images of {side}x{side} pixels take "
            f"{show_quantity('bytes', needed, digits=4)}, and {folder} has "
            f"{show_quantity('bytes', free, digits=4)} left; take smaller ones, such "
            f"as <folder>@64, or set N2N_CACHE to a folder with more room"
        )


def _bytes(side: int) -> int:
    """Bytes of one image, (3, side, side) uint8."""
    return 3 * side * side


def _write(folder: Path, name: str, files: Mapping[str, Labelled], side: int) -> None:
    total = sum(len(labels) for _, labels in files.values())
    with progress(total, f"Reading {name}", "image", is_long=True) as bar:
        for split, (paths, labels) in files.items():
            with open(folder / f"{split}.npy", "wb") as file:
                # Written instead of mapped, so that a full disk is an error and not a
                # crash.
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
    """The decoded images in the order of the paths, in arrays (n, C, H, W)."""
    count = max(1, _AT_ONCE // _bytes(side))
    with ThreadPoolExecutor(thread_name_prefix="decode") as pool:
        while some := list(islice(paths, count)):
            images = np.stack(list(pool.map(partial(_decode, side=side), some)))
            yield np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _decode(path: str, side: int) -> NDArray[np.uint8]:
    """The central square of a resized image, (H, W, C)."""
    from torchvision.transforms import functional  # slow to import

    resized = functional.resize(read_image(path), [side])  # antialiased
    return np.asarray(functional.center_crop(resized, [side]))
