"""Students of random play, and in blocks, for predictions to be fitted to."""

from __future__ import annotations

from typing import Final

import numpy as np

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import (
    RATES,
    Removal,
    legal_removal,
    removals,
    shrink,
    shrinkages,
)

# Of students in blocks:
LOWEST: Final = 1 / 32  # rate, about which their widths are
SPREAD: Final = 0.5  # of the logarithm of a width's rate
KERNELS: Final = "floor"  # so that many are 1x1
WHOLE: Final = 0.7  # share of the kernels that are left alone


def random_students(
    teacher: Architecture, count: int, seed: int = 0
) -> list[Architecture]:
    """Of both stages, from hardly smaller to as small as can be."""
    rng = np.random.default_rng(seed)
    return [_random_student(teacher, rng) for _ in range(count)]


def students_in_blocks(
    teacher: Architecture, count: int, *, block: int, seed: int = 0
) -> list[Architecture]:
    """As a search for fast ones comes upon: random play has hardly any of them.

    Their widths, where the teacher's are wider, are multiples of a block of channels,
    about one rate; most kernels and layers are left alone.
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
    left = teacher.rewire(frozenset(), frozenset())
    taken: list[Removal] = []
    for removal in removals(teacher):
        wiring = None
        if rng.random() < share:
            wiring = legal_removal(teacher, taken, left, removal)
        if wiring is not None:
            taken, left = [*taken, removal], wiring
    return teacher.keep(left)
