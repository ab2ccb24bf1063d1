"""The size of a student's ONNX file, predicted without writing the file."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import BatchNorm, Conv, DepthwiseConv, Linear
from n2n_gym.networks.random_students import random_students
from n2n_gym.resources.measured import onnx_bytes

FILES: Final = 10  # random students; `FileSize` is fitted to their files


class FileSize:
    """Predicts the bytes of a student's ONNX file, linearly in counts.

    The counts are those of weights and layers. Every weight takes four bytes. Every
    layer takes further bytes for its name and its inputs. A normalisation is merged
    into the weights of the convolution before it.
    """

    is_computed: Final = True

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self.weights = weights
        # SHA-256 of everything that a prediction depends on besides the student.
        self.fingerprint = hashlib.sha256(weights.tobytes()).hexdigest()

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, teacher: Architecture) -> FileSize:
        """The prediction, fitted to the files of the teacher and of random students."""
        students = [teacher, *random_students(teacher, FILES)]
        sizes = np.array([onnx_bytes(s, teacher) for s in students])
        parts = np.array([cls._parts(s) for s in students])
        # Relative errors, because limits are about small files.
        weights, *_ = np.linalg.lstsq(
            parts / sizes[:, None], np.ones(len(sizes)), rcond=None
        )
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
