"""CIFAR's ResNets with shortcuts without weights: exact, and all can be decided."""

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from n2n_gym.compression.pipeline import compress
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import removals, remove, shrink, shrinkages
from n2n_gym.networks.layers import Conv, PadChannels, Slice
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.trace import trace
from n2n_gym.runs.options import Options
from n2n_gym.tasks.loading import load_task
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.cifar import DEPTHS, cifar_resnet
from n2n_gym.teachers.zoo import is_name, teacher_architecture
from tests.networks import awake

IMAGE = (3, 32, 32)
# He et al., 2016, table 6, in millions; resnet56's is 0.85 there.
SIZES = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet56": 0.85}
each = pytest.mark.parametrize("name", SIZES)


@each
def test_they_have_the_papers_layers_and_parameters(name):
    architecture = teacher_architecture(name, Task("none", IMAGE, 10, dict))
    convolutions = [x for x in architecture.layers if isinstance(x, Conv)]
    assert len(convolutions) + 1 == int(name.removeprefix("resnet"))
    assert architecture.num_params / 1e6 == pytest.approx(SIZES[name], abs=0.01)
    assert is_name(name)


@each
def test_their_traces_give_the_same_logits_to_the_last_bit(name):
    torch.manual_seed(0)
    module = awake(cifar_resnet(name))
    architecture = trace(module, IMAGE)
    network = build(architecture)
    network.load_state_dict(module.state_dict())
    images = torch.randn(2, *IMAGE)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), module(images))
    kinds = [type(layer) for layer in architecture.layers]
    assert kinds.count(Slice) == kinds.count(PadChannels) == 2


@each
def test_blocks_inner_widths_and_kernels_can_be_decided(name):
    start = teacher_architecture(name, Task("none", IMAGE, 10, dict))
    blocks = 3 * DEPTHS[name]
    found = removals(start)
    assert sum(removal.form == "branch" for removal in found) == blocks
    smaller = shrinkages(start)
    widths = [s.name for s in smaller if s.variable == "width"]
    assert sum(name.endswith("conv1") for name in widths) >= blocks
    assert sum(s.variable == "kernel" for s in smaller) == 2 * blocks + 1
    student = shrink(remove(start, []), dict.fromkeys(smaller, 0.5))
    assert student.num_params < start.num_params / 4


@pytest.mark.parametrize("image", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)])
def test_they_fit_images_of_other_sizes(image):
    start = teacher_architecture("resnet20", Task("none", image, 10, dict))
    assert build(start).eval()(torch.randn(2, *image)).shape == (2, 10)


@pytest.mark.slow
def test_one_is_compressed_and_exported(tmp_path):
    summary = compress(
        Options(
            teacher="resnet20",
            task="digits",
            evaluator="inherit",
            removal_updates=1,
            shrinkage_updates=1,
            final_epochs=2,
            controls="none",
            output=tmp_path,
            device="cpu",
        )
    )
    student = Architecture.from_json((tmp_path / "architecture.json").read_text())
    teacher = teacher_architecture("resnet20", load_task("digits"))
    assert student.num_params == summary.student.student.num_params
    assert student.num_params < teacher.num_params
    network = build(student)
    network.load_state_dict(load_file(tmp_path / "student.safetensors"))
    images = load_task("digits").splits["test"].images[:32]
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx")
    (logits,) = session.run(None, {"pixels": images.float().numpy() / 255})
    with torch.no_grad():
        expected = network.eval()(summary.normalise(images)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
