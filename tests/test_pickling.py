"""Teachers and tasks in other processes, by plain pickle."""

import multiprocessing
import pickle
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from stable_baselines3.common.vec_env import SubprocVecEnv

from n2n_gym.pytorch.trace import trace
from n2n_gym.tasks.loading import load_task
from n2n_gym.tasks.task import Task
from n2n_gym.teachers import providing
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher, Trained, untrained_teacher
from tests.networks import SmallResNet

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("N2N_CACHE", str(tmp_path / "cache"))


def arrays(count: int = 40, classes: int = 10):
    rng = np.random.default_rng(0)
    return {
        split: (
            rng.integers(0, 256, (count, 8, 8), np.uint8),
            np.arange(count) % classes,
        )
        for split in ("train", "validation", "test")
    }


def read_by_name():
    return arrays()


def own_task() -> Task:
    found = arrays()
    return Task("own", SHAPE, 10, lambda: found, class_names=tuple("abcdefghij"))


def npz_task(folder) -> Task:
    path = folder / "own.npz"
    names = {
        f"{split}_{what}": array
        for split, pair in arrays().items()
        for what, array in zip(("images", "labels"), pair, strict=True)
    }
    np.savez(path, **names)
    return load_task(str(path))


def folder_task(folder) -> Task:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        place = folder / "animals" / name
        place.mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    return load_task(f"{folder / 'animals'}@8")


def mapped_task(folder) -> Task:
    images = arrays()["train"][0]
    np.save(folder / "images.npy", images)

    def read():
        mapped = np.load(folder / "images.npy", mmap_mode="c")
        return {split: (mapped, labels) for split, (_, labels) in arrays().items()}

    return Task("mapped", SHAPE, 10, read)


TASKS = {
    "by its name": lambda folder: load_task("digits"),
    "module:function": lambda folder: load_task("tests.test_pickling:own_task"),
    "an .npz": npz_task,
    "a folder": folder_task,
    "in memory": lambda folder: own_task(),
    "in a memory map": mapped_task,
    "in colour": lambda folder: own_task().in_colour(),
    "of a function": lambda folder: Task("by name", SHAPE, 10, read_by_name),
}


@pytest.mark.parametrize("is_read", [False, True], ids=["unread", "read"])
@pytest.mark.parametrize("make", TASKS.values(), ids=TASKS)
def test_a_task_is_pickled_with_its_images(make, is_read, tmp_path):
    task = make(tmp_path)
    if is_read:
        _ = task.splits
    twin = pickle.loads(pickle.dumps(task))
    twin = pickle.loads(pickle.dumps(twin))  # as it is sent on
    assert twin.fingerprint == task.fingerprint
    assert twin.normalisation == task.normalisation
    same = ("name", "input_shape", "num_classes", "class_names", "augmentation")
    assert all(getattr(twin, name) == getattr(task, name) for name in same)
    for name, split in task.splits.items():
        assert torch.equal(split.images, twin.splits[name].images)
        assert torch.equal(split.labels, twin.splits[name].labels)


@pytest.mark.parametrize(
    ("name", "is_read"),
    [("a folder", False), ("a folder", True), ("of a function", False)],
)
def test_images_that_can_be_read_there_do_not_travel(name, is_read, tmp_path):
    task = TASKS[name](tmp_path)
    if is_read:
        _ = task.splits
    assert len(pickle.dumps(task)) < 2_000 < 20 * 8 * 8 * 3


def own_teacher(task: Task) -> Teacher:
    architecture = trace(SmallResNet(), task.input_shape)
    weights = SmallResNet().state_dict()
    logits = torch.zeros(len(task.splits["train"]), 10)
    return Teacher("whole", task, architecture, lambda: Trained(weights, 0.5, logits))


TEACHERS = {
    "by its name": lambda: load_teacher("squeezenet1_1", own_task(), epochs=1),
    "module:function": lambda: load_teacher("tests.networks:make_small", own_task()),
    "a module": lambda: load_teacher(SmallResNet(), own_task()),
    "an architecture": lambda: load_teacher(
        trace(SmallResNet(), SHAPE), own_task(), epochs=1
    ),
    "with weights": lambda: load_teacher(
        "tests.networks:make_small", own_task(), weights=SmallResNet().state_dict()
    ),
    "a whole one": lambda: load_teacher("tests.test_pickling:own_teacher", own_task()),
}


@pytest.mark.parametrize("make", TEACHERS.values(), ids=TEACHERS)
def test_a_teacher_is_pickled_with_what_it_was_trained_to(make):
    torch.manual_seed(0)
    teacher = make()
    wanted = teacher.identity  # trained now
    twin = pickle.loads(pickle.dumps(teacher))
    assert twin.identity == wanted
    assert twin.score == teacher.score
    assert (twin.name, twin.normalise) == (teacher.name, teacher.normalise)
    images = teacher.task.splits["validation"].images.float() / 255
    cpu = torch.device("cpu")
    assert torch.equal(twin.network(cpu)(images), teacher.network(cpu)(images))


@pytest.mark.parametrize(
    "name", ["by its name", "module:function", "a module", "an architecture"]
)
def test_pickling_trains_nothing(name, monkeypatch):
    def trained(*arguments, **more):
        raise AssertionError("it was trained")

    teacher = TEACHERS[name]()
    with monkeypatch.context() as patch:
        patch.setattr(providing.learning, "train_network", trained)
        patch.setattr(providing, "_score", trained)
        twin = pickle.loads(pickle.dumps(teacher))
    assert "trained" not in twin.__dict__
    assert twin.architecture == teacher.architecture


def test_an_architecture_alone_is_pickled_and_still_refuses_what_it_lacks():
    teacher = untrained_teacher(trace(SmallResNet(), SHAPE))
    twin = pickle.loads(pickle.dumps(teacher))
    assert twin.architecture == teacher.architecture
    with pytest.raises(ValueError, match="has no weights and no images"):
        _ = twin.weights
    with pytest.raises(ValueError, match="has no weights and no images"):
        _ = twin.task.splits


def make_env(**arguments) -> gym.Env:
    import n2n_gym  # noqa: F401  registers the ids

    env = gym.make("N2NRemove-v0", evaluator="size", **arguments)
    return gym.wrappers.FlattenObservation(env)


@pytest.mark.slow  # each worker imports everything anew
def test_stable_baselines_workers_give_their_teachers():
    asked = [
        {"teacher": "resnet18", "task": "digits"},
        {
            "teacher": "tests.networks:make_small",
            "task": "tests.test_pickling:own_task",
        },
        {"teacher": trace(SmallResNet(), SHAPE).to_json()},
        {
            "teacher": "tests.test_pickling:own_teacher",
            "task": "tests.test_pickling:own_task",
        },
    ]
    envs = SubprocVecEnv(
        [partial(make_env, **each) for each in asked], start_method="spawn"
    )
    try:
        found = envs.get_attr("teacher")
        assert all(process.is_alive() for process in envs.processes)
    finally:
        envs.close()
    for teacher, each in zip(found, asked, strict=True):
        wanted = load_teacher(**each)
        assert teacher.name == wanted.name
        assert teacher.architecture == wanted.architecture
        if "task" in each:
            assert teacher.task.fingerprint == wanted.task.fingerprint
    assert found[-1].identity == wanted.identity  # weights and logits too
    assert not multiprocessing.active_children()
