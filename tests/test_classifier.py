import pytest
import torch

from n2n_gym.evaluators.classifier import RIDGE, fit_classifier, ridge
from n2n_gym.evaluators.distillation import Settings, distil, measure
from n2n_gym.evaluators.rungs import INHERIT
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.inference import compute_logits
from n2n_gym.pytorch.trace import trace
from n2n_gym.pytorch.training import Diverged
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher, Trained
from tests.networks import SmallResNet, awake

CPU = torch.device("cpu")


def test_a_line_through_points():
    inputs = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    outputs = torch.tensor([[2.0], [8.0]], dtype=torch.float64)
    weight, bias = ridge(inputs, outputs)
    # sum xy = 6, sum x^2 = 2, held down by 0.1 * 2.
    assert weight.item() == pytest.approx(6 / 2.2)
    assert bias.item() == pytest.approx(5.0)
    weight, bias = ridge(inputs, outputs, is_centred=False)
    assert (weight.item(), bias.item()) == (pytest.approx(6 / 2.2), 0.0)


@pytest.mark.parametrize(("num_images", "num_features"), [(40, 7), (7, 40)])
def test_it_is_where_the_gradient_vanishes(num_images, num_features):
    generator = torch.Generator().manual_seed(0)
    shape = num_images, num_features
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    outputs = torch.randn(num_images, 3, generator=generator, dtype=torch.float64)
    weight, bias = ridge(inputs, outputs)
    weight.requires_grad_()
    x = inputs - inputs.mean(0)
    held = RIDGE * x.square().sum() / num_features
    error = inputs @ weight.T + bias - outputs
    loss = error.square().sum() + held * weight.square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert gradient.abs().max() < 1e-9
    assert error.mean(0).abs().max() < 1e-12


def test_features_that_say_nothing_leave_the_mean():
    weight, bias = ridge(torch.ones(5, 3).double(), torch.arange(5.0)[:, None].double())
    assert weight.abs().max() == 0
    assert bias.item() == 2


def test_features_that_are_no_numbers_are_told(teacher):
    with pytest.raises(Diverged, match="not finite"):
        ridge(torch.full((3, 2), torch.nan).double(), torch.zeros(3, 1).double())


@pytest.fixture
def untrained(teacher) -> Teacher:
    """Random weights, and somebody else's logits."""
    torch.manual_seed(0)
    network = awake(SmallResNet())
    trained = Trained(network.state_dict(), 0.1, teacher.trained.logits)
    architecture = trace(network, (1, 8, 8))
    return Teacher("random", teacher.task, architecture, lambda: trained)


def test_a_fitted_student_is_nearer_to_the_teacher(untrained):
    """Features drawn at random are worth more than a classifier drawn at random."""
    settings = Settings(INHERIT, CPU, "float32", 1)
    fitted = measure(untrained.architecture, untrained, settings, seed=0)
    assert fitted.accuracy > 0.3
    network = distil(untrained.architecture, untrained, settings, seed=0)
    split = untrained.task.split("train", CPU)
    wanted, before = untrained.trained.logits, untrained.network(CPU)
    found, was = (
        compute_logits(n, split, untrained.normalise) for n in (network, before)
    )
    assert (found - wanted).square().mean() < 0.7 * (was - wanted).square().mean()


def test_only_the_classifier_and_the_statistics_change(untrained):
    split = untrained.task.split("train", CPU)
    network, before = untrained.network(CPU), untrained.network(CPU).state_dict()
    fit_classifier(
        network,
        split,
        untrained.normalise,
        student=untrained.architecture,
        logits=untrained.logits(CPU),
        positions=torch.arange(100),
        precision="float32",
        batch_size=50,
    )
    changed = {k for k, v in network.state_dict().items() if not v.equal(before[k])}
    own = {"fc.weight", "fc.bias"}
    assert own < changed
    rest = {name.rsplit(".", 1)[1] for name in changed - own}
    assert rest == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("name", ["vgg11", "squeezenet1_1"])
def test_networks_without_norms_or_a_linear_classifier(name, teacher):
    """One has no statistics to renew, the other ends in a convolution and a pool."""
    network = load_teacher(name, teacher.task).architecture
    torch.manual_seed(0)
    weights = build(network).state_dict()
    logits = teacher.trained.logits
    untrained = Teacher(
        name, teacher.task, network, lambda: Trained(weights, 0.1, logits)
    )
    settings = Settings(INHERIT, CPU, "float32", 1)
    student = distil(network, untrained, settings, seed=0)
    is_fitted = name == "vgg11"
    changed = {k for k, v in student.state_dict().items() if not v.equal(weights[k])}
    assert bool(changed) == is_fitted
