"""The five networks of N2N-Bench, and what is decided about each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from n2n_gym.bench.table import FOLDER
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.determinism import alone
from n2n_gym.pytorch.inference import compute_accuracy, compute_logits
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.trace import trace
from n2n_gym.tasks.loading import load_task
from n2n_gym.teachers.learning import teacher_recipe, train_network
from n2n_gym.teachers.teacher import Teacher, Trained

CPU: Final = torch.device("cpu")
TASK: Final = "cifar10x16"
TEACHERS: Final = FOLDER.parent / "teachers"
EPOCHS: Final = 30  # of a teacher
RATES: Final = (0.3, 0.5, 0.7, 1.0)


def units(inputs: int, width: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution with normalisation and activation."""
    conv = nn.Conv2d(inputs, width, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU()]


def ends(inputs: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10)]


class Basic(nn.Module):
    """Two convolutions and a shortcut (He et al., 2016), perhaps narrower inside."""

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, inner: int | None = None
    ) -> None:
        super().__init__()
        inner = inner or outputs
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.shortcut(x)).relu()


class Inverted(nn.Module):
    """Wide, depthwise, narrow (Sandler et al., 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        inner = 4 * inputs
        depthwise = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.body = nn.Sequential(
            *units(inputs, inner, 1),
            *(depthwise, nn.BatchNorm2d(inner), nn.ReLU()),
            *(nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return x + y if self.has_shortcut else y


def residual() -> nn.Module:
    """A ResNet of five blocks, two of them with strides."""
    blocks = (Basic(16, 16), Basic(16, 16), Basic(16, 32, 2), Basic(32, 32))
    return nn.Sequential(*units(3, 16, 3, 2), *blocks, Basic(32, 64, 2), *ends(64))


def plain() -> nn.Module:
    """Twelve plain convolutions in three stages, after VGG."""
    layers, inputs = units(3, 16, 3, 2), 16
    for width, count in ((16, 3), (32, 4), (64, 4)):
        if width > 16:
            layers.append(nn.MaxPool2d(2))
        for _ in range(count):
            layers += units(inputs, width)
            inputs = width
    return nn.Sequential(*layers, *ends(64))


def wide() -> nn.Module:
    """A ResNet whose later blocks have another width inside than between them."""
    return nn.Sequential(
        *units(3, 12, 3, 2),
        *(Basic(12, 12), Basic(12, 32, 2, inner=24), Basic(32, 32, inner=24)),
        *(Basic(32, 64, 2, inner=48), Basic(64, 64, inner=48)),
        *ends(64),
    )


def inverted() -> nn.Module:
    """Four inverted bottlenecks and a pointwise end, after MobileNetV2."""
    return nn.Sequential(
        *units(3, 12, 3, 2),
        *(Inverted(12, 12), Inverted(12, 20, 2), Inverted(20, 20), Inverted(20, 20)),
        *units(20, 48, 1),
        *ends(48),
    )


def staged() -> nn.Module:
    """A ResNet of five blocks in three stages, all of which can go."""
    layers, inputs = units(3, 16, 3, 2), 16
    for width, count in ((16, 2), (32, 2), (64, 1)):
        if width > 16:
            layers += [nn.MaxPool2d(2), *units(inputs, width, 1)]
        layers += [Basic(width, width) for _ in range(count)]
        inputs = width
    return nn.Sequential(*layers, *ends(64))


class Subject(NamedTuple):
    """What a table is about.

    Attributes:
        env: The kind of environment: "remove", "shrink", "compress".
        arguments: Of it, as JSON.
    """

    network: Callable[[], nn.Module]
    env: str
    arguments: Mapping[str, Any]


_STAGES: Final = {"variables": ["width"], "rates": list(RATES)}
SUBJECTS: Final[Mapping[str, Subject]] = {
    "remove-residual": Subject(residual, "remove", {"granularity": "unit"}),
    "remove-plain": Subject(plain, "remove", {"granularity": "unit"}),
    "shrink-residual": Subject(wide, "shrink", {"granularity": "stage", **_STAGES}),
    "shrink-inverted": Subject(inverted, "shrink", {"granularity": "stage", **_STAGES}),
    "compress-residual": Subject(
        staged,
        "compress",
        {"granularity": "block", "shrink_granularity": "stage", **_STAGES},
    ),
}


@lru_cache
def load_subject(name: str) -> Teacher:
    """The teacher, with the weights that ship; its logits are computed anew."""
    task = load_task(TASK)
    architecture = trace(SUBJECTS[name].network(), task.input_shape)

    def provide() -> Trained:
        weights = load_file(weights_path(name))
        network = build(architecture)
        network.load_state_dict(weights)
        normalise = Normalisation(*task.normalisation)
        with alone(1):
            train, validation = task.split("train", CPU), task.split("validation", CPU)
            accuracy = compute_accuracy(network, validation, normalise)
            logits = compute_logits(network, train, normalise)
        return Trained(weights, accuracy, logits)

    return Teacher(name, task, architecture, provide)


def weights_path(name: str) -> Path:
    return TEACHERS / f"{name}.safetensors"


def weights_hash(name: str) -> str:
    return hashlib.sha256(weights_path(name).read_bytes()).hexdigest()


def train_teacher(name: str) -> None:
    """Train the teacher and keep its weights, unless they are there."""
    if weights_path(name).exists():
        return
    task = load_task(TASK)
    architecture: Architecture = trace(SUBJECTS[name].network(), task.input_shape)
    recipe = replace(teacher_recipe(task, architecture), epochs=EPOCHS)
    trained = train_network(name, task, architecture, recipe, CPU)
    TEACHERS.mkdir(exist_ok=True)
    save_file(dict(trained.weights), weights_path(name))
