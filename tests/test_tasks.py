"""Data sets: where they come from, how they are split, what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from n2n_gym.common.files import data_folder
from n2n_gym.common.plugins import lookup
from n2n_gym.rewards import REWARDS
from n2n_gym.tasks.arrays import SPLITS
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.loading import TASKS, load_task
from n2n_gym.tasks.npz import from_npz
from n2n_gym.tasks.sets import digits
from n2n_gym.tasks.task import Task

CPU = torch.device("cpu")


def sizes(task: Task) -> tuple[int, ...]:
    return tuple(len(task.splits[name].labels) for name in SPLITS)


def counts(task: Task, name: str) -> list[int]:
    """The number of images of each class in a split."""
    return torch.bincount(task.splits[name].labels).tolist()


# digits


def test_digits_splits_60_20_20(task):
    assert sizes(task) == (1077, 360, 360)


def test_digits_has_each_of_its_images_in_one_split(task):
    images, labels = load_digits(return_X_y=True)
    # a pixel from 0 to 16 becomes one from 0 to 255; 8 lies between 127 and 128
    images = np.rint(images * (255 / 16)).astype(np.uint8)
    original = sorted(zip(map(bytes, images), labels.tolist(), strict=True))
    found = sorted(
        (image.numpy().tobytes(), label.item())
        for name in SPLITS
        for image, label in zip(
            task.splits[name].images, task.splits[name].labels, strict=True
        )
    )
    assert found == original


def test_digits_splits_are_stratified(task):
    total = np.bincount(load_digits().target)
    for name, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        assert np.abs(np.array(counts(task, name)) - share * total).max() <= 1


def test_digits_is_the_same_whatever_the_state_of_numpy(task):
    state = np.random.get_state()  # noqa: NPY002
    try:
        np.random.seed(1)  # noqa: NPY002
        again = digits()
        for name in SPLITS:
            assert torch.equal(task.splits[name].images, again.splits[name].images)
            assert torch.equal(task.splits[name].labels, again.splits[name].labels)
    finally:
        np.random.set_state(state)  # noqa: NPY002


def test_digits_are_8x8_images_from_black_to_white(task):
    assert task.input_shape == (1, 8, 8)
    assert task.num_classes == 10
    split = task.splits["train"]
    assert split.images.shape == (1077, 1, 8, 8)
    assert split.images.dtype == torch.uint8
    assert (split.images.min(), split.images.max()) == (0, 255)
    assert split.labels.dtype == torch.int64
    assert task.class_names == tuple("0123456789")
    assert task.augmentation == Augmentation()


# What a task gives


def colours(
    *, pixel: int = 7, label: int = 1, name: str = "colours", order: int = 1
) -> Task:
    """Eight 2x3 images of noise in three channels; the last channel is constant."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (8, 2, 3, 3), dtype=np.uint8)
    images[..., 2] = 51
    images[0, 0, 0, 0] = pixel
    labels = np.arange(8) % 2
    labels[1] = label
    parts = {
        "train": (images[:4], labels[:4]),
        "validation": (images[4:6], labels[4:6]),
        "test": (images[6:], labels[6:]),
    }
    return Task(name, (3, 2, 3), 2, lambda: dict(list(parts.items())[::order]))


def test_images_come_channels_first():
    images = colours().read()["train"][0]
    assert torch.equal(
        colours().splits["train"].images,
        torch.from_numpy(np.moveaxis(images, 3, 1).copy()),
    )


def test_normalisation_is_the_mean_and_deviation_of_the_training_images():
    images = colours().read()["train"][0] / 255
    mean, std = colours().normalisation
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std[:2], images.std((0, 1, 2))[:2], rtol=1e-12)


def test_a_constant_channel_has_a_deviation_to_divide_by():
    mean, std = colours().normalisation
    assert mean[2] == pytest.approx(51 / 255)
    assert std[2] == 1e-3


def test_normalisation_of_digits_is_numpys(task):
    images = task.splits["train"].images.numpy() / 255
    mean, std = task.normalisation
    assert mean == pytest.approx((images.mean(),), rel=1e-12)
    assert std == pytest.approx((images.std(),), rel=1e-12)


def test_the_fingerprint_is_that_of_the_data():
    assert colours().fingerprint == colours().fingerprint
    assert colours(name="other").fingerprint == colours().fingerprint
    assert colours(order=-1).fingerprint == colours().fingerprint


@pytest.mark.parametrize("change", [{"pixel": 8}, {"label": 0}])
def test_the_fingerprint_changes_with_one_value(change):
    assert colours(**change).fingerprint != colours().fingerprint


def test_the_fingerprint_changes_with_the_shape_of_the_images():
    parts = colours().read()
    turned = {k: (x.reshape(-1, 3, 2, 3), y) for k, (x, y) in parts.items()}
    other = Task("colours", (3, 3, 2), 2, lambda: turned)
    assert other.fingerprint != colours().fingerprint


def test_the_fingerprint_tells_the_splits_apart():
    parts = colours().read()
    swapped = {**parts, "validation": parts["test"], "test": parts["validation"]}
    other = Task("colours", (3, 2, 3), 2, lambda: swapped)
    assert other.fingerprint != colours().fingerprint


def test_data_is_read_once_and_stays_on_the_device():
    reads = []

    def read():
        reads.append(True)
        return colours().read()

    task = Task("colours", (3, 2, 3), 2, read)
    assert not reads
    assert task.split("train", CPU) is task.split("train", CPU)
    assert task.fingerprint
    assert task.normalisation
    assert len(reads) == 1


def test_a_copy_of_a_task_is_the_task():
    task = colours()
    assert copy.deepcopy(task) is task


def test_class_names_are_as_many_as_classes():
    named = replace(colours(), class_names=("red", "blue"))
    assert named.class_names == ("red", "blue")
    with pytest.raises(ValueError, match="has 2 classes and 1 class names"):
        replace(named, class_names=("red",))


# What a task must be


def with_labels(**changes: list[int]) -> Task:
    """Twelve 2x2 images of three classes, four in a split, labelled as told."""
    images = np.zeros((4, 2, 2), np.uint8)
    labels = {name: changes.get(name, [0, 1, 2, 0]) for name in SPLITS}
    parts = {name: (images, np.array(values)) for name, values in labels.items()}
    names = ("cat", "dog", "owl")
    return Task("pets", (1, 2, 2), 3, lambda: parts, class_names=names)


@pytest.mark.parametrize(
    "given",
    [
        {"input_shape": (2, 2)},
        {"input_shape": (1, 2, 2, 1)},
        {"input_shape": (1.0, 2, 2)},
        {"input_shape": 4},
        {"num_classes": 2.0},
        {"num_classes": "2"},
        {"class_names": "ab"},
        {"class_names": (0, 1)},
        {"class_names": ("a", None)},
    ],
    ids=str,
)
def test_attributes_of_other_types_are_refused(given):
    whole = {"input_shape": (1, 2, 2), "num_classes": 2, "read": dict} | given
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=f"task x: .*{name}") as error:
        Task("x", **whole)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    "shape", [[1, 2, 2], np.array([1, 2, 2]), (np.int64(1), 2, 2), range(1, 4)]
)
def test_shapes_and_counts_may_be_numpys(shape):
    task = Task("x", shape, np.uint8(2), dict)
    assert task.input_shape == tuple(shape)
    assert json.dumps([task.input_shape, task.num_classes])


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_that_lacks_a_class_is_refused(split):
    task = with_labels(**{split: [0, 2, 2, 0]})
    message = rf"task pets: {split} lacks the class 1 \(dog\)"
    with pytest.raises(ValueError, match=message):
        _ = task.splits


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_with_a_class_too_many_is_refused(split):
    task = with_labels(**{split: [0, 1, 2, 3]})
    with pytest.raises(ValueError, match=f"task pets: {split} has the class 3"):
        _ = task.splits


IMAGES, LABELS = np.zeros((4, 2, 2), np.uint8), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.astype(float), LABELS, "test_images must be uint8"),
        (IMAGES[:3], LABELS, "test has 3 images and 4 labels"),
        (IMAGES[:, :1], LABELS, r"test_images are \(1, 1, 2\), its input_shape"),
        (np.zeros((4, 3, 8, 8), np.uint8), LABELS, r"test_images .* looks like \(N, C"),
        (IMAGES, LABELS.astype(float), "test_labels must be integers"),
        (IMAGES, LABELS.astype("m8[s]"), "test_labels must be integers"),
        (IMAGES, np.ma.masked_equal(LABELS, 1), "test_labels is a masked array"),
        (np.ma.masked_less(IMAGES, 5), LABELS, "test_images is a masked array"),
        (
            IMAGES,
            LABELS[:, None],
            r"test_labels must be integers, \(N,\), got int64 \(4",
        ),
        (IMAGES, LABELS * 0, "test lacks the class 1"),
    ],
)
def test_what_a_task_reads_is_checked(images, labels, message):
    good = IMAGES, LABELS
    parts = {"train": good, "validation": good, "test": (images, labels)}
    with pytest.raises(ValueError, match=f"task mine: {message}"):
        _ = Task("mine", (1, 2, 2), 2, lambda: parts).splits


@pytest.mark.parametrize("read", [{}, {"train": (IMAGES, LABELS * 0)}])
@pytest.mark.parametrize("num_classes", [0, 1])
def test_a_task_of_fewer_than_two_classes_is_refused(read, num_classes):
    parts = dict.fromkeys(SPLITS, (IMAGES, LABELS * 0)) | read
    message = f"task mine has {num_classes} class.*; two or more are needed"
    with pytest.raises(ValueError, match=message):
        _ = Task("mine", (1, 2, 2), num_classes, lambda: parts).splits


def test_a_task_needs_all_splits():
    parts = {"train": (IMAGES, LABELS), "test": (IMAGES, LABELS)}
    with pytest.raises(ValueError, match="task mine lacks validation; it has train, t"):
        _ = Task("mine", (1, 2, 2), 2, lambda: parts).splits


# Grey images for networks that take colours


def test_grey_images_become_three_equal_channels_of_the_same_data(task):
    coloured = task.in_colour()
    assert coloured.name == task.name
    assert coloured.input_shape == (3, 8, 8)
    grey, images = (t.splits["train"].images for t in (task, coloured))
    assert images.shape == (1077, 3, 8, 8)
    assert all(torch.equal(images[:, c], grey[:, 0]) for c in range(3))
    assert images.data_ptr() == grey.data_ptr()
    assert coloured.normalisation == tuple(3 * part for part in task.normalisation)
    assert coloured.preprocessing.startswith(task.preprocessing)
    assert coloured.fingerprint != task.fingerprint
    batch = next(coloured.split("test", CPU).batches(5, torch.tensor([3, 1])))
    assert torch.equal(batch.images[:, 2:], task.splits["test"].images[[3, 1]])


def read_as(change: Callable[[dict[str, object]], object]) -> Task:
    """A task whose data are changed before they are given."""
    images = np.zeros((4, 2, 2), np.uint8)
    parts = {name: (images, np.arange(4) % 2) for name in SPLITS}
    return Task("mine", (1, 2, 2), 2, lambda: change(parts))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: None, r"numpy arrays; read\(\) gives NoneType"),
        (lambda parts: list(parts.values()), r"numpy arrays; read\(\) gives list"),
        (lambda parts: tuple(parts.values()), r"numpy arrays; read\(\) gives tuple"),
        (lambda parts: parts["train"][0], r"numpy arrays; read\(\) gives ndarray"),
        (lambda parts: iter(parts), r"numpy arrays; read\(\) gives dict_keyiterator"),
        (lambda parts: {}, "lacks train; it has nothing"),
        (lambda parts: dict(enumerate(parts.values())), "lacks train; it has 0, 1, 2"),
    ],
)
def test_a_read_that_gives_no_splits_is_refused(change, message):
    with pytest.raises(ValueError, match=f"task mine.*{message}"):
        _ = read_as(change).splits


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda images, labels: None, "NoneType"),
        (lambda images, labels: images, "ndarray"),
        (lambda images, labels: (images,), "tuple of 1"),
        (lambda images, labels: (images, labels, labels), "tuple of 3"),
        (lambda images, labels: [], "list of 0"),
        (lambda images, labels: {"images": images, "labels": labels}, "dict"),
        (lambda images, labels: zip(images, labels, strict=True), "zip"),
        (lambda images, labels: "ab", "str"),
    ],
)
def test_a_split_that_is_no_pair_is_refused(change, kind, split):
    task = read_as(lambda parts: {**parts, split: change(*parts[split])})
    message = (
        rf"task mine: {split} is a pair, \(images, labels\); read\(\) gives {kind}$"
    )
    with pytest.raises(ValueError, match=message):
        _ = task.splits


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda array: array.tolist(), "list"),
        (torch.from_numpy, "Tensor"),
        (lambda array: None, "NoneType"),
        (lambda array: tuple(array), "tuple"),
        (lambda array: "images.npy", "str"),
    ],
)
def test_images_and_labels_that_are_no_arrays_are_refused(change, kind, place, split):
    def changed(parts):
        pair = list(parts[split])
        pair[place] = change(pair[place])
        return {**parts, split: pair}

    name = ("images", "labels")[place]
    message = f"task mine: {split}_{name} must be a numpy array, got {kind}"
    with pytest.raises(ValueError, match=message):
        _ = read_as(changed).splits


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: {name: list(pair) for name, pair in parts.items()},
        lambda parts: {**parts, "extra": None},
        lambda parts: {"unused": 3, **parts},
        MappingProxyType,
    ],
)
def test_every_mapping_of_pairs_is_read(change):
    assert sizes(read_as(change)) == (4, 4, 4)


@pytest.mark.parametrize("read", [{}, None, [], np.zeros(3)])
def test_read_must_be_a_function(read):
    with pytest.raises(ValueError, match="task mine: read must be a function without"):
        Task("mine", (1, 2, 2), 2, read)


def test_colouring_reads_nothing():
    task = Task("grey", (1, 2, 2), 2, lambda: pytest.fail("it was read"))
    assert task.in_colour().input_shape == (3, 2, 2)


def test_images_in_colour_are_not_coloured():
    with pytest.raises(ValueError, match="task colours has 3 channels"):
        colours().in_colour()


# Your own images


def arrays(**changes: NDArray | None) -> dict[str, NDArray]:
    """100 training and 20 test images, 5x4 in gray, of 10 classes."""
    generator = np.random.default_rng(0)
    values = {
        "train_images": generator.integers(0, 256, (100, 5, 4), dtype=np.uint8),
        "train_labels": np.arange(100) % 10,
        "test_images": generator.integers(0, 256, (20, 5, 4), dtype=np.uint8),
        "test_labels": np.arange(20) % 10,
        **changes,
    }
    return {key: value for key, value in values.items() if value is not None}


@pytest.fixture
def save(tmp_path) -> Callable[..., Path]:
    def write(**changes: NDArray | None) -> Path:
        path = tmp_path / "mine.npz"
        np.savez(path, **arrays(**changes))
        return path

    return write


def test_gray_images_of_a_file_get_a_channel(save):
    task = load_task(str(save()))
    assert (task.name, task.input_shape, task.num_classes) == ("mine", (1, 5, 4), 10)
    images = torch.from_numpy(arrays()["test_images"])
    assert torch.equal(task.splits["test"].images, images[:, None])


def test_colour_images_of_a_file_come_channels_first(save):
    generator = np.random.default_rng(1)
    train = generator.integers(0, 256, (100, 5, 4, 3), dtype=np.uint8)
    test = generator.integers(0, 256, (20, 5, 4, 3), dtype=np.uint8)
    task = from_npz(save(train_images=train, test_images=test))
    assert task.input_shape == (3, 5, 4)
    expected = torch.from_numpy(test.transpose(0, 3, 1, 2).copy())
    assert torch.equal(task.splits["test"].images, expected)


def test_a_stratified_tenth_of_the_training_images_validates(save):
    task = from_npz(save())
    assert sizes(task) == (90, 10, 20)
    assert counts(task, "train") == [9] * 10
    assert counts(task, "validation") == [1] * 10
    both = torch.cat([task.splits[name].images for name in ("train", "validation")])
    found = sorted(image.numpy().tobytes() for image in both)
    assert found == sorted(map(bytes, arrays()["train_images"]))


def test_a_validation_split_of_its_own_is_kept(save):
    images = np.full((10, 5, 4), 9, np.uint8)
    labels = np.array([2, 0, 1, 3, 4, 5, 6, 7, 9, 8], np.uint8)
    task = from_npz(save(validation_images=images, validation_labels=labels))
    assert sizes(task) == (100, 10, 20)
    assert task.splits["validation"].labels.tolist() == labels.tolist()
    assert (task.splits["validation"].images == 9).all()
    assert task.splits["train"].labels.tolist() == arrays()["train_labels"].tolist()


FEW = np.zeros((3, 5, 4), np.uint8)


@pytest.mark.parametrize(
    ("changes", "offending"),
    [
        ({"test_labels": None}, "lacks test_labels; it has test_images, train_images"),
        ({"train_images": None, "train_labels": None}, "lacks train_images"),
        ({"validation_images": FEW}, "lacks validation_labels"),
        (
            {"train_images": np.zeros((100, 5, 4))},
            r"train_images must be uint8, .* got float64 \(100, 5, 4\)",
        ),
        (
            {"test_images": np.zeros((20, 20), np.uint8)},
            r"test_images must be .*\(N, H, W\).* got uint8 \(20, 20\)",
        ),
        ({"test_labels": np.zeros(20)}, r"test_labels must be integers.* got float64"),
        (
            {"test_labels": np.zeros((20, 10), int)},
            r"test_labels must be integers, \(N,\), got int64 \(20, 10\); .*argmax",
        ),
        ({"test_labels": np.array(["cat"] * 20)}, r"test_labels must be integers"),
        ({"test_images": FEW}, "test has 3 images and 20 labels"),
        (
            {"test_images": FEW[:0], "test_labels": np.zeros(0, int)},
            "test has 0 images",
        ),
        (
            {"test_images": np.zeros((20, 4, 5), np.uint8)},
            r"test_images are \(4, 5\), train_images \(5, 4\)",
        ),
        (
            {"test_images": np.zeros((20, 5, 4, 3), np.uint8)},
            r"test_images are \(5, 4, 3\), train_images \(5, 4\)",
        ),
        ({"train_labels": np.arange(100) % 10 - 1}, "train_labels has .* -1"),
        ({"test_labels": np.arange(20) % 11}, "test has the class 10; the 10 classes"),
        (
            {"validation_images": FEW, "validation_labels": np.array([0, 1, 12])},
            "validation has the class 12",
        ),
        (
            {"validation_images": FEW, "validation_labels": np.array([0, 1, 3])},
            "validation lacks the class 2; every split",
        ),
        ({"test_labels": np.arange(20) % 9}, "test lacks the class 9"),
        (
            {
                "train_labels": np.where(
                    np.arange(100) % 10 == 3, 4, np.arange(100) % 10
                )
            },
            "train lacks the class 3",
        ),
        (
            {"train_labels": np.arange(100), "test_labels": np.zeros(20, int)},
            "no validation split",
        ),
    ],
)
def test_a_wrong_array_is_named_with_its_file(save, changes, offending):
    path = save(**changes)
    with pytest.raises(ValueError, match=offending) as error:
        from_npz(path)
    assert str(path) in str(error.value)


def write_text(path: Path) -> None:
    path.write_text("not an archive")


def write_nothing(path: Path) -> None:
    path.touch()


def write_one_array(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def write_objects(path: Path) -> None:
    np.savez(path, train_images=np.array([None, "code"], dtype=object))


def write_half(path: Path) -> None:
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[500] ^= 255  # within the first array
    path.write_bytes(content)


def write_damaged(path: Path) -> None:
    np.savez(path, **arrays())
    damage(path)


def write_damaged_compressed(path: Path) -> None:
    np.savez_compressed(path, **arrays(train_images=np.zeros((100, 5, 4), np.uint8)))
    damage(path)


@pytest.mark.parametrize(
    "write",
    [
        write_text,
        write_nothing,
        write_one_array,
        write_objects,
        write_half,
        write_damaged,
        write_damaged_compressed,
    ],
)
def test_a_file_that_is_no_npz_is_named(tmp_path, write):
    path = tmp_path / "mine.npz"
    write(path)
    with pytest.raises(ValueError, match="cannot be read") as error:
        load_task(str(path))
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "none.npz"
    with pytest.raises(ValueError, match="there is no file") as error:
        load_task(str(path))
    assert str(path) in str(error.value)


# Names of tasks


def test_a_task_is_its_own_task():
    task = colours()
    assert load_task(task) is task


@pytest.mark.parametrize("name", ["digits", "mnist", "emnist", "caltech256"])
def test_a_folder_with_the_name_of_a_published_set_is_told_of(
    tmp_path, monkeypatch, caplog, name
):
    monkeypatch.chdir(tmp_path)
    load_task(name)
    assert not caplog.text
    for label in "ab":
        (tmp_path / name / label).mkdir(parents=True)
    assert load_task(name).num_classes > 2
    assert f"{name} is the published data set; the folder of that" in caplog.text
    assert load_task(f"./{name}").class_names == ("a", "b")


def test_an_unknown_task_is_answered_with_the_forms_and_the_nearest_name():
    with pytest.raises(ValueError, match="unknown task 'fashon_mnist'") as error:
        load_task("fashon_mnist")
    message = str(error.value)
    assert all(name in message for name in TASKS)
    assert "the path of an .npz file, that of a folder of images, or 'mod" in message
    assert message.endswith("; did you mean 'fashion_mnist'?")


def test_what_is_like_no_name_is_answered_without_a_guess():
    with pytest.raises(ValueError, match="unknown task 'path/to/flowers'; known") as e:
        load_task("path/to/flowers")
    assert "did you mean" not in str(e.value)


def test_the_nearest_reward_is_named_too():
    with pytest.raises(ValueError, match="'module:attribute'; did you mean 'n2n'"):
        lookup("reward", "n2m", REWARDS)


@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    """A module of the user's with a task in it."""
    (tmp_path / "my_images.py").write_text(
        "import numpy as np\n"
        "from n2n_gym import Task\n"
        "def read():\n"
        "    part = np.zeros((4, 6, 6), np.uint8), np.arange(4)\n"
        "    return {'train': part, 'validation': part, 'test': part}\n"
        "def squares():\n"
        "    return Task('squares', (1, 6, 6), 4, read)\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "my_images"


def test_a_task_may_be_a_function_of_a_module(module):
    task = load_task(f"{module}:squares")
    assert (task.name, task.num_classes) == ("squares", 4)
    assert task.splits["train"].images.shape == (4, 1, 6, 6)


@pytest.mark.parametrize("name", ["my_images:circles", "no_such_module:squares"])
def test_what_cannot_be_imported_is_named(module, name):
    with pytest.raises(ValueError, match=f"task '{name}' cannot be imported"):
        load_task(name)


@pytest.mark.parametrize("name", ["os:getcwd", "math:pi"])
def test_what_gives_no_task_is_refused(name):
    with pytest.raises(ValueError, match=rf"task '{name}' must return a Task, got"):
        load_task(name)


def test_data_is_looked_for_in_the_cache_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("N2N_DATA", raising=False)
    monkeypatch.setenv("N2N_CACHE", str(tmp_path))
    assert data_folder() == tmp_path / "data"
    monkeypatch.setenv("N2N_DATA", str(tmp_path / "elsewhere"))
    assert data_folder() == tmp_path / "elsewhere"


def test_images_with_their_channels_first_are_refused(tmp_path):
    images = np.zeros((6, 3, 16, 16), np.uint8)
    labels = np.arange(6) % 2
    np.savez(
        tmp_path / "nchw.npz",
        **{f"{part}_images": images for part in ("train", "test")},
        **{f"{part}_labels": labels for part in ("train", "test")},
    )
    with pytest.raises(ValueError, match=r"looks like \(N, C, H, W\); \(N, H, W, C\)"):
        load_task(str(tmp_path / "nchw.npz"))


def test_a_side_that_is_none_is_told_apart(tmp_path):
    with pytest.raises(ValueError, match=r"as in .*@64, got 'big'"):
        load_task(f"{tmp_path}@big")
    with pytest.raises(ValueError, match=r"images of own\.npz have one size"):
        load_task("own.npz@64")


@pytest.mark.parametrize("split", SPLITS)
def test_equal_images_of_a_task_of_ones_own_are_warned_of(split, caplog):
    rng = np.random.default_rng(0)
    arrays = {
        name: (rng.integers(0, 256, (80, 4, 4, 1), dtype=np.uint8), np.arange(80) % 2)
        for name in SPLITS
    }
    task = Task("mine", (1, 4, 4), 2, lambda: arrays)
    _ = task.splits
    assert not caplog.text
    arrays[split][0][:] = arrays[split][0][0]
    _ = replace(task).splits
    assert f"task mine: all 80 {split} images are equal" in caplog.text
