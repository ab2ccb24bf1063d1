from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import removals, remove, shrink, shrinkages
from n2n_gym.networks.layers import (
    AdaptiveAvgPool,
    Concat,
    Conv,
    DepthwiseConv,
    Flatten,
    Linear,
    SpatialMean,
)
from n2n_gym.networks.random_students import random_students
from n2n_gym.pytorch.build import Network, build
from n2n_gym.pytorch.inheritance import Inheritance
from n2n_gym.pytorch.trace import trace
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.zoo import teacher_architecture
from tests.networks import (
    IMAGE,
    NETWORKS,
    OF_TIMM,
    DealtNet,
    DenseNet,
    GatedNet,
    GroupedJoinNet,
    GroupNormNet,
    PlainNet,
    ScaledNet,
    SmallResNet,
    awake,
)


def images(shape: tuple[int, int, int] = IMAGE) -> Tensor:
    return torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))


def make(kind: type[nn.Module]) -> tuple[nn.Module, Architecture, Inheritance]:
    torch.manual_seed(0)
    network = awake(kind())
    architecture = trace(network, IMAGE)
    return network, architecture, Inheritance(architecture, network.state_dict())


def decision(found, name: str):
    return next(d for d in found if d.name.startswith(name))


def widths(architecture: Architecture):
    return [s for s in shrinkages(architecture) if s.variable == "width"]


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_student_with_no_decisions_computes_what_its_teacher_does(kind):
    network, architecture, inheritance = make(kind)
    student = inheritance.build(architecture).eval()
    assert torch.equal(student(images()), network(images()))


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v2"])
def test_the_same_holds_of_torchvisions_networks(name):
    torch.manual_seed(0)
    architecture = teacher_architecture(name, Task("none", (3, 32, 32), 10, dict))
    network = awake(build(architecture))
    student = Inheritance(architecture, network.state_dict()).build(architecture)
    batch = images((3, 32, 32))
    assert torch.equal(student.eval()(batch), network(batch))


def test_without_a_residual_branch_it_computes_what_the_teacher_does_without_it():
    network, architecture, inheritance = make(SmallResNet)
    branch = next(r for r in removals(architecture) if r.name == "block3.bn2")
    student = inheritance.build(remove(architecture, [branch])).eval()
    for parameter in (network.block3.bn2.weight, network.block3.bn2.bias):
        nn.init.zeros_(parameter)  # the branch adds nothing now
    assert torch.equal(student(images()), network(images()))


def test_the_input_of_a_bypassed_unit_stands_for_its_output():
    network, architecture, inheritance = make(SmallResNet)
    unit = next(
        r
        for r in removals(architecture)
        if (r.form, r.name) == ("unit", "block3.conv1")
    )
    student = inheritance.build(remove(architecture, [unit])).eval()
    network.block3.conv1 = nn.Identity()
    network.block3.bn1 = nn.Identity()  # the relu has no effect on a relu's output
    assert torch.equal(student(images()), network(images()))


def test_a_consumer_whose_input_has_another_width_starts_fresh():
    layers = (
        Conv("stem", (-1,), 4, (1, 1)),
        Conv("wider", (0,), 6, (1, 1)),
        Conv("same", (1,), 6, (1, 1)),
        AdaptiveAvgPool("pool", (2,)),
        Flatten("flatten", (3,)),
        Linear("fc", (4,), 10),
    )
    architecture = Architecture(IMAGE, layers)
    teacher = build(architecture)
    inheritance = Inheritance(architecture, teacher.state_dict())
    (unit,) = (r for r in removals(architecture) if r.name == "wider")
    torch.manual_seed(3)
    student = inheritance.build(remove(architecture, [unit]))
    assert student.same.weight.shape == (6, 4, 1, 1)
    torch.manual_seed(3)
    fresh = nn.Conv2d(4, 6, 1)
    assert torch.equal(student.same.weight, fresh.weight)
    assert torch.equal(student.fc.weight, teacher.fc.weight)


# Layer and group normalisation see how many channels there are. Where channels are
# dealt out, not every choice of them can go: those have a test of their own.
@pytest.mark.parametrize(
    "kind", [k for k in NETWORKS if k not in (ScaledNet, GroupNormNet, DealtNet)]
)
def test_channels_that_do_nothing_can_be_shrunk_away(kind):
    """Through additions, concatenations, gates, flattens and groups alike."""
    network, architecture, _ = make(kind)
    for group in widths(architecture):
        silence(network, architecture, group)
    inheritance = Inheritance(architecture, network.state_dict())
    student = shrink(architecture, dict.fromkeys(widths(architecture), 0.5))
    assert student.num_params < 0.7 * architecture.num_params
    torch.testing.assert_close(
        inheritance.build(student).eval()(images()), network(images())
    )


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_channel_of_a_student_is_another_one_of_its_teachers(kind):
    """After removals as well, which leave other splits and shuffles."""
    _, architecture, inheritance = make(kind)
    for student in random_students(architecture, 10):
        for name, kept in inheritance.written(student).items():
            assert len(kept) == student.shape_of(student.positions[name])[0]
            whole = architecture.shape_of(architecture.positions[name])[0]
            assert set(kept) <= set(range(whole))
            assert len(set(kept)) == len(kept)
        assert inheritance.build(student).eval()(images()).isfinite().all()


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("name", ["DealtNet", "shufflenet_v2_x0_5"])
def test_channels_that_do_nothing_can_be_shrunk_away_behind_shuffles(name, rate):
    torch.manual_seed(0)
    if name == "DealtNet":
        assert_nothing_is_lost(awake(DealtNet()), IMAGE, rate)
    else:
        network = awake(models.shufflenet_v2_x0_5(num_classes=10))
        assert_nothing_is_lost(network, (3, 64, 64), rate)


# Layer and group normalisation, which those have, see how many channels there are.
NORMALISED = ("inception_next_atto", "resnetv2_50d_gn")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in OF_TIMM if n not in NORMALISED])
def test_channels_that_do_nothing_can_be_shrunk_away_in_timms_networks(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = awake(timm.create_model(name, num_classes=10))
    assert_nothing_is_lost(network, (3, 64, 64), 0.4)


def assert_nothing_is_lost(
    network: nn.Module, shape: tuple[int, int, int], rate: float
) -> None:
    """All widths shrink, and random channels that could stay are all that do anything.

    Then these stay, and the logits are the same.
    """
    architecture = trace(network, shape)
    student = shrink(architecture, dict.fromkeys(widths(architecture), rate))
    assert student.num_params < architecture.num_params
    for part in network.modules():  # what is silent stays silent
        if isinstance(part, nn.BatchNorm2d):
            nn.init.zeros_(part.bias)
            nn.init.zeros_(part.running_mean)
        elif isinstance(part, nn.Conv2d) and part.groups == part.in_channels > 1:
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    weights = network.state_dict()
    noise = {key: torch.rand(tensor.shape) for key, tensor in weights.items()}
    chosen = Inheritance(architecture, weights, ranked_by=noise).written(student)
    for layer, kept in chosen.items():
        module = network.get_submodule(layer)
        silent = torch.ones(len(module.weight), dtype=torch.bool)
        silent[kept] = False
        module.weight.data[silent] = 0
        if module.bias is not None:
            module.bias.data[silent] = 0
    inheritance = Inheritance(architecture, network.state_dict())
    for layer, kept in inheritance.written(student).items():
        assert set(kept) == set(chosen[layer]), layer
    small = inheritance.build(student).double().eval()
    batch = images(shape).double()
    torch.testing.assert_close(small(batch), network.double()(batch))


def silence(network: nn.Module, architecture: Architecture, group) -> None:
    """Zero in every other channel of a width group: it has no norm and no effect."""
    width = architecture.shape_of(group.layers[0])[0]
    kept = width if group.multiple == 1 else width // group.multiple
    half = max(1, round(0.5 * kept + 1e-9))
    order = torch.arange(width) % kept  # the place within each block
    silent = order >= half
    silent = silent.view(-1, kept).flip(1).flatten()  # the first go, the last stay
    for position in group.layers:
        module = network.get_submodule(architecture.layers[position].name)
        module.weight.data[silent] = 0
        if module.bias is not None:
            module.bias.data[silent] = 0
    for name, module in network.named_modules():
        is_norm = isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d))
        if is_norm and reads_group(architecture, name, group):
            offset, size = segment_of(architecture, name, group)
            part = slice(offset, offset + size)
            module.bias.data[part][silent] = 0
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean[part][silent] = 0
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            if reads_group(architecture, name, group):
                module.bias.data[silent] = 0


def reads_group(architecture: Architecture, name: str, group) -> bool:
    from n2n_gym.networks.channels import Channels

    (read,) = architecture.layers[architecture.positions[name]].inputs
    return any(s.group == group.layers[0] for s in Channels(architecture).of(read))


def segment_of(architecture: Architecture, name: str, group) -> tuple[int, int]:
    from n2n_gym.networks.channels import Channels

    (read,) = architecture.layers[architecture.positions[name]].inputs
    offset = 0
    for segment in Channels(architecture).of(read):
        if segment.group == group.layers[0]:
            return offset, segment.width
        offset += segment.width
    raise AssertionError(name)


def test_the_channels_of_largest_norm_stay_in_their_order():
    layers = (
        Conv("stem", (-1,), 4, (1, 1), bias=False),
        SpatialMean("mean", (0,)),
        Linear("fc", (1,), 10),
    )
    architecture = Architecture(IMAGE, layers)
    teacher = build(architecture)
    teacher.stem.weight.data = torch.tensor([3.0, -1.0, -5.0, 2.0]).view(4, 1, 1, 1)
    (group,) = widths(architecture)
    student = Inheritance(architecture, teacher.state_dict()).build(
        shrink(architecture, {group: 0.5})
    )
    assert student.stem.weight.flatten().tolist() == [3.0, -5.0]
    assert torch.equal(student.fc.weight, teacher.fc.weight[:, [0, 2]])


def test_equally_many_channels_stay_in_each_group_of_a_convolution():
    layers = (
        Conv("stem", (-1,), 4, (1, 1), bias=False),
        Conv("grouped", (0,), 4, (1, 1), groups=2, bias=False),
        SpatialMean("mean", (1,)),
        Linear("fc", (2,), 10),
    )
    architecture = Architecture(IMAGE, layers)
    teacher = build(architecture)
    teacher.stem.weight.data = torch.tensor([3.0, 4.0, 1.0, 2.0]).view(4, 1, 1, 1)
    teacher.grouped.weight.data = torch.arange(8.0).view(4, 2, 1, 1) + 1
    student = Inheritance(architecture, teacher.state_dict()).build(
        shrink(architecture, dict.fromkeys(widths(architecture), 0.5))
    )
    assert student.stem.weight.flatten().tolist() == [4.0, 2.0]
    # of the rows (1 2), (3 4) | (5 6), (7 8) the larger, of those the second column
    assert student.grouped.weight.flatten().tolist() == [4.0, 8.0]


def test_a_smaller_kernel_is_the_centre_of_the_teachers():
    network, architecture, inheritance = make(PlainNet)
    kernel = next(
        s
        for s in shrinkages(architecture)
        if (s.variable, s.name) == ("kernel", "conv3")
    )
    student = inheritance.build(shrink(architecture, {kernel: 0.6}))
    expected = network.conv3.weight[:, :, 1:4, 1:4]
    assert torch.equal(student.conv3.weight, expected)


def test_what_follows_a_dropped_operand_keeps_the_slices_of_the_others():
    network, architecture, inheritance = make(DenseNet)
    branch = decision(removals(architecture), "grow1")
    student = inheritance.build(remove(architecture, [branch]))
    # norm3 and fc read stem (8), grow1 (6), grow2 (6)
    rest = [*range(8), *range(14, 20)]
    assert torch.equal(student.fc.weight, network.fc.weight[:, rest])
    assert torch.equal(student.norm3.running_var, network.norm3.running_var[rest])
    assert torch.equal(student.grow2.weight, network.grow2.weight[:, :8])


def test_a_bypassed_operand_of_a_concatenation_is_stood_for_by_what_takes_its_place():
    layers = (
        Conv("stem", (-1,), 4, (1, 1)),
        Conv("a", (0,), 4, (1, 1)),
        Conv("b", (0,), 6, (1, 1)),
        Concat("cat", (1, 2)),
        SpatialMean("mean", (3,)),
        Linear("fc", (4,), 10),
    )
    architecture = Architecture(IMAGE, layers)
    teacher = build(architecture)
    unit = next(r for r in removals(architecture) if (r.form, r.name) == ("unit", "a"))
    left = remove(architecture, [unit])
    assert left.layers[2].inputs == (0, 1)
    student = Inheritance(architecture, teacher.state_dict()).build(left)
    assert torch.equal(student.fc.weight, teacher.fc.weight)


def test_a_flattened_map_keeps_the_features_of_the_channels_that_stay():
    network, architecture, inheritance = make(PlainNet)
    group = decision(widths(architecture), "conv3")
    student = inheritance.build(shrink(architecture, {group: 0.5}))
    norms = network.conv3.weight.abs().flatten(1).sum(1)
    stay = norms.argsort(descending=True)[:5].sort().values
    old = network.hidden.weight.view(24, 10, 16)[:, stay]
    assert torch.equal(student.hidden.weight.view(24, 5, 16), old)


def test_channels_that_change_group_start_fresh_from_the_seed():
    network, architecture, inheritance = make(GroupedJoinNet)
    left = decision(widths(architecture), "left")
    student = shrink(architecture, {left: 0.5})  # group 1 reads left and half of right
    weights = []
    for _ in range(2):
        torch.manual_seed(5)
        weights.append(inheritance.build(student).grouped.weight)
    assert torch.equal(weights[0], weights[1])
    norms = network.left.weight.abs().flatten(1).sum(1)
    # The left's channels were all read by group 1, which now has room for all of them.
    stay = norms.view(2, 4).argsort(descending=True)[:, :2].sort().values
    stay = (stay + 4 * torch.arange(2)[:, None]).flatten()
    old = network.grouped.weight[:4][:, stay]
    assert torch.equal(weights[0][:4, :4], old)
    torch.manual_seed(5)
    fresh = nn.Conv2d(12, 8, 3, groups=2).weight
    # Two of the right's channels come to group 1, whose weights never knew them.
    assert torch.equal(weights[0][:4, 4:], fresh[:4, 4:])


def test_a_depthwise_convolution_can_keep_one_channel():
    layers = (
        Conv("stem", (-1,), 4, (1, 1)),
        DepthwiseConv("depthwise", (0,), (3, 3), padding=(1, 1)),
        SpatialMean("mean", (1,)),
        Linear("fc", (2,), 10),
    )
    architecture = Architecture(IMAGE, layers)
    teacher = build(architecture)
    (group,) = widths(architecture)
    student = Inheritance(architecture, teacher.state_dict()).build(
        shrink(architecture, {group: 0.1})
    )
    stays = teacher.stem.weight.abs().flatten().argmax()
    assert torch.equal(student.depthwise.weight[0], teacher.depthwise.weight[stays])


def test_a_gated_networks_depthwise_weights_follow_their_channels():
    network, architecture, inheritance = make(GatedNet)
    group = decision(widths(architecture), "grouped")
    student: Network = inheritance.build(shrink(architecture, {group: 0.5}))
    norms = network.grouped.weight.abs().flatten(1).sum(1)
    norms = norms + network.excite.weight.abs().flatten(1).sum(1)
    stay = norms.view(4, 3).argsort(descending=True)[:, :2].sort().values
    stay = (stay + 3 * torch.arange(4)[:, None]).flatten()
    assert torch.equal(student.depthwise.weight, network.depthwise.weight[stay])
    assert torch.equal(student.norm.running_mean, network.norm.running_mean[stay])
