"""The choice among the last finalists: the smallest of those as good as the best.

With a few hundred images, students that differ by half a percentage point of accuracy
cannot be told apart. The highest accuracy of several students on the same images is
biased upwards. So the smallest of the students within one standard error of the best is
chosen (Breiman et al., 1984, "Classification and regression trees", 3.4.3). Usually,
each of the last finalists is distilled from several seeds. The standard error measures
the variation between images. Over seeds, results are averaged, and their variation is
not estimated.
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
    """A student, and the evaluator that scored it."""

    student: Architecture
    evaluator: DistillationEvaluator


class Scored(NamedTuple):
    """A student with a score, from a search or from a round of the finalists."""

    reward: float
    student: Architecture
    accuracy: float = 0.0  # on the validation split
    is_fixed: bool = False  # its widths stay, even if limits leave room
    evaluators: tuple[DistillationEvaluator, ...] = ()  # one for each seed with a score


def burden(student: Architecture) -> float:
    """The size by which students are ordered: log(parameters * MACs)."""
    return math.log(student.num_params) + math.log(student.num_macs)


def right_answers(
    networks: Sequence[nn.Module], teacher: Teacher, device: torch.device
) -> Tensor:
    """For each validation image, the fraction of networks that classify it correctly.

    Returns:
        The fractions, (N,) float64.
    """
    split = teacher.task.split("validation", device)
    labels = split.labels.cpu()
    answers = [predict(each, split, teacher.normalise) for each in networks]
    return torch.stack([each == labels for each in answers]).double().mean(0)


def is_told_from(worse: Tensor, better: Tensor) -> bool:
    """Whether ``worse`` has a lower mean by more than one standard error.

    The standard error is that of the mean difference over images. It cannot be computed
    for fewer than two images; the answer is then False.

    Args:
        worse, better: Results of ``right_answers`` for two students, (N,).
    """
    gap = better - worse
    if len(gap) < 2:
        return False
    error = gap.std().item() / math.sqrt(len(gap))
    # If predictions differ on one image only, the difference is one standard error, up
    # to rounding.
    return gap.mean().item() > error * (1 + 1e-9)


def smallest_alike(
    students: Sequence[Architecture],
    rewards: Sequence[float],
    right: Sequence[Tensor],
    whole: Tensor | None = None,
) -> int:
    """Index of the smallest of the students that cannot be told from the best.

    Args:
        right: The result of ``right_answers`` for each student, (N,).
        whole: The result of ``right_answers`` for the teacher. If it is given, and some
            students cannot be told from the teacher, "the best" is the teacher.
            Otherwise it is the student with the highest reward.
    """
    every = range(len(students))

    def alike(best: Tensor) -> list[int]:
        return [n for n in every if not is_told_from(right[n], best)]

    first = max(every, key=lambda n: rewards[n])
    found = ([] if whole is None else alike(whole)) or alike(right[first])
    return min(found, key=lambda n: burden(students[n]))
