"""Some of a task's classes."""

import numpy as np
import pytest

from n2n_gym.tasks.classes import of_classes
from n2n_gym.tasks.loading import load_task
from n2n_gym.tasks.task import Task

LABELS = np.array([3, 1, 0, 2, 1, 3, 0, 2, 1])


def read():
    images = np.arange(len(LABELS), dtype=np.uint8)[:, None, None] + np.zeros(
        (1, 2, 2), np.uint8
    )
    return dict.fromkeys(("train", "validation", "test"), (images, LABELS))


@pytest.fixture
def whole():
    return Task("few", (1, 2, 2), 4, read, class_names=("a", "b", "c", "d"))


def numbers_of(task, split="train"):
    """Which images it has: each image's pixels are its number."""
    return task.splits[split].images[:, 0, 0, 0].tolist()


def test_classes_are_numbered_anew_and_images_keep_their_order(whole):
    some = of_classes(whole, "1,3")
    assert some.num_classes == 2
    assert some.class_names == ("b", "d")
    assert numbers_of(some) == [0, 1, 4, 5, 8]
    assert some.splits["train"].labels.tolist() == [1, 0, 0, 1, 0]


def test_so_many_training_images_are_the_first_of_each_class(whole):
    some = of_classes(whole, "1-2:4")
    assert numbers_of(some) == [1, 3, 4, 7]
    assert numbers_of(some, "test") == [1, 3, 4, 7, 8]


def test_disjoint_classes_share_no_image_and_are_two_tasks(whole):
    first, second = of_classes(whole, "0-1"), of_classes(whole, "2-3")
    assert not set(numbers_of(first)) & set(numbers_of(second))
    assert first.fingerprint != second.fingerprint


def test_digits_by_name():
    some = load_task("digits:0-4")
    assert some.name == "digits:0-4"
    assert some.class_names == ("0", "1", "2", "3", "4")
    labels = load_task("digits").splits["test"].labels
    assert len(some.splits["test"]) == int((labels < 5).sum())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("a-b", r"classes of few must be '0-4'.* got 'a-b'"),
        ("0-", "got '0-'"),
        ("", "got ''"),
        ("2-1", "at least two"),
        ("1", "at least two, each once, got '1'"),
        ("0,1,0", "each once, got '0,1,0'"),
        ("0-4", "classes 0 to 3, got '0-4'"),
        ("0-1:5", "multiple of its 2 classes, got '5'"),
        ("0-1:0", "multiple of its 2 classes, got '0'"),
        ("0-1:x", "got 'x'"),
    ],
)
def test_other_classes_are_refused(whole, said, message):
    with pytest.raises(ValueError, match=message):
        of_classes(whole, said)


def test_more_images_than_there_are_are_refused(whole):
    with pytest.raises(ValueError, match="has 2 training images of one of these"):
        _ = of_classes(whole, "0-1:6").splits
