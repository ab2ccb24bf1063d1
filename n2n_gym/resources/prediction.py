"""What a search goes by, where measuring every student would take too long."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import BatchNorm, Conv, DepthwiseConv, Linear
from n2n_gym.resources.latency_table import PredictedLatency, latency_table
from n2n_gym.resources.measured import Latency, onnx_bytes
from n2n_gym.resources.resource import Resource
from n2n_gym.resources.students import random_students

FILES: Final = 10  # students whose files the prediction of sizes is fitted to


def predicted(
    teacher: Architecture, measured: Mapping[str, float]
) -> dict[str, Resource]:
    """Functions for the resources among these that are dear to measure.

    Args:
        measured: What the teacher takes, by name.
    """
    found: dict[str, Resource] = {}
    if "onnx_bytes" in measured:
        found["onnx_bytes"] = FileSize.of(teacher)
    if "latency_ms" in measured:
        table = latency_table(teacher, Latency())
        found["latency_ms"] = PredictedLatency(table, measured["latency_ms"])
    return found


class FileSize:
    """Bytes of a student's ONNX file, as a linear function of what it is made of.

    Every number takes four bytes, and every layer some for its name and what it reads;
    normalisation after a convolution goes into its weights.
    """

    is_computed: Final = True

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self.weights = weights
        # SHA-256 of all that a prediction depends on beside the student.
        self.fingerprint = hashlib.sha256(weights.tobytes()).hexdigest()

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
