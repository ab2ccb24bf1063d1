"""Checkpoints as training scripts keep them: whose weights they are, or a reason."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from n2n_gym.pytorch.build import build
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.network import read_network
from tests.networks import SmallResNet, awake

SHAPE = (3, 8, 8)
TASK = Task("none", SHAPE, 10, read=dict)
State = dict[str, Tensor]


class Holder(nn.Module):
    """A network under a name of its own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.add_module(name, SmallResNet(channels=3))
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.name)(x)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return awake(SmallResNet(channels=3), seed)


@pytest.fixture(scope="module")
def state() -> State:
    """Of a trained network, in a word: not that of the module that is given."""
    return network(1).state_dict()


def assert_reads(
    weights: Any, wanted: Mapping[str, Tensor], module: nn.Module | None = None
) -> None:
    """The weights that are read are these, bit for bit, and so are the logits."""
    module = module or network()
    read = read_network(module, TASK, weights)
    assert read.weights is not None
    assert read.weights.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(read.weights[name], tensor)
    module.load_state_dict(wanted)
    built = build(read.architecture, "meta").eval()
    built.load_state_dict(read.weights, assign=True)
    images = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(built(images), module.eval()(images))


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def saved(content: Any, path: Path, kind: str) -> Any:
    """What was saved, as it is given: the object, or a file of this kind."""
    if kind == "object":
        return content
    path = path / f"w.{kind}"
    if kind == "safetensors":
        save_file({k: v.contiguous() for k, v in content.items()}, path)
    else:
        torch.save(content, path)
    return path


# Names


PREFIXES = [
    "module.",
    "_orig_mod.",
    "model.",
    "net.",
    "backbone.",
    "module.module.",
    "_orig_mod.module.",
    "model._orig_mod.",
    "a.b.c.",
]


@pytest.mark.parametrize("kind", ["object", "pt", "safetensors"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_that_all_names_share_is_taken_off(prefix, kind, state, tmp_path):
    assert_reads(saved(under(prefix, state), tmp_path, kind), state)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "net.", "module.x."])
@pytest.mark.parametrize("name", ["module", "_orig_mod", "model", "net"])
def test_a_child_of_the_name_of_a_wrapper_keeps_it(name, prefix):
    wanted = Holder(name).state_dict()
    wanted = {k: v + 1 if v.is_floating_point() else v for k, v in wanted.items()}
    assert_reads(under(prefix, wanted), wanted, Holder(name))


def test_names_as_they_are_come_first(state):
    # in the same file the network again, under another prefix: no prefix is shared
    module = Holder("module")
    both = {**module.state_dict(), **under("module.", module.state_dict())}
    with pytest.raises(ValueError, match=r"also has module\.module\."):
        read_network(module, TASK, both)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("block1.", "block1.module."),
        lambda name: name.replace("block2.", "block2._orig_mod."),
        lambda name: f"module.{name}".replace("block1.", "block1._orig_mod."),
        lambda name: f"net.{name}".replace("block3.conv1.", "block3.conv1.module."),
    ],
)
def test_wrappers_inside_a_network_are_left_out_of_its_names(rename, state):
    assert_reads({rename(name): tensor for name, tensor in state.items()}, state)


def test_the_checkpoint_of_a_network_with_wrapped_parts_fits_it(state):
    module = network()
    module.block1 = nn.DataParallel(module.block1)
    module.block2 = torch.compile(module.block2, backend="eager")
    wrapped = dict(zip(module.state_dict(), state.values(), strict=True))
    read = read_network(module, TASK, wrapped)
    assert read.weights is not None
    assert all(torch.equal(read.weights[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "prefixes", [("x.", "y."), ("x.", ""), ("", "net."), ("x.", "x.y.")]
)
def test_prefixes_that_differ_are_refused(prefixes, state):
    mixed = {
        f"{prefixes[i % 2]}{name}": tensor
        for i, (name, tensor) in enumerate(state.items())
    }
    with pytest.raises(ValueError, match="these are weights of another architecture"):
        read_network(network(), TASK, mixed)


def test_two_names_that_would_become_one_are_refused(state):
    twice = {**state, "module.fc.bias": state["fc.bias"] + 1}
    with pytest.raises(ValueError, match=r"also has module\.fc\.bias"):
        read_network(network(), TASK, twice)


# Places


NESTINGS = [
    "net",
    "model",
    "state_dict",
    "state_dict_ema",
    "params",
    "params_ema",
    "weights",
    "model_state_dict",
    "model_ema",
    "network",
]


@pytest.mark.parametrize("kind", ["object", "pt"])
@pytest.mark.parametrize("place", NESTINGS)
def test_the_state_dict_may_lie_at_any_place(place, kind, state, tmp_path):
    optimiser = torch.optim.SGD(network().parameters(), 0.1, momentum=0.9)
    checkpoint = {
        "epoch": 3,
        "args": {"lr": 0.1, "name": "small"},
        "optimizer": optimiser.state_dict(),
        "rng_state": torch.get_rng_state(),
        "best": torch.tensor(0.9),
        place: under("module.", state),
    }
    assert_reads(saved(checkpoint, tmp_path, kind), state)


def test_an_optimiser_with_a_state_is_no_state_dict_of_the_network(state, tmp_path):
    module = network()
    optimiser = torch.optim.Adam(module.parameters())
    module.train()(torch.randn(4, *SHAPE)).sum().backward()
    optimiser.step()
    checkpoint = {"optimizer": optimiser.state_dict(), "model": state}
    assert_reads(saved(checkpoint, tmp_path, "pt"), state)


@pytest.mark.parametrize(
    "nest",
    [
        lambda state: {"checkpoint": {"model": state}},
        lambda state: {"state": {"epoch": 3, "net": {"params": state}}},
        lambda state: {"model": {"state_dict": state}, "ema": {"decay": 0.999}},
        lambda state: {"generator": state, "other": {"weight": torch.zeros(3)}},
    ],
)
def test_places_may_be_nested(nest, state):
    assert_reads(nest(state), state)


def averaged(state: State) -> State:
    module = network()
    module.load_state_dict(state)
    return AveragedModel(nn.DataParallel(module)).state_dict()


def counted(state: State, *names: str) -> State:
    """A state dict with what thop leaves in each module, as buffers of float64."""
    module = network()
    module.load_state_dict(state)
    for part in module.modules():
        for name in names:
            part.register_buffer(name, torch.zeros(1, dtype=torch.float64))
    return module.state_dict()


@pytest.mark.parametrize("kind", ["object", "pt", "safetensors"])
@pytest.mark.parametrize(
    "make",
    [
        averaged,
        partial(counted),
        lambda state: counted(state, "total_ops"),
        lambda state: counted(state, "total_ops", "total_params"),
        lambda state: under("module.", counted(state, "total_ops", "total_params")),
        lambda state: {**under("net.", state), "total_params": torch.zeros(1)},
    ],
)
def test_counters_are_ignored_by_name(make, kind, state, tmp_path):
    assert_reads(saved(make(state), tmp_path, kind), state)


@pytest.mark.parametrize("name", ["ops", "total", "fc.total_opsx", "fc.ops_total"])
def test_other_names_are_not_ignored(name, state):
    with pytest.raises(ValueError, match=f"also has {name}"):
        read_network(network(), TASK, {**state, name: torch.zeros(1)})


class Extra(nn.Conv2d):
    def get_extra_state(self) -> Any:
        return {"version": 2}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 2}


def test_extra_states_are_no_weights():
    module = nn.Sequential(Extra(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    module[0].__class__ = nn.Conv2d
    wanted = module.state_dict()
    state = {**wanted, "0._extra_state": {"version": 2}}
    for form in (state, under("module.", state), {"model": state}):
        assert_reads(form, wanted, module)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(lr=0.1, data="images", resume=None),
        argparse.Namespace(best=np.float64(0.9), nested=argparse.Namespace(a=[1])),
        np.float64(0.9),
        np.float32(0.9),
        np.int64(3),
        [np.bool_(True), {"epochs": np.int32(90)}],
    ],
    ids=repr,
)
def test_plain_values_may_lie_beside_the_weights(value, is_zip, state, tmp_path):
    path = tmp_path / "w.pth"
    content = {"model": under("module.", state), "args": value}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    assert_reads(path, state)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    "hide",
    [
        lambda bomb: bomb,
        lambda bomb: argparse.Namespace(data=bomb),
        lambda bomb: [argparse.Namespace(nested=argparse.Namespace(data=[bomb]))],
        lambda bomb: np.array([bomb], object),
        lambda bomb: SmallResNet(),
    ],
    ids=["bare", "argument", "nested", "array", "module"],
)
def test_code_beside_the_weights_is_refused(hide, is_zip, state, tmp_path):
    harm, path = tmp_path / "harm", tmp_path / "w.pth"
    content = {"model": state, "args": hide(Bomb(harm))}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match=r"w\.pth is refused: .*could run code"):
        read_network(network(), TASK, path)
    assert not harm.exists()


# More than one that fits


def two(first: str, second: str, state: State, other: Any) -> dict[str, Any]:
    return {first: state, "epoch": 3, second: other}


PAIRS = [
    ("state_dict", "state_dict_ema"),
    ("model", "model_ema"),
    ("net", "teacher"),
    ("params", "params_ema"),
    ("best", "last"),
]


@pytest.mark.parametrize("kind", ["object", "pt"])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_that_fit_and_differ_are_refused(first, second, kind, state, tmp_path):
    other = under("module.", network(2).state_dict())
    content = two(first, second, state, other)
    one, another = (re.escape(f"[{place!r}]") for place in (first, second))
    message = rf"network, {one} and {another}: give .* torch\.load\(path\){one}"
    with pytest.raises(ValueError, match=message):
        read_network(network(), TASK, saved(content, tmp_path, kind))


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_that_are_equal_are_one(first, second, state):
    assert_reads(two(first, second, state, under("module.", state)), state)


@pytest.mark.parametrize(
    "other",
    [
        SmallResNet(channels=1).state_dict(),
        SmallResNet(channels=3, classes=7).state_dict(),
        models.squeezenet1_1(num_classes=10).state_dict(),
        {"log_vars": torch.zeros(2)},
    ],
    ids=["channels", "classes", "network", "loss"],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_the_one_that_fits_is_taken(is_first, other, state):
    names = ("a", "b") if is_first else ("b", "a")
    assert_reads(dict(zip(names, (state, other), strict=True)), state)


def test_the_closest_one_is_spoken_of(state):
    short = {k: v for k, v in state.items() if k != "fc.bias"}
    content = {"loss": {"weight": torch.zeros(3)}, "net": under("module.", short)}
    with pytest.raises(
        ValueError, match=r"has no 'fc\.bias': .*; it has conv1\.weight"
    ):
        read_network(network(), TASK, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "got dict"),
        ([torch.zeros(3)], "got list"),
        ({"epoch": 3}, "its 'epoch' is int"),
        ({"model": {}}, "its 'model' is dict"),
        ({"model": {"fc.weight": [1.0, 2.0]}}, "its 'fc.weight' is list"),
        ({"model": {"fc": {"bias": "none"}}}, "its 'bias' is str"),
        ({"model": {0: torch.zeros(3)}}, "its 0 is Tensor"),
    ],
)
def test_what_holds_no_state_dict_is_refused(content, message, tmp_path):
    path = tmp_path / "w.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=rf"w\.pt has no state dict: .*{message}"):
        read_network(network(), TASK, path)
    if isinstance(content, dict):
        with pytest.raises(ValueError, match=f"the state dict has no .*{message}"):
            read_network(network(), TASK, content)


@pytest.mark.parametrize(
    "weights", [3, [torch.zeros(3)], torch.zeros(3), network(), {"fc.weight"}]
)
@pytest.mark.parametrize("teacher", [network(), "resnet18"])
def test_what_no_weights_can_be_is_refused(weights, teacher):
    message = f"a path, a state dict .*, got {type(weights).__name__}"
    with pytest.raises(ValueError, match=message):
        read_network(teacher, TASK, weights)


# By name


@pytest.mark.parametrize(
    "make",
    [
        lambda state: state,
        lambda state: {"model": under("module.", state), "epoch": 3},
        lambda state: {"state_dict": under("model._orig_mod.", state)},
        lambda state: {
            k.replace("features.", "features.module.", 1): v for k, v in state.items()
        },
    ],
)
@pytest.mark.parametrize("channels", [3, 1])
def test_networks_by_name_take_them_too(make, channels):
    module = models.squeezenet1_1(num_classes=10)
    task = Task("none", (channels, 32, 32), 10, read=dict)
    read = read_network("squeezenet1_1", task, make(module.state_dict()))
    assert read.task.input_shape[0] == 3  # as the weights are for
    assert read.weights is not None
    for name, tensor in module.state_dict().items():
        assert torch.equal(read.weights[name], tensor)


def test_an_architecture_takes_them_too(state):
    architecture = read_network(network(), TASK, None).architecture
    read = read_network(architecture, TASK, {"net": under("module.", state)})
    assert read.weights is not None
    assert all(torch.equal(read.weights[name], state[name]) for name in state)


# Types


Keep = Callable[[Tensor], Tensor]
REFUSED: dict[str, Keep] = {
    "int8": lambda t: t.to(torch.int8),
    "uint8": lambda t: t.to(torch.uint8),
    "int64": lambda t: t.to(torch.int64),
    "bool": lambda t: t > 0,
    "complex64": lambda t: t.to(torch.complex64),
    "complex128": lambda t: t.to(torch.complex128),
    "float8_e4m3fn": lambda t: t.to(torch.float8_e4m3fn),
    "float8_e5m2": lambda t: t.to(torch.float8_e5m2),
    "qint8": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "quint8": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.quint8),
    "sparse_coo": lambda t: t.to_sparse(),
    "sparse_csr": lambda t: t.to_sparse_csr(),
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("kind", ["object", "pt"])
@pytest.mark.parametrize("name", REFUSED)
def test_types_that_mean_something_else_are_refused(name, kind, state, tmp_path):
    content = {"model": {**state, "fc.weight": REFUSED[name](state["fc.weight"])}}
    weights = saved(content, tmp_path, kind)
    message = rf"'fc\.weight' is {name}; weights are float32, float64, float16 or bfl"
    with pytest.raises(ValueError, match=message):
        read_network(network(), TASK, weights)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("name", ["int8", "bool", "complex64", "float8_e4m3fn"])
def test_files_of_other_types_are_refused_whole(name, kind, state, tmp_path):
    content = {k: REFUSED[name](v) for k, v in state.items()}
    with pytest.raises(ValueError, match=rf"'conv1\.weight' is {name}"):
        read_network(network(), TASK, saved(content, tmp_path, kind))


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32]
)
def test_floats_of_every_precision_are_taken(dtype, kind, state, tmp_path, caplog):
    cast = {k: v.to(dtype) for k, v in state.items()}  # the counts of batches too
    wanted = {k: v.to(state[k].dtype) for k, v in cast.items()}
    assert_reads(saved(cast, tmp_path, kind), wanted)
    assert not caplog.records


@pytest.mark.parametrize("count", [torch.inf, torch.nan, -torch.inf])
def test_a_count_of_batches_that_overflowed_is_none(count, state):
    halves = {**state, "bn1.num_batches_tracked": torch.tensor(count).half()}
    wanted = {**state, "bn1.num_batches_tracked": torch.tensor(0)}
    assert_reads(halves, wanted)
