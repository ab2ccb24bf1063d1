"""Traces that differ from the network, and their errors and warnings."""

from __future__ import annotations

import copy
import random
import re
import threading
import types
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import stochastic_depth

from n2n_gym.networks.layers import Dropout, Layer, StochasticDepth
from n2n_gym.pytorch import check
from n2n_gym.pytorch.build import build, weights_of
from n2n_gym.pytorch.randomised import copy_of, randomised
from n2n_gym.pytorch.trace import TraceError, trace, translate
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.zoo import torchvision_network

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """Its maps of 8 channels go through what a test is about; `more` may be called."""

    def __init__(self, write: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 1, 1)
        self.bn = nn.BatchNorm2d(8)
        self.more = nn.Conv2d(8, 8, 3, 1, 1)
        self.fc = nn.Linear(8, 10)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        x = self.more(F.relu(self.bn(self.conv(x))))
        if self.write is not None:
            x = self.write(self, x)
        return self.fc(x.mean((2, 3)))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("n2n_gym")]


# Branches of Python that are taken otherwise while torch.fx traces


def is_tensor(net: Net, x: Tensor) -> Tensor:
    return F.relu(x) if torch.is_tensor(x) else x


def is_instance(net: Net, x: Tensor) -> Tensor:
    return F.relu(x) if isinstance(x, Tensor) else x


def is_of_type(net: Net, x: Tensor) -> Tensor:
    return F.relu(x) if type(x) is Tensor else x


def matches(net: Net, x: Tensor) -> Tensor:
    match x:
        case Tensor():
            return F.max_pool2d(x, 2)
        case _:
            return x


def is_called(net: Net, x: Tensor) -> Tensor:
    return x if callable(x) else F.relu(x)


def tries(net: Net, x: Tensor) -> Tensor:
    try:
        return F.relu(x) if x.shape[1] > 4 else x
    except Exception:
        return x


def counts(net: Net, x: Tensor) -> Tensor:
    return F.max_pool2d(x, int(x.shape[2]))


def goes_through_its_parts(net: Net, x: Tensor) -> Tensor:
    return torch.cat([part * (1 + i) for i, part in enumerate(x.chunk(2, 1))], 1)


def tries_to_count(net: Net, x: Tensor) -> Tensor:
    try:
        return F.max_pool2d(x, len(x))
    except RuntimeError:
        return x


def has_gradients(net: Net, x: Tensor) -> Tensor:
    return x if torch.is_grad_enabled() else F.relu(x)


def knows_its_size(net: Net, x: Tensor) -> Tensor:
    return F.relu(x) if isinstance(x.shape[-1], int) else x


def is_single(net: Net, x: Tensor) -> Tensor:
    return F.relu(x) if x.dtype is torch.float32 else x


def has_single_weights(net: Net, x: Tensor) -> Tensor:
    return F.relu(x) if net.fc.weight.dtype == torch.float32 else x


@pytest.mark.parametrize(
    "write",
    [
        is_tensor,
        is_instance,
        is_of_type,
        matches,
        is_called,
        tries_to_count,
        has_gradients,
        is_single,
        has_single_weights,
    ],
)
@pytest.mark.parametrize("shape", [SHAPE, (3, 100, 100)])
def test_a_branch_that_torch_fx_does_not_take_is_refused_with_the_first_layer(
    write, shape
):
    message = (
        r"Net does not compute what torch\.fx traces: in eval mode logits differ .*"
        r"first layer where they part is 'fc', after 'more'"
    )
    with pytest.raises(TraceError, match=message):
        trace(Net(write), shape)


@pytest.mark.parametrize(
    "write",
    [
        lambda net, x: x.half() if x.dtype == torch.float16 else x,
        lambda net, x: x.float() if x.dtype is torch.bfloat16 else x,
        lambda net, x: x if x.dtype == net.fc.weight.dtype else x.to("cpu"),
        lambda net, x: F.relu(x) if x.dtype.is_floating_point else x,
    ],
)
def test_questions_about_types_that_change_nothing_are_no_hindrance(write):
    net, shape = Net(write), SHAPE
    network = build(trace(net, shape)).eval()
    network.load_state_dict(net.state_dict())
    images = torch.randn(2, *shape)
    assert torch.equal(network(images), net.eval()(images))


@pytest.mark.parametrize(
    "write",
    [
        lambda net, x: F.relu(x) if isinstance(x, torch.FloatTensor) else x,
        lambda net, x: F.relu(x) if isinstance(x, (int, torch.FloatTensor)) else x,
        lambda net, x: x * 0 if isinstance(x, torch.FloatTensor) else x,
        lambda net, x: x * 1.008 if isinstance(x, torch.FloatTensor) else x,
        lambda net, x: x.tanh() if isinstance(net.fc.weight, torch.FloatTensor) else x,
    ],
)
def test_a_branch_of_single_precision_alone_is_refused(write):
    with pytest.raises(TraceError, match=r"Net does not compute what torch\.fx traces"):
        trace(Net(write), SHAPE)


class Wide(nn.Module):
    """Its weights are too large to be drawn one by one; `turn` is not in its trace."""

    def __init__(self, turn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3, 1, 1)
        self.more = nn.Conv2d(64, 64, 5, 1, 2)
        self.fc = nn.Linear(64, 10)
        self.turn = turn

    def forward(self, x: Tensor) -> Tensor:
        x = self.turn(x) if isinstance(x, Tensor) else x
        return self.fc(F.relu(self.more(F.relu(self.conv(x)))).mean((2, 3)))


@pytest.mark.parametrize(
    "turn",
    [
        lambda x: x.mT,
        lambda x: x.flip(2),
        lambda x: x.flip(3),
        lambda x: x.flip((2, 3)),
        lambda x: x.rot90(1, (2, 3)),
        lambda x: x.mT.flip((2, 3)),
        lambda x: x.roll(1, 3),
        lambda x: x.flip(1),
    ],
    ids=["transposed", "up", "left", "half", "quarter", "other", "moved", "colours"],
)
def test_wide_layers_tell_an_image_from_the_same_one_turned(turn):
    with pytest.raises(TraceError, match="does not compute"):
        trace(Wide(turn), (3, 16, 16))


@pytest.mark.parametrize(
    "write", [tries, knows_its_size, counts, goes_through_its_parts]
)
@pytest.mark.parametrize("shape", [SHAPE, (3, 100, 100)])
def test_sizes_are_plain_numbers(write, shape):
    module = Net(write).eval()
    network = build(trace(module, shape))
    network.load_state_dict(module.state_dict())
    images = torch.randn(2, *shape)
    torch.testing.assert_close(network.eval()(images), module(images))


def test_a_branch_for_large_images_alone_is_taken_for_large_images():
    # small images stand for large ones in the check, and do not take it
    def write(net: Net, x: Tensor) -> Tensor:
        return F.hardswish(x) if x.shape[-1] > 99 else x

    kinds = [
        [getattr(layer, "function", "") for layer in trace(Net(write), shape).layers]
        for shape in ((3, 99, 99), (3, 100, 100))
    ]
    assert ["hardswish" in each for each in kinds] == [False, True]


def test_arithmetic_with_the_size_of_the_batch_is_refused():
    for write in (
        lambda net, x: x / x.shape[0],
        lambda net, x: x * len(x.unbind()),
        lambda net, x: x + x.size(0),
        lambda net, x: x - x.size()[0],
    ):
        with pytest.raises(TraceError):
            trace(Net(write), SHAPE)


@pytest.mark.parametrize(
    ("write", "count"),
    [
        (lambda net, x: x if x.shape[0] == 1 else F.relu(x), 1),
        (lambda net, x: F.relu(x) if x.size(0) >= 8 else x, 500),
        (lambda net, x: F.max_pool2d(x, 2) if x.shape[0] > 100 else x, 500),
        (lambda net, x: x.flip(1) if x.shape[0] > 5 else x, 500),
        (lambda net, x: -x if x.size()[0] < 2 else x, 1),
    ],
)
def test_a_branch_for_so_many_images_is_refused(write, count):
    message = rf"for {count} images at once than for a few: its forward uses"
    with pytest.raises(TraceError, match=message):
        trace(Net(write), SHAPE)


def test_a_branch_of_inference_mode_is_refused():
    def write(net: Net, x: Tensor) -> Tensor:
        return F.relu(x) if torch.is_inference_mode_enabled() else x

    with pytest.raises(TraceError, match=r"does not compute what torch\.fx traces"):
        trace(Net(write), SHAPE)


def test_a_network_that_amplifies_rounding_is_no_branch():
    def write(net: Net, x: Tensor) -> Tensor:
        large = x * 1e6
        return (x + large) - large

    architecture = trace(Net(write), SHAPE)
    assert architecture.num_params == sum(p.numel() for p in Net().parameters())


def test_what_fails_for_one_image_alone_is_no_hindrance():
    module = Net(lambda net, x: F.adaptive_avg_pool2d(x, 1).squeeze()[..., None, None])
    network = build(trace(module, SHAPE)).eval()
    network.load_state_dict(module.state_dict())
    images = torch.randn(3, *SHAPE)
    assert torch.equal(network(images), module.eval()(images))


def test_a_layer_that_the_trace_lacks_is_named():
    class Skips(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            x = self.bn(x) if isinstance(x, Tensor) else x
            return self.fc(self.more(x).mean((2, 3)))

    message = "it calls 'bn', which its trace does not, after 'conv'"
    with pytest.raises(TraceError, match=message):
        trace(Skips(), SHAPE)


# Methods replaced on an instance


def circular(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), weight, bias)


def with_other_padding() -> nn.Module:
    net = Net()
    net.more._conv_forward = types.MethodType(circular, net.more)
    return net


def with_other_forward_of_a_layer() -> nn.Module:
    net = Net()
    net.more.forward = types.MethodType(
        lambda self, x: F.conv2d(x, self.weight, None, 1, 1), net.more
    )
    return net


def with_other_forward_of_a_norm() -> nn.Module:
    net = Net()
    net.bn.forward = types.MethodType(lambda self, x: x, net.bn)
    return net


def with_a_closure() -> nn.Module:
    net = Net()
    plain = net.more.forward
    net.more.forward = lambda x: plain(x) * 2
    return net


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (with_other_padding, "part is 'more', .*_conv_forward of more is replaced"),
        (with_other_forward_of_a_layer, "part is 'more', .*forward of more is repl"),
        (with_other_forward_of_a_norm, "part is 'bn', .*forward of bn is replaced"),
        (with_a_closure, "it fails: .*forward of more is replaced on the instance"),
    ],
)
def test_a_replaced_method_of_a_layer_is_refused_by_name(make, message):
    with pytest.raises(TraceError, match=message):
        trace(make(), SHAPE)


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.fc(self.more(self.conv(x)).mean((2, 3))),
        lambda self, x: self.fc(self.conv(x).mean((2, 3))),
        lambda self, x: Net.forward(self, x) * 2,
        lambda self, x: (Net.forward(self, x), x),
    ],
)
def test_a_replaced_forward_of_the_root_is_refused(forward):
    net = Net()
    net.forward = types.MethodType(forward, net)
    with pytest.raises(TraceError, match="forward of the module is replaced"):
        trace(net, SHAPE)


def test_a_replaced_forward_that_computes_the_same_is_accepted():
    net = Net()
    net.forward = types.MethodType(lambda self, x: Net.forward(self, x), net)
    assert trace(net, SHAPE) == trace(Net(), SHAPE)


# Normalisation that stays in training mode


class KeepsAll(Net):
    def train(self, mode: bool = True) -> KeepsAll:
        super().train(True)
        return self


class KeepsOne(Net):
    def train(self, mode: bool = True) -> KeepsOne:
        super().train(mode)
        self.bn.train()
        return self


class Awake(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> Awake:
        return super().train(True)


def keeps_by_a_replaced_method() -> nn.Module:
    net = Net()
    net.bn.train = types.MethodType(lambda self, mode=True: self, net.bn)
    return net


def keeps_in_a_block() -> nn.Module:
    class Block(nn.Sequential):
        def train(self, mode: bool = True) -> Block:
            return super().train(True)

    net = Net()
    net.more = Block(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    return net


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (KeepsAll, "bn"),
        (KeepsOne, "bn"),
        (keeps_by_a_replaced_method, "bn"),
        (keeps_in_a_block, r"more\.1"),
    ],
)
def test_a_norm_that_stays_in_training_mode_is_refused_by_name(make, name):
    with pytest.raises(TraceError, match=f"part is '{name}', after"):
        trace(make(), SHAPE)


# Parameters that the logits do not need


class Auxiliary(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 10)


class Spare(Net):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.ones(5))


class Computed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.probe = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.probe(x)
        return super().forward(x)


class Unread(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.bn(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("net", "names", "unused"),
    [
        (Auxiliary(), r"head\.weight, head\.bias", 90),
        (Spare(), "spare", 5),
        (Computed(), r"probe\.weight, probe\.bias", 8),
        (Unread(), r"more\.weight, more\.bias", 584),
    ],
)
def test_parameters_that_the_logits_do_not_need_are_named(net, names, unused, caplog):
    architecture = trace(net, SHAPE)
    whole = sum(parameter.numel() for parameter in net.parameters())
    assert architecture.num_params == whole - unused
    (said,) = warnings(caplog)
    assert re.search(f"need no {names}: {unused} of its {whole} parameters", said)


# What only training mode computes


def regular(net: nn.Module) -> list[Layer]:
    kinds = Dropout | StochasticDepth
    return [x for x in trace(net, SHAPE).layers if isinstance(x, kinds)]


class DropPath(nn.Module):
    """As timm writes it."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * x.new_empty(shape).bernoulli_(1 - self.rate).div_(1 - self.rate)


class DropConnect(nn.Module):
    """As in the first PyTorch EfficientNet."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        noise = torch.rand([x.shape[0], 1, 1, 1], dtype=x.dtype, device=x.device)
        return x / 0.8 * torch.floor(0.8 + noise)


class OwnDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand(*x.shape) < 0.75) / 0.75


class OwnDropout2d(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand(*x.shape[:2], 1, 1) < 0.5) / 0.5


def calls_part(net: Net, x: Tensor) -> Tensor:
    return net.part(x)


def with_part(part: nn.Module) -> Net:
    net = Net(calls_part)
    net.part = part
    return net


@pytest.mark.parametrize(
    ("part", "kind", "rate", "is_channelwise"),
    [
        (DropPath(0.3), StochasticDepth, 0.3, None),
        (DropPath(0.01), StochasticDepth, 0.01, None),
        (DropConnect(), StochasticDepth, 0.2, None),
        (OwnDropout(), Dropout, 0.25, False),
        (OwnDropout2d(), Dropout, 0.5, True),
    ],
)
def test_a_module_that_acts_as_a_layer_is_kept_as_it(part, kind, rate, is_channelwise):
    (layer,) = regular(with_part(part))
    assert type(layer) is kind
    assert layer.name == "part"
    assert layer.rate == pytest.approx(rate, abs=1e-9)
    assert getattr(layer, "channelwise", None) is is_channelwise


def dropped(net: Net, x: Tensor) -> Tensor:
    if net.training:
        x = F.dropout(x, 0.3)
    return x


def maps_dropped(net: Net, x: Tensor) -> Tensor:
    return F.dropout2d(x, 0.3, True) if net.training else x


def part_called(net: Net, x: Tensor) -> Tensor:
    return net.part(x) if net.training else x


def deep_dropped(net: Net, x: Tensor) -> Tensor:
    return stochastic_depth(x, 0.3, "row", True) if net.training else x


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (dropped, Dropout),
        (maps_dropped, Dropout),
        (part_called, Dropout),
        (deep_dropped, StochasticDepth),
    ],
)
def test_dropout_under_a_question_for_training_mode_is_kept(write, kind, caplog):
    net = Net(write)
    if write is part_called:
        net.part = nn.Dropout(0.3)
    (layer,) = regular(net)
    assert type(layer) is kind
    assert layer.rate == 0.3
    assert not warnings(caplog)


def test_dropout_that_is_never_on_is_no_layer():
    assert not regular(Net(lambda net, x: F.dropout(x, 0.3, training=False)))


def noisy(net: Net, x: Tensor) -> Tensor:
    return x + 0.1 * torch.randn_like(x) if net.training else x


def skipped_by_python(net: Net, x: Tensor) -> Tensor:
    return x * 0.0 if net.training and random.random() < 0.001 else x


def skipped_by_numpy(net: Net, x: Tensor) -> Tensor:
    return x * 0.0 if net.training and np.random.rand() < 0.001 else x  # noqa: NPY002


def skipped_by_torch(net: Net, x: Tensor) -> Tensor:
    return x * 0.0 if net.training and torch.rand(1).item() < 0.001 else x


def connections_dropped(net: Net, x: Tensor) -> Tensor:
    if not net.training:
        return x
    return x * torch.floor(0.8 + torch.rand([x.shape[0], 1, 1, 1])) / 0.8


class DropBlock(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        seeds = (torch.rand(len(x), 1, *x.shape[2:]) < 0.05).to(x.dtype)
        mask = 1 - F.max_pool2d(seeds, 3, 1, 1)
        return x * mask * mask.numel() / mask.sum()


class Frozen(Net):
    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.bn.eval()
        return self


class TwoHeads(Net):
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


class WantsLabels(Net):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise KeyError("labels")
        return super().forward(x)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Net(noisy), "logits differ .*part is 'fc', after 'more'"),
        (Net(connections_dropped), "logits differ .*part is 'fc', after 'more'"),
        (with_part(DropBlock()), "logits differ .*part is 'fc', after 'more'"),
        (Net(skipped_by_python), "it draws other random numbers, .*'fc', after 'more'"),
        (Net(skipped_by_numpy), "it draws other random numbers, .*'fc', after 'more'"),
        (Net(skipped_by_torch), "it draws other random numbers, .*'fc', after 'more'"),
        (Frozen(), "logits differ .*part is 'bn', after 'conv'"),
        (TwoHeads(), "it gives a tuple instead of logits"),
        (WantsLabels(), r"it fails: KeyError: 'labels', at .*raise KeyError"),
    ],
)
def test_what_training_mode_alone_computes_is_warned_of(net, message, caplog):
    trace(net, SHAPE)
    (said,) = warnings(caplog)
    assert re.search(f"in training mode {message}.*; students train without that", said)


def test_a_plain_network_is_traced_without_a_word(caplog):
    trace(models.resnet18(num_classes=10), (3, 64, 64))
    trace(models.efficientnet_b0(num_classes=10), (3, 64, 64))
    assert not warnings(caplog)


# What tracing raises


def misses(net: Net, x: Tensor) -> Tensor:
    return {"head": x}["neck"]


def stops(net: Net, x: Tensor) -> Tensor:
    return next(layer(x) for layer in ())


def divides(net: Net, x: Tensor) -> Tensor:
    return x * (1 // 0)


def asserts(net: Net, x: Tensor) -> Tensor:
    assert type(x) is Tensor, "tensors only"
    return x


def recurses(net: Net, x: Tensor) -> Tensor:
    return recurses(net, x)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (misses, r"KeyError: 'neck', at .*\.py:\d+ \(return \{.head.: x\}"),
        (stops, r"StopIteration, at .*\.py:\d+ \(return next"),
        (divides, r"ZeroDivisionError: .*, at .*\.py:\d+ \(return x \* \(1 // 0\)"),
        (asserts, r"AssertionError: tensors only, at .*\(assert type"),
        (recurses, r"maximum recursion depth exceeded.*\.py:\d+ \(return recurses"),
    ],
)
def test_what_a_forward_raises_names_its_line(write, message):
    with pytest.raises(TraceError, match=f"torch.fx cannot trace Net: .*{message}"):
        trace(Net(write), SHAPE)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda net, x: x.sin(), "node 'sin' .*functions are .*, at .*x.sin()"),
        (lambda net, x: 2 / x, r"node 'truediv' .*a number.*, at .*2 / x"),
        (lambda net, x: x[1:], r"node 'getitem' .*, at .*x\[1:\]"),
        (lambda net, x: x.view(3, 5), r"cannot take images .*, at .*x.view\(3, 5\)"),
        (lambda net, x: F.dropout(x), "not switched off .*, at .*F.dropout"),
    ],
)
def test_what_does_not_translate_names_its_line(write, message):
    with pytest.raises(TraceError, match=message):
        trace(Net(write), SHAPE)


@pytest.mark.parametrize(
    ("write", "kinds"),
    [
        (lambda net, x: nn.ReLU(inplace=True)(x + x.tanh()), ["Add", "Activation"]),
        (
            lambda net, x: nn.Sequential(nn.MaxPool2d(2), nn.LeakyReLU(0.3))(x),
            ["MaxPool", "Activation"],
        ),
        (lambda net, x: nn.AdaptiveAvgPool2d(2)(x), ["AdaptiveAvgPool"]),
        (lambda net, x: nn.ZeroPad2d((0, 1, 0, 1))(x), ["Pad"]),
        (lambda net, x: nn.Upsample(scale_factor=2)(nn.ELU()(x)), ["Interpolate"]),
    ],
)
def test_a_module_made_in_a_forward_is_traced(write, kinds):
    torch.manual_seed(0)
    net = Net(write).eval()
    architecture = trace(net, SHAPE)
    found = [type(layer).__name__ for layer in architecture.layers]
    assert found[-2 - len(kinds) : -2] == kinds
    network = build(architecture).eval()
    network.load_state_dict(net.state_dict())
    images = torch.randn(2, *SHAPE)
    assert torch.equal(network(images), net(images))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda net, x: nn.Conv2d(8, 8, 1)(x), "not make a module with weights"),
        (lambda net, x: nn.BatchNorm2d(8)(x), "not make a module with weights"),
        (lambda net, x: nn.Dropout()(x), "not switched off in eval mode"),
        (lambda net, x: nn.LocalResponseNorm(8)(x), "avg_pool|pow|unsqueeze|square"),
    ],
)
def test_a_module_made_in_a_forward_with_weights_or_that_is_no_layer_is_refused(
    write, message
):
    with pytest.raises(TraceError, match=message):
        trace(Net(write), SHAPE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.jit.trace(Net().eval(), torch.zeros(1, *SHAPE)),
        lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())),
        lambda: with_part(torch.jit.script(nn.Conv2d(8, 8, 1))),
        lambda: nn.Sequential(torch.jit.script(nn.Conv2d(3, 4, 3)), nn.Flatten()),
    ],
    ids=["traced", "scripted", "scripted part", "scripted layer"],
)
def test_torchscript_is_refused(make):
    with pytest.raises(TraceError, match=r"is TorchScript, .* that it was made from"):
        trace(make(), SHAPE)


class TakesStars(nn.Module):
    def forward(self, *xs: Tensor) -> Tensor:
        return xs[0].flatten(1)


class TakesAll(nn.Module):
    def forward(self, *xs: Tensor) -> Tensor:
        return torch.cat(xs, 1).flatten(1)


class TakesOneAndStars(nn.Module):
    def forward(self, x: Tensor, *xs: Tensor) -> Tensor:
        return x.flatten(1)


class TakesStarsAndMore(nn.Module):
    def forward(self, *xs: Tensor, more: Tensor | None = None) -> Tensor:
        return xs[0].flatten(1)


@pytest.mark.parametrize(
    "kind", [TakesStars, TakesAll, TakesOneAndStars, TakesStarsAndMore]
)
def test_the_image_is_the_first_of_inputs_without_names(kind):
    architecture = trace(nn.Sequential(nn.Conv2d(3, 4, 3), kind()), SHAPE)
    assert architecture.num_outputs == 4 * (SHAPE[1] - 2) * (SHAPE[2] - 2)


# Copies


@pytest.mark.parametrize("place", ["", "conv", "bn", "fc"])
def test_tensors_computed_before_are_no_hindrance(place):
    net = Net()
    part = net.get_submodule(place)
    part.last = net.conv(torch.zeros(1, *SHAPE))
    assert not part.last.is_leaf
    assert trace(net, SHAPE) == trace(Net(), SHAPE)


class Grumpy:
    def __deepcopy__(self, memo: object) -> Grumpy:
        raise KeyError("no copies")


@pytest.mark.parametrize(
    "thing",
    [
        threading.Lock(),
        open(__file__),  # noqa: SIM115
        (x for x in ()),
        Grumpy(),
        [torch.ones(1, requires_grad=True) * 2],
    ],
    ids=["lock", "file", "generator", "object", "tensors in a list"],
)
def test_a_module_that_cannot_be_copied_is_refused(thing):
    net = Net()
    net.thing = thing
    with pytest.raises(TraceError, match="Net cannot be copied, and tracing needs"):
        trace(net, SHAPE)


class Single(Net):
    def __deepcopy__(self, memo: object) -> Single:
        return self


def test_a_module_that_copies_to_itself_is_refused_and_left_alone():
    net = Single()
    with pytest.raises(TraceError, match="gives the module itself"):
        trace(net, SHAPE)
    assert not net.conv.weight.is_meta


def cut_convolution() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
    net[0].weight = nn.Parameter(net[0].weight[:3].detach())
    net[0].bias = nn.Parameter(net[0].bias[:3].detach())
    return net


def cut_linear() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    net[1].weight = nn.Parameter(net[1].weight[:5].detach())
    net[1].bias = nn.Parameter(net[1].bias[:5].detach())
    return net


def cut_kernel() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten())
    net[0].weight = nn.Parameter(net[0].weight[..., :1, :1].detach())
    return net


def norm_without_its_scale() -> nn.Module:
    net = Net()
    net.bn.weight = net.bn.bias = None
    return net


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (cut_convolution, r"0\.weight"),
        (cut_linear, r"1\.weight"),
        (cut_kernel, r"0\.weight"),
        (norm_without_its_scale, r"bn\.weight"),
    ],
)
def test_weights_that_do_not_fit_their_layer_are_refused_by_name(make, name):
    with pytest.raises(TraceError, match=f"'{name}' has the shape .* as if it had"):
        trace(make(), SHAPE)


def test_the_module_and_all_generators_are_left_as_they_were():
    net = Net(dropped).train()
    net.bn.eval()
    before = copy.deepcopy(net.state_dict())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    trace(net, SHAPE)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(states[0], after[0])
    assert states[1:] == after[1:]
    assert (net.training, net.bn.training) == (True, False)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_tracing_leaves_nothing_on_that_slows_torch_down():
    before = torch._C._len_torch_function_stack()
    trace(Net(), SHAPE)
    assert torch._C._len_torch_function_stack() == before == 0


# Names


@pytest.mark.parametrize(
    "name", ["weights_of", "input_shape", "_steps", "_registered", "images", "forward_"]
)
def test_a_child_may_have_any_name(name):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
            self.fc = nn.Linear(144, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.get_submodule(name)(x).flatten(1))

    architecture = trace(Named(), SHAPE)
    network = copy.deepcopy(build(architecture))
    assert network.state_dict().keys() == Named().state_dict().keys()
    (weight, _) = weights_of(network, architecture.layers[0]).values()
    assert weight is network.state_dict(keep_vars=True)[f"{name}.0.weight"]
    program = torch.export.export(network.eval(), (torch.zeros(1, *SHAPE),))
    assert f"{name}.0.weight" in program.state_dict


# The comparison itself


def test_weights_by_axes_compute_what_they_are_in_full():
    generator = torch.Generator().manual_seed(0)
    net = nn.ModuleList(
        [
            nn.Conv2d(16, 32, 3, (2, 1), (1, 2), (1, 2)),
            nn.Conv2d(48, 64, 5, groups=4, bias=False),
            nn.Conv2d(128, 128, 3, padding="same", groups=128),
            nn.Conv2d(64, 64, 1, 2),
            nn.Linear(40, 50),
        ]
    )
    quick = randomised(net, generator)
    for part in quick:
        width = getattr(part, "in_channels", 0)
        shape = (2, width, 9, 7) if width else (3, 5, 40)
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        found = part(x)
        part._parameters["weight"] = nn.Parameter(part.weight * 1.0)
        assert type(part.weight) is nn.Parameter
        torch.testing.assert_close(found, part(x), rtol=1e-12, atol=1e-12)


def test_random_weights_are_of_no_other_shape_or_type():
    net = models.resnet18(num_classes=10)
    found = randomised(net, torch.Generator().manual_seed(0)).state_dict()
    assert found.keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        assert found[name].shape == tensor.shape
        is_number = tensor.is_floating_point()
        assert found[name].dtype == (torch.float64 if is_number else tensor.dtype)


def test_a_copy_is_deep():
    net = Net()
    copied = copy_of(net)
    assert copied.conv is not net.conv
    assert torch.equal(copied.conv.weight, net.conv.weight)
    assert copied.conv.weight is not net.conv.weight


@pytest.mark.parametrize("name", ["regnet_y_400mf", "convnext_tiny", "googlenet"])
def test_small_images_stand_for_large_ones(name):
    module = torchvision_network(name, 10)
    small = check._small_images(translate(module, (3, 224, 224)), 2)
    assert small[1] < 100
    comparison = check._compared(module, translate(module, (3, 224, 224)))
    assert comparison.images.shape == (2, *small)
    assert comparison.difference(is_training=False) is None


def test_a_user_is_told_through_load_teacher(task):
    with pytest.raises(TraceError, match="Net cannot be a teacher: Net does not comp"):
        load_teacher(Net(is_tensor), task.in_colour())
