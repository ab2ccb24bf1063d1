from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from n2n_gym.compression.controls import magnitude_student
from n2n_gym.compression.hand_designed import FULL_FRESH, HAND_DESIGNED
from n2n_gym.evaluators.distillation import Settings, distil
from n2n_gym.evaluators.evaluator import evaluate
from n2n_gym.evaluators.rungs import FULL, Rung
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import Shrinkage, shrink, shrinkages
from n2n_gym.networks.layers import Conv, DepthwiseConv, Linear, SpatialMean
from n2n_gym.networks.scaling import OutOfReach, uniform_student
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.determinism import seeded
from n2n_gym.pytorch.trace import trace
from n2n_gym.pytorch.training import initialise
from n2n_gym.rewards import Score, n2n
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import Teacher, Trained
from n2n_gym.teachers.zoo import teacher_architecture
from tests.networks import (
    IMAGE,
    NETWORKS,
    DealtNet,
    GroupedJoinNet,
    ShuffledNet,
    SmallResNet,
)

CPU = torch.device("cpu")
DIGITS = Task("none", IMAGE, 10, dict)
CIFAR10 = Task("none", (3, 32, 32), 10, dict)
DEAL_ANEW = (GroupedJoinNet, ShuffledNet, DealtNet)


def as_teacher(architecture: Architecture, network: nn.Module, **more) -> Teacher:
    """A teacher with a network's weights, whatever they are worth."""
    trained = Trained(network.state_dict(), 0.5, torch.zeros(1, 10))
    task = Task("none", architecture.input_shape, architecture.num_outputs, dict)
    return Teacher("drawn", task, architecture, lambda: trained, **more)


def drawn(kind) -> Teacher:
    torch.manual_seed(0)
    network = kind()
    return as_teacher(trace(network, IMAGE), network)


def two_layers(first: list[float], second: list[float], **more) -> Teacher:
    """Two convolutions whose filters have these norms."""
    layers = (
        Conv("first", (-1,), len(first), (1, 1), bias=False),
        Conv("second", (0,), len(second), (1, 1), bias=False),
        SpatialMean("mean", (1,)),
        Linear("fc", (2,), 10),
    )
    architecture = Architecture(IMAGE, layers)
    network = build(architecture)
    with torch.no_grad():
        network.first.weight.copy_(torch.tensor(first).view(-1, 1, 1, 1))
        rows = torch.tensor(second) / len(first)  # each of a filter's weights
        network.second.weight.copy_(-rows.view(-1, 1, 1, 1))
    return as_teacher(architecture, network, **more)


def widths_of(student: Architecture) -> list[int]:
    """The width of every layer that has one."""
    kinds = (Conv, Linear)
    return [layer.width for layer in student.layers if isinstance(layer, kinds)]


def groups_of(start: Architecture) -> tuple[Shrinkage, ...]:
    return shrinkages(start, ("width",))


def smallest_of(start: Architecture) -> Architecture:
    widths = {p: group.multiple for group in groups_of(start) for p in group.layers}
    return start.shrink(widths=widths)


def sizes_between(start: Architecture, count: int = 6) -> list[int]:
    """Sizes from the smallest that can be reached up to the start's."""
    low, high = smallest_of(start).num_params, start.num_params
    return [low + (high - low) * i // count for i in range(count + 1)]


# Uniform width.


@pytest.mark.parametrize("share", [2, 10, 100])
def test_uniform_width_scaling_comes_close_to_a_size_and_stays_within(share):
    teacher = teacher_architecture("resnet18", DIGITS)
    target = teacher.num_params // share
    thin = uniform_student(teacher, target)
    assert 0.9 * target <= thin.num_params <= target
    assert len(thin.layers) == len(teacher.layers)


def test_uniform_width_scaling_reaches_the_smallest_and_refuses_what_is_smaller():
    teacher = teacher_architecture("shufflenet_v2_x0_5", DIGITS)
    smallest = smallest_of(teacher)
    size = smallest.num_params
    assert uniform_student(teacher, size) == smallest
    with pytest.raises(OutOfReach, match=f"num_params={size - 1} .* has {size} param"):
        uniform_student(teacher, size - 1)


# Magnitude.


@pytest.mark.parametrize(
    ("num_params", "widths"),
    [
        # first: norms 1, 2, 6 are shares 1/3, 2/3, 2 of their mean; second: 10, 20, 30
        # are shares 0.5, 1, 1.5. So they go: 1, 10, 2, 20, and a + ab + 10b + 10
        # parameters are 52, 48, 36, 33, 22.
        (52, (3, 3)),
        (51, (2, 3)),
        (48, (2, 3)),
        (47, (2, 2)),
        (36, (2, 2)),
        (35, (1, 2)),
        (32, (1, 1)),
        (22, (1, 1)),
    ],
)
def test_the_weakest_filter_of_all_goes_first(num_params, widths):
    student = magnitude_student(
        two_layers([1.0, 2.0, 6.0], [10.0, 30.0, 20.0]), num_params
    )
    assert tuple(widths_of(student)[:2]) == widths


def test_the_scale_of_a_layer_does_not_matter():
    for scale in (0.01, 100.0):
        scaled = two_layers([scale, 2 * scale, 6 * scale], [10.0, 30.0, 20.0])
        assert widths_of(magnitude_student(scaled, 47)) == [2, 2, 10]


def test_a_layer_of_zeros_goes_first():
    teacher = two_layers([1.0, 2.0, 6.0], [0.0, 0.0, 0.0])
    assert widths_of(magnitude_student(teacher, 33)) == [3, 1, 10]


def test_filters_are_ranked_by_the_weights_that_the_teacher_names():
    other = two_layers([6.0, 2.0, 1.0], [0.1, 2.0, 2.0]).weights
    teacher = two_layers([1.0, 2.0, 6.0], [10.0, 30.0, 20.0], ranked_by=other)
    student = magnitude_student(teacher, 38)  # less second's first, first's last
    weights = teacher.inheritance(CPU).build(student)
    assert widths_of(student)[:2] == [2, 2]
    assert weights.first.weight.flatten().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_size_is_met_to_the_last_filter(kind):
    teacher = drawn(kind)
    start = teacher.architecture
    for num_params in sizes_between(start):
        student = magnitude_student(teacher, num_params)
        assert student.num_params <= num_params
        if num_params == start.num_params:
            assert student == start
            continue
        # With the last filter that went it would be too large.
        wider = [one_wider(student, start, group) for group in groups_of(start)]
        assert max(s.num_params for s in wider) > num_params


def one_wider(
    student: Architecture, start: Architecture, group: Shrinkage
) -> Architecture:
    widths = {
        position: min(
            student.shape_of(position)[0] + group.multiple,
            start.shape_of(position)[0],
        )
        for position in group.layers
    }
    return student.shrink(widths=widths)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_smaller_size_widens_nothing(kind):
    teacher = drawn(kind)
    students = [
        magnitude_student(teacher, num_params)
        for num_params in sizes_between(teacher.architecture, 20)
    ]
    for small, large in itertools.pairwise(students):
        pairs = zip(widths_of(small), widths_of(large), strict=True)
        assert all(narrow <= wide for narrow, wide in pairs)


@pytest.mark.parametrize("kind", NETWORKS)
def test_rates_reach_its_widths_exactly(kind):
    teacher = drawn(kind)
    start = teacher.architecture
    for num_params in sizes_between(start):
        student = magnitude_student(teacher, num_params)
        rates = {
            group: student.shape_of(group.layers[0])[0]
            / start.shape_of(group.layers[0])[0]
            for group in groups_of(start)
        }
        assert shrink(start, rates) == student


# Where channels are dealt out anew, some weights start fresh, or channels are kept by
# where they go as well as by their strength.
@pytest.mark.parametrize("kind", [k for k in NETWORKS if k not in DEAL_ANEW])
def test_what_a_student_inherits_are_the_strongest_filters_of_all(kind):
    """One threshold tells those that it keeps from those that it does not."""
    torch.manual_seed(0)
    network = kind()
    start = trace(network, IMAGE)
    for layer in start.layers:
        if isinstance(layer, (Conv, Linear)):
            # Each filter of equal weights, by which it is known again.
            weight = network.get_submodule(layer.name).weight
            each = torch.rand(len(weight)).view(-1, *[1] * (weight.dim() - 1))
            weight.data.copy_(each.expand_as(weight))
    teacher = as_teacher(start, network)
    for num_params in sizes_between(start)[1:-1]:
        student = magnitude_student(teacher, num_params)
        built = teacher.inheritance(CPU).build(student)
        weakest_kept, strongest_gone = [], []
        for group in groups_of(start):
            names = [start.layers[position].name for position in group.layers]
            kept = are_kept(network, built, names[0])
            assert all(torch.equal(kept, are_kept(network, built, n)) for n in names)
            norms = sum(filters(network, name).abs().sum(1) for name in names)
            blocks = (norms / norms.mean()).view(group.multiple, -1)
            stay = kept.view(group.multiple, -1)
            assert len(set(stay.sum(1).tolist())) == 1  # equally many of each
            if stay[0].sum() > 1:  # the last one is not to be had
                least = blocks.masked_fill(~stay, torch.inf).amin(1)
                weakest_kept.append(least.mean().item())
            if not kept.all():
                most = blocks.masked_fill(stay, -torch.inf).amax(1)
                strongest_gone.append(most.mean().item())
        assert weakest_kept
        assert strongest_gone
        assert min(weakest_kept) >= max(strongest_gone) - 1e-6


def filters(network: nn.Module, name: str) -> torch.Tensor:
    """(C, weights of each)."""
    return network.get_submodule(name).weight.detach().flatten(1)


def are_kept(network: nn.Module, student: nn.Module, name: str) -> torch.Tensor:
    """Mask of a layer's filters that the student has, (C,) bool."""
    known = filters(network, name)[:, 0]
    left = filters(student, name)
    assert (left == left[:, :1]).all()
    kept = torch.isin(known, left[:, 0])
    assert torch.equal(known[kept], left[:, 0])
    return kept


@pytest.mark.parametrize("kind", NETWORKS)
def test_magnitude_reaches_the_smallest_and_refuses_what_is_smaller(kind):
    teacher = drawn(kind)
    smallest = smallest_of(teacher.architecture)
    size = smallest.num_params
    assert magnitude_student(teacher, size) == smallest
    assert min(widths_of(smallest)) >= 1
    with pytest.raises(OutOfReach, match=f"num_params={size - 1} .* has {size} param"):
        magnitude_student(teacher, size - 1)


def test_a_size_that_the_teacher_has_leaves_it_as_it_is():
    teacher = drawn(SmallResNet)
    num_params = teacher.architecture.num_params
    assert magnitude_student(teacher, num_params + 1) == teacher.architecture


# Hand-designed students.


@pytest.mark.parametrize(
    ("name", "num_params", "in_the_paper"),
    [
        ("squeezenet", 727_626, 727e3),
        # 9 * 133,984 filters' inputs, 2 * 1,440 of batch norm, 129 * 10
        ("fitnet4", 1_205_856 + 2_880 + 1_290, 1.2e6),
        # 9 * (96 + 2048 + 8192 + 16384 + 32768), 2 * 608, 1025 * 512 + 513 * 10
        ("vgg_small", 535_392 + 1_216 + 524_800 + 5_130, 1.06e6),
    ],
)
def test_hand_designed_students_have_the_papers_sizes(name, num_params, in_the_paper):
    student = HAND_DESIGNED[name](CIFAR10)
    assert student.num_params == num_params
    assert student.num_params == pytest.approx(in_the_paper, rel=0.01)


def test_fitnet4_has_the_published_convolutions():
    student = HAND_DESIGNED["fitnet4"](CIFAR10)
    expected = [32] * 3 + [48] * 2 + [80] * 6 + [128] * 6
    assert widths_of(student) == [*expected, 10]
    sides = [
        student.shape_of(position)[1]
        for position, layer in enumerate(student.layers)
        if isinstance(layer, Conv)
    ]
    assert sides == [32] * 5 + [16] * 6 + [8] * 6


@pytest.mark.parametrize("name", HAND_DESIGNED)
@pytest.mark.parametrize(
    "shape", [IMAGE, (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 3, 5), (2, 7, 4)]
)
def test_hand_designed_students_take_images_of_any_size(name, shape):
    student = HAND_DESIGNED[name](Task("none", shape, 7, dict))
    network = build(student).eval()
    assert network(torch.rand(2, *shape)).shape == (2, 7)
    convolutions = [
        student.shape_of(position)[1:]
        for position, layer in enumerate(student.layers)
        if isinstance(layer, (Conv, DepthwiseConv))
    ]
    # Small maps are not made smaller.
    assert min(min(size) for size in convolutions) >= 2


@pytest.mark.parametrize("name", HAND_DESIGNED)
def test_designing_draws_no_random_numbers(name):
    before = torch.random.get_rng_state()
    HAND_DESIGNED[name](CIFAR10)
    assert torch.equal(torch.random.get_rng_state(), before)


# Their distillation.


def short(rung: Rung, epochs: int) -> Rung:
    assert rung.recipe is not None
    recipe = replace(rung.recipe, epochs=epochs)
    return replace(rung, name=f"{rung.name}-{epochs}", recipe=recipe)


def test_hand_designed_students_are_distilled_by_the_recipe_of_all():
    assert FULL_FRESH.recipe == FULL.recipe
    assert (FULL_FRESH.num_variants, FULL_FRESH.statistics) == (
        FULL.num_variants,
        FULL.statistics,
    )
    assert FULL_FRESH.name != FULL.name


def test_hand_designed_students_learn_and_are_rewarded_as_all_are(teacher):
    evaluator = DistillationEvaluator(short(FULL_FRESH, 3), device="cpu")
    student = HAND_DESIGNED["vgg_small"](teacher.task)
    assert not student.positions.keys() & teacher.architecture.positions.keys()
    (score,) = evaluate([student], teacher, evaluator)
    assert isinstance(score, Score)
    assert score.accuracy > 0.9
    assert score[1:3] == (student.num_params, student.num_macs)
    rho = student.num_params / teacher.architecture.num_params
    expected = (1 - rho**2) * score.accuracy / teacher.score.accuracy
    assert n2n(score, teacher.score) == pytest.approx(expected)


def test_a_magnitude_student_learns_from_what_it_inherits(teacher):
    student = magnitude_student(teacher, teacher.architecture.num_params // 2)
    evaluator = DistillationEvaluator(short(FULL, 3), device="cpu")
    (score,) = evaluate([student], teacher, evaluator)
    assert isinstance(score, Score)
    assert score.accuracy > 0.9
    assert score.num_params <= teacher.architecture.num_params // 2


def test_a_fresh_start_inherits_nothing_even_under_the_teachers_names(teacher):
    untrained = replace(FULL_FRESH, recipe=None, statistics=0, num_variants=1)
    settings = Settings(untrained, CPU, "float32", 1)
    network = distil(teacher.architecture, teacher, settings, seed=5)
    with seeded(5, CPU):
        expected = build(teacher.architecture)
        initialise(expected)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, expected.get_parameter(name))
    assert not torch.equal(network.conv1.weight, teacher.weights["conv1.weight"])
