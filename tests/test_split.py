"""Batches of a split: resident or streamed, they are the same."""

from __future__ import annotations

import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from n2n_gym.evaluators.distillation import Settings, distil
from n2n_gym.evaluators.rungs import Rung
from n2n_gym.pytorch.determinism import seeded
from n2n_gym.pytorch.inference import (
    compute_accuracy,
    compute_logits,
    recompute_statistics,
)
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.pytorch.training import train
from n2n_gym.tasks import summary
from n2n_gym.tasks.arrays import SPLITS
from n2n_gym.tasks.split import Split
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import Teacher
from tests.networks import SmallResNet

CPU = torch.device("cpu")


def mapped(folder: Path, task: Task) -> Task:
    """The same task with its images in memory maps."""
    for name in SPLITS:
        np.save(folder / f"{name}.npy", task.splits[name].images.permute(0, 2, 3, 1))

    def read():
        return {
            name: (
                np.load(folder / f"{name}.npy", mmap_mode="c"),
                task.splits[name].labels.numpy(),
            )
            for name in SPLITS
        }

    return replace(task, read=read)


@pytest.fixture
def streamed(tmp_path, task) -> Task:
    return replace(mapped(tmp_path, task), resident_bytes=0)


ORDERS = [None, torch.arange(9), torch.tensor([5, 3, 1000, 3]), torch.arange(0, 999, 7)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [3, 4, 2000])
def test_batches_are_the_images_in_order(task, order, size):
    split = task.split("train", CPU)
    rows = torch.arange(len(split)) if order is None else order
    batches = list(split.batches(size, order))
    assert all(len(batch.images) == size for batch in batches[:-1])
    assert torch.equal(torch.cat([b.positions for b in batches]), rows)
    assert torch.equal(torch.cat([b.images for b in batches]), split.images[rows])
    assert torch.equal(torch.cat([b.labels for b in batches]), split.labels[rows])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [3, 4, 2000])
def test_streamed_batches_are_the_resident_ones(task, streamed, order, size):
    resident, stream = task.split("train", CPU), streamed.split("train", CPU)
    assert not resident.is_streamed
    assert stream.is_streamed
    assert len(stream) == len(resident)
    assert stream.device == CPU
    pairs = zip(stream.batches(size, order), resident.batches(size, order), strict=True)
    for there, here in pairs:
        for found, expected in zip(there, here, strict=True):
            assert torch.equal(found, expected)


def test_memory_streams_too_when_told_to(task):
    stream = replace(task, resident_bytes=0).split("test", CPU)
    assert stream.is_streamed
    whole = next(stream.batches(1000))
    assert torch.equal(whole.images, task.splits["test"].images)


def readers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("batches")]


def test_a_thread_reads_until_the_consumer_stops(streamed):
    batches = streamed.split("train", CPU).batches(3)
    assert not readers()
    assert len(next(batches).labels) == 3
    assert len(readers()) == 1
    batches.close()
    assert not readers()


def test_what_fits_is_read_into_memory(tmp_path, task):
    fits = mapped(tmp_path, task)
    split = fits.split("train", CPU)
    assert not split.is_streamed
    assert split.images.data_ptr() != fits.splits["train"].images.data_ptr()
    assert torch.equal(split.images, task.splits["train"].images)
    assert fits.split("train", CPU) is split


def test_half_of_the_free_memory_is_the_limit(tmp_path, task, monkeypatch):
    size = task.splits["train"].images.nbytes
    free = psutil.virtual_memory()
    for available, is_streamed in ((2 * size, False), (2 * size - 2, True)):
        now = free._replace(available=available)
        monkeypatch.setattr(psutil, "virtual_memory", lambda now=now: now)
        split = mapped(tmp_path, task).split("train", CPU)
        assert split.is_streamed == is_streamed
    # what is in memory already stays there
    assert not replace(task).split("train", CPU).is_streamed


def test_the_limit_can_be_set_by_hand(tmp_path, task):
    size = task.splits["train"].images.nbytes
    for limit, is_streamed in ((size, False), (size - 1, True)):
        small = replace(mapped(tmp_path, task), resident_bytes=limit)
        assert small.split("train", CPU).is_streamed == is_streamed


def test_what_is_known_of_a_memory_map_is_what_is_known_of_memory(task, streamed):
    assert streamed.fingerprint == task.fingerprint
    assert streamed.normalisation == task.normalisation


def test_the_pieces_that_data_are_read_in_do_not_matter(task, monkeypatch):
    monkeypatch.setattr(summary, "_CHUNK_BYTES", 1000)
    pieces = replace(task)
    assert pieces.fingerprint == task.fingerprint
    assert pieces.normalisation == task.normalisation


def huge(folder: Path) -> Task:
    """256 MiB of images for training, in a file with holes."""
    path = folder / "huge.npy"
    images = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.uint8, shape=(65536, 64, 64)
    )
    images[-1] = 255
    del images

    def read():
        few = np.zeros((2, 64, 64), np.uint8), np.array([0, 1])
        labels = np.arange(65536) % 2
        train = np.load(path, mmap_mode="c"), labels
        return {"train": train, "validation": few, "test": few}

    return Task("huge", (1, 64, 64), 2, read, resident_bytes=2**20)


def mapped_bytes(path: Path) -> int:
    """Bytes of a file that this process has mapped."""
    maps = psutil.Process().memory_maps()
    return sum(m.rss + m.swap for m in maps if m.path == str(path))


def anonymous_bytes() -> int:
    """Memory of this process's own, that no file backs."""
    found = psutil.Process().memory_info()
    return found.rss - found.shared


@pytest.mark.skipif(not psutil.LINUX, reason="reads /proc")
def test_a_memory_map_is_never_copied_whole(tmp_path):
    task = huge(tmp_path)
    split = task.split("train", CPU)
    before = anonymous_bytes()
    assert mapped_bytes(tmp_path / "huge.npy") < 2**24
    batches = split.batches(256, torch.arange(0, 65536, 1024))
    assert [len(batch.images) for batch in batches] == [64]
    assert mapped_bytes(tmp_path / "huge.npy") < 2**26
    tracemalloc.start()
    assert task.normalisation[0] == pytest.approx((1 / 65536,))
    assert len(task.fingerprint) == 64
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24  # NumPy's
    assert anonymous_bytes() - before < 2**27  # and torch's


def test_a_read_only_memory_map_is_refused_with_advice(tmp_path, task):
    np.save(tmp_path / "images.npy", np.zeros((4, 2, 2), np.uint8))
    part = np.load(tmp_path / "images.npy", mmap_mode="r"), np.array([0, 1, 0, 1])
    mine = Task("mine", (1, 2, 2), 2, lambda: dict.fromkeys(SPLITS, part))
    with pytest.raises(ValueError, match='mmap_mode="c"'):
        _ = mine.splits


# Training on what is streamed


def learn(task: Task) -> tuple[dict[str, Tensor], Tensor, float]:
    normalise, split = Normalisation(*task.normalisation), task.split("train", CPU)
    with seeded(0, CPU) as generator:
        network = SmallResNet().to(memory_format=torch.channels_last)
        recipe = Recipe(2, batch_size=32)
        train(network, split, normalise, recipe, generator, augment=task.augmentation)
        recompute_statistics(network, split, normalise, positions=torch.arange(700))
    logits = compute_logits(network, split, normalise)
    accuracy = compute_accuracy(network, task.split("validation", CPU), normalise)
    return network.state_dict(), logits, accuracy


def test_training_streamed_is_training_resident(task, streamed):
    here, there = learn(task), learn(streamed)
    for name, tensor in here[0].items():
        assert torch.equal(tensor, there[0][name]), name
    assert torch.equal(here[1], there[1])
    assert here[2] == there[2]
    assert here[2] > 0.5


def test_distilling_streamed_is_distilling_resident(teacher, streamed):
    rung = Rung("quick", recipe=Recipe(1, batch_size=32, logit_weight=0.1))
    settings = Settings(rung, CPU, "float32", 1)
    other = Teacher("small", streamed, teacher.architecture, lambda: teacher.trained)
    networks = [
        distil(teacher.architecture, one, settings, seed=1) for one in (teacher, other)
    ]
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.gpu
def test_streaming_to_an_accelerator_gives_the_resident_batches(task, streamed):
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        pytest.skip("there is no accelerator")
    resident, stream = task.split("train", device), streamed.split("train", device)
    assert stream.is_streamed
    assert stream.images.device == CPU
    order = torch.randperm(len(resident), generator=torch.Generator().manual_seed(0))
    for there, here in zip(
        stream.batches(64, order), resident.batches(64, order), strict=True
    ):
        for found, expected in zip(there, here, strict=True):
            assert found.device.type == device.type
            assert torch.equal(found, expected)


def test_a_split_made_by_hand_is_resident():
    split = Split(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    assert not split.is_streamed
    assert len(split) == 2
