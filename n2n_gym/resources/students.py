"""Students of random play, for predictions to be fitted to."""

from __future__ import annotations

import numpy as np

from n2n_gym.architecture import Architecture
from n2n_gym.decisions import (
    RATES,
    Removal,
    legal_removal,
    removals,
    shrink,
    shrinkages,
)


def random_students(
    teacher: Architecture, count: int, seed: int = 0
) -> list[Architecture]:
    """Of both stages, from hardly smaller to as small as can be."""
    rng = np.random.default_rng(seed)
    return [_random_student(teacher, rng) for _ in range(count)]


def _random_student(teacher: Architecture, rng: np.random.Generator) -> Architecture:
    share = rng.random()
    lowest, highest = sorted(rng.integers(len(RATES), size=2))
    left = teacher.rewire(frozenset(), frozenset())
    taken: list[Removal] = []
    for removal in removals(teacher):
        wiring = None
        if rng.random() < share:
            wiring = legal_removal(teacher, taken, left, removal)
        if wiring is not None:
            taken, left = [*taken, removal], wiring
    start = teacher.keep(left)
    rates = RATES[lowest : highest + 1]
    return shrink(start, {d: float(rng.choice(rates)) for d in shrinkages(start)})
