"""Networks of timm by name."""

import pytest
import torch
from safetensors.torch import save_file

from n2n_gym.tasks.task import Task
from n2n_gym.teachers import from_timm
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.network import read_network

timm = pytest.importorskip("timm")
TASK = Task("none", (3, 64, 64), 10, dict)
NAMES = ("resnet10t", "mobilenetv3_small_050", "lcnet_035", "tf_mobilenetv3_small_075")


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_one_has_the_tasks_classes_and_timms_keys(name):
    network = read_network(f"timm:{name}", TASK, None)
    assert network.name == f"timm:{name}"
    assert network.weights is None
    assert network.architecture.num_outputs == 10
    made = timm.create_model(name, num_classes=10)
    assert network.architecture.num_params == sum(p.numel() for p in made.parameters())


def test_weights_may_be_a_file(tmp_path):
    module = timm.create_model("resnet10t", num_classes=10)
    path = tmp_path / "weights.safetensors"
    save_file(module.state_dict(), path)
    network = read_network("timm:resnet10t", TASK, path)
    wanted = module.state_dict()
    assert all(torch.equal(v, wanted[key]) for key, v in network.weights.items())


def test_a_tag_stands_for_published_weights_and_their_normalisation(tmp_path):
    """From a file in place of the download."""
    module = timm.create_model("resnet10t")
    path = tmp_path / "weights.safetensors"
    save_file(module.state_dict(), path)
    made, normalisation = from_timm.published(
        "timm:resnet10t.c3_in1k", pretrained_cfg_overlay={"file": str(path)}
    )
    assert torch.equal(made.fc.weight, module.fc.weight)
    assert normalisation.mean == tuple(made.pretrained_cfg["mean"])
    assert len(normalisation.std) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet1", "timm has no network 'resnet1'; near are "),
        ("timm:resnet18.best", "no weights 'best' of resnet18; accepted are a1_in1k"),
        ("timm:vit_tiny_patch16_224", "cannot be a teacher"),
        ("timm:", "timm has no network ''"),
    ],
)
def test_what_cannot_be_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        load_teacher(name, TASK)
