"""Folders of image files as tasks: how they are divided, read, kept and refused."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2

from n2n_gym.common.files import cache_folder
from n2n_gym.tasks.arrays import SPLITS
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.loading import load_task
from n2n_gym.tasks.summary import compute_fingerprint, compute_normalisation
from n2n_gym.tasks.task import Task

CLASSES = ("cat", "dog", "owl")


def picture(seed: int, height: int = 12, width: int = 16) -> NDArray[np.uint8]:
    shape = height, width, 3
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def fill(folder: Path, classes: Sequence[str] = CLASSES, count: int = 10) -> Path:
    """As many different PNG files of each class."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            seed = zlib.crc32(f"{folder.name} {label} {index}".encode())
            Image.fromarray(picture(seed)).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("N2N_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pets(tmp_path) -> Path:
    return tmp_path / "pets"


def load(folder: Path, side: int = 8) -> Task:
    return load_task(f"{folder}@{side}")


def sizes(task: Task) -> tuple[int, ...]:
    return tuple(len(task.splits[name]) for name in SPLITS)


def kept() -> list[Path]:
    """The folders of decoded images."""
    return [path for path in (cache_folder() / "images").iterdir() if path.is_dir()]


def pixels(folder: Path) -> set[bytes]:
    """The images of a folder as 12x12 pixels, which need only a crop."""
    opened = [np.asarray(Image.open(path)) for path in folder.rglob("*.png")]
    return {bytes(image[:, 2:14].transpose(2, 0, 1).tobytes()) for image in opened}


def images_in(task: Task, split: str) -> set[bytes]:
    return {image.numpy().tobytes() for image in task.splits[split].images}


# How a folder is divided


def test_folders_of_classes_are_split_60_20_20(pets):
    task = load(fill(pets), side=12)
    assert task.name == "pets@12"
    assert (task.input_shape, task.num_classes) == ((3, 12, 12), 3)
    assert task.class_names == CLASSES
    assert sizes(task) == (18, 6, 6)
    for name, count in zip(SPLITS, (6, 2, 2), strict=True):
        assert torch.bincount(task.splits[name].labels).tolist() == [count] * 3
    parts = [images_in(task, name) for name in SPLITS]
    assert set.union(*parts) == pixels(pets)
    assert sum(map(len, parts)) == 30


def test_a_label_is_that_of_its_folder(pets):
    task = load(fill(pets), side=12)
    for label, name in enumerate(CLASSES):
        of_class = pixels(pets / name)
        for split in task.splits.values():
            found = {i.numpy().tobytes() for i in split.images[split.labels == label]}
            assert found <= of_class


@pytest.mark.parametrize("validation", ["val", "validation", "valid"])
def test_splits_of_a_folder_are_kept(pets, validation):
    for part, count in (("train", 5), (validation, 2), ("test", 3)):
        fill(pets / part, count=count)
    task = load(pets, side=12)
    assert sizes(task) == (15, 6, 9)
    for name, part in zip(SPLITS, ("train", validation, "test"), strict=True):
        assert images_in(task, name) == pixels(pets / part)


@pytest.mark.parametrize("other", ["test", "val", "valid"])
def test_of_two_parts_the_second_is_the_test_split(pets, other):
    fill(pets / "train", count=10)
    fill(pets / other, count=2)
    task = load(pets, side=12)
    assert sizes(task) == (27, 3, 6)
    assert images_in(task, "test") == pixels(pets / other)
    together = images_in(task, "train") | images_in(task, "validation")
    assert together == pixels(pets / "train")


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Val", "TEST"),
        ("training", "validation", "testing"),
        ("TRAIN", "Valid", "test"),
        ("train", "VALIDATION", "Testing"),
    ],
)
def test_a_split_may_have_each_of_its_names_in_any_case(pets, names):
    for name, count in zip(names, (5, 2, 3), strict=True):
        fill(pets / name, count=count)
    task = load(pets, side=12)
    assert task.class_names == CLASSES
    for split, name in zip(SPLITS, names, strict=True):
        assert images_in(task, split) == pixels(pets / name)


@pytest.mark.parametrize("name", ["train", "Test", "val", "testing"])
def test_a_split_alone_is_no_class(pets, name):
    fill(pets / name)
    fill(pets / "more", classes=("cat",))
    with pytest.raises(ValueError, match=f"has {name} with subfolders, which looks"):
        load(pets)


@pytest.mark.parametrize(
    "names", [("train", "test"), ("Train", "VAL"), ("training", "valid", "testing")]
)
@pytest.mark.parametrize("place", ["cat", "owl"])
def test_splits_within_a_class_are_refused(pets, names, place):
    fill(pets)
    fill(pets / place, names)
    message = rf"{place} has {names[0]} and .* within a class"
    with pytest.raises(ValueError, match=message):
        _ = load(pets).splits


def test_a_class_may_be_that_of_trains(pets):
    task = load(fill(pets, classes=("car", "train")))
    assert task.class_names == ("car", "train")


def test_hidden_and_other_files_are_left_out(pets):
    fill(pets)
    (pets / ".thumbnails").mkdir()
    (pets / "readme.txt").write_text("pets")
    (pets / "cat" / "notes.txt").write_text("cats")
    (pets / "cat" / "._0.png").write_text("not an image")
    task = load(pets)
    assert task.class_names == CLASSES
    assert sum(sizes(task)) == 30


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ("cat/a.gif", "dog/b.gif", "dog/c.txt"),
            r": files passed over: 2 \.gif, 1 \.txt \(",
        ),
        (("loose.png",), r"passed over: 1 \.png \(loose\.png for one\)"),
        (
            ("owl/a/b/no_suffix",),
            r"passed over: 1 without suffix \(.*no_suffix for one",
        ),
        (("cat/a.heic", "b.HEIC"), r"passed over: 1 \.HEIC, 1 \.heic \("),
        (
            ("cat/a.npy",),
            r"pets: files passed.*; read are \.jpg, .* in a folder of their",
        ),
    ],
)
def test_what_is_passed_over_is_counted_and_named(pets, caplog, files, message):
    fill(pets)
    for file in files:
        (pets / file).parent.mkdir(parents=True, exist_ok=True)
        (pets / file).write_bytes(b"something")
    assert sum(sizes(load(pets))) == 30
    assert re.search(message, caplog.text)
    caplog.clear()
    assert sum(sizes(load(pets))) == 30  # from the cache
    assert re.search(message, caplog.text)


@pytest.mark.parametrize("other", ["extra", "unlabelled", "vals", "notes.txt"])
def test_what_lies_beside_the_splits_is_named(pets, caplog, other):
    for part in ("train", "test"):
        fill(pets / part)
    (pets / other).mkdir()
    _ = load(pets).splits
    assert f"pets: 1 passed over beside test, train: {other}" in caplog.text


def test_nothing_is_said_of_a_folder_that_is_read_whole(pets, caplog):
    fill(pets)
    (pets / "cat" / ".DS_Store").touch()
    _ = load(pets).splits
    assert not caplog.text


# What an image becomes


def test_the_side_is_64_unless_told(pets):
    task = load_task(str(fill(pets)))
    assert task.name == "pets@64"
    assert task.input_shape == (3, 64, 64)
    assert task.augmentation == Augmentation(padding=8, flip=True)
    assert "resized to 64" in task.preprocessing
    assert load(pets, side=32).augmentation == Augmentation(padding=4, flip=True)


@pytest.mark.parametrize("side", [10**6, 99_999_999, 10**12, 2**63])
def test_images_that_no_disk_has_room_for_are_refused(pets, side):
    with pytest.raises(ValueError, match=rf"{side}x{side} pixels take .*B left"):
        load(fill(pets), side).split("train", torch.device("cpu"))


@pytest.mark.parametrize("shape", [(40, 70), (91, 33), (20, 20), (5, 9)])
def test_an_image_is_resized_and_cropped_as_preprocessing_says(pets, shape):
    original = Image.fromarray(picture(1, *shape))
    fill(pets)
    for path in pets.glob("cat/*.png"):
        original.save(path)
    expected = v2.Compose([v2.Resize(20), v2.CenterCrop(20), v2.PILToTensor()])
    split = load(pets, side=20).splits["train"]
    cats = split.images[split.labels == 0]
    assert torch.equal(cats, expected(original).expand_as(cats))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("RGBA", "png"), ("1", "png"), ("P", "png"), ("CMYK", "jpg")],
)
def test_images_become_rgb(pets, mode, suffix):
    fill(pets)
    original = Image.fromarray(picture(1)).convert(mode)
    for path in pets.glob("cat/*.png"):
        path.unlink()
        original.save(path.with_suffix(f".{suffix}"))
    split = load(pets, side=12).splits["train"]
    with Image.open(next(pets.glob(f"cat/*.{suffix}"))) as image:
        expected = np.asarray(image.convert("RGB"))[:, 2:14].transpose(2, 0, 1)
    assert torch.equal(
        split.images[split.labels == 0][0], torch.from_numpy(expected.copy())
    )


def deeper(image: Image.Image, path: Path) -> None:
    values = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(values).save(path, "PNG")


def deeper_tiff(image: Image.Image, path: Path) -> None:
    values = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(values).save(path, "TIFF")


def opaque(image: Image.Image, path: Path) -> None:
    image.convert("L").convert("LA").save(path, "PNG")


def on_its_side(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 8  # to be turned by 90 degrees against the clock
    turned = image.convert("L").transpose(Image.Transpose.ROTATE_270)
    turned.save(path, "PNG", exif=exif)


@pytest.mark.parametrize("write", [deeper, deeper_tiff, opaque, on_its_side])
def test_the_same_pictures_are_the_same_data(tmp_path, write):
    tasks = []
    for name in ("plain", "other"):
        for path in fill(tmp_path / name / "pets").rglob("*.png"):
            image = Image.open(path).convert("L")
            image.save(path) if name == "plain" else write(image, path)
        tasks.append(load(tmp_path / name / "pets"))
    assert tasks[0].fingerprint == tasks[1].fingerprint


def test_the_preprocessing_says_what_is_done(pets):
    assert load(fill(pets), side=20).preprocessing == (
        "RGB, turned as EXIF says, transparency on white, 16 bits scaled to 8, shorter "
        "side resized to 20 (bilinear, antialiased), centre crop 20x20, as by "
        "torchvision's Resize and CenterCrop of a PIL image"
    )


# What is warned of


def constant(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        Image.new("RGB", (16, 12), "white").save(path)


def dark(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        image = np.asarray(Image.open(path).convert("L"))
        # Twelve bits in files of sixteen.
        Image.fromarray(image.astype(np.uint16) * 16).save(path)


def leak(folder: Path) -> None:
    shutil.copy(folder / "train" / "cat" / "2.png", folder / "test" / "cat" / "x.png")
    shutil.copy(folder / "train" / "dog" / "3.png", folder / "test" / "dog" / "y.png")


def confuse(folder: Path) -> None:
    shutil.copy(folder / "train" / "cat" / "2.png", folder / "train" / "owl" / "x.png")


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (constant, ["all 27 train images are equal", "all 30 test images are equal"]),
        # 255 * 16 / 257 is 15.9, 240 * 16 / 257 14.9; resizing takes some away.
        (
            dark,
            ["no pixel of train is brighter than 1", "no pixel of test is brighter"],
        ),
        (leak, ["2 of 32 test images are in train too", "test/cat/x.png for one: acc"]),
        (confuse, ["2 of 28 train images", "cat/2.png for one, are in another class"]),
    ],
)
def test_odd_data_are_warned_of_at_each_use(pets, caplog, change, messages):
    for part in ("train", "val", "test"):
        fill(pets / part, count=9 if part == "train" else 10)
    change(pets)
    for _ in ("decoded", "from the cache"):
        caplog.clear()
        _ = load(pets, side=12).splits
        assert all(message in caplog.text for message in messages)
        assert caplog.text.count("pets@12: ") == len(caplog.records)


# How it is kept


def test_images_are_decoded_once(pets, monkeypatch):
    first = load(fill(pets))
    fingerprint, normalisation = first.fingerprint, first.normalisation
    opened = Image.open
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("it was read again"))
    again = load(pets)
    assert again.fingerprint == fingerprint
    assert again.normalisation == normalisation
    assert images_in(again, "train") == images_in(first, "train")
    monkeypatch.setattr(Image, "open", opened)
    assert len(kept()) == 1


def test_what_is_kept_of_the_data_is_what_the_data_are(pets):
    task = load(fill(pets))
    assert task.fingerprint == compute_fingerprint(task.splits)
    expected = compute_normalisation(task.splits["train"].images)
    assert task.normalisation == expected


def test_images_stay_in_their_file_until_they_are_used(pets):
    task = load(fill(pets))
    assert all(split.is_streamed for split in task.splits.values())
    (folder,) = kept()
    path = folder / "train.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 255  # a memory map shows what is in the file now
    with open(path, "r+b") as file:
        file.write(content)
    assert task.splits["train"].images[-1, -1, -1, -1] == content[-1]


def touch(path: Path) -> None:
    os.utime(path, (0, 0))


def replace_image(path: Path) -> None:
    Image.fromarray(picture(99)).save(path)


@pytest.mark.parametrize("change", [touch, replace_image, Path.unlink])
def test_a_changed_folder_is_read_again(pets, change):
    before = load(fill(pets, count=11)).fingerprint
    change(pets / "cat" / "3.png")
    after = load(pets).fingerprint
    assert len(kept()) == 2
    assert (after == before) == (change is touch)


@pytest.mark.parametrize("suffix", ["bmp", "ppm", "pgm", "tif"])
def test_a_file_with_the_size_and_time_of_its_predecessor_is_read_again(pets, suffix):
    path = fill(pets) / "cat" / f"3.{suffix}"
    before = Image.fromarray(picture(1)).convert("L" if suffix == "pgm" else "RGB")
    before.save(path)
    first, found = load(pets).fingerprint, path.stat()
    before.transpose(Image.Transpose.ROTATE_180).save(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_size == found.st_size
    assert load(pets).fingerprint != first


def test_another_side_is_kept_by_itself(pets):
    fill(pets)
    assert load(pets, side=8).fingerprint != load(pets, side=9).fingerprint
    assert len(kept()) == 2


def truncate(folder: Path) -> None:
    path = folder / "validation.npy"
    path.write_bytes(path.read_bytes()[:-1])


def empty(folder: Path) -> None:
    (folder / "about.json").write_text(json.dumps({}))


def lose(folder: Path) -> None:
    (folder / "test-labels.npy").unlink()


@pytest.mark.parametrize("harm", [truncate, empty, lose])
def test_a_damaged_cache_is_named_and_made_again(pets, caplog, harm):
    expected = load(fill(pets)).fingerprint
    (folder,) = kept()
    harm(folder)
    task = load(pets)
    assert task.fingerprint == expected == compute_fingerprint(task.splits)
    assert str(folder) in caplog.text


def test_what_was_interrupted_leaves_nothing_behind(pets, monkeypatch):
    class Interrupted(BaseException):
        pass

    def interrupt(*_):
        raise Interrupted

    fill(pets)
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", interrupt)  # after the first images
        with pytest.raises(Interrupted):
            _ = load(pets).splits
    (part,) = kept()
    assert part.suffix == ".part"
    assert sizes(load(pets)) == (18, 6, 6)
    (folder,) = kept()
    assert folder.suffix != ".part"


@pytest.mark.slow
def test_processes_that_ask_at_once_read_it_once(pets):
    program = (
        "import sys\n"
        "from n2n_gym import load_task\n"
        "print(load_task(sys.argv[1]).fingerprint)\n"
    )
    command = [sys.executable, "-c", program, f"{fill(pets)}@8"]
    environment = {k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"}
    running = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert len({output for output, _ in outputs}) == 1
    assert sum("Reading pets@8" in errors for _, errors in outputs) == 1


# What is refused


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_text(path: Path) -> None:
    path.write_text("not an image")


def break_a_chunk(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 255
    path.write_bytes(content)


def write_half_a_jpeg(path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(picture(1, 100, 100)).save(file, "JPEG")
    path.write_bytes(file.getvalue()[:3000])


@pytest.mark.parametrize(
    "harm", [cut_in_half, write_text, break_a_chunk, write_half_a_jpeg, Path.touch]
)
def test_a_damaged_image_is_named(pets, harm: Callable[[Path], None]):
    path = fill(pets) / "dog" / "4.png"
    if harm is Path.touch:
        path.write_bytes(b"")
    harm(path)
    with pytest.raises(ValueError, match="cannot be read as an image") as error:
        _ = load(pets).splits
    assert str(path) in str(error.value)


def link_to_nowhere(path: Path) -> None:
    path.symlink_to(path.parent / "gone.png")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    "make", [link_to_nowhere, link_to_itself, link_to_a_device, os.mkfifo]
)
def test_what_is_named_like_an_image_and_is_no_file_is_named(pets, make):
    path = fill(pets) / "dog" / "x.png"
    make(path)
    with pytest.raises(
        ValueError, match=r"dog/x\.png (cannot be read|is named like an image, but)"
    ):
        _ = load(pets).splits


def test_a_class_that_a_split_lacks_is_named(pets):
    fill(pets / "train")
    fill(pets / "test", classes=("cat", "dog"))
    with pytest.raises(ValueError, match="class owl is in train but not in test"):
        load(pets)


def test_a_class_that_training_lacks_is_named(pets):
    fill(pets / "train")
    fill(pets / "val", classes=(*CLASSES, "eel"))
    fill(pets / "test")
    with pytest.raises(ValueError, match="class eel is in validation but not in train"):
        load(pets)


def test_a_class_without_images_is_named(pets):
    fill(pets)
    (pets / "eel").mkdir()
    with pytest.raises(ValueError, match="the class eel has no images") as error:
        _ = load(pets).splits
    assert str(pets) in str(error.value)


def test_a_class_too_small_to_be_in_each_split_is_named(pets):
    fill(pets / "train", count=26)
    fill(pets / "test", classes=(*CLASSES, "eel"), count=2)
    (pets / "train" / "eel").mkdir()
    for path in (pets / "train" / "cat").glob("[1-4].png"):
        shutil.copy(path, pets / "train" / "eel")
    # A tenth of 26, 26, 4 and 26 is 3, 3, 0 and 3.
    message = r"validation lacks the class 2 \(eel\)"
    with pytest.raises(ValueError, match=message) as error:
        _ = load(pets).splits
    assert str(pets) in str(error.value)


def test_too_few_images_to_split_are_named(pets):
    fill(pets, count=1)
    with pytest.raises(ValueError, match="too few images to split") as error:
        _ = load(pets).splits
    assert str(pets) in str(error.value)


def test_folders_without_classes_are_named(pets):
    pets.mkdir()
    with pytest.raises(ValueError, match=r"two or more classes.*it has no subfolders"):
        load(pets)
    fill(pets, classes=("cat",))
    with pytest.raises(ValueError, match=r"two or more classes.*it has cat"):
        load(pets)


def test_two_validation_folders_are_one_too_many(pets):
    for part in ("train", "val", "valid"):
        fill(pets / part, count=1)
    with pytest.raises(ValueError, match="val and valid; only one can be the valid"):
        load(pets)


@pytest.mark.parametrize("side", ["0", "00"])
def test_a_side_is_positive(pets, side):
    with pytest.raises(ValueError, match="side of images must be at least 1, got 0"):
        load_task(f"{fill(pets)}@{side}")


@pytest.mark.parametrize("task", ["digits@32", "cifar10@64"])
def test_a_side_is_for_what_has_none(task):
    with pytest.raises(ValueError, match=r"have one size; .* caltech256, imagenet"):
        load_task(task)


# ImageNet


def test_imagenets_validation_images_are_its_test_split(tmp_path, monkeypatch):
    monkeypatch.setenv("N2N_DATA", str(tmp_path))
    classes = ("n01440764", "n01443537")
    fill(tmp_path / "imagenet" / "train", classes, count=20)
    fill(tmp_path / "imagenet" / "val", classes, count=3)
    task = load_task("imagenet@12")
    assert (task.name, task.input_shape) == ("imagenet@12", (3, 12, 12))
    assert task.class_names == classes
    assert sizes(task) == (36, 4, 6)
    assert images_in(task, "test") == pixels(tmp_path / "imagenet" / "val")
    assert load_task("imagenet").name == "imagenet@64"
