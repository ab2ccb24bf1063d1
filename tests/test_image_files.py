"""Image files of all kinds: shown as they are meant, or refused by name."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from n2n_gym.tasks.image_files import find_files, read_image

DEEP = [0, 257 * 3, 128, 129, 65535]  # 16 bits
SCALED = [0, 3, 0, 1, 255]  # divided by 257: 128 / 257 is .498, 129 / 257 .502
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def pixels(path: Path) -> list[tuple[int, int, int]]:
    """The first row."""
    image = read_image(str(path))
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image)[0].tolist()]


def grey(values: list[int]) -> list[tuple[int, int, int]]:
    return [(value,) * 3 for value in values]


def write_png(
    path: Path,
    row: bytes,
    width: int,
    *,
    bits: int,
    colour: int,
    chunks: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    """One row of pixels as PNG has them; colour 0: grey, 2: RGB, 3: palette, 4: LA."""
    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" + row))]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in [*parts, (b"IEND", b"")]:
        check = struct.pack(">I", zlib.crc32(kind + data))
        content += struct.pack(">I", len(data)) + kind + data + check
    path.write_bytes(content)


def write_tiff(
    path: Path,
    row: bytes,
    width: int,
    *,
    bits: int,
    kind: int = 1,
    photometric: int = 1,
) -> None:
    """One row of greys.

    Args:
        kind: 1: unsigned integers, 2: signed ones.
        photometric: 1: zero is black, 0: zero is white.
    """
    entries = [
        (256, width),
        (257, 1),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, 1),
        (279, len(row)),
        (339, kind),
    ]
    row += b"\0" * (len(row) % 2)
    content = b"II*\0" + struct.pack("<I", 8 + len(row)) + row
    content += struct.pack("<H", len(entries))
    for tag, value in entries:
        content += struct.pack("<HHIHH", tag, 3, 1, value, 0)
    path.write_bytes(content + struct.pack("<I", 0))


# 16 bits a channel


def deep_png(path: Path) -> None:
    write_png(path, struct.pack(">5H", *DEEP), 5, bits=16, colour=0)


def deep_tiff(path: Path) -> None:
    write_tiff(path, struct.pack("<5H", *DEEP), 5, bits=16)


def deep_compressed_tiff(path: Path) -> None:
    Image.fromarray(np.array([DEEP], np.uint16)).save(path, "TIFF", compression="lzma")


def deep_big_endian_tiff(path: Path) -> None:
    image = Image.frombytes("I;16B", (5, 1), struct.pack(">5H", *DEEP))
    image.save(path, "TIFF")


def deep_pgm(path: Path) -> None:
    path.write_bytes(b"P5 5 1 65535\n" + struct.pack(">5H", *DEEP))


def deep_plain_pgm(path: Path) -> None:
    path.write_text(f"P2 5 1 65535 {' '.join(map(str, DEEP))}\n")


@pytest.mark.parametrize(
    "write",
    [
        deep_png,
        deep_tiff,
        deep_compressed_tiff,
        deep_big_endian_tiff,
        deep_pgm,
        deep_plain_pgm,
    ],
)
def test_greys_of_16_bits_are_divided_by_257(tmp_path, write):
    write(tmp_path / "image")
    assert pixels(tmp_path / "image") == grey(SCALED)


def test_greys_of_another_known_range_are_scaled_from_it(tmp_path):
    values = [0, 2048, 4095]
    path = tmp_path / "12.pgm"
    path.write_bytes(b"P5 3 1 4095\n" + struct.pack(">3H", *values))
    assert pixels(path) == grey([0, 128, 255])  # 2048 / 4095 * 255 is 127.5


def deep_rgb(path: Path) -> None:
    row = struct.pack(">6H", 257 * 9, 257 * 200, 65535, 0, 257, 255)
    write_png(path, row, 2, bits=16, colour=2)


def deep_rgb_tiff(path: Path) -> None:
    row = struct.pack("<6H", 257 * 9, 257 * 200, 65535, 0, 257, 255)
    entries = [(256, 2), (257, 1), (258, 0), (259, 1), (262, 2), (273, 8), (277, 3)]
    entries += [(278, 1), (279, len(row))]
    content = b"II*\0" + struct.pack("<I", 8 + len(row)) + row
    content += struct.pack("<H", len(entries))
    end = len(content) + 12 * len(entries) + 4
    for tag, value in entries:
        if tag == 258:
            content += struct.pack("<HHII", tag, 3, 3, end)
        else:
            content += struct.pack("<HHIHH", tag, 3, 1, value, 0)
    path.write_bytes(content + struct.pack("<I3H", 0, 16, 16, 16))


def deep_rgba(path: Path) -> None:
    row = struct.pack(">8H", 257 * 9, 257 * 200, 65535, 65535, 0, 257, 255, 65535)
    write_png(path, row, 2, bits=16, colour=6)


def deep_ppm(path: Path) -> None:
    row = struct.pack(">6H", 257 * 9, 257 * 200, 65535, 0, 257, 0)
    path.write_bytes(b"P6 2 1 65535\n" + row)


@pytest.mark.parametrize("write", [deep_rgb, deep_rgb_tiff, deep_rgba, deep_ppm])
def test_colours_of_16_bits_are_their_upper_8(tmp_path, write):
    write(tmp_path / "image")
    assert pixels(tmp_path / "image") == [(9, 200, 255), (0, 1, 0)]


# Values without a known range


def float_tiff(path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(path, "TIFF")


def integer_tiff(path: Path) -> None:
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(path, "TIFF")


def unsigned_integer_tiff(path: Path) -> None:
    write_tiff(path, struct.pack("<2I", 0, 2**32 - 1), 2, bits=32)


def signed_tiff(path: Path) -> None:
    write_tiff(path, struct.pack("<2h", -5, 5), 2, bits=16, kind=2)


def signed_bytes_tiff(path: Path) -> None:
    write_tiff(path, struct.pack("<2b", -5, 5), 2, bits=8, kind=2)


def twelve_bit_tiff(path: Path) -> None:
    write_tiff(path, bytes([0xFF, 0xF0, 0x00]), 2, bits=12)


def inverted_tiff(path: Path) -> None:
    write_tiff(path, struct.pack("<2H", 0, 65535), 2, bits=16, photometric=0)


def float_pfm(path: Path) -> None:
    path.write_bytes(b"Pf\n2 1\n-1.0\n" + struct.pack("<2f", 0.0, 1.0))


@pytest.mark.parametrize(
    "write",
    [
        float_tiff,
        integer_tiff,
        unsigned_integer_tiff,
        signed_tiff,
        signed_bytes_tiff,
        twelve_bit_tiff,
        inverted_tiff,
        float_pfm,
    ],
)
def test_values_without_a_known_range_are_refused(tmp_path, write):
    path = tmp_path / "image"
    write(path)
    message = r"image cannot be read as an image: its mode is .*8 or 16 bits"
    with pytest.raises(ValueError, match=message):
        read_image(str(path))


# Transparency


def rgba(path: Path) -> None:
    Image.new("RGBA", (1, 1), (0, 100, 255, 51)).save(path, "PNG")


def rgba_webp(path: Path) -> None:
    image = Image.new("RGBA", (1, 1), (0, 100, 255, 51))
    image.save(path, "WEBP", lossless=True, exact=True)


def rgba_tiff(path: Path) -> None:
    image = Image.new("RGBA", (1, 1), (0, 100, 255, 51))
    image.save(path, "TIFF")


def palette_alpha(path: Path) -> None:
    chunks = (b"PLTE", bytes([0, 100, 255])), (b"tRNS", bytes([51]))
    write_png(path, bytes([0]), 1, bits=8, colour=3, chunks=chunks)


def small_palette_alpha(path: Path) -> None:
    chunks = (b"PLTE", bytes([9, 9, 9, 0, 100, 255])), (b"tRNS", bytes([255, 51]))
    write_png(path, bytes([0x80]), 1, bits=1, colour=3, chunks=chunks)


@pytest.mark.parametrize(
    "write", [rgba, rgba_webp, rgba_tiff, palette_alpha, small_palette_alpha]
)
def test_what_is_transparent_lies_on_white(tmp_path, write):
    write(tmp_path / "image")
    # A fifth of the colour, four fifths of white: 0 + 204, 20 + 204, 51 + 204.
    assert pixels(tmp_path / "image") == [(204, 224, 255)]


def grey_alpha(path: Path) -> None:
    write_png(path, bytes([0, 255, 7, 0]), 2, bits=8, colour=4)


def deep_grey_alpha(path: Path) -> None:
    row = struct.pack(">4H", 0, 65535, 7 * 257, 0)
    write_png(path, row, 2, bits=16, colour=4)


def grey_key(path: Path) -> None:
    chunks = ((b"tRNS", struct.pack(">H", 7)),)
    write_png(path, bytes([0, 7]), 2, bits=8, colour=0, chunks=chunks)


def colour_key(path: Path) -> None:
    chunks = ((b"tRNS", struct.pack(">3H", 1, 2, 3)),)
    write_png(path, bytes([0, 0, 0, 1, 2, 3]), 2, bits=8, colour=2, chunks=chunks)


def palette_key(path: Path) -> None:
    chunks = (b"PLTE", bytes([0, 0, 0, 9, 9, 9])), (b"tRNS", bytes([255, 0]))
    write_png(path, bytes([0, 1]), 2, bits=8, colour=3, chunks=chunks)


@pytest.mark.parametrize(
    "write", [grey_alpha, deep_grey_alpha, grey_key, colour_key, palette_key]
)
def test_nothing_is_white_and_the_rest_is_as_it_is(tmp_path, write):
    write(tmp_path / "image")
    assert pixels(tmp_path / "image") == [BLACK, WHITE]


@pytest.mark.parametrize(
    ("bits", "row", "colour", "key"),
    [
        (1, b"\x80", 0, (1,)),
        (2, b"\xc0", 0, (3,)),
        (4, b"\xf0", 0, (15,)),
        (16, struct.pack(">H", 300), 0, (300,)),
        (16, struct.pack(">3H", 300, 300, 300), 2, (300, 300, 300)),
    ],
)
def test_a_transparent_colour_of_other_than_8_bits_is_refused(
    tmp_path, bits, row, colour, key
):
    path = tmp_path / "image"
    chunks = ((b"tRNS", struct.pack(f">{len(key)}H", *key)),)
    write_png(path, row, 1, bits=bits, colour=colour, chunks=chunks)
    with pytest.raises(ValueError, match="its transparent colour is not of 8 bits"):
        read_image(str(path))


# Other modes


@pytest.mark.parametrize(
    ("mode", "pixel", "expected", "kind"),
    [
        ("1", 1, WHITE, "PNG"),
        ("L", 77, (77, 77, 77), "PNG"),
        ("CMYK", (255, 0, 102, 0), (0, 255, 153), "TIFF"),
        ("CMYK", (0, 0, 0, 102), (153, 153, 153), "TIFF"),
        # BT.601: Y 76, Cb 85, Cr 255; back, R = 76 + 1.402 * 127 = 254.
        ("RGB", (255, 0, 0), (254, 0, 0), "JPEG"),
        # Ink where Adobe's inverted values are low.
        ("CMYK", (255, 0, 255, 0), (0, 255, 0), "JPEG"),
        ("RGBX", (1, 2, 3, 4), (1, 2, 3), "TIFF"),
    ],
)
def test_each_mode_becomes_rgb(tmp_path, mode, pixel, expected, kind):
    path = tmp_path / "image"
    Image.new(mode, (1, 1), pixel).save(path, kind)
    assert pixels(path) == [expected]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_greys_of_few_bits_reach_white(tmp_path, bits):
    path = tmp_path / "image"
    write_png(path, b"\xff", 8 // bits, bits=bits, colour=0)
    assert pixels(path) == [WHITE] * (8 // bits)


# L of 100, of 53.3 (an sRGB grey of 127) and of 0, by colour management's rounding.
@pytest.mark.parametrize(("lightness", "expected"), [(255, 255), (136, 127), (0, 0)])
def test_lab_is_converted(tmp_path, lightness, expected):
    path = tmp_path / "image"
    Image.new("LAB", (1, 1), (lightness, 128, 128)).save(path, "TIFF")
    assert np.abs(np.array(pixels(path)) - expected).max() <= 1


def test_where_zero_is_white_greys_are_turned_round(tmp_path):
    path = tmp_path / "image"
    write_tiff(path, bytes([0, 55, 255]), 3, bits=8, photometric=0)
    assert pixels(path) == grey([255, 200, 0])


# Damage


def without_dimensions(path: Path) -> None:
    write_tiff(path, bytes([7, 7]), 2, bits=8)
    path.write_bytes(path.read_bytes().replace(struct.pack("<H", 256), b"\0\0", 1))


def of_no_bits(path: Path) -> None:
    write_tiff(path, bytes([0, 1]), 2, bits=0)


def cut(kind: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(noise).save(path, kind)
        path.write_bytes(path.read_bytes()[:-40])

    return write


@pytest.mark.parametrize(
    "write",
    [without_dimensions, of_no_bits, *map(cut, ("BMP", "PPM", "TIFF", "WEBP", "GIF"))],
)
def test_damaged_files_are_refused(tmp_path, write):
    write(tmp_path / "image")
    with pytest.raises(ValueError, match="/image cannot be read as an image: "):
        read_image(str(tmp_path / "image"))


# Orientation

UPRIGHT = np.arange(6, dtype=np.uint8).reshape(2, 3)  # two rows of three
# How cameras store it, by EXIF's number: where the first row and column of that are.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],  # top, right
    3: UPRIGHT[::-1, ::-1],  # bottom, right
    4: UPRIGHT[::-1],  # bottom, left
    5: UPRIGHT.T,  # left, top
    6: UPRIGHT.T[::-1],  # right, top
    7: UPRIGHT.T[::-1, ::-1],  # right, bottom
    8: UPRIGHT.T[:, ::-1],  # left, bottom
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_an_image_is_turned_as_its_exif_says(tmp_path, orientation, kind):
    path = tmp_path / "image"
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation])).convert("RGB")
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    image.save(path, kind, exif=exif, **options)
    assert np.array_equal(np.asarray(read_image(str(path)))[..., 0], UPRIGHT)


def test_a_jpeg_is_turned_as_its_exif_says(tmp_path):
    path = tmp_path / "image"
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (20, 10)).save(path, "JPEG", exif=exif)
    assert read_image(str(path)).size == (10, 20)


# Several frames


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF"])
def test_an_image_of_several_frames_is_refused(tmp_path, kind):
    path = tmp_path / "image"
    first, second, third = (Image.new("RGB", (4, 4), c) for c in ("red", "blue", "tan"))
    first.save(path, kind, save_all=True, append_images=[second, third])
    with pytest.raises(ValueError, match="it has 3 frames or pages"):
        read_image(str(path))


def test_a_photograph_with_a_preview_is_the_photograph(tmp_path):
    path = tmp_path / "image"
    photograph, preview = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8))
    photograph.save(path, "MPO", save_all=True, append_images=[preview])
    assert pixels(path) == [WHITE] * 8


# Which files there are


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_images_are_found_by_their_suffix_in_any_case_and_in_order(tmp_path):
    names = "b.JPG", "a.png", "c/d.Jpeg", "c.tiff", "c/e/f.WebP"
    touch(tmp_path, *names, "g.gif", "h", "c/i.png.txt")
    found = find_files(tmp_path)
    ordered = "a.png", "b.JPG", "c.tiff", "c/d.Jpeg", "c/e/f.WebP"
    assert found.images == [str(tmp_path / name) for name in ordered]
    assert found.others == [str(tmp_path / n) for n in ("g.gif", "h", "c/i.png.txt")]


@pytest.mark.parametrize(
    "hidden", [".a.png", "._a.png", ".thumbnails/a.png", "b/.ipynb_checkpoints/a.png"]
)
def test_what_is_hidden_is_not_found(tmp_path, hidden):
    found = find_files(touch(tmp_path, "a.png", hidden))
    assert found == ([str(tmp_path / "a.png")], [])


@pytest.mark.parametrize("target", [".", "..", "../..", "../c"])
def test_a_link_to_a_folder_above_is_refused(tmp_path, target):
    folder = touch(tmp_path, "b/a.png") / "b"
    (tmp_path / "c").symlink_to(folder)
    os.symlink(target, folder / "again")
    with pytest.raises(ValueError, match=r"again is a link to .*, which contains it"):
        find_files(folder)


def test_links_that_lead_into_each_other_are_refused(tmp_path):
    one, two = (touch(tmp_path, f"{name}/a.png") / name for name in ("one", "two"))
    (one / "two").symlink_to(two)
    (two / "one").symlink_to(one)
    with pytest.raises(ValueError, match=r"is a link to .*, which contains it"):
        find_files(one)


def test_links_to_other_folders_and_files_are_followed(tmp_path):
    folder = touch(tmp_path, "b/a.png", "c/d.png") / "b"
    (folder / "e").symlink_to(tmp_path / "c")
    (folder / "f.png").symlink_to(tmp_path / "c" / "d.png")
    names = [os.path.relpath(path, folder) for path in find_files(folder).images]
    assert names == ["a.png", "f.png", "e/d.png"]
