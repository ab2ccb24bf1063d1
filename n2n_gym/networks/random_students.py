"""Random students, for elastic teachers and for fitting predictions of resources."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import numpy as np

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import (
    RATES,
    Removal,
    removals,
    shrink,
    shrinkages,
    without,
)

# Settings of students in blocks:
LOWEST: Final = 1 / 32  # lowest rate around which widths are drawn
SPREAD: Final = 0.5  # standard deviation of a width's log rate
KERNELS: Final = "floor"  # rounding of kernels, so that many are 1x1
WHOLE: Final = 0.7  # share of the kernels that stay unchanged


def random_student(
    teacher: Architecture, offered: Sequence[Removal], rng: random.Random
) -> Architecture:
    """A student of random decisions, of any size from the teacher's to tiny.

    Elastic teachers are trained with these students. A seed must always give the same
    students, so that the scores of an elastic teacher's students stay valid.

    Args:
        offered: Removals to choose from.
    """
    rate = rng.random()
    student = without(teacher, [r for r in offered if rng.random() < rate])
    if rng.random() < 1 / 3:
        return student
    low = rng.choice(RATES)
    rates = [rate for rate in RATES if rate >= low]
    return shrink(
        student, {s: rng.choice(rates) for s in shrinkages(student, kernels=KERNELS)}
    )


def random_students(
    teacher: Architecture, count: int, seed: int = 0
) -> list[Architecture]:
    """Students of random decisions in both stages, from large ones to tiny ones."""
    rng = np.random.default_rng(seed)
    return [_random_student(teacher, rng) for _ in range(count)]


def students_in_blocks(
    teacher: Architecture, count: int, *, block: int, seed: int = 0
) -> list[Architecture]:
    """Students like those that a search for low latency scores.

    Random play hardly finds such students. All widths of a student are drawn around one
    rate. Widths above one block of channels are multiples of a block. Most kernels stay
    unchanged, and most layers are not removed.

    Args:
        count: Number of students.
        block: Number of channels in a block.
    """
    rng = np.random.default_rng(seed)
    students = []
    for _ in range(count):
        start = _with_some_removed(teacher, rng.random() ** 2, rng)
        rate = np.exp(rng.uniform(np.log(LOWEST), 0.0))
        rates = {}
        for each in shrinkages(start, block=block, kernels=KERNELS):
            if each.variable == "width":
                rates[each] = float(min(1.0, rate * np.exp(SPREAD * rng.normal())))
            elif rng.random() > WHOLE:
                rates[each] = float(rng.choice(RATES))
        students.append(shrink(start, rates))
    return students


def _random_student(teacher: Architecture, rng: np.random.Generator) -> Architecture:
    share = rng.random()
    lowest, highest = sorted(rng.integers(len(RATES), size=2))
    start = _with_some_removed(teacher, share, rng)
    rates = RATES[lowest : highest + 1]
    decisions = shrinkages(start, kernels=KERNELS)
    return shrink(start, {d: float(rng.choice(rates)) for d in decisions})


def _with_some_removed(
    teacher: Architecture, share: float, rng: np.random.Generator
) -> Architecture:
    return without(teacher, [r for r in removals(teacher) if rng.random() < share])
