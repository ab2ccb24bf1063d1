"""The five networks of N2N-Bench, and the decisions about each."""

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

from benchmarks.subjects import Basic
from n2n_gym.bench.table import FOLDER
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.determinism import isolated
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
WIDTH: Final = 16  # of residual and plain networks
NARROW: Final = 12  # of the inverted bottlenecks


def units(inputs: int, width: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution with normalisation and activation."""
    conv = nn.Conv2d(inputs, width, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU()]


def ends(inputs: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10)]


class Inverted(nn.Module):
    """A wide, a depthwise and a narrow convolution, with a shortcut (MobileNetV2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 4 * width
        depthwise = nn.Conv2d(inner, inner, 3, 1, 1, groups=inner, bias=False)
        self.body = nn.Sequential(
            *units(width, inner, 1),
            *(depthwise, nn.BatchNorm2d(inner), nn.ReLU()),
            *(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return x + y


def residual(blocks: int, *more: nn.Module) -> nn.Module:
    """Residual blocks of one width on maps of one size."""
    every = [Basic(WIDTH, WIDTH) for _ in range(blocks)]
    return nn.Sequential(*units(3, WIDTH, 3, 2), *every, *more, *ends(WIDTH))


def plain() -> nn.Module:
    """Twelve convolutions in sequence; the last eleven have equal shapes."""
    layers = units(3, WIDTH, 3, 2)
    for _ in range(11):
        layers += units(WIDTH, WIDTH)
    return nn.Sequential(*layers, *ends(WIDTH))


def inverted() -> nn.Module:
    """Seven inverted bottlenecks of one width, after MobileNetV2."""
    blocks = [Inverted(NARROW) for _ in range(7)]
    return nn.Sequential(*units(3, NARROW, 3, 2), *blocks, *ends(NARROW))


class Subject(NamedTuple):
    """The network and the environment of a table.

    Attributes:
        env: Kind of environment: "remove", "shrink", "compress".
        arguments: Arguments of the environment, as JSON.
    """

    network: Callable[[], nn.Module]
    env: str
    arguments: Mapping[str, Any]


# Only inner widths, and not the last block's, so a table has some 1,000 students.
_WIDTHS: Final = {"variables": ["width"], "keep": ["0", "9.conv1"]}
_INVERTED: Final = _WIDTHS | {"keep": ["0", "9.body.0"]}
SUBJECTS: Final[Mapping[str, Subject]] = {
    "remove-residual": Subject(
        lambda: residual(5, *units(WIDTH, WIDTH)),
        "remove",
        {"granularity": "unit", "keep": ["8"]},
    ),
    "remove-plain": Subject(plain, "remove", {"granularity": "unit", "keep": ["33"]}),
    "shrink-residual": Subject(
        lambda: residual(7),
        "shrink",
        {"granularity": "group", "rates": [0.2, 0.5, 1.0], **_WIDTHS},
    ),
    "shrink-inverted": Subject(
        inverted,
        "shrink",
        {"granularity": "group", "rates": [0.2, 0.5, 1.0], **_INVERTED},
    ),
    "compress-residual": Subject(
        lambda: residual(7),
        "compress",
        {
            "granularity": "block",
            "shrink_granularity": "group",
            "rates": [0.4, 1.0],
            **_WIDTHS,
        },
    ),
}


@lru_cache
def load_subject(name: str) -> Teacher:
    """The teacher with the packaged weights; its logits are computed again."""
    task = load_task(TASK)
    architecture = trace(SUBJECTS[name].network(), task.input_shape)

    def provide() -> Trained:
        weights = load_file(weights_path(name))
        network = build(architecture)
        network.load_state_dict(weights)
        normalise = Normalisation(*task.normalisation)
        with isolated(1):
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
    """Train the teacher and store its weights, unless their file exists."""
    if weights_path(name).exists():
        return
    task = load_task(TASK)
    architecture: Architecture = trace(SUBJECTS[name].network(), task.input_shape)
    recipe = replace(teacher_recipe(task, architecture), epochs=EPOCHS)
    trained = train_network(name, task, architecture, recipe, CPU)
    TEACHERS.mkdir(exist_ok=True)
    save_file(dict(trained.weights), weights_path(name))
