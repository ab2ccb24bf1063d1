import itertools
import random
from dataclasses import replace

import pytest
import torch
from torch.func import functional_call

from n2n_gym.evaluators import elastic
from n2n_gym.evaluators.loading import load_evaluator
from n2n_gym.evaluators.rungs import ELASTIC, INHERIT
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.decisions import removals
from n2n_gym.networks.random_students import random_student
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.checkpoint import read_checkpoint
from n2n_gym.pytorch.inheritance import Inheritance
from n2n_gym.pytorch.trace import trace
from tests.networks import IMAGE, NETWORKS, awake

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", NETWORKS)
def test_slices_are_what_the_student_inherits(kind):
    torch.manual_seed(0)
    network = awake(kind())
    whole = trace(network, IMAGE)
    inheritance = Inheritance(whole, network.state_dict())
    rng, offered = random.Random(0), removals(whole)
    images = torch.rand(4, *IMAGE, generator=torch.Generator().manual_seed(1))
    for _ in range(10):
        student = random_student(whole, offered, rng)
        torch.manual_seed(1)
        built = inheritance.build(student).eval()
        # What has no counterpart is fresh: the same in both.
        cut = inheritance.slices(student, built)
        assert cut.keys() == dict(built.named_parameters()).keys()
        assert torch.equal(functional_call(built, cut, (images,)), built(images))


def test_gradients_reach_what_a_student_was_cut_from_and_nothing_else(teacher):
    whole = teacher.architecture
    weights = {k: v.clone() for k, v in teacher.weights.items()}
    weight = weights["block3.conv1.weight"].requires_grad_()
    inheritance = Inheritance(whole, weights, teacher.weights)
    from n2n_gym.networks.decisions import shrink, shrinkages

    narrow = next(s for s in shrinkages(whole) if s.name == "block3.conv1")
    student = shrink(whole, {narrow: 0.5})
    slices = inheritance.slices(student, build(student))
    slices["block3.conv1.weight"].sum().backward()
    assert weight.grad is not None
    per_channel = weight.grad.flatten(1).sum(1)
    assert (per_channel != 0).sum() == 8
    norms = teacher.weights["block3.conv1.weight"].abs().flatten(1).sum(1)
    assert set(per_channel.nonzero().flatten().tolist()) == set(
        norms.topk(8).indices.tolist()
    )


def test_random_students_are_legal_and_of_all_sizes(teacher):
    whole, rng = teacher.architecture, random.Random(0)
    students = [random_student(whole, removals(whole), rng) for _ in range(200)]
    shares = sorted(s.num_params / whole.num_params for s in students)
    assert shares[0] < 0.05
    assert shares[-1] > 0.9
    assert all(s.num_outputs == 10 for s in students)


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(elastic, "STEPS", 600)


@pytest.mark.slow
def test_students_cut_from_an_elastic_teacher_work_at_once(teacher, quickly):
    whole, rng = teacher.architecture, random.Random(1)
    students = [random_student(whole, removals(whole), rng) for _ in range(12)]
    found = {}
    for rung in (INHERIT, ELASTIC):
        evaluator = DistillationEvaluator(rung, device="cpu", precision="float32")
        scores = evaluator(students, teacher)
        found[rung.name] = sum(score.accuracy for score in scores) / len(scores)
        assert {score.cost_once for score in scores} == {
            2 * 600 / (1077 // 64) if rung is ELASTIC else 0
        }
    assert found["elastic"] > found["inherit"] + 0.05
    # The teacher that they are compared with is the original.
    assert evaluator.score_teacher(teacher) == teacher.score


@pytest.mark.slow
def test_an_elastic_teacher_is_made_once_and_kept(teacher, quickly, monkeypatch):
    first = load_evaluator("elastic", "cpu", store=False)
    (score,) = first([teacher.architecture], teacher)
    monkeypatch.setattr(elastic, "train_elastic", None)  # would fail if it were called
    again = load_evaluator("elastic", "cpu", store=False)
    assert again([teacher.architecture], teacher) == [score]


def test_few_images_are_gone_through_more_often():
    assert elastic.recipe_for(45_000).epochs == 3_000 / 703
    assert elastic.recipe_for(1_000_000).epochs == 4
    assert elastic.recipe_for(640).epochs == 60


class Killed(Exception):
    pass


def test_a_killed_training_goes_on_bit_for_bit(teacher, tmp_path, monkeypatch):
    settings = DistillationEvaluator(ELASTIC, precision="float32").settings(teacher)
    monkeypatch.setattr(elastic, "KEEP_EVERY", 0.0)
    recipe = replace(elastic.RECIPE, epochs=1.5, batch_size=256)
    path = tmp_path / "elastic.unfinished"
    real, calls = elastic.distillation_loss, itertools.count()

    def dies_at(last):
        def loss(*given):
            if next(calls) == last:
                raise Killed
            return real(*given)

        return loss

    whole = elastic.train_elastic(teacher, settings, recipe)
    # In the first epoch, and, resumed, in the second.
    for last in (5, 7):
        calls = itertools.count()
        monkeypatch.setattr(elastic, "distillation_loss", dies_at(last))
        with pytest.raises(Killed):
            elastic.train_elastic(teacher, settings, recipe, checkpoint=path)
    monkeypatch.setattr(elastic, "distillation_loss", real)
    again = elastic.train_elastic(teacher, settings, recipe, checkpoint=path)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    # Another recipe does not go on from it, nor does a file of something else.
    assert read_checkpoint(path, {"students": 3}) is None
    path.write_bytes(b"nothing")
    assert read_checkpoint(path, {}) is None
