"""Which of the last finalists: the smallest that cannot be told from the best.

A few hundred images do not tell students apart that differ by half a point, and the
best of several on the same images is too good to be true. So size decides among those
within one standard error of the best (Breiman et al., 1984, "Classification and
regression trees", 3.4.3), each of them distilled from more than one seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.inference import predict
from n2n_gym.teachers.teacher import Teacher


def burden(student: Architecture) -> float:
    """What it takes: parameters and multiply-accumulates count alike."""
    return math.log(student.num_params) + math.log(student.num_macs)


def right_answers(
    networks: Sequence[nn.Module], teacher: Teacher, device: torch.device
) -> Tensor:
    """The share of the networks that get each validation image right, (N,) float64."""
    split = teacher.task.split("validation", device)
    labels = split.labels.cpu()
    answers = [predict(each, split, teacher.normalise) for each in networks]
    return torch.stack([each == labels for each in answers]).double().mean(0)


def is_told_from(worse: Tensor, better: Tensor) -> bool:
    """Whether it is worse by more than a standard error of the paired difference.

    Args:
        worse, better: Right answers to the same images, (N,).
    """
    gap = better - worse
    error = gap.std().item() / math.sqrt(len(gap))
    return gap.mean().item() > error * (1 + 1e-9)  # one image alone is one error


def smallest_alike(
    students: Sequence[Architecture], right: Sequence[Tensor], reference: Tensor
) -> int:
    """Which is the smallest of those that are not told from the reference.

    Where all are, it is the one that gets most images right.
    """
    every = range(len(students))
    alike = [n for n in every if not is_told_from(right[n], reference)]
    if not alike:
        return max(every, key=lambda n: right[n].mean().item())
    return min(alike, key=lambda n: burden(students[n]))
