"""Finds and reads image files in a folder."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from n2n_gym.common.progress import progress

SUFFIXES: Final = (
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),
)
# Steps for every image before it is resized.
AS_SHOWN: Final = "RGB, turned as EXIF says, transparency on white, 16 bits scaled to 8"
_DEEP: Final = ("I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of 16-bit greys
_LARGEST: Final = 65535 // 255  # 16 bits divided by this are 8 bits
# Errors of Pillow for files that are not images or are damaged.
_DAMAGES: Final = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


class Files(NamedTuple):
    """Paths of a folder's files, without hidden files."""

    images: list[str]
    others: list[str]


def find_files(folder: Path) -> Files:
    """All files under a folder, in a fixed order; symbolic links are followed.

    Raises:
        ValueError: A folder cannot be listed, or is a link to a folder that contains
            it.
    """
    found = Files([], [])

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}")

    folders = []
    walk = os.walk(folder, onerror=refuse, followlinks=True)
    with progress(None, f"Listing {folder}", "file") as bar:
        for place, subfolders, names in walk:
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            for name in subfolders:
                _refuse_circle(Path(place, name))
            folders.append((place, sorted(n for n in names if not n.startswith("."))))
            bar.update(len(names))
    for place, names in sorted(folders):
        for name in names:
            kind = found.images if name.lower().endswith(SUFFIXES) else found.others
            kind.append(os.path.join(place, name))
    return found


def _refuse_circle(folder: Path) -> None:
    above = (parent.resolve() for parent in folder.absolute().parents)
    if folder.is_symlink() and folder.resolve() in above:
        raise ValueError(
            f"{folder} is a link to {folder.resolve()}, which contains it: its images "
            f"would be read endlessly"
        )


def read_image(path: str) -> Image.Image:
    """An image as a viewer shows it, in RGB.

    It is turned by its EXIF orientation. Transparent pixels get a white background.
    16-bit grey values v become v / 257; 16-bit colours keep their upper 8 bits.

    Raises:
        ValueError: The file is not an image, is damaged, has several frames, or has
            values other than 8 or 16 bits from black to white.
    """
    try:
        with Image.open(path) as image:
            _check(image)
            return _as_rgb(ImageOps.exif_transpose(image))
    except _DAMAGES as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def _check(image: Image.Image) -> None:
    """Refuse images that Pillow would show differently than intended."""
    # Cameras put previews into JPEG files, after the photograph.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"it has {frames} frames or pages; an image must have one")
    is_keyed = image.format == "PNG" and "transparency" in image.info
    if is_keyed and image.mode != "P" and _raw_mode(image) not in ("L", "RGB"):
        raise ValueError(
            "its transparent colour is not of 8 bits; save it with an alpha channel"
        )
    tags = getattr(image, "tag_v2", {})  # TIFF files have it
    bits, kinds = tags.get(258, (8,)), tags.get(339, (1,))  # 1: unsigned integers
    is_inverted = image.mode in _DEEP and tags.get(262) == 0  # Pillow leaves it so
    is_deep = image.mode == "I" and image.format in ("PNG", "PPM")  # 16 bits after all
    is_known = image.mode not in ("I", "F") or is_deep
    if set(kinds) != {1} or max(bits) not in (1, 2, 4, 8, 16) or is_inverted:
        is_known = False
    if not is_known:
        raise ValueError(
            f"its mode is {image.mode}, which is not 8 or 16 bits from black to white; "
            f"convert it to 8 bits"
        )


def _raw_mode(image: Image.Image) -> str:
    """The pixel format of a PNG file, from which Pillow derives the image's mode."""
    tile: tuple[Any, ...] = getattr(image, "tile")[0]  # noqa: B009  (untyped)
    return str(tile[3])


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", *_DEEP):
        values = np.rint(np.asarray(image) / _LARGEST).astype(np.uint8)
        return Image.fromarray(values).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")
