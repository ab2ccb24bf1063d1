"""Which of the last finalists: the smallest that cannot be told from the best.

A few hundred images do not tell students apart that differ by half a point, and the
best of several on the same images is too good to be true. So size decides among those
within one standard error of the best (Breiman et al., 1984, "Classification and
regression trees", 3.4.3), each of them distilled from more than one seed. The error is
that of the images: what a seed changes is averaged, not estimated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.inference import predict
from n2n_gym.teachers.teacher import Teacher


class Offer(NamedTuple):
    """A student, and the evaluator that knows it."""

    student: Architecture
    evaluator: DistillationEvaluator


class Scored(NamedTuple):
    """A student that has been scored, by a search or in a round of the finalists."""

    reward: float
    student: Architecture
    accuracy: float = 0.0  # on the validation split
    is_fixed: bool = False  # its widths stay, whatever the limits leave room for
    evaluators: tuple[DistillationEvaluator, ...] = ()  # of the seeds that gave a score


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
    if len(gap) < 2:
        return False
    error = gap.std().item() / math.sqrt(len(gap))
    # Where answers to one image differ, that is one error, but for rounding.
    return gap.mean().item() > error * (1 + 1e-9)


def smallest_alike(
    students: Sequence[Architecture],
    rewards: Sequence[float],
    right: Sequence[Tensor],
    whole: Tensor | None = None,
) -> int:
    """Which is the smallest of those that are not told from the best.

    Args:
        right: The right answers of each, (N,).
        whole: The teacher's. It is the best, if some are not told from it; else that is
            the student of the highest reward.
    """
    every = range(len(students))

    def alike(best: Tensor) -> list[int]:
        return [n for n in every if not is_told_from(right[n], best)]

    first = max(every, key=lambda n: rewards[n])
    found = ([] if whole is None else alike(whole)) or alike(right[first])
    return min(found, key=lambda n: burden(students[n]))
