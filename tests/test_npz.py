"""Arrays of the user's in an .npz file: names, types, layouts; right or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from n2n_gym.tasks.arrays import SPLITS
from n2n_gym.tasks.loading import load_task
from n2n_gym.tasks.npz import from_npz

COUNTS = {"train": 8, "validation": 4, "test": 6}


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def images_of(split: str) -> NDArray[np.uint8]:
    return noise(COUNTS[split], COUNTS[split], 5, 4)


def labels_of(split: str) -> NDArray[np.int64]:
    return np.arange(COUNTS[split]) % 2


def standard(splits: tuple[str, ...] = SPLITS) -> dict[str, NDArray]:
    """5x4 grey images of two classes."""
    arrays = {f"{split}_images": images_of(split) for split in splits}
    return arrays | {f"{split}_labels": labels_of(split) for split in splits}


def save(folder: Path, arrays: dict[str, NDArray], **changes: NDArray) -> Path:
    path = folder / "mine.npz"
    np.savez(path, **arrays, **changes)
    return path


# Names


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("{split}_{kind}", ("train", "val", "test", "images", "labels")),
        ("{split}_{kind}", ("train", "valid", "test", "images", "labels")),
        ("{split}_{kind}", ("training", "validation", "testing", "images", "labels")),
        ("{kind}_{split}", ("train", "val", "test", "x", "y")),
        ("{kind}_{split}", ("train", "valid", "test", "X", "y")),
        ("{split}_{kind}", ("Train", "VAL", "Test", "X", "Y")),
        ("{kind}_{split}", ("train", "validation", "test", "images", "labels")),
    ],
)
def test_the_splits_of_the_user_are_kept_under_each_accepted_name(
    tmp_path, form, names
):
    arrays = {}
    for name, split in zip(names[:3], SPLITS, strict=True):
        values = images_of(split), labels_of(split)
        for kind, value in zip(names[3:], values, strict=True):
            arrays[form.format(split=name, kind=kind)] = value
    task = from_npz(save(tmp_path, arrays))
    for split in SPLITS:
        expected = torch.from_numpy(images_of(split))[:, None]
        assert torch.equal(task.splits[split].images, expected)
        assert task.splits[split].labels.tolist() == labels_of(split).tolist()


@pytest.mark.parametrize(
    "key", ["vali_images", "images", "class_names", "train", "testimages", "val_x_y"]
)
def test_an_unknown_key_is_refused_with_the_accepted_ones(tmp_path, key):
    path = save(tmp_path, standard(("train", "test")), **{key: images_of("validation")})
    message = (
        f"mine.npz has the unknown key '{key}'; accepted are train_images or x_tra"
    )
    with pytest.raises(ValueError, match=message) as error:
        from_npz(path)
    assert "train, training; validation, valid, val; test, testing" in str(error.value)


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("val_images", "validation_images"),
        ("valid_labels", "validation_labels"),
        ("x_train", "train_images"),
        ("TEST_labels", "test_labels"),
    ],
)
def test_two_keys_for_one_array_are_refused(tmp_path, key, other):
    arrays = standard()
    path = save(tmp_path, arrays, **{key: arrays[other]})
    message = f"has {other} and {key}; only one can be {other}"
    with pytest.raises(ValueError, match=message):
        from_npz(path)


@pytest.mark.parametrize(
    "key", ["train_images", "validation_images", "validation_labels", "test_labels"]
)
def test_a_missing_array_is_named(tmp_path, key):
    arrays = standard()
    del arrays[key]
    with pytest.raises(ValueError, match=rf"mine\.npz lacks {key}; it has "):
        from_npz(save(tmp_path, arrays))


@pytest.mark.parametrize("name", ["MINE.NPZ", "mine.Npz"])
def test_the_suffix_may_be_in_upper_case(tmp_path, name):
    path = save(tmp_path, standard()).rename(tmp_path / name)
    assert load_task(str(path)).num_classes == 2


# Labels


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64, ">i8"])
@pytest.mark.parametrize("is_column", [True, False])
def test_labels_of_each_integer_type_and_in_a_column_are_read(
    tmp_path, dtype, is_column
):
    arrays = standard()
    for split in SPLITS:
        labels = labels_of(split).astype(dtype)
        arrays[f"{split}_labels"] = labels[:, None] if is_column else labels
    task = from_npz(save(tmp_path, arrays))
    assert task.num_classes == 2
    assert task.splits["train"].labels.tolist() == [0, 1] * 4


TRAIN = labels_of("train")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(2, dtype=int)[TRAIN], r"got int64 \(8, 2\); labels\.argmax\(1\) gives"),
        (
            np.eye(2)[TRAIN],
            r"must be integers, \(N,\), got float64 \(8, 2\); labels\.a",
        ),
        (TRAIN[None], r"must be integers, \(N,\), got int64 \(1, 8\)"),
        (TRAIN[:, None, None], r"must be integers, \(N,\), got int64 \(8, 1, 1\)"),
        (TRAIN.astype(float), r"must be integers, \(N,\), got float64 \(8,\)"),
        (np.where(TRAIN, np.nan, 0), r"must be integers, \(N,\), got float64"),
        (TRAIN.astype(bool), r"must be integers, \(N,\), got bool"),
        (np.where(TRAIN, "cat", "dog"), r"must be integers, \(N,\), got <U3"),
        (TRAIN - 1, "has the negative class -1"),
        (TRAIN[:, None] - 1, "has the negative class -1"),
        (TRAIN + 1, r"train lacks the class 0 \(labels count from 0\)"),
        (TRAIN * 2, "train lacks the class 1"),
        (TRAIN * 10**12, "train lacks the class 1"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, message):
    path = save(tmp_path, standard() | {"train_labels": labels})
    with pytest.raises(ValueError, match=message) as error:
        from_npz(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("splits", [SPLITS, ("train", "test")])
def test_a_single_class_is_refused(tmp_path, splits, dtype):
    arrays = {
        key: value * 0 if key.endswith("labels") else value
        for key, value in standard(splits).items()
    }
    arrays = {
        key: value.astype(dtype) if key.endswith("labels") else value
        for key, value in arrays.items()
    }
    with pytest.raises(ValueError, match="has 1 class; two or more are needed"):
        from_npz(save(tmp_path, arrays))


# Images


@pytest.mark.parametrize(
    "dtype", [bool, np.int8, np.uint16, np.int64, np.float16, np.float32, complex]
)
def test_images_of_another_type_are_refused_with_what_converts_them(tmp_path, dtype):
    images = (images_of("train") / 255).astype(dtype)
    path = save(tmp_path, standard() | {"train_images": images})
    name = np.dtype(dtype)
    message = rf"train_images must be uint8, .* got {name} \(8, 5, 4\); np\.rint\(255"
    with pytest.raises(ValueError, match=message):
        from_npz(path)


@pytest.mark.parametrize(
    "shape",
    [(3, 16, 12), (1, 28, 28), (2, 28, 28), (6, 64, 64), (13, 64, 48), (4, 5, 5)],
)
def test_images_with_their_channels_first_are_refused(tmp_path, shape):
    images = {f"{split}_images": noise(0, COUNTS[split], *shape) for split in SPLITS}
    with pytest.raises(
        ValueError, match=r"looks like \(N, C, H, W\); \(N, H, W, C\) is"
    ):
        from_npz(save(tmp_path, standard() | images))


@pytest.mark.parametrize(
    "shape",
    [
        (28, 28, 1),
        (32, 32, 3),
        (9, 9, 200),
        (5, 4, 4),
        (2, 3, 3),
        (64, 48, 13),
        (3, 3, 3),
    ],
)
def test_images_with_their_channels_last_are_read(tmp_path, shape):
    images = {f"{split}_images": noise(0, COUNTS[split], *shape) for split in SPLITS}
    task = from_npz(save(tmp_path, standard() | images))
    height, width, channels = shape
    assert task.input_shape == (channels, height, width)
    expected = torch.from_numpy(images["test_images"]).permute(0, 3, 1, 2)
    assert torch.equal(task.splits["test"].images, expected)


@pytest.mark.parametrize("shape", [(0, 4), (5, 0), (5, 4, 0), (0, 0, 3)])
def test_images_without_pixels_are_refused(tmp_path, shape):
    images = {f"{s}_images": np.zeros((COUNTS[s], *shape), np.uint8) for s in SPLITS}
    with pytest.raises(ValueError, match=r"train_images, \(8, .*\), have no pixels"):
        from_npz(save(tmp_path, standard() | images))


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_order_in_memory_makes_no_difference(tmp_path, order):
    images = np.asarray(images_of("train"), order=order)
    task = from_npz(save(tmp_path, standard() | {"train_images": images}))
    expected = torch.from_numpy(images_of("train"))[:, None]
    assert torch.equal(task.splits["train"].images, expected)


# What is warned of

WITH_LEAK = np.concatenate([images_of("train")[2:5], images_of("test")[3:]])
TWICE = np.concatenate([images_of("train")[1:2], images_of("train")[1:]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_images": images_of("test") * 0 + 7}, "all 6 test images are equal"),
        (
            {"train_images": images_of("train") * 0 + 255},
            "all 8 train images are equal",
        ),
        # What astype(np.uint8) makes of values in [0, 1].
        (
            {"train_images": images_of("train") // 128},
            "train is brighter than 1 of 255",
        ),
        (
            {"train_images": images_of("train") // 16},
            "train is brighter than 15 of 255",
        ),
        (
            {"test_images": WITH_LEAK},
            "3 of 6 test images are in train too, number 0 for one: accuracies",
        ),
        (
            {"validation_images": images_of("train")[:4]},
            "4 of 4 validation images are in train too, number 0 for one",
        ),
        (
            {"train_images": TWICE},
            "2 of 8 train images, number 0 for one, are in another class too",
        ),
        (
            {"test_images": WITH_LEAK, "test_labels": 1 - labels_of("test")},
            "3 of 8 train images, number 2 for one, are in another class too",
        ),
    ],
)
def test_odd_arrays_are_warned_of(tmp_path, caplog, changes, message):
    path = save(tmp_path, standard() | changes)
    from_npz(path)
    assert message in caplog.text
    assert str(path) in caplog.text


def test_nothing_is_said_of_plain_arrays(tmp_path, caplog):
    from_npz(save(tmp_path, standard()))
    assert not caplog.text


@pytest.mark.parametrize("lost", [("train",), SPLITS])
def test_labels_that_are_missing_are_warned_of_by_name(tmp_path, caplog, lost):
    arrays = standard()
    for split in lost:
        del arrays[f"{split}_labels"]
    assert from_npz(save(tmp_path, arrays)).unlabelled == lost
    assert f"has no {lost[0]}_labels" in caplog.text
    assert all(f"{split}_labels" in caplog.text for split in lost)
    assert "the teacher's answers instead" in caplog.text
