import pytest
import torch
from torch import nn

from n2n_gym.evaluators import distillation
from n2n_gym.evaluators.distillation import distil
from n2n_gym.evaluators.rescaling import _images, _squares_of, rescale
from n2n_gym.evaluators.rungs import FULL
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.decisions import RATES, shrink, shrinkages
from n2n_gym.pytorch.inference import compute_accuracy
from n2n_gym.pytorch.training import initialise
from n2n_gym.teachers.loading import load_teacher
from tests.networks import SmallResNet

CPU = torch.device("cpu")
DEPTH = 8


def plain(task) -> nn.Module:
    """Convolutions in a row, none of them normalised."""
    layers: list[nn.Module] = []
    width = task.input_shape[0]
    for _ in range(DEPTH):
        layers += [nn.Conv2d(width, 24, 3, padding=1), nn.ReLU()]
        width = 24
    head = nn.Linear(width, task.num_classes)
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    initialise(network)
    return network


@pytest.fixture(scope="module")
def teacher():
    make = "tests.test_rescaling:plain"
    return load_teacher(make, "digits", device=CPU, epochs=10)


@pytest.fixture(scope="module")
def student(teacher):
    whole = teacher.architecture
    return shrink(whole, dict.fromkeys(shrinkages(whole, ("width",)), RATES[2]))


def test_layers_write_as_much_as_in_the_teacher(teacher, student):
    images = _images(teacher, CPU)
    kept = teacher.inheritance(CPU).written(student)
    assert len(kept) == DEPTH + 1

    def written(network):
        found = {}
        for name in kept:
            network.get_submodule(name).register_forward_hook(
                lambda _, __, output, name=name: found.update({name: output})
            )
        network.eval()(images)
        return {name: output.square().mean().item() for name, output in found.items()}

    squares = _squares_of(teacher, CPU)
    wanted = {name: squares[name][of].mean().item() for name, of in kept.items()}
    network = teacher.inheritance(CPU).build(student)
    assert written(network)[str(2 * DEPTH - 2)] < wanted[str(2 * DEPTH - 2)] / 100
    rescale(network, student, teacher)
    assert written(network) == pytest.approx(wanted, rel=1e-3)


def test_the_whole_teacher_is_left_as_it_is(teacher):
    network = teacher.network(CPU)
    rescale(network, teacher.architecture, teacher)
    for name, tensor in network.state_dict().items():
        assert tensor.equal(teacher.weights[name])


def test_what_writes_nothing_stays_finite(teacher, student):
    network = teacher.inheritance(CPU).build(student)
    with torch.no_grad():
        for name in ("0.weight", "0.bias"):
            network.get_parameter(name).zero_()
    rescale(network, student, teacher)
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


def test_students_without_normalisation_learn(teacher, student, monkeypatch):
    rung = FULL.with_epochs(10)
    evaluator = DistillationEvaluator(rung, device=CPU, precision="float32")
    settings = evaluator.settings(teacher)

    def accuracy():
        network = distil(student, teacher, settings, seed=0)
        split = teacher.task.split("validation", CPU)
        return compute_accuracy(network, split, teacher.normalise)

    found = accuracy()
    assert found > 0.4
    monkeypatch.setattr(distillation, "rescale", lambda *_: None)
    assert accuracy() < found - 0.03


def test_their_scores_have_keys_of_their_own(teacher, student):
    evaluator = DistillationEvaluator(FULL, device=CPU)
    assert "is_plain" in evaluator.key(student, teacher).settings
    other = load_teacher(SmallResNet(), "digits", device=CPU)
    assert "is_plain" not in evaluator.key(other.architecture, other).settings
