"""What cheap scores are worth: each rung against full distillation.

    python benchmarks/fidelity.py                     # 60 students, 3 seeds: hours
    python benchmarks/fidelity.py --students 16 --seeds 2     # under 45 minutes

CIFAR-10 (the folder that ``N2N_DATA`` names), 5,000 training images, a residual teacher
of widths 16, 32, 64 trained on them. Half of the students come from random legal play
of N2NRemove, half from random play of N2NShrink after that. Each is scored by every
rung, and distilled to convergence from several seeds.

Every result is a line of ``results.jsonl`` in the output folder as soon as it is there:
the same command goes on after a stop, and ``--part 1/2`` and ``--part 2/2`` share the
work of two cores. One thread each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn
from tqdm.auto import tqdm

from n2n_gym.architecture import Architecture
from n2n_gym.envs import RemoveEnv, ShrinkEnv
from n2n_gym.evaluators import ELASTIC, FULL, INHERIT, PAPER, SHORT, Rung
from n2n_gym.evaluators.distillation import Settings, measure
from n2n_gym.evaluators.elastic import elastic_teacher
from n2n_gym.evaluators.scoring import faster_precision
from n2n_gym.rewards import Score, n2n
from n2n_gym.tasks import Augmentation, Task, data_folder
from n2n_gym.teachers import Teacher, teacher_recipe, train_network
from n2n_gym.teachers.store import load_trained, save_trained
from n2n_gym.torch_layers import trace

CPU = torch.device("cpu")
NUM_IMAGES = 5_000
TEACHER_EPOCHS = 40
RUNGS = (INHERIT, ELASTIC, SHORT, PAPER)
SIMILAR = 1.5  # pairs whose parameter counts differ by less are of a size


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.shortcut(x)).relu()


def residual(blocks: int = 2) -> nn.Module:
    """A residual network of widths 16, 32, 64 (He et al., 2016)."""
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for outputs in (16, 32, 64):
        for i in range(blocks):
            stride = 2 if i == 0 and outputs > 16 else 1
            layers.append(Block(inputs, outputs, stride))
            inputs = outputs
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10)
    )


def some_of_cifar10() -> Task:
    """CIFAR-10 with its own validation split and few training images."""

    def read() -> dict[str, Any]:
        path = data_folder() / "cifar10.npz"
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        return {
            split: (
                arrays[f"{split}_images"][:count],
                arrays[f"{split}_labels"][:count],
            )
            for split, count in (
                ("train", NUM_IMAGES),
                ("validation", None),
                ("test", None),
            )
        }

    augmentation = Augmentation(padding=4, flip=True)
    return Task("cifar10-5000", (3, 32, 32), 10, read, augmentation=augmentation)


def make_teacher(folder: Path) -> Teacher:
    task = some_of_cifar10()
    architecture = trace(residual(), task.input_shape)
    path = folder / "teacher.safetensors"
    trained = load_trained(path)
    if trained is None:
        recipe = replace(teacher_recipe(task, architecture), epochs=TEACHER_EPOCHS)
        trained = train_network("residual", task, architecture, recipe, CPU)
        save_trained(path, trained, {"teacher": "residual", "task": task.name})
    return Teacher("residual", task, architecture, lambda: trained)


def play_randomly(env: RemoveEnv | ShrinkEnv) -> Architecture:
    _, info = env.reset()
    is_over = False
    while not is_over:
        action = env.action_space.sample(info["action_mask"])
        _, _, is_over, _, info = env.step(action)
    return env.student


def random_students(teacher: Teacher, count: int) -> list[Architecture]:
    """Distinct ones from both stages, in turn."""
    remove = RemoveEnv(teacher, evaluator="size")
    remove.action_space.seed(0)
    found: dict[str, Architecture] = {}
    while len(found) < count:
        student = play_randomly(remove)
        if len(found) % 2:
            shrink = ShrinkEnv(teacher, start=student, evaluator="size")
            shrink.action_space.seed(len(found))
            student = play_randomly(shrink)
        found.setdefault(student.fingerprint, student)
    return list(found.values())


class Results:
    """What was measured: a line each, written at once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "results.jsonl"

    def read(self) -> dict[tuple[str, str, int], dict[str, Any]]:
        if not self.path.exists():
            return {}
        lines = self.path.read_text().splitlines()
        whole = [json.loads(line) for line in lines if line.endswith("}")]
        return {(r["student"], r["rung"], r["seed"]): r for r in whole}

    def add(self, **result: Any) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(result) + "\n")
