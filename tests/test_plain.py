"""Modules as people wrap, subclass and keep them: the same logits, or what to call."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d, StochasticDepth

from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.plain import plain
from n2n_gym.pytorch.trace import TraceError, trace
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.network import read_network
from tests.networks import SmallResNet, awake

SHAPE = (3, 8, 8)
TASK = Task("none", SHAPE, 10, read=dict)


def images() -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))


def small() -> SmallResNet:
    torch.manual_seed(0)
    network = SmallResNet(channels=3)
    awake(network)
    return network


@torch.no_grad()
def logits_of(module: nn.Module) -> Tensor:
    """Logits of the teacher made from a module, by its weights and layers alone."""
    read = read_network(module, TASK, None)
    network = build(read.architecture, "meta").eval()
    network.load_state_dict(read.weights, assign=True)
    return network(images())


@torch.no_grad()
def assert_same(module: nn.Module, expected: nn.Module | None = None) -> None:
    """The logits of a module, or of the module that it stands for, bit for bit."""
    wanted = (expected or module).eval()(images())
    assert wanted.std() > 0
    assert (logits_of(module) - wanted).abs().max() == 0.0


# What else a forward takes


class Mask(SmallResNet):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x if mask is None else x * mask)


class ReturnsFeatures(SmallResNet):
    def forward(self, x: Tensor, return_features: bool = False) -> Any:
        logits = super().forward(x)
        return (logits, x) if return_features else logits


class Keywords(SmallResNet):
    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        if kwargs.get("scale") is not None:
            x = x * kwargs.pop("scale")
        return super().forward(x)


class Rest(SmallResNet):
    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        return super().forward(sum(rest, x) if rest else x)


class All(SmallResNet):
    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return super().forward(x)


class KeywordOnly(SmallResNet):
    def forward(self, x: Tensor, *, depth: int = 2) -> Tensor:
        for _ in range(depth):
            x = F.relu(x)
        return super().forward(x)


class EveryKind(SmallResNet):
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        *rest: Tensor,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        assert pixel_values is not None
        assert not rest
        logits = super().forward(pixel_values)
        if labels is not None:
            return F.cross_entropy(logits, labels)
        return {"logits": logits, **kwargs} if return_dict else logits


class Decorated(SmallResNet):
    @torch.no_grad()
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x if mask is None else x * mask)


@pytest.mark.parametrize(
    "kind",
    [
        Mask,
        ReturnsFeatures,
        Keywords,
        Rest,
        All,
        KeywordOnly,
        EveryKind,
        Decorated,
    ],
)
def test_what_else_forward_takes_has_its_default(kind):
    assert_same(awake(kind(channels=3)))


class NeedsMask(SmallResNet):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x * mask)


class NeedsKeyword(SmallResNet):
    def forward(self, x: Tensor, factor: int = 1, *, depth: int) -> Tensor:
        return super().forward(x)


class NeedsTwo(SmallResNet):
    def forward(self, x: Tensor, low: Tensor, high: Tensor, *rest: Tensor) -> Tensor:
        return super().forward(x + low + high)


class NeedsNothing(nn.Module):
    def forward(self) -> Tensor:
        return torch.zeros(2, 10)


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (NeedsMask(3), "also needs mask"),
        (NeedsKeyword(3), "also needs depth"),
        (NeedsTwo(3), "also needs low, high"),
        (NeedsNothing(), "takes none"),
    ],
)
def test_a_forward_that_needs_more_than_the_image_is_refused(module, what):
    with pytest.raises(TraceError, match=f"one input, the image; its forward {what}"):
        trace(module, SHAPE)


# Wrappers


@pytest.fixture(scope="module")
def _processes() -> Iterator[None]:
    """A group of one process, as DistributedDataParallel wants."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def averaged(module: nn.Module) -> AveragedModel:
    """The mean of a module and of another one."""
    found = AveragedModel(module)
    found.update_parameters(module)
    other = copy.deepcopy(module)
    for parameter in other.parameters():
        parameter.data += 0.1
    found.update_parameters(other)
    return found


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")


def compiled_in_place(module: nn.Module) -> nn.Module:
    module.compile(backend="eager")
    return module


def inside(wrap: Any) -> Any:
    """Wrapped parts of a network that is not wrapped itself."""

    def change(module: nn.Module) -> nn.Module:
        module.block1 = wrap(module.block1)
        module.block2.shortcut = wrap(module.block2.shortcut)
        return module

    return change


class CompiledForward(SmallResNet):
    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class CompiledPart(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.part(x))


def with_compiled_forwards(module: nn.Module, *parts: str) -> nn.Module:
    for part in map(module.get_submodule, parts):
        part.forward = torch.compile(part.forward, backend="eager")
    return module


def test_a_forward_that_is_compiled_is_traced_as_it_is_written():
    assert_same(with_compiled_forwards(small(), ""), small())
    assert_same(with_compiled_forwards(small(), "block1", "conv1"), small())
    assert_same(with_compiled_forwards(small(), "", "block2", "block2.bn1"), small())
    assert_same(awake(CompiledForward(channels=3)))
    parts = (CompiledPart(nn.Conv2d(3, 4, 3)), nn.Flatten(), nn.Linear(144, 10))
    assert_same(nn.Sequential(*parts))
    assert_same(compiled(nn.Sequential(*parts)), nn.Sequential(*parts))


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        nn.parallel.DistributedDataParallel,
        compiled,
        compiled_in_place,
        AveragedModel,
        lambda module: compiled(nn.DataParallel(module)),
        lambda module: nn.DataParallel(nn.DataParallel(module)),
        lambda module: AveragedModel(nn.DataParallel(module)),
        lambda module: nn.parallel.DistributedDataParallel(compiled(module)),
        inside(nn.DataParallel),
        inside(compiled),
        inside(nn.parallel.DistributedDataParallel),
        lambda module: compiled(inside(nn.DataParallel)(module)),
        lambda module: nn.DataParallel(EmptySubclasses.of(module)),
    ],
)
@pytest.mark.usefixtures("_processes")
def test_wrappers_are_taken_off(wrap):
    wrapped = wrap(small()).eval()
    assert_same(wrapped, small())
    # also where the trace alone is asked for, and the module is left as it is
    names = list(wrapped.state_dict())
    assert trace(wrapped, SHAPE) == trace(small(), SHAPE)
    assert list(wrapped.state_dict()) == names


def test_a_mean_of_weights_is_the_mean():
    module = averaged(small()).eval()
    assert not torch.equal(module.module.fc.weight, small().fc.weight)
    assert_same(module)


def test_a_wrapped_module_is_called_by_its_own_name():
    assert read_network(nn.DataParallel(small()), TASK, None).name == "SmallResNet"


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, AveragedModel, compiled, inside(nn.DataParallel)]
)
def test_a_hook_of_a_wrapper_is_not_lost(wrap):
    wrapped = wrap(small())
    for part in list(wrapped.modules()):
        if isinstance(part, (nn.DataParallel, AveragedModel)) or part is wrapped:
            part.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(TraceError, match="has hooks"):
        trace(wrapped, SHAPE)


class Stuck:
    """An object of the user's that cannot be copied."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __deepcopy__(self, memo: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [TypeError("a lock"), RuntimeError("a graph"), OSError("a file"), KeyError(3)],
    ids=repr,
)
def test_wrapped_parts_of_what_cannot_be_copied_are_refused(error):
    module = inside(nn.DataParallel)(small())
    module.stuck = Stuck(error)
    with pytest.raises(TraceError, match="SmallResNet cannot be copied, and"):
        trace(module, SHAPE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3))),
        lambda: torch.jit.trace(nn.Conv2d(3, 4, 3), images()),
        lambda: nn.Sequential(torch.jit.script(nn.Conv2d(3, 4, 3))),
        lambda: torch.fx.symbolic_trace(small()),
    ],
)
def test_what_is_no_wrapper_is_left_alone(make):
    module = make()
    assert plain(module) is module


class Doubled(nn.DataParallel):
    def forward(self, x: Tensor) -> Tensor:
        logits = self.module(x)
        return logits + logits


def test_a_wrapper_that_computes_something_stays():
    assert_same(Doubled(small()))


# Precisions


@pytest.mark.parametrize("kind", ["half", "bfloat16", "double", "float"])
def test_every_precision_is_cast(kind):
    module = getattr(small(), kind)()
    assert_same(module, copy.deepcopy(module).float())


@pytest.mark.parametrize(
    "parts", [["conv1"], ["block1", "fc"], ["bn1", "block2.conv1"]]
)
@pytest.mark.parametrize("kind", ["half", "bfloat16", "double"])
def test_precisions_may_be_mixed(kind, parts):
    module = small()
    for part in parts:
        getattr(module.get_submodule(part), kind)()
    assert_same(module, copy.deepcopy(module).float())


@torch.no_grad()
def test_a_double_module_has_its_logits_to_single_precision():
    module = small().double()
    for parameter in module.parameters():
        parameter += 1e-9 * torch.randn_like(parameter)
    expected = module(images().double())
    assert (logits_of(module) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("change", [1e-3, 1e-9, 1e-12])
def test_what_rounding_loses_is_said(change, caplog):
    module = small().double()
    module.fc.bias.data += change * torch.rand(10, dtype=torch.float64)
    logits_of(module)
    message = "SmallResNet: 1 of its 50 weights are float64 and were rounded to float32"
    assert message in caplog.text


@pytest.mark.parametrize("kind", ["half", "bfloat16", "double", "float"])
def test_where_nothing_is_lost_nothing_is_said(kind, caplog):
    logits_of(getattr(small(), kind)())
    assert not caplog.records


@pytest.mark.parametrize("value", [1e39, -1e300, float("inf"), float("nan")])
def test_what_single_precision_cannot_hold_is_refused(value):
    module = small().double()
    module.fc.bias.data[3] = value
    with pytest.raises(ValueError, match=r"'fc\.bias' must be finite"):
        logits_of(module)


# Layers by other names


def test_synchronised_batch_normalisation_is_batch_normalisation():
    assert_same(nn.SyncBatchNorm.convert_sync_batchnorm(small()), small())


@pytest.mark.parametrize(
    "norm",
    [
        nn.SyncBatchNorm(20),
        nn.SyncBatchNorm(20, eps=0.1, momentum=0.01),
        nn.SyncBatchNorm(20, affine=False),
        nn.BatchNorm1d(20),
    ],
    ids=str,
)
def test_rows_are_normalised_too(norm):
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    assert_same(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 20), norm, nn.Linear(20, 10))
    )


def frozen(network: nn.Module) -> nn.Module:
    """The network with all its batch normalisations frozen."""
    for name, part in list(network.named_modules()):
        if isinstance(part, nn.BatchNorm2d):
            ice = FrozenBatchNorm2d(part.num_features, part.eps)
            state = part.state_dict()
            del state["num_batches_tracked"]
            ice.load_state_dict(state)
            network.set_submodule(name, ice)
    return network.eval()


def num_of(kind: type[nn.Module], network: nn.Module) -> int:
    return sum(isinstance(part, kind) for part in network.modules())


class Icy(nn.Module):
    def __init__(
        self, eps: float, kind: type[FrozenBatchNorm2d] = FrozenBatchNorm2d
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = kind(4, eps)
        for value in (self.norm.weight, self.norm.bias, self.norm.running_mean):
            value.uniform_(-1, 1)
        self.fc = nn.Linear(4 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.norm(self.conv(x))).flatten(1))


class Frozen(FrozenBatchNorm2d):
    """Frozen from the start, and nothing else."""


@pytest.mark.parametrize(
    "module",
    [
        frozen(small()),
        nn.DataParallel(frozen(small())),
        Icy(1e-5).eval(),
        Icy(0.1).eval(),
        Icy(0.1, Frozen).eval(),
        models.resnet18(num_classes=10, norm_layer=FrozenBatchNorm2d).eval(),
    ],
    ids=["small", "wrapped", "eps", "large eps", "subclass", "resnet18"],
)
@torch.no_grad()
def test_frozen_batch_normalisation_is_batch_normalisation(module):
    expected = module(images())
    difference = (logits_of(module) - expected).abs().max()
    # a factor and an offset computed first there, as one operation here
    assert difference <= 1e-5 * expected.abs().max()
    assert not any(
        isinstance(part, FrozenBatchNorm2d) for part in plain(module).modules()
    )
    if not isinstance(module, nn.DataParallel):
        assert any(isinstance(part, FrozenBatchNorm2d) for part in module.modules())


class Conv3x3(nn.Conv2d):
    """A common subclass: its own __init__ and nothing else."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, 1, 1, bias=False)
        self.fan = inputs * 9

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight)

    def extra_repr(self) -> str:
        return "3x3"

    def fan_in(self) -> int:
        return self.fan


class Named:
    """A mixin that computes nothing."""

    def title(self) -> str:
        return type(self).__name__


class Norm(nn.BatchNorm2d, Named):
    pass


class Classifier(Named, nn.Linear):
    pass


class Deeper(Classifier):
    pass


class Drop(StochasticDepth):
    pass


class EmptySubclasses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv3x3(3, 4)
        self.norm = Norm(4)
        self.drop = Drop(0.5, "row")
        self.fc = Deeper(4 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.norm(self.conv(x))).flatten(1))

    @staticmethod
    def of(network: nn.Module) -> nn.Module:
        """A network with its layers as subclasses that change nothing."""
        for part in network.modules():
            if type(part) in (nn.Conv2d, nn.BatchNorm2d, nn.Linear):
                part.__class__ = type("Mine", (type(part),), {})
        return network


EMPTY = [
    (Conv3x3, lambda kind: kind(3, 3)),
    (Norm, lambda kind: kind(3)),
    (Drop, lambda kind: kind(0.5, "row")),
    (nn.Conv2d, lambda kind: kind(3, 3, 3, groups=3)),
    (nn.LayerNorm, lambda kind: nn.Sequential(nn.Flatten(), kind(192))),
    (nn.GELU, lambda kind: kind()),
    (nn.ReLU, lambda kind: kind(inplace=True)),
    (nn.LeakyReLU, lambda kind: kind(0.3)),
    (nn.MaxPool2d, lambda kind: kind(3, 2, 1)),
    (nn.AvgPool2d, lambda kind: kind(2)),
    (nn.AdaptiveAvgPool2d, lambda kind: kind(2)),
    (nn.Dropout, lambda kind: kind(0.3)),
    (nn.Dropout2d, lambda kind: kind(0.3)),
    (nn.Identity, lambda kind: kind()),
    (nn.Flatten, lambda kind: kind()),
    (nn.SyncBatchNorm, lambda kind: kind(3)),
]


@pytest.mark.parametrize(("base", "make"), EMPTY, ids=[b.__name__ for b, _ in EMPTY])
def test_a_subclass_that_changes_nothing_is_its_layer(base, make):
    def network(kind: type[nn.Module]) -> nn.Module:
        torch.manual_seed(0)
        # what it gives has a length of its own
        with torch.device("meta"):
            rows = nn.Sequential(make(kind), nn.Flatten()).eval()
            count = rows(torch.empty(2, *SHAPE)).shape[1]
        torch.manual_seed(0)
        parts = (make(kind), nn.Flatten(), nn.Linear(count, 10))
        return nn.Sequential(*parts).eval()

    class Own(base):
        pass

    assert_same(network(Own), network(base))
    assert trace(network(Own), SHAPE) == trace(network(base), SHAPE)


def test_subclasses_keep_the_logits_in_a_network():
    assert_same(awake(EmptySubclasses()))
    assert_same(EmptySubclasses.of(small()), small())


class OwnForward(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, *args: Any) -> Tensor:
        return -super()._conv_forward(*args)


class OwnCall(nn.Conv2d):
    def __call__(self, input: Tensor) -> Tensor:
        return -super().__call__(input)


class OwnProperty(nn.Conv2d):
    @property
    def stride(self) -> tuple[int, int]:
        return 2, 2

    @stride.setter
    def stride(self, value: tuple[int, int]) -> None:
        pass


class OwnAttributes(nn.Conv2d):
    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return -found if name == "weight" else found


class Scaling:
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Mixed(Scaling, nn.Conv2d):
    pass


class Later(Mixed):
    """Adds nothing to what does."""


OTHERS = [
    OwnForward,
    OwnConvForward,
    OwnCall,
    OwnProperty,
    OwnAttributes,
    Mixed,
    Later,
]


@pytest.mark.parametrize("kind", OTHERS)
def test_a_subclass_that_computes_something_else_is_traced_as_it_computes(kind):
    part = kind(3, 4, 3)
    assert type(plain(nn.Sequential(part))[0]) is kind
    rows = nn.Sequential(part, nn.Flatten())(images())
    module = nn.Sequential(part, nn.Flatten(), nn.Linear(rows.shape[1], 10)).eval()
    if kind is OwnAttributes:  # what it computes with, nobody can see
        with pytest.raises(TraceError):
            trace(module, SHAPE)
        return
    network = build(trace(module, SHAPE)).eval()
    network.load_state_dict(module.state_dict())
    torch.testing.assert_close(network(images()), module(images()))


class Thawed(FrozenBatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


def test_a_frozen_normalisation_that_computes_something_else_stays():
    assert type(plain(nn.Sequential(Thawed(3)))[0]) is Thawed


# Weights that are computed at each call


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + weight.flip(-1)


COMPUTED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "an own one": lambda part: parametrize.register_parametrization(
        part, "weight", Symmetric()
    ),
    "of the bias": lambda part: parametrize.register_parametrization(
        part, "bias", Symmetric()
    ),
    "the old weight_norm": nn.utils.weight_norm,
    "the old spectral_norm": nn.utils.spectral_norm,
    "pruned by size": lambda part: prune.l1_unstructured(part, "weight", 0.5),
    "pruned at random": lambda part: prune.random_unstructured(part, "bias", 2),
    "pruned by channel": lambda part: prune.ln_structured(part, "weight", 0.5, 2, 0),
    "pruned twice": lambda part: prune.identity(
        prune.l1_unstructured(part, "weight", 0.3), "weight"
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("path", ["", "fc", "block2.conv1", "block2.shortcut.0"])
@pytest.mark.parametrize("compute", COMPUTED.values(), ids=COMPUTED)
def test_the_call_that_ends_a_computed_weight_is_named_and_helps(compute, path):
    network = small() if path else nn.Linear(8, 10)
    for name, part in network.named_modules():
        if isinstance(part, nn.Conv2d):  # with biases to compute too
            part.bias = nn.Parameter(torch.ones(part.out_channels))
        if name == path:
            compute(part)
    network.eval()
    shape = SHAPE if path else (8, 1, 1)
    with pytest.raises(TraceError) as error:
        trace(network, shape)
    call = re.search(r"torch\.nn\.utils\.[^;]*\)(?= makes)", str(error.value))
    assert call is not None
    before = network(images() if path else torch.ones(2, 8)).detach()
    eval(call.group())  # names `network`
    after = network(images() if path else torch.ones(2, 8))
    torch.testing.assert_close(after, before)
    if path:
        torch.testing.assert_close(logits_of(network), before)
    assert not [name for name in network.state_dict() if "orig" in name or "_g" in name]


# Weights of types that mean something else


def parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


ENCODED = {
    "int8": lambda t: t.to(torch.int8),
    "uint8": lambda t: t.to(torch.uint8),
    "int32": lambda t: t.to(torch.int32),
    "bool": lambda t: t > 0,
    "complex64": lambda t: t.to(torch.complex64),
    "float8_e4m3fn": lambda t: t.to(torch.float8_e4m3fn),
    "float8_e5m2": lambda t: t.to(torch.float8_e5m2),
    "qint8": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "sparse_coo": lambda t: t.to_sparse(),
    "sparse_csr": lambda t: t.to_sparse_csr(),
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("name", ENCODED)
def test_weights_that_mean_something_else_are_refused_by_name(name):
    module = small()
    module.fc.weight = parameter(ENCODED[name](module.fc.weight.detach()))
    with pytest.raises(TraceError, match=rf"fc\.weight is {name}: weights of float32"):
        trace(module, SHAPE)


def statically(network: nn.Module) -> nn.Module:
    network.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")
    prepared = torch.ao.quantization.prepare(network)
    prepared(images())
    return torch.ao.quantization.convert(prepared)


def fused(network: nn.Module) -> nn.Module:
    return torch.ao.quantization.fuse_modules(network, [["0", "1"]])


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("name", [n for n in ENCODED if n != "sparse_csr"])  # a matrix
def test_statistics_that_mean_something_else_are_refused_by_name(name):
    module = small()
    module.bn1.running_var = ENCODED[name](module.bn1.running_var)
    with pytest.raises(TraceError, match=rf"bn1\.running_var is {name}: weights of"):
        trace(module, SHAPE)


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_what_frozen_normalisation_keeps_is_refused_by_name_too(name):
    module = Icy(1e-5)
    setattr(module.norm, name, getattr(module.norm, name).to(torch.int8))
    with pytest.raises(TraceError, match=rf"norm\.{name} is int8: weights of"):
        trace(module, SHAPE)


@pytest.mark.filterwarnings("ignore")  # torch's, of what becomes of its quantisation
@pytest.mark.parametrize(
    ("quantise", "name"),
    [
        (partial(torch.ao.quantization.quantize_dynamic, qconfig_spec={nn.Linear}), 3),
        (statically, 0),
        (lambda network: statically(fused(network)), 0),
        (lambda network: statically(network)[0], "the module"),
    ],
)
def test_quantised_modules_are_refused_by_name(quantise, name):
    parts = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    network = quantise(nn.Sequential(*parts).eval())
    with pytest.raises(TraceError, match=f"^{name} is quantised: give the network bef"):
        trace(network, SHAPE)


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize(
    "lazy",
    [
        lambda: [nn.LazyConv2d(4, 3)],
        lambda: [nn.LazyBatchNorm2d()],
        lambda: [nn.Flatten(), nn.LazyLinear(10)],
        lambda: [nn.Flatten(), nn.LazyBatchNorm1d(affine=False)],
    ],
)
def test_a_lazy_module_is_traced_once_it_has_been_called(lazy):
    network = nn.Sequential(*lazy(), nn.Flatten(), nn.LazyLinear(10))
    with pytest.raises(TraceError, match=r"(weight|running_mean) is not initialised"):
        trace(network, SHAPE)
    network(images())
    assert trace(network, SHAPE).num_outputs == 10
