"""Tests that need a GPU, or another accelerator that torch knows."""

from __future__ import annotations

import pytest
import torch

from n2n_gym.evaluators.rungs import INHERIT, SHORT
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.evaluators.workers import Workers
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import shrink, shrinkages
from n2n_gym.networks.scaling import uniform_student
from n2n_gym.resources import load_meter
from n2n_gym.resources.accelerator import AcceleratorEnergy, TorchLatency
from n2n_gym.rewards import Score
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.zoo import teacher_architecture

if not torch.accelerator.is_available():
    pytest.skip("torch finds no accelerator", allow_module_level=True)

pytestmark = pytest.mark.gpu
NAME = torch.accelerator.current_accelerator().type
milliseconds = TorchLatency(batch=256, device=NAME)
only_nvidia = pytest.mark.skipif(NAME != "cuda", reason="NVIDIA's counter of energy")


@pytest.fixture(scope="module")
def large() -> Architecture:
    """So large that its arithmetic takes longer than starting its kernels."""
    return teacher_architecture("resnet18", Task("images", (3, 32, 32), 10, dict))


@pytest.fixture(scope="module")
def thin(large) -> Architecture:
    return shrink(large, dict.fromkeys(shrinkages(large), 0.3))


def test_a_thinner_network_is_faster(large, thin):
    whole = milliseconds(large, large)
    assert 0 < milliseconds(thin, large) < 0.7 * whole
    assert milliseconds(large, large) == whole  # measured once


def test_one_device_of_several_is_named():
    TorchLatency(device=f"{NAME}:0")
    count = torch.accelerator.device_count()
    with pytest.raises(ValueError, match=rf"no device '{NAME}:{count}'; it has cpu"):
        TorchLatency(device=f"{NAME}:{count}")


@only_nvidia
def test_without_what_python_takes_a_batch_of_one_is_faster_too(large, thin):
    started, as_graph = TorchLatency(), TorchLatency(graph=True)
    assert as_graph(large, large) < 0.8 * started(large, large)
    assert as_graph(thin, large) < 0.9 * as_graph(large, large)


@only_nvidia
def test_a_thinner_network_takes_less_energy(large, thin):
    pytest.importorskip("pynvml")
    meter = load_meter([], {"energy_mj": AcceleratorEnergy(batch=256)})
    assert 0 < meter(thin, large)["energy_mj"] < 0.7 * meter(large, large)["energy_mj"]


@only_nvidia
def test_an_image_takes_so_many_watts_for_so_long(large):
    """Energy and latency are of one network at work, so their ratio is a power."""
    pytest.importorskip("pynvml")
    millijoules = AcceleratorEnergy(batch=256)(large, large)
    watts = millijoules / (milliseconds(large, large) / 256)
    assert 30 < watts < 1500


@pytest.fixture(scope="module")
def students(teacher):
    """Students that learn; what a network of chance scores depends on each rounding."""
    start = teacher.architecture
    return [start, *(uniform_student(start, start.num_params // n) for n in (2, 4))]


@pytest.mark.parametrize("rung", [INHERIT, SHORT])
def test_scores_are_near_those_of_the_cpu(teacher, students, rung):
    here, there = (
        DistillationEvaluator(rung, device=device, precision="float32")(
            students, teacher
        )
        for device in (NAME, "cpu")
    )
    for one, other in zip(here, there, strict=True):
        assert isinstance(one, Score)
        assert abs(one.accuracy - other.accuracy) < 0.05
        assert one._replace(accuracy=0.0) == other._replace(accuracy=0.0)


def test_workers_that_share_it_give_scores_as_near(teacher, students):
    runner = Workers(2)
    try:
        apart = DistillationEvaluator(SHORT, device=NAME, runner=runner)(
            students, teacher
        )
    finally:
        runner.close()
    together = DistillationEvaluator(SHORT, device=NAME)(students, teacher)
    for one, other in zip(apart, together, strict=True):
        assert abs(one.accuracy - other.accuracy) < 0.05
