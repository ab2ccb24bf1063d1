"""Subjects of several benchmarks: a residual block, a part of CIFAR-10."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from n2n_gym.common.files import data_folder
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.task import Task


class Basic(nn.Module):
    """Two convolutions and a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.shortcut(x)).relu()


def some_of_cifar10(
    train: int, validation: int | None = None, test: int | None = None
) -> Task:
    """A task with the first images of each of CIFAR-10's own splits.

    Args:
        train, validation, test: Number of images of each split; None for all.
    """

    def read() -> dict[str, Any]:
        counts = {"train": train, "validation": validation, "test": test}
        with np.load(data_folder() / "cifar10.npz") as file:
            return {
                split: (
                    file[f"{split}_images"][:count],
                    file[f"{split}_labels"][:count],
                )
                for split, count in counts.items()
            }

    augmentation = Augmentation(padding=4, flip=True)
    return Task(f"cifar10-{train}", (3, 32, 32), 10, read, augmentation=augmentation)
