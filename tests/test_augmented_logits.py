import logging

import numpy as np
import pytest
import torch

from n2n_gym.common.files import cache_folder
from n2n_gym.evaluators.packed_teacher import pack, unpack
from n2n_gym.evaluators.rungs import Rung
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.evaluators.workers import Workers
from n2n_gym.pytorch.inference import compute_logits
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.pytorch.trace import trace
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.sets import digits
from n2n_gym.tasks.task import Task
from n2n_gym.teachers import augmented_logits
from n2n_gym.teachers.augmented_logits import teacher_variants
from n2n_gym.teachers.teacher import Teacher, Trained
from tests.networks import SmallResNet, awake

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("N2N_CACHE", str(tmp_path))


def make_teacher(augmentation: Augmentation) -> Teacher:
    """An untrained teacher on digits, with its logits."""
    task = Task("digits", (1, 8, 8), 10, digits().read, augmentation=augmentation)
    torch.manual_seed(0)
    network = awake(SmallResNet())
    architecture = trace(network, task.input_shape)
    bare = Teacher("small", task, architecture, dict)
    logits = compute_logits(network, task.split("train", CPU), bare.normalise)
    trained = Trained(network.state_dict(), 0.1, logits)
    return Teacher("small", task, architecture, lambda: trained)


@pytest.fixture
def teacher() -> Teacher:
    return make_teacher(Augmentation(padding=1, flip=True))


def test_the_first_view_is_the_image_itself_and_the_others_are_changed(teacher):
    found = teacher_variants(teacher, 3, CPU, "float32")
    images = teacher.task.splits["train"].images
    positions = torch.arange(len(images))
    seen = [
        found.augmentation.apply(images, found.changes[variant][:, positions])
        for variant in range(3)
    ]
    assert torch.equal(seen[0], images)
    assert not torch.equal(seen[1], images)
    assert not torch.equal(seen[1], seen[2])


def test_logits_are_those_of_what_is_seen(teacher):
    found = teacher_variants(teacher, 4, CPU, "float32")
    positions = torch.tensor([5, 900, 17, 17])
    images = teacher.task.splits["train"].images[positions]
    network = teacher.network(CPU)
    variants_seen = set()
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        seen, logits = found.pick(images, positions, generator)
        with torch.no_grad():
            torch.testing.assert_close(network(teacher.normalise(seen)), logits)
        variants_seen.add(seen.numpy().tobytes())
    assert len(variants_seen) > 1


def test_they_are_computed_once_and_kept(teacher, monkeypatch):
    first = teacher_variants(teacher, 3, CPU, "float32")
    again = make_teacher(teacher.task.augmentation)
    monkeypatch.setattr(
        augmented_logits, "_compute_logits", None
    )  # would fail if called
    second = teacher_variants(again, 3, CPU, "float32")
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.changes, second.changes)


def test_a_damaged_file_is_named_and_made_anew(teacher, caplog):
    first = teacher_variants(teacher, 2, CPU, "float32")
    (path,) = (cache_folder() / "views").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    again = make_teacher(teacher.task.augmentation)
    with caplog.at_level(logging.WARNING):
        second = teacher_variants(again, 2, CPU, "float32")
    assert torch.equal(first.logits, second.logits)
    assert f"{path} is damaged" in caplog.text


def test_without_augmentation_there_is_one_view(teacher):
    assert teacher_variants(make_teacher(Augmentation()), 8, CPU, "float32") is None


def test_too_many_logits_leave_fewer_variants(teacher, monkeypatch):
    monkeypatch.setattr(augmented_logits, "MOST_LOGITS", 3 * 1077 * 10)
    found = teacher_variants(teacher, 8, CPU, "float32")
    assert len(found.logits) == len(found.changes) == 3


def test_students_see_them_alike_in_workers(teacher):
    rung = Rung("seen", recipe=Recipe(1, 32, learning_rate=0.05), num_variants=3)
    pool = Workers(1)
    found = [
        DistillationEvaluator(rung, device="cpu", precision="float32", runner=runner)(
            [teacher.architecture], teacher
        )[0]
        for runner in (None, pool)
    ]
    pool.close()
    assert found[0] == found[1]
    assert found[0].cost_once == pytest.approx(2 / 3)
    twin = unpack(pack(teacher))
    assert twin.variants.keys() == teacher.variants.keys()
    assert np.array_equal(
        twin.variants[3, "cpu", "float32"].logits,
        teacher.variants[3, "cpu", "float32"].logits,
    )
