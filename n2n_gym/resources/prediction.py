"""What a search goes by, where measuring every student would take too long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from n2n_gym.architecture import Architecture
from n2n_gym.decisions import (
    RATES,
    Removal,
    legal_removal,
    removals,
    shrink,
    shrinkages,
)
from n2n_gym.layers import BatchNorm, Conv, DepthwiseConv, Linear
from n2n_gym.resources.measured import onnx_bytes
from n2n_gym.resources.resource import Resource

FILES: Final = 10  # students whose files the prediction of sizes is fitted to


def predicted(names: Collection[str], teacher: Architecture) -> dict[str, Resource]:
    """Functions for the resources among these that are dear to measure."""
    found: dict[str, Resource] = {}
    if "onnx_bytes" in names:
        found["onnx_bytes"] = FileSize.of(teacher)
    return found


def random_students(
    teacher: Architecture, count: int, seed: int = 0
) -> list[Architecture]:
    """Of random play of both stages, from hardly smaller to as small as can be."""
    rng = np.random.default_rng(seed)
    return [_random_student(teacher, rng) for _ in range(count)]


def _random_student(teacher: Architecture, rng: np.random.Generator) -> Architecture:
    share, highest = rng.random(), rng.integers(2, len(RATES) + 1)
    left = teacher.rewire(frozenset(), frozenset())
    taken: list[Removal] = []
    for removal in removals(teacher):
        wiring = None
        if rng.random() < share:
            wiring = legal_removal(teacher, taken, left, removal)
        if wiring is not None:
            taken, left = [*taken, removal], wiring
    start = teacher.keep(left)
    rates = {d: float(rng.choice(RATES[:highest])) for d in shrinkages(start)}
    return shrink(start, rates)


class FileSize:
    """Bytes of a student's ONNX file, as a linear function of what it is made of.

    Every number takes four bytes, and every layer some for its name and what it reads;
    normalisation after a convolution goes into its weights.
    """

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self.weights = weights

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, teacher: Architecture) -> FileSize:
        """Fitted to the files of the teacher and of some random students."""
        students = [teacher, *random_students(teacher, FILES)]
        sizes = np.array([onnx_bytes(s, teacher) for s in students])
        parts = np.array([cls._parts(s) for s in students])
        # Relative errors count: small files are what limits are about.
        weights, *_ = np.linalg.lstsq(parts / sizes[:, None], np.ones(len(sizes)))
        return cls(weights)

    def __call__(self, student: Architecture, teacher: Architecture) -> float:
        return float(self._parts(student) @ self.weights)

    @staticmethod
    def _parts(student: Architecture) -> NDArray[np.float64]:
        normalised = sum(
            student.shape_of(position)[0]
            for position, layer in enumerate(student.layers)
            if isinstance(layer, BatchNorm)
        )
        kinds = Counter(type(layer) for layer in student.layers)
        num_weights = sum(kinds[kind] for kind in (Conv, DepthwiseConv, Linear))
        num_others = len(student.layers) - num_weights - kinds[BatchNorm]
        parts = (1, num_weights, num_others, student.num_params, normalised)
        return np.array(parts, np.float64)
