"""Published data sets by name: real ones where they are, small ones in their format."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import urllib.request
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image

from n2n_gym.tasks import sets
from n2n_gym.tasks.arrays import SPLITS
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.loading import TASKS, load_task
from n2n_gym.tasks.sets import cifar10, mnist
from n2n_gym.tasks.task import Task


def sizes(task: Task) -> tuple[int, ...]:
    return tuple(len(task.splits[name]) for name in SPLITS)


def counts(task: Task, name: str) -> list[int]:
    return torch.bincount(task.splits[name].labels).tolist()


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("N2N_DATA", str(tmp_path))
    monkeypatch.setenv("N2N_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """MNIST's format: 0, 0, 8 (uint8), the number of axes, their sizes, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "dataset"), [("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_sets_in_mnists_format_are_read(folder, name, dataset):
    raw = folder / dataset / "raw"
    labels = np.arange(100, dtype=np.uint8) % 10
    for part, count in (("train", 100), ("t10k", 20)):
        write_idx(raw / f"{part}-images-idx3-ubyte", noise(count, 28, 28))
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels[:count])
    task = load_task(name)
    assert (task.name, task.input_shape, task.num_classes) == (name, (1, 28, 28), 10)
    assert sizes(task) == (90, 10, 20)
    assert counts(task, "validation") == [1] * 10
    expected = torch.from_numpy(noise(20, 28, 28))[:, None]
    assert torch.equal(task.splits["test"].images, expected)
    assert task.class_names == tuple(getattr(torchvision.datasets, dataset).classes)
    assert task.augmentation == Augmentation()


def test_emnists_transposed_images_are_turned_upright(folder):
    raw = folder / "EMNIST" / "raw"
    for part, count in (("train", 470), ("test", 47)):
        stem = f"emnist-balanced-{part}"
        write_idx(raw / f"{stem}-images-idx3-ubyte", noise(count, 28, 28))
        labels = np.arange(count, dtype=np.uint8) % 47
        write_idx(raw / f"{stem}-labels-idx1-ubyte", labels)
    task = load_task("emnist")
    assert sizes(task) == (423, 47, 47)
    expected = torch.from_numpy(noise(47, 28, 28)).transpose(1, 2)[:, None]
    assert torch.equal(task.splits["test"].images, expected)
    names = torchvision.datasets.EMNIST.classes_split_dict["balanced"]
    assert task.class_names == tuple(names)


def test_cifar100_is_read(folder, monkeypatch):
    base = folder / "cifar-100-python"
    base.mkdir()
    for part, count in (("train", 1000), ("test", 200)):
        labels = (np.arange(count) % 100).tolist()
        entry = {"data": noise(count, 3072), "fine_labels": labels}
        (base / part).write_bytes(pickle.dumps(entry))
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple"] * 100}))
    # torchvision knows the real files by their MD5, so that ours have to take their
    # places in its tables.
    reader = torchvision.datasets.CIFAR100
    monkeypatch.setattr(reader, "train_list", [["train", md5(base / "train")]])
    monkeypatch.setattr(reader, "test_list", [["test", md5(base / "test")]])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5(base / "meta")})
    task = load_task("cifar100")
    assert sizes(task) == (900, 100, 200)
    assert counts(task, "validation") == [1] * 100
    expected = torch.from_numpy(noise(200, 3072)).view(-1, 3, 32, 32)
    assert torch.equal(task.splits["test"].images, expected)
    assert len(set(task.class_names)) == 100
    assert list(task.class_names) == sorted(task.class_names)
    assert task.augmentation == Augmentation(padding=4, flip=True)


def test_svhn_is_read(folder, monkeypatch):
    table = {}
    for part, count in (("train", 100), ("test", 30)):
        path = folder / f"{part}_32x32.mat"
        labels = np.arange(count, dtype=np.uint8) % 10 + 1  # 10 stands for the digit 0
        pixels = {"X": noise(32, 32, 3, count), "y": labels[:, None]}
        scipy.io.savemat(path, pixels)
        table[part] = ["no address", path.name, md5(path)]
    # torchvision's table of the real files' MD5s, with ours in it
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", table)
    task = load_task("svhn")
    assert sizes(task) == (90, 10, 30)
    assert task.splits["test"].labels[:12].tolist() == [*range(1, 10), 0, 1, 2]
    expected = torch.from_numpy(noise(32, 32, 3, 30)).permute(3, 2, 0, 1)
    assert torch.equal(task.splits["test"].images, expected)
    assert task.augmentation == Augmentation(padding=4, flip=False)


def test_caltech256_is_read_without_its_clutter(folder):
    root = folder / "caltech256" / "256_ObjectCategories"
    image = Image.fromarray(noise(10, 12, 3))
    for label in range(257):
        place = root / f"{label + 1:03d}.{'clutter' if label == 256 else 'thing'}"
        place.mkdir(parents=True)
        for index in range(5):
            image.save(place / f"{label + 1:03d}_{index + 1:04d}.jpg")
    task = load_task("caltech256@8")
    assert (task.name, task.input_shape) == ("caltech256@8", (3, 8, 8))
    assert sizes(task) == (768, 256, 256)
    assert counts(task, "train") == [3] * 256
    assert task.class_names[:2] == ("001.thing", "002.thing")
    assert task.augmentation == Augmentation(padding=1, flip=True)


@pytest.mark.parametrize("task", ["imagenet", "imagenet@32"])
def test_without_imagenet_the_folder_is_named(folder, task):
    with pytest.raises(OSError, match="N2N_DATA") as error:
        load_task(task)
    assert str(folder / "imagenet" / "train") in str(error.value)


def test_what_needs_no_data_to_be_known_is_known_without_it(folder):
    for name in sorted(TASKS.keys() - {"caltech256", "imagenet"}):
        task = load_task(name)
        assert task.name == name
        assert len(task.class_names) == task.num_classes
        assert task.preprocessing.startswith(f"{task.input_shape[1]}x")
    assert load_task("caltech256").class_names is None


@pytest.mark.parametrize("name", sorted(TASKS.keys() - {"digits", "imagenet"}))
def test_without_data_and_network_the_folder_is_named(folder, monkeypatch, name):
    def refuse(*args, **kwargs):
        raise URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    task = load_task(name)
    with pytest.raises(OSError, match="could not be downloaded") as error:
        _ = task.splits
    assert str(folder) in str(error.value)
    assert "N2N_DATA" in str(error.value)


# The real ones


@pytest.fixture
def data() -> None:
    if "N2N_DATA" not in os.environ:
        pytest.skip("N2N_DATA, the folder with the real data sets, is not set")


def test_mnist_keeps_a_stratified_tenth_for_validation(data):
    task = mnist()
    assert task.splits["train"].images.shape == (54_000, 1, 28, 28)
    assert sizes(task) == (54_000, 6_000, 10_000)
    # of the original training images
    total = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    validation = np.array(counts(task, "validation"))
    assert np.abs(validation - total / 10).max() < 1
    assert (np.array(counts(task, "train")) + validation == total).all()
    assert counts(task, "test")[:3] == [980, 1135, 1032]


def test_cifar10_has_as_many_images_of_every_class(data):
    task = cifar10()
    assert task.splits["train"].images.shape == (45_000, 3, 32, 32)
    assert sizes(task) == (45_000, 5_000, 10_000)
    assert counts(task, "train") == [4_500] * 10
    assert counts(task, "validation") == [500] * 10
    assert counts(task, "test") == [1_000] * 10
    assert task.class_names[3] == "cat"
    assert task.augmentation == Augmentation(padding=4, flip=True)


def test_tasks_say_what_their_images_are(data):
    for name, shape in (("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))):
        task = load_task(name)
        assert (task.name, task.input_shape, task.num_classes) == (name, shape, 10)


def test_the_fingerprints_of_tasks_do_not_change(data):
    """Teachers and scores are kept under them."""
    expected = {
        "digits": "54deecdc905e6938",
        "mnist": "44199c2c5c2f9658",
        "cifar10": "83fa6dd10c6ea744",
    }
    assert {name: load_task(name).fingerprint[:16] for name in expected} == expected


def shuffled_cifar10(seed):
    """The same 40 training and 20 test images in another order."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 32, 32, 3), np.uint8)
    labels = np.arange(60) % 4
    order = np.random.default_rng(seed).permutation(40)
    images[:40], labels[:40] = images[order], labels[order]

    def read():
        return {
            "train": (images[:30], labels[:30]),
            "validation": (images[30:40], labels[30:40]),
            "test": (images[40:], labels[40:]),
        }

    return lambda: replace(sets.cifar10x16(), name="cifar10", read=read)


def test_cifar10x16_is_the_same_from_any_copy(monkeypatch):
    monkeypatch.setattr(sets, "_VALIDATE", 3)
    found = []
    for seed in range(3):
        monkeypatch.setattr(sets, "cifar10", shuffled_cifar10(seed))
        found.append(sets.cifar10x16().read())
    for one in found[1:]:
        for split, (images, labels) in one.items():
            assert (images == found[0][split][0]).all()
            assert (labels == found[0][split][1]).all()
    assert np.bincount(found[0]["validation"][1]).tolist() == [3, 3, 3, 3]
    assert found[0]["train"][0].shape == (28, 16, 16, 3)


def test_pixels_of_cifar10x16_are_means_of_four_halves_up():
    image = np.zeros((1, 2, 4, 1), np.uint8)
    image[0, :, :, 0] = [[1, 2, 255, 255], [2, 1, 255, 255]]  # 1.5, 255
    assert sets._halved(image).tolist() == [[[[2], [255]]]]
