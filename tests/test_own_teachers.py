"""Teachers of the user's own: modules, functions that make them, and weights."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from n2n_gym.common.files import data_folder
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.pytorch.trace import TraceError, trace
from n2n_gym.tasks.loading import load_task
from n2n_gym.tasks.task import Task
from n2n_gym.teachers import learning
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher
from n2n_gym.teachers.zoo import torchvision_network
from tests.networks import SmallResNet, make_small

SMALL = "tests.networks:make_small"
RECIPE = Recipe(epochs=1, batch_size=32, learning_rate=0.05, largest_gradient=1.0)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("N2N_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: RECIPE)


@pytest.fixture(scope="module")
def module() -> SmallResNet:
    torch.manual_seed(1)
    return SmallResNet().eval()


def assert_same_weights(teacher: Teacher, state: dict[str, torch.Tensor]) -> None:
    assert teacher.weights.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(teacher.weights[name], tensor)


def tiny_task(shape: tuple[int, int, int], classes: int = 10, count: int = 40) -> Task:
    """Noise with labels."""
    random = np.random.default_rng(0)
    channels, *size = shape
    images = random.integers(0, 256, (count, *size, channels), np.uint8)
    labels = np.arange(count) % classes
    splits = dict.fromkeys(("train", "validation", "test"), (images, labels))
    return Task("noise", shape, classes, lambda: splits)


# Modules


def test_a_module_is_scored_with_its_own_weights(module, task):
    teacher = load_teacher(module, task)
    assert teacher.name == "SmallResNet"
    assert_same_weights(teacher, module.state_dict())
    images = task.splits["validation"].images
    with torch.no_grad():
        right = module(teacher.normalise(images)).argmax(1)
    expected = (right == task.splits["validation"].labels).double().mean().item()
    assert teacher.score.accuracy == expected


class StoresHalves(SmallResNet):
    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        return {name: tensor / 2 for name, tensor in state.items()}


class StoresNothing(SmallResNet):
    def state_dict(self, *args, **kwargs):
        return {}


def stores_by_hook(change):
    def make():
        network = SmallResNet()
        network.register_state_dict_post_hook(lambda module, state, *_: change(state))
        return network

    return make


def doubled(state):
    for name in list(state):
        state[name] = state[name] * 2


def renamed(state):
    for name in list(state):
        state[f"ema.{name}"] = state.pop(name)


@pytest.mark.parametrize(
    "make",
    [
        StoresHalves,
        StoresNothing,
        stores_by_hook(doubled),
        stores_by_hook(renamed),
        stores_by_hook(dict.clear),
    ],
    ids=["halves", "nothing", "doubled", "renamed", "cleared"],
)
def test_a_modules_weights_are_what_it_computes_with_whatever_it_stores(make, task):
    module = make().eval()
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    assert_same_weights(load_teacher(module, task, device="cpu"), tensors)


def test_a_module_can_have_other_weights(module, task):
    state = {k: v + 1 for k, v in module.state_dict().items()}
    assert_same_weights(load_teacher(module, task, weights=state), state)
    assert not torch.equal(module.fc.weight, state["fc.weight"])


def test_a_function_of_the_task_is_trained_from_its_own_start(task):
    teacher = load_teacher(SMALL, task, device="cpu")
    assert teacher.name == SMALL
    assert teacher.architecture.num_outputs == task.num_classes
    first = teacher.weights
    again = load_teacher(SMALL, task, device="cpu", again=True)
    assert_same_weights(again, first)


def test_a_function_may_come_with_weights(task, monkeypatch):
    monkeypatch.setattr(learning, "train_network", None)  # nothing is trained
    teacher = load_teacher(SMALL, task, weights="own")
    assert 0 < teacher.score.accuracy < 0.5
    assert teacher.fingerprint == load_teacher(SMALL, task, weights="own").fingerprint


def test_a_function_may_give_a_whole_teacher(teacher, task):
    from tests import networks

    networks.whole = lambda task: teacher
    try:
        assert load_teacher("tests.networks:whole") is teacher
        with pytest.raises(ValueError, match="already has weights"):
            load_teacher("tests.networks:whole", weights="own")
    finally:
        del networks.whole


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("tests.networks:missing", "cannot be imported"),
        ("missing_module:make", "cannot be imported"),
        ("tests.networks:awake", "must return a torch module"),
        (3, "a teacher must be a name, .* got 3"),
    ],
)
def test_what_is_no_teacher_is_refused(teacher, message, monkeypatch):
    from tests import networks

    monkeypatch.setattr(networks, "awake", lambda task: 3)
    with pytest.raises(ValueError, match=message):
        load_teacher(teacher)


def test_a_function_may_be_given_itself(task):
    teacher = load_teacher(make_small, task, weights="own")
    assert teacher.name == "make_small"
    assert teacher.fingerprint == load_teacher(SMALL, task, weights="own").fingerprint


def test_a_function_must_take_the_task():
    with pytest.raises(ValueError, match="function that takes 1 argument: too many"):
        load_teacher(lambda: None)
    with pytest.raises(ValueError, match=r"task .* function that takes 0 arguments"):
        load_task(SMALL)


class Plain(SmallResNet):
    """Takes nothing that it needs."""


class OfTask(SmallResNet):
    def __init__(self, task: Task) -> None:
        super().__init__(task.input_shape[0], task.num_classes)


class OfTaskPerhaps(SmallResNet):
    def __init__(self, width: int = 1, *, task: Task | None = None) -> None:
        assert width == 1
        assert task is not None
        super().__init__(task.input_shape[0], task.num_classes)


class OfAnything(SmallResNet):
    def __init__(self, *args: int, **options: int) -> None:
        assert not args
        super().__init__(**options)


@pytest.mark.parametrize(
    "network", [SmallResNet, Plain, OfTask, OfTaskPerhaps, OfAnything]
)
@pytest.mark.parametrize("as_name", [True, False])
def test_a_class_of_modules_is_made_with_the_task_if_it_wants_it(
    network, as_name, task
):
    name = f"{network.__module__}:{network.__name__}"
    teacher = load_teacher(name if as_name else network, task, weights="own")
    assert teacher.name == (name if as_name else network.__name__)
    assert teacher.fingerprint == load_teacher(SMALL, task, weights="own").fingerprint


class NeedsClasses(SmallResNet):
    def __init__(self, num_classes: int) -> None:
        super().__init__(classes=num_classes)


class NeedsMore(SmallResNet):
    def __init__(self, task: Task, depth: int) -> None:
        super().__init__(classes=depth)


class NeedsKeyword(SmallResNet):
    def __init__(self, *, width: int) -> None:
        super().__init__(classes=width)


@pytest.mark.parametrize(
    ("network", "what"),
    [
        (NeedsClasses, "missing a required argument: 'num_classes'"),
        (NeedsMore, "missing a required argument: 'depth'"),
        (NeedsKeyword, "missing a required .*argument: 'width'"),
        (nn.Linear, "missing a required argument: 'in_features'"),
    ],
)
def test_a_class_that_needs_more_than_the_task_is_refused(network, what, task):
    message = (
        rf"{what}\); give a function, `def make\(task\): return {network.__name__}"
    )
    for teacher in (network, f"{network.__module__}:{network.__name__}"):
        with pytest.raises(ValueError, match=message):
            load_teacher(teacher, task)


@pytest.mark.parametrize(
    "wrap", [lambda m: m, nn.DataParallel, nn.Sequential, AveragedModel]
)
def test_an_instance_may_be_named(wrap, module, task, monkeypatch):
    from tests import networks

    instance = wrap(module)
    monkeypatch.setattr(networks, "instance", instance, raising=False)
    monkeypatch.setattr(learning, "train_network", None)  # its weights are its own
    teacher = load_teacher("tests.networks:instance", task)
    assert teacher.name == "tests.networks:instance"
    assert teacher.fingerprint == load_teacher(instance, task).fingerprint


def test_a_teacher_or_an_architecture_may_be_named(teacher, task, monkeypatch):
    from tests import networks

    monkeypatch.setattr(networks, "known", teacher, raising=False)
    assert load_teacher("tests.networks:known") is teacher
    layers = teacher.architecture
    monkeypatch.setattr(networks, "known", layers, raising=False)
    assert load_teacher("tests.networks:known", task).architecture == layers


@pytest.mark.parametrize("value", [3, None, "resnet18", {"teacher": 1}])
def test_what_is_named_and_is_no_teacher_is_refused(value, monkeypatch, task):
    from tests import networks

    monkeypatch.setattr(networks, "value", value, raising=False)
    with pytest.raises(ValueError, match=r"'tests.networks:value' must be a function"):
        load_teacher("tests.networks:value", task)


def test_a_file_is_answered_with_how_to_write_it():
    with pytest.raises(ValueError, match="names a file; write 'my_nets:make'"):
        load_teacher("my_nets.py:make")


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "maxvit_t"])
def test_attention_is_named_as_the_reason(name):
    with pytest.raises(TraceError, match=f"{name} cannot be a teacher: it uses atten"):
        load_teacher(name)


def test_a_module_for_other_images_is_named(task):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(9, 10))
    with pytest.raises(TraceError, match=r"Sequential cannot be a teacher: .*take"):
        load_teacher(module, task)


@pytest.mark.parametrize("teacher", [SMALL, SmallResNet(), make_small])
def test_environments_take_them(teacher):
    env = gym.make("n2n_gym:N2NRemove-v0", teacher=teacher, evaluator="size")
    env.reset(seed=0)
    assert env.unwrapped.teacher.architecture.positions["block1.conv1"] > 0
    env.close()


# Weights in files


@pytest.fixture
def state(task) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return make_small(task).state_dict()


@pytest.mark.parametrize(
    "write",
    [
        lambda state, path: save_file(state, path / "w.safetensors"),
        lambda state, path: torch.save(state, path / "w.pt"),
        lambda state, path: torch.save(
            {"state_dict": state, "epoch": 3}, path / "w.pt"
        ),
        lambda state, path: torch.save({"model": state}, path / "w.pth"),
        lambda state, path: torch.save(
            {f"module.{name}": tensor for name, tensor in state.items()}, path / "w.pt"
        ),
        lambda state, path: torch.save(
            state, path / "w.pt", _use_new_zipfile_serialization=False
        ),
    ],
    ids=["safetensors", "torch", "checkpoint", "model", "parallel", "old format"],
)
def test_weights_are_read_from_files(write, state, task, tmp_path):
    write(state, tmp_path)
    (path,) = tmp_path.glob("w.*")
    for weights in (path, str(path)):
        assert_same_weights(load_teacher(SMALL, task, weights=weights), state)


def test_half_precision_becomes_single(state, task, tmp_path):
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file(halves, tmp_path / "w.safetensors")
    teacher = load_teacher(SMALL, task, weights=tmp_path / "w.safetensors")
    assert_same_weights(teacher, {k: v.to(state[k].dtype) for k, v in halves.items()})


def test_a_teacher_with_weights_is_never_trained(state, task, monkeypatch):
    monkeypatch.setattr(learning, "train_network", None)
    assert 0 < load_teacher(SMALL, task, weights=state).score.accuracy < 0.5


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_would_run_code_is_refused(task, tmp_path, is_zip):
    harm, path = tmp_path / "harm", tmp_path / "w.pt"
    if is_zip:
        torch.save({"fc.weight": Bomb(harm)}, path)
    else:
        path.write_bytes(pickle.dumps({"fc.weight": Bomb(harm)}))
    with pytest.raises(ValueError, match=r"w\.pt is refused: .*could run code"):
        load_teacher(SMALL, task, weights=path)
    assert not harm.exists()


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors", ".SAFETENSORS", ""])
@pytest.mark.parametrize("save", [torch.save, save_file])
def test_a_file_is_read_by_what_is_in_it(suffix, save, state, task, tmp_path):
    path = tmp_path / f"w{suffix}"
    save(state, path)
    found = load_teacher(SMALL, task, weights=path).weights
    assert all(torch.equal(value, state[name]) for name, value in found.items())


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        (b"", ".pt", "is neither a safetensors file nor a file of torch.save"),
        (
            b"some text",
            ".pt",
            "is neither a safetensors file nor a file of torch.save",
        ),
        (b"", ".safetensors", "is not a safetensors file"),
        (b"\x00" * 100, ".safetensors", "is not a safetensors file"),
        (None, ".pt", "there is no file"),
        ([1, 2], ".pt", "has no state dict: got list"),
        ({"epoch": 3}, ".pt", "its 'epoch' is int"),
    ],
)
def test_a_file_without_weights_is_refused(content, suffix, message, task, tmp_path):
    path = tmp_path / f"w{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        load_teacher(SMALL, task, weights=path)


def test_weights_of_another_architecture_are_refused_with_the_first_difference(
    state, task
):
    with pytest.raises(ValueError, match=r"has no 'features\.0\.weight'"):
        load_teacher("vgg11", task, weights=state)
    wide = {**state, "block2.conv1.weight": torch.zeros(99, 8, 3, 3)}
    message = (
        r"'block2.conv1.weight' has the shape \(99, 8, 3, 3\), expected \(16, 8, 3, 3\)"
    )
    with pytest.raises(ValueError, match=message):
        load_teacher(SMALL, task, weights=wide)
    more = {**state, "block9.weight": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"also has block9\.weight: .* another"):
        load_teacher(SMALL, task, weights=more)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor * float("nan"), "'fc.weight' must be finite"),
        (lambda tensor: tensor.to("meta"), "'fc.weight' is on the meta device"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(change, message, state, task):
    bad = {**state, "fc.weight": change(state["fc.weight"])}
    with pytest.raises(ValueError, match=message):
        load_teacher(SMALL, task, weights=bad)


def test_a_mapping_may_be_what_a_training_script_keeps(state, task):
    checkpoint = {"model": state, "epoch": 3}
    assert_same_weights(load_teacher(SMALL, task, weights=checkpoint), state)
    with pytest.raises(ValueError, match="has no state dict: its 'epoch' is int"):
        load_teacher(SMALL, task, weights={"epoch": 3})


def test_the_colours_do_not_depend_on_the_order_of_the_weights(task, tmp_path):
    # safetensors sorts by name: a classifier that is a convolution comes first
    state = models.squeezenet1_1(num_classes=10).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    for weights in (state, tmp_path / "w.safetensors"):
        teacher = load_teacher("squeezenet1_1", task, weights=weights)
        assert teacher.task.input_shape == (3, 8, 8)


def test_weights_for_other_classes_are_refused(task):
    seven = SmallResNet(classes=7).state_dict()
    with pytest.raises(ValueError, match="has 7 classes, the task has 10"):
        load_teacher(SMALL, task, weights=seven)
    with pytest.raises(ValueError, match="7 classes, task digits has 10"):
        load_teacher(SmallResNet(classes=7), task)


def test_networks_by_name_take_weights_fitted_or_as_they_are():
    task = tiny_task((3, 32, 32))
    fitted = load_teacher("resnet18", task).architecture
    state = build(fitted).state_dict()
    teacher = load_teacher("resnet18", task, weights=state)
    assert teacher.architecture == fitted
    whole = models.resnet18(num_classes=10).state_dict()
    teacher = load_teacher("resnet18", task, weights=whole)
    assert teacher.architecture.layers[0].kernel == (7, 7)
    assert_same_weights(teacher, whole)


def test_weights_that_fit_both_forms_are_taken_for_the_fitted_one_and_that_is_said(
    caplog,
):
    task = tiny_task((3, 32, 32))
    state = models.mobilenet_v2(num_classes=10).state_dict()
    teacher = load_teacher("mobilenet_v2", task, weights=state)
    assert teacher.architecture.layers[0].stride == (1, 1)
    assert "taken as fitted to 32x32 images" in caplog.text
    whole = load_teacher(models.mobilenet_v2(num_classes=10), task)
    assert whole.architecture.layers[0].stride == (2, 2)


# Grey and colour


def test_grey_images_become_three_equal_channels_for_weights_for_colour(task):
    colour = SmallResNet(channels=3)
    for teacher in (
        load_teacher(colour, task),
        load_teacher(colour, task, weights=colour.state_dict()),
    ):
        assert teacher.task.input_shape == (3, 8, 8)
        images = teacher.task.splits["test"].images
        assert torch.equal(images[:, 0], images[:, 2])
        assert 0 <= teacher.score.accuracy < 0.5


def test_a_network_by_name_without_weights_reads_grey_images_as_they_are(task):
    assert load_teacher("resnet18", task).architecture.input_shape == (1, 8, 8)


def convolution(channels: int) -> nn.Module:
    return SmallResNet(channels=channels)


def perceptron(channels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, 10))


def normalised_first(channels: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(channels), SmallResNet(channels=channels))


def architecture(channels: int) -> Architecture:
    return trace(SmallResNet(channels=channels), (channels, 8, 8))


@pytest.mark.parametrize(
    "make", [convolution, perceptron, normalised_first, architecture]
)
@pytest.mark.parametrize(
    ("reads", "given", "layout"),
    [
        (1, 3, r"\(N, H, W\)"),
        (3, 4, r"\(N, H, W, 3\)"),
        (1, 2, r"\(N, H, W\)"),
        (3, 2, r"\(N, H, W, 3\)"),
    ],
)
def test_the_error_says_whether_to_change_the_network_or_the_images(
    make, reads, given, layout
):
    message = (
        f"the network reads {reads} channels?, the images of task noise have {given}: "
        f"change its first layer to {given} input channels, or give the images as "
        f"{layout} in an .npz file"
    )
    with pytest.raises(ValueError, match=message):
        load_teacher(make(reads), tiny_task((given, 8, 8)))


@pytest.mark.parametrize("given", [2, 3, 4])
def test_weights_for_other_channels_are_told_apart(given):
    network = models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(1, 64, 3, bias=False)
    task = tiny_task((given, 8, 8))
    with pytest.raises(
        ValueError, match=f"reads 1 channel, the images .* have {given}"
    ):
        load_teacher("resnet18", task, weights=network.state_dict())


# Normalisation


def test_a_normalisation_belongs_to_its_teacher(module, task):
    plain = load_teacher(module, task)
    assert plain.normalise == Normalisation(*task.normalisation)
    other = load_teacher(module, task, normalisation=((0.5,), (0.25,)))
    assert other.normalise == Normalisation((0.5,), (0.25,))
    assert other.fingerprint != plain.fingerprint
    assert not torch.equal(other.trained.logits, plain.trained.logits)


@pytest.mark.parametrize(
    "statistics",
    [
        ((0.5, 0.5), (0.2, 0.2)),
        ((0.5,), (0.0,)),
        ((0.5,), (0.2, 0.2)),
        ((float("nan"),), (1.0,)),
        ((0.5,), (float("nan"),)),
        ((124,), (58,)),
    ],
)
def test_a_normalisation_that_does_not_fit_is_refused(module, task, statistics):
    with pytest.raises(ValueError, match=r"for each of 1 channels.*; got"):
        load_teacher(module, task, normalisation=statistics)


def test_a_normalisation_of_another_form_is_refused(module, task):
    for statistics in ((0.5, 0.5), (("a",), (1.0,)), ((0.5,), (0.5,), (0.5,))):
        with pytest.raises(
            ValueError, match=r"must be \(\(mean, \.\.\.\), \(deviation"
        ):
            load_teacher(module, task, normalisation=statistics)


def test_a_teacher_at_chance_is_warned_of(task, caplog):
    blind = SmallResNet()
    nn.init.zeros_(blind.fc.weight)
    load_teacher(blind, task).score  # noqa: B018
    assert "chance is 10.00%; are its classes in the order of" in caplog.text


# Weights that torchvision publishes


def publish(name: str, weights: str, folder: Path) -> dict[str, torch.Tensor]:
    """Put weights where torch would have downloaded them to; not the real ones."""
    module = torchvision_network(name, 1000).to_empty(device="cpu")
    for tensor in module.state_dict().values():
        tensor.zero_()
    for tensor in module.parameters():
        nn.init.normal_(tensor, std=0.05)
    state = module.state_dict()
    entry = models.get_weight(f"{models.get_model_weights(name).__name__}.{weights}")
    folder = folder / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / entry.url.rsplit("/", 1)[1])
    return state


def test_published_weights_bring_the_network_as_it_is_and_its_normalisation(tmp_path):
    state = publish("squeezenet1_1", "IMAGENET1K_V1", tmp_path)
    task = tiny_task((3, 64, 64), 1000, 1000)
    teacher = load_teacher("squeezenet1_1", task, weights="IMAGENET1K_V1")
    assert_same_weights(teacher, state)
    assert teacher.architecture.layers[0].stride == (2, 2)
    expected = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert teacher.normalise == expected


@pytest.mark.slow
def test_published_weights_of_googlenet_see_what_they_were_trained_on(tmp_path):
    # torchvision's transforms_input: (x * std / .5) + (mean - .5) / .5 of normalised x
    publish("googlenet", "IMAGENET1K_V1", tmp_path)
    task = tiny_task((3, 64, 64), 1000, 1000)
    teacher = load_teacher("googlenet", task, weights="IMAGENET1K_V1")
    images = task.splits["test"].images[:2]
    usual = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    network = torchvision_network("googlenet", 1000, transform_input=True)
    converted = network._transform_input(usual(images))
    torch.testing.assert_close(teacher.normalise(images), converted)
    assert not [name for name in teacher.weights if name.startswith("aux")]


def test_published_weights_have_their_own_classes(tmp_path):
    publish("squeezenet1_1", "IMAGENET1K_V1", tmp_path)
    with pytest.raises(ValueError, match="1000 classes, task noise has 10"):
        load_teacher("squeezenet1_1", tiny_task((3, 64, 64)), weights="IMAGENET1K_V1")


def test_without_a_network_published_weights_say_where_to_put_them():
    message = r"could not be downloaded .* put https://.*pth into .*checkpoints"
    with pytest.raises(OSError, match=message):
        load_teacher("resnet18", tiny_task((3, 64, 64)), weights="IMAGENET1K_V1")


def test_names_of_published_weights_are_for_torchvisions_networks(task):
    with pytest.raises(ValueError, match=r"'IMAGENET1K_V1'; accepted are the path"):
        load_teacher(SMALL, task, weights="IMAGENET1K_V1")


def test_a_folder_is_no_file_with_weights(task, tmp_path):
    with pytest.raises(ValueError, match="is a folder, not a file with weights"):
        load_teacher(SMALL, task, weights=tmp_path)


def test_unknown_weights_are_refused_with_the_known_ones(task):
    with pytest.raises(ValueError, match=r"unknown weights 'V3' .*IMAGENET1K_V1"):
        load_teacher("resnet18", task, weights="V3")


# Real weights


@pytest.mark.slow
def test_a_trained_resnet_is_as_accurate_as_is_said():
    path = data_folder() / "resnet18_cifar10.safetensors"
    if not path.exists():
        pytest.skip("N2N_DATA has no resnet18_cifar10.safetensors")
    said = json.loads(path.with_suffix(".json").read_text())
    whole = load_task("cifar10")
    some = {
        name: (images[::10], labels[::10])
        for name, (images, labels) in whole.read().items()
    }
    some["train"] = some["validation"]  # its logits are not of interest
    task = replace(whole, read=lambda: some)
    statistics = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    teacher = load_teacher("resnet18", task, weights=path, normalisation=statistics)
    expected = said["validation_accuracy"]
    assert teacher.score.accuracy == pytest.approx(expected, abs=0.03)  # of 500 images
    for name, tensor in load_file(path).items():
        assert torch.equal(
            teacher.weights[name], tensor.to(teacher.weights[name].dtype)
        )
