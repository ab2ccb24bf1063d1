"""Tracing networks as people write them: the same logits, or a reason."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlock, LayerNorm2d
from torchvision.ops import StochasticDepth

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import DepthwiseConv, Flatten, Shape
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.trace import TraceError, trace
from tests.networks import IMAGE, NETWORKS, TEACHERS

SHAPE = (3, 8, 8)

Write: TypeAlias = Callable[[nn.Module, Tensor], Tensor]


class Written(nn.Module):
    """A stem, and what a test is about: maps of 4 channels to what is flattened."""

    def __init__(self, write: Write, part: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.write = write
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.write(self, self.stem(x)), 1)


class OnEachPlace(nn.Module):
    """Applies a module on the last dimension to the channels of a map."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Factor(nn.Module):
    def __init__(self, shape: Shape, written: str = "self.gamma") -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.linspace(0.5, 1.5, 4).view(shape))
        self.written = eval(f"lambda self: {written}")
        self.code = written

    def extra_repr(self) -> str:
        return f"{tuple(self.gamma.shape)}, {self.code}"

    def forward(self, x: Tensor) -> Tensor:
        return self.written(self) * x


def as_written(code: str) -> Write:
    """This code, on the maps ``x`` of the network ``net``."""
    return eval(f"lambda net, x: {code}")


def randomise(module: nn.Module) -> nn.Module:
    """Weights that keep the variance, and normalisation far from doing nothing."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            bound = math.sqrt(6 / part.weight[0].numel())
            part.weight.data.uniform_(-bound, bound, generator=generator)
            if part.bias is not None:
                part.bias.data.uniform_(-0.5, 0.5, generator=generator)
        elif isinstance(part, (nn.LayerNorm, CNBlock)):
            for parameter in part.parameters(recurse=False):
                parameter.data.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.5, 0.5, generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
            if part.affine:
                part.weight.data.uniform_(0.5, 1.5, generator=generator)
                part.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return module


@torch.no_grad()
def assert_same(module: nn.Module, shape: Shape = SHAPE) -> Architecture:
    """The module's keys and parameters and, bit for bit, its logits."""
    randomise(module).eval()
    architecture = trace(module, shape)
    network = build(architecture, "meta").eval()
    assert network.state_dict().keys() == module.state_dict().keys()
    assert architecture.num_params == sum(p.numel() for p in module.parameters())
    network.load_state_dict(module.state_dict(), assign=True)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    expected = module(images.clone())  # an operation in place may change its images
    assert expected.isfinite().all()
    assert expected.std() > 0
    assert (network(images) - expected).abs().max() == 0.0
    return architecture


@pytest.mark.parametrize("name", TEACHERS)
def test_torchvision_networks_keep_their_keys_and_logits(name):
    with torch.device("meta"):
        module = models.get_model(name, weights=None, num_classes=10)
    assert_same(module.to_empty(device="cpu"), (3, 64, 64))


@pytest.mark.parametrize("network", NETWORKS)
def test_small_networks_keep_their_keys_and_logits(network):
    assert_same(network(), IMAGE)


# What people write


class LeNet(nn.Module):
    def __init__(self, flatten: Write) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.flatten = flatten
        self.fc1 = nn.Linear(16 * 5 * 5, 20)
        self.fc2 = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), (2, 2))
        return self.fc2(F.relu(self.fc1(self.flatten(self, x))))


@pytest.mark.parametrize(
    "code",
    [
        "x.view(x.size(0), -1)",
        "x.view(-1, 16 * 5 * 5)",
        "x.view(x.size()[0], -1)",
        "x.reshape(x.shape[0], -1)",
        "torch.reshape(x, (-1, 400))",
        "torch.flatten(x, 1)",
        "torch.flatten(x, start_dim=1)",
        "x.flatten(1)",
        "x.contiguous().view(x.size(0), x.size(1) * x.size(2) * x.size(3))",
    ],
)
def test_every_way_to_flatten_is_a_flatten(code):
    architecture = assert_same(LeNet(as_written(code)), (3, 32, 32))
    assert sum(isinstance(layer, Flatten) for layer in architecture.layers) == 1


@pytest.mark.parametrize(
    "code",
    [
        "F.relu(x)",
        "torch.relu(x)",
        "x.relu()",
        "F.relu_(x)",
        "x.relu_()",
        "F.relu6(x)",
        "F.leaky_relu(x, 0.2)",
        "F.elu(x)",
        "F.elu(x, 0.5)",
        "F.gelu(x, approximate='tanh')",
        "F.selu(x)",
        "F.hardtanh(x)",
        "F.hardtanh(x, 0, 6)",
        "x.clamp(0, 6)",
        "torch.clamp(x, min=0)",
        "x.clamp_(-0.5, 0.25)",
        "x * 0.2",
        "0.2 * x",
        "x / 3",
        "x + 1",
        "1 - x",
        "x - 1.5",
        "-x",
        "x * F.relu6(x + 3) / 6",
        "sum([x, x.relu(), 2 * x])",
        "x - 2 * x.relu()",
        "x[:, 1:]",
        "x[:, 1:3]",
        "x[:, -3:-1, 1:]",
        "x[:, :, ::2, ::2]",
        "x[..., 1::2, ::3]",
        "x[:, :, 1:-1, 2:]",
        "x[:, :, 1:-2:2]",
        "x[:, :2, ::2]",
        "x.narrow(1, 1, 2)",
        "torch.split(x, [1, 3], 1)[0]",
        "torch.cat(torch.split(x, [1, 2, 1], 1)[::-1], 1)",
        "F.pad(x, (1, 2, 0, 3))",
        "F.pad(x, (-1, 0))",
        "F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-float('inf')), 3, 2)",
        "F.pad(x, (0, 0, 0, 0, 2, 1))",
        "F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))",
        "F.pad(x, (0, 1, 1, 0, 1, 0))",
        "F.interpolate(x, scale_factor=2)",
        "F.interpolate(x, scale_factor=(2, 3), mode='bilinear')",
        "F.interpolate(x, size=(5, 11), mode='bilinear', align_corners=True)",
        "F.interpolate(x, scale_factor=1.5, recompute_scale_factor=True)",
        "F.interpolate(x, size=5)",
        "F.interpolate(x, scale_factor=0.6, mode='bilinear')",
        "F.avg_pool2d(x, x.size()[2:])",
        "F.avg_pool2d(x, x.shape[-1]) if x.shape[2] == 8 else x",
        "x * x.mean((2, 3)).view(x.size(0), x.size(1), 1, 1)",
        "x * x.mean((2, 3)).unsqueeze(-1).unsqueeze(-1)",
        "x * x.mean((2, 3))[:, :, None, None]",
        "x * x.mean((2, 3), True).expand_as(x)",
        "x * x.mean((2, 3), True).expand(-1, -1, x.size(2), x.size(3))",
        "x * x.mean((2, 3), True).expand(x.size())",
        "x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1))"
        ".view(-1, 4, 1, 1)",
        "F.adaptive_avg_pool2d(x, 1).squeeze()",
        "F.group_norm(x, 2)",
        "F.instance_norm(x)",
        "F.pad(x, [x.shape[2] % 3] * 4)",
        "F.gelu(x)",
        "F.silu(x)",
        "F.mish(x)",
        "F.sigmoid(x)",
        "x.sigmoid()",
        "torch.tanh(x)",
        "F.hardswish(x)",
        "F.hardsigmoid(x)",
        "F.max_pool2d(x, 2)",
        "F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True)",
        "F.max_pool2d(x, (3, 2), dilation=2)",
        "F.avg_pool2d(x, 2, 1)",
        "F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)",
        "F.adaptive_avg_pool2d(x, 1)",
        "F.adaptive_avg_pool2d(x, (3, 2))",
        "x.mean((2, 3))",
        "x.mean([-1, -2], keepdim=True)",
        "torch.mean(x, dim=(2, 3))",
        "F.dropout(x, 0.5, net.training)",
        "F.dropout2d(x, training=net.training)",
        "F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)",
        "torch.permute(torch.permute(x, (0, 2, 3, 1)), [0, -1, 1, 2])",
        "F.channel_shuffle(x, 2)",
        "x.chunk(2, 1)[1]",
        "torch.chunk(x, 4, dim=1)[-1]",
        "x.split(2, dim=1)[0]",
        "torch.split(x, [2, 2], 1)[1]",
        "x.chunk(1, 1)[0]",
        "torch.cat(x.chunk(2, 1)[::-1], 1)",
        "x.view(-1, 2, 2, 8, 8).transpose(1, 2).contiguous().view(-1, 4, 8, 8)",
        "x.view(-1, 2, 2, 8, 8).permute(0, 2, 1, 3, 4).flatten(1, 2)",
        "x.view(-1, 2, 2, 8, 8).view(-1, 4, 8, 8)",
        "F.relu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)",
    ],
)
def test_functions_keep_the_logits(code):
    assert_same(Written(as_written(code)))


class Functional(nn.Module):
    """A layer whose forward is a function of its own weights and buffers."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        self.of = Holder(of)

    def forward(self, x: Tensor) -> Tensor:
        return self.of(x)


class Holder(nn.Module):
    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        self.settings = [of]  # unseen by torch
        for name, tensor in of.named_parameters():
            self.register_parameter(name, tensor)
        for name, tensor in of.named_buffers():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        (of,) = self.settings
        weight, bias = getattr(self, "weight", None), getattr(self, "bias", None)
        match of:
            case nn.BatchNorm2d():
                mean, var = self.running_mean, self.running_var
                is_training = self.training
                return F.batch_norm(x, mean, var, weight, bias, is_training, eps=of.eps)
            case nn.Conv2d():
                how = of.stride, of.padding, of.dilation, of.groups
                return F.conv2d(x, weight, bias, *how)
            case nn.Linear():
                return F.linear(x, weight, bias)
            case nn.GroupNorm():
                return F.group_norm(x, of.num_groups, weight, bias, of.eps)
            case nn.InstanceNorm2d():
                return F.instance_norm(x, weight=weight, bias=bias)
            case _:
                return F.prelu(x, weight)


class NormAct(nn.BatchNorm2d):
    """Normalisation with an activation inside it that has weights of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.before = nn.PReLU(channels)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        mean, var = self.running_mean, self.running_var
        x = F.batch_norm(x, mean, var, self.weight, self.bias, self.training, 0.1)
        return self.act(x)


@pytest.mark.parametrize(
    "part",
    [
        nn.ReLU(inplace=True),
        nn.LeakyReLU(0.3),
        nn.ELU(),
        nn.ELU(0.5),
        nn.GELU(),
        nn.GELU("tanh"),
        nn.SELU(),
        nn.Softplus(),
        nn.PReLU(),
        nn.PReLU(4),
        nn.Hardtanh(-2, 0.5),
        nn.Hardtanh(0, 6),
        nn.GroupNorm(2, 4),
        nn.GroupNorm(1, 4, affine=False),
        nn.InstanceNorm2d(4),
        nn.InstanceNorm2d(4, affine=True),
        nn.ZeroPad2d((1, 0, 2, 3)),
        nn.ZeroPad2d((1, -1, 0, -2)),
        nn.Upsample(scale_factor=2),
        nn.Upsample(size=(5, 9), mode="bilinear", align_corners=True),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.UpsamplingBilinear2d(scale_factor=2),
        Functional(nn.BatchNorm2d(4)),
        Functional(nn.BatchNorm2d(4, affine=False)),
        Functional(nn.Conv2d(4, 6, 3, 2, 1)),
        Functional(nn.Conv2d(4, 4, 3, groups=4, bias=False)),
        Functional(nn.GroupNorm(2, 4)),
        Functional(nn.InstanceNorm2d(4, affine=True)),
        Functional(nn.PReLU(4)),
        nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), Functional(nn.Linear(4, 6))
        ),
        NormAct(4),
        nn.Hardswish(),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.AdaptiveAvgPool2d((3, 2)),
        nn.Dropout(0.9),
        nn.Dropout2d(),
        nn.Identity(),
        nn.Sequential(),
        nn.Flatten(),
        nn.Conv2d(4, 6, (3, 5), padding="same", dilation=(2, 1)),
        nn.Conv2d(4, 6, 3, padding="valid", stride=2),
        nn.Conv2d(4, 8, 3, groups=4, bias=False),
        nn.Conv2d(4, 6, (1, 3), (2, 1), (0, 1), groups=2),
        nn.BatchNorm2d(4, eps=0.1),
        nn.BatchNorm2d(4, affine=False),
        nn.ChannelShuffle(2),
        LayerNorm2d(4),
        StochasticDepth(0.9, "row"),
        CNBlock(4, 1e-6, 0.5),
        OnEachPlace(nn.LayerNorm(4)),
        OnEachPlace(nn.LayerNorm(4, elementwise_affine=False)),
        OnEachPlace(nn.Linear(4, 6)),
        OnEachPlace(nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Dropout())),
        Factor((4, 1, 1)),
        Factor((1, 4, 1, 1)),
        Factor((4,), "self.gamma.view(1, -1, 1, 1)"),
        Factor((4,), "self.gamma[:, None, None]"),
        Factor((4,), "self.gamma.unsqueeze(-1).unsqueeze(-1)"),
        Factor((1, 4), "self.gamma.reshape(4, 1, 1)"),
        OnEachPlace(Factor((4,))),
        OnEachPlace(Factor((1, 1, 4))),
    ],
    ids=str,
)
def test_modules_keep_the_logits(part):
    assert_same(Written(lambda net, x: net.part(x), copy.deepcopy(part)))


@pytest.mark.parametrize(
    "part",
    [
        nn.Conv2d(4, 4, 3, stride=(2,)),
        nn.Conv2d(4, 4, 3, padding=(1,)),
        nn.Conv2d(4, 4, 3, dilation=(2,)),
        nn.MaxPool2d((2,)),
        nn.MaxPool2d([3], [1], [1]),
        nn.AvgPool2d((2,), (1,)),
    ],
    ids=str,
)
def test_one_length_in_a_tuple_is_that_of_both_axes(part):
    assert_same(Written(lambda net, x: net.part(x), part))


def test_a_convolution_of_each_channel_by_itself_is_depthwise():
    depthwise = nn.Conv2d(4, 4, 3, groups=4)
    architecture = assert_same(Written(lambda net, x: net.part(x), depthwise))
    assert isinstance(architecture.layers[1], DepthwiseConv)


@pytest.mark.parametrize(
    "code",
    [
        "net.part(x) + x",
        "torch.add(x, net.part(x))",
        "net.part(x).add_(x)",
        "torch.cat([x, net.part(x)], 1)",
        "torch.cat((F.relu(x), net.part(x), x), dim=-3)",
        "x * torch.sigmoid(net.part(x))",
        "x * torch.sigmoid(net.part(F.adaptive_avg_pool2d(x, 1)))",
        "torch.sigmoid(net.part(x.mean((2, 3), keepdim=True))) * x",
        "x.mul(net.part(x))",
    ],
)
def test_joins_keep_the_logits(code):
    assert_same(Written(as_written(code), nn.Conv2d(4, 4, 1)))


@pytest.mark.parametrize(
    "code", ["x + x", "x * x", "x + x + x", "torch.cat([x, x], 1)"]
)
def test_a_value_joined_with_itself_keeps_the_logits(code):
    assert_same(Written(as_written(code)))


def test_what_is_not_the_modules_own_weight_is_no_normalisation():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(192))

        def forward(self, x: Tensor) -> Tensor:
            return F.layer_norm(x.flatten(1), (192,), self.weight)

    with pytest.raises(TraceError, match=r"'layer_norm' .*a module's own weight"):
        trace(Net(), SHAPE)


def test_a_parameter_may_be_used_only_once():
    factor = Factor((4, 1, 1))
    with pytest.raises(TraceError, match=r"'part_gamma|mul_1' .*only once"):
        trace(Written(lambda net, x: net.part(net.part(x)), factor), SHAPE)


class Borrowed(nn.Module):
    """A normalisation called as a module, and again with its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(192)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x.flatten(1))
        return F.layer_norm(y, (192,), self.norm.weight, self.norm.bias)


class NormalisedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.norm(x)).flatten(1)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Borrowed(), "'layer_norm' .*only once"),
        (NormalisedTwice(), "'norm' of type BatchNorm2d: .*buffers .*only once"),
        (Factor((4,), "self.gamma.mean()"), "'mean' .*parameters are not"),
        (Factor((4, 1, 1), "F.relu(self.gamma)"), "'relu' .*parameters are not"),
        (Factor((2, 2), "self.gamma.flatten()[:, None, None]"), "'mul' .*a factor"),
        (
            Factor((4, 1, 1), "self.gamma.permute(0, 1, 2)"),
            "'permute' .*parameters are not",
        ),
    ],
    ids=str,
)
def test_parameters_are_used_in_few_ways_and_once(module, message):
    if isinstance(module, Factor):
        module = Written(lambda net, x: net.part(x), module)
    with pytest.raises(TraceError, match=message):
        trace(module, SHAPE)


def test_one_normalisation_under_two_names_is_refused():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False))
    module.add_module("again", module[1])
    module.add_module("flatten", nn.Flatten())
    with pytest.raises(TraceError, match=r"1\.running_mean and again\.running_mean"):
        trace(module, SHAPE)


def test_a_module_called_chunk_is_no_chunk():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chunk = nn.MultiheadAttention(192, 2)

        def forward(self, x: Tensor) -> Tensor:
            row = x.flatten(1)
            return self.chunk(row, row, row)[0]

    with pytest.raises(TraceError, match="'chunk' of type MultiheadAttention"):
        trace(Net(), SHAPE)


# Operations in place


def aliased_relu(net: nn.Module, x: Tensor) -> Tensor:
    y = F.relu(x, inplace=True)
    return y + x


def relu_read_under_the_old_name(net: nn.Module, x: Tensor) -> Tensor:
    y = net.part(F.relu_(x))
    return x + y


def module_read_under_the_old_name(net: nn.Module, x: Tensor) -> Tensor:
    y = net.part(x)
    return y * x


def augmented_addition(net: nn.Module, x: Tensor) -> Tensor:
    y = net.part(x)
    y += x
    return F.relu(y)


def aliased_augmented_addition(net: nn.Module, x: Tensor) -> Tensor:
    before = x
    x += net.part(x)
    return torch.cat([x, before], 1)


def augmented_gate(net: nn.Module, x: Tensor) -> Tensor:
    x *= torch.sigmoid(net.part(F.adaptive_avg_pool2d(x, 1)))
    return x


def copied_before(net: nn.Module, x: Tensor) -> Tensor:
    before = x.clone()
    F.relu_(x)
    return net.part(before) + x


def concatenated_before(net: nn.Module, x: Tensor) -> Tensor:
    before = torch.cat([x], 1)
    F.relu_(x)
    return net.part(before) + x


@pytest.mark.parametrize(
    ("write", "part"),
    [
        (aliased_relu, None),
        (relu_read_under_the_old_name, nn.Conv2d(4, 4, 1)),
        (module_read_under_the_old_name, nn.ReLU(inplace=True)),
        (augmented_addition, nn.Conv2d(4, 4, 1)),
        (aliased_augmented_addition, nn.Conv2d(4, 4, 1)),
        (augmented_gate, nn.Conv2d(4, 4, 1)),
        (copied_before, nn.Conv2d(4, 4, 1)),
        (concatenated_before, nn.Conv2d(4, 4, 1)),
    ],
)
def test_operations_in_place_keep_the_logits(write, part):
    assert_same(Written(write, copy.deepcopy(part)))


def view_taken_before(net: nn.Module, x: Tensor) -> Tensor:
    row = torch.flatten(x, 1)
    F.relu_(x)
    return row


def chunk_changed(net: nn.Module, x: Tensor) -> Tensor:
    F.relu_(x.chunk(2, 1)[0])
    return x


def view_changed(net: nn.Module, x: Tensor) -> Tensor:
    F.relu_(torch.flatten(x, 1))
    return x


@pytest.mark.parametrize("write", [view_taken_before, view_changed, chunk_changed])
def test_reading_a_view_of_what_was_changed_in_place_is_refused(write):
    with pytest.raises(TraceError, match="in place"):
        trace(Written(write), SHAPE)


# What is left of the module


def test_the_module_is_left_as_it_was():
    module = randomise(models.resnet18(num_classes=10)).train()
    module.layer1.eval()
    modes = {name: part.training for name, part in module.named_modules()}
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trace(module, (3, 64, 64))
    assert {name: part.training for name, part in module.named_modules()} == modes
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_weights_may_be_on_the_meta_device():
    with torch.device("meta"):
        module = models.resnet18(num_classes=10)
    assert trace(module, (3, 64, 64)) == trace(
        models.resnet18(num_classes=10), (3, 64, 64)
    )


def test_layers_the_logits_do_not_need_are_left_out():
    def write(net: nn.Module, x: Tensor) -> Tensor:
        net.part(x)
        F.relu(x)
        return F.avg_pool2d(x, 2)

    architecture = trace(Written(write, nn.Conv2d(4, 9, 1)), SHAPE)
    names = [layer.name for layer in architecture.layers]
    assert names == ["stem", "avg_pool2d", "flatten"]


# Names


def test_modules_keep_their_name_and_functions_are_called_after_their_module():
    architecture = trace(models.resnet18(num_classes=10), (3, 64, 64))
    names = [layer.name for layer in architecture.layers]
    assert names[:4] == ["conv1", "bn1", "relu", "maxpool"]
    assert names[4:11] == [
        "layer1.0.conv1",
        "layer1.0.bn1",
        "layer1.0.relu",
        "layer1.0.conv2",
        "layer1.0.bn2",
        "layer1.0.add",
        "layer1.0.relu_1",  # the same module, called again
    ]
    assert names[-3:] == ["avgpool", "flatten", "fc"]


class Named(nn.Module):
    """Its part has a name of the test's choice, and comes after a relu and an add."""

    def __init__(self, name: str, part: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.name = name
        self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.get_submodule(self.name)(x + torch.sigmoid(x)).flatten(1)


@pytest.mark.parametrize("name", ["add", "relu"])
def test_a_function_does_not_take_the_name_of_a_module_with_weights(name):
    assert_same(Named(name, nn.Conv2d(4, 4, 1)))


def test_a_function_does_not_replace_a_container_of_its_name():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.Sequential(nn.Conv2d(3, 4, 3))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.relu(x)).flatten(1)

    assert_same(Net())


def test_a_module_may_be_called_architecture():
    assert_same(Named("architecture", nn.Sequential(nn.Conv2d(4, 4, 1))))


# What cannot be translated


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x)).flatten(1)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale).flatten(1)


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean).flatten(1)


def attention(net: nn.Module, x: Tensor) -> Tensor:
    row = torch.flatten(x, 1)
    return net.part(row, row, row)[0]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Twice(), r"'conv' of type Conv2d: .* called only once"),
        (Scaled(), r"'mul' .*a factor of the shape \(1,\)"),
        (Shifted(), r"'sub' .*buffers and constants"),
    ],
)
def test_an_unsupported_network_is_refused_with_the_node(module, message):
    with pytest.raises(TraceError, match=message):
        trace(module, SHAPE)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (nn.InstanceNorm2d(4, track_running_stats=True), "with statistics"),
        (nn.Softplus(beta=2), "another softplus"),
        (nn.ReflectionPad2d(1), "supported modules are .*Conv2d"),
        (nn.ConstantPad2d(1, 3.0), "padding with 3.0"),
        (nn.Upsample(scale_factor=2, mode="bicubic"), "mode='bicubic'"),
        (nn.LayerNorm([4, 8, 8]), "several dimensions"),
        (nn.LayerNorm(8), "this on the width of a map"),
        (nn.Linear(8, 4), "this on the width of a map"),
        (nn.ConvTranspose2d(4, 4, 2, 2), "supported modules are .*Conv2d"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "'reflect'"),
        (nn.BatchNorm2d(4, track_running_stats=False), "track_running_stats=False"),
        (nn.BatchNorm2d(4, momentum=None), "momentum=None"),
        (nn.BatchNorm2d(4, eps=0.0), "eps=0.0"),
        (nn.AvgPool2d(2, divisor_override=3), "divisor_override=3"),
        (nn.AdaptiveAvgPool2d((None, 2)), r"\(None, 2\)"),
        (nn.Flatten(0, 1), r"a reshape may flatten .* into \(20, 8, 8\)"),
    ],
    ids=str,
)
def test_an_unsupported_module_is_refused_with_node_type_and_reason(part, reason):
    refused = f"node 'part' of type {type(part).__name__}: .*{reason}"
    # torch 2.11 refuses eps=0 itself
    message = f"({refused}|eps must be positive)"
    with pytest.raises(TraceError, match=message):
        trace(Written(lambda net, x: net.part(x), part), SHAPE)


def test_an_unsupported_module_that_gives_a_tuple_is_named():
    attention_part = nn.MultiheadAttention(4 * 8 * 8, 2)
    with pytest.raises(TraceError, match=r"'part' of type MultiheadAttention"):
        trace(Written(attention, attention_part), SHAPE)


# torch's own warning about what this test is about
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kernel", [2, (2, 3), (3, 4), (1, 2)])
def test_one_sided_padding_is_a_layer_before_the_convolution(kernel):
    part = nn.Conv2d(4, 4, kernel, padding="same")
    architecture = assert_same(Written(lambda net, x: net.part(x), part))
    names = [layer.name for layer in architecture.layers]
    assert names[1:3] == ["part.pad", "part"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("torch.fft.fft2(x).real", "fft_fft2.*supported functions are"),
        ("x.permute(0, 2, 3, 1)", "'flatten' .* lies as BHWC"),
        ("x.permute(0, 3, 2, 1)", "'permute' .*permutation of a map to BWHC"),
        ("x.permute(1, 0, 2, 3)", "'permute' .*anything but maps"),
        ("F.max_pool2d(x.permute(0, 2, 3, 1), 2)", "'max_pool2d' .* lies as BHWC"),
        (
            "(lambda y: y + y.permute(0, 2, 3, 1))(F.max_pool2d(x, 2))",
            "'add' .*otherwise",
        ),
        ("x.chunk(2, 2)[0]", "anything but parts of the channels"),
        ("x[:, ::2]", "'getitem' .*channels with a step"),
        ("x[:, 0]", "'getitem' .*anything but slices"),
        ("x[1:]", "'getitem' .*slice of the batch"),
        ("x[:, :, 8:]", "'getitem' .*without places"),
        ("x[:, None, :2]", "'getitem' .*new axes"),
        ("x * float('nan')", "'mul' .*numbers"),
        ("x * True", "'mul' .*numbers"),
        ("2 / x", "'truediv' .*a number"),
        ("x / x", "'truediv' .*a number"),
        ("x / x.size(0)", "its forward uses the number of images"),
        ("x.clamp(min=1)", "'clamp' .*clamp to 1 and None"),
        ("F.pad(x, (1, 1, 1, 1), mode='reflect')", "'pad' .*reflect"),
        ("F.pad(x, (0, 0, 0, 0, -1, 0))", "'pad' .*fewer channels"),
        ("F.interpolate(x, scale_factor=2, mode='bicubic')", "'bicubic'"),
        ("F.relu(x.mean(3)).mean(2)", "'relu' .* lies as BCH"),
        ("x.mean(3, keepdim=True).mean((2, 3))", "a mean over dimensions"),
        ("F.softmax(x, 1)", "'softmax' .*supported functions are"),
        ("F.relu(x.flatten(2))", "'relu' .* lies as BCN"),
        ("F.batch_norm(x, None, None, training=True)", "by the batch"),
        ("x + x[:, :1].expand_as(x)", "an expansion of"),
        ("F.conv2d(x[:, :3], net.stem.weight)", "'conv2d' .*only once"),
        ("F.conv2d(x, torch.ones(2, 4, 1, 1))", "'conv2d' .*own weight"),
        ("torch.add(x, x, alpha=2)", "'add' .*alpha"),
        ("torch.cat([x, x], 2)", "'cat' .*dimension 2"),
        ("x.mean(1)", "'mean' .*dimensions 1"),
        ("x.view(-1, 2, 2, 8, 8)", "'flatten' .* lies as BGCHW"),
        ("x.view(-1, 2, 2, 64)", r"'view' .*into \(5, 2, 2, 64\)"),
        (
            "x + F.adaptive_avg_pool2d(x, 1)",
            r"addition needs equal shapes, got \(\(4, 8, 8\), \(4, 1, 1\)\)",
        ),
        ("x if x.sum() > 0 else -x", "cannot trace Written: .*control"),
        ("sum(x)", "cannot trace Written: .*iterated"),
    ],
)
def test_an_unsupported_function_is_refused_with_node_and_reason(code, message):
    with pytest.raises(TraceError, match=message):
        trace(Written(as_written(code)), SHAPE)


class Returns(nn.Module):
    def __init__(self, form: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.form = form

    def forward(self, x: Tensor) -> object:
        return self.form(self.conv(x))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda x: (x.flatten(1), x), "'output' .*one tensor, not tuple"),
        (lambda x: {"logits": x.flatten(1)}, "'output' .*one tensor, not .*dict"),
        (lambda x: x, r"'output' .*not \(5, 4, 6, 6\)"),
    ],
)
def test_only_logits_may_be_returned(form, message):
    with pytest.raises(TraceError, match=message):
        trace(Returns(form), SHAPE)


@pytest.mark.parametrize(
    "code",
    [
        "x.mean(3).mean(2)",
        "x.mean(2).mean(-1)",
        "x.mean(2, keepdim=True).mean(3, True)",
        "x.flatten(2).mean(-1)",
        "x.view(x.size(0), x.size(1), -1).mean(2)",
    ],
)
def test_a_mean_over_one_axis_after_another_is_one_over_both(code):
    module = Written(as_written(code))  # it adds up in another order
    kinds = [layer.kind for layer in trace(module, SHAPE).layers]
    assert "SpatialMean" in kinds


@pytest.mark.parametrize(
    "code",
    [
        "F.softmax(x.flatten(1), 1)",
        "F.log_softmax(x.flatten(1), dim=-1)",
        "x.flatten(1).softmax(1)",
        "torch.log_softmax(x.flatten(1), 1)",
    ],
)
def test_logits_are_what_goes_before_a_softmax_at_the_end(code):
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return as_written(code)(self, self.conv(x))

    architecture = trace(Ends(), SHAPE)
    assert [layer.kind for layer in architecture.layers] == ["Conv", "Flatten"]


def test_one_parameter_in_two_modules_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Flatten())
    network[1].weight = network[0].weight
    with pytest.raises(TraceError, match=r"0\.weight and 1\.weight are one tensor"):
        trace(network, SHAPE)


def test_one_module_under_two_names_is_refused():
    conv = nn.Conv2d(3, 3, 1)
    with pytest.raises(TraceError, match=r"0\.weight and 1\.weight are one tensor"):
        trace(nn.Sequential(conv, conv, nn.Flatten()), SHAPE)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(9, 10)),
        nn.Sequential(nn.Conv2d(3, 4, 9), nn.Flatten()),
        nn.Sequential(nn.BatchNorm1d(3), nn.Flatten()),
        nn.Sequential(nn.Flatten(), nn.BatchNorm2d(192)),
    ],
    ids=["channels", "linear", "kernel", "flat norm", "norm of a row"],
)
def test_images_that_a_network_cannot_take_are_named(network):
    with pytest.raises(TraceError, match=r"Sequential .*\(3, 8, 8\)"):
        trace(network, SHAPE)


def test_hooks_are_refused():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    network[0].register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(TraceError, match="0 has hooks"):
        trace(network, (1, 8, 8))


def test_dropout_that_stays_on_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            return self.fc(F.dropout(x.flatten(1), 0.5))

    with pytest.raises(TraceError, match="not switched off in eval mode"):
        trace(Net(), (1, 8, 8))
