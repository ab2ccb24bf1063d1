"""Students as inputs of predictors: what a student has of each layer of its teacher.

A row stands for a convolution or linear layer of the teacher, with the normalisation
and activations that follow. It has those columns of an observation that describe a
layer, but none about decisions, because a student can be scaled to its limits after the
decisions. Instead, further columns say whether the student has the layer, and which
fractions of the layer's outputs, inputs, kernel, parameters and multiply-accumulates it
has.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from n2n_gym.envs.columns import COLUMNS
from n2n_gym.envs.features import rows, static_features
from n2n_gym.networks.architecture import Architecture

# Fractions of a row's layers that are left.
LEFT: Final = ("is_left", "outputs", "inputs", "kernel", "params", "macs")
SIZES: Final = ("log_params", "log_macs", "layers")  # relative to the teacher's
# Columns that change during an episode do not describe a student.
STATE: Final = ("current", "decided", "choice", "left", "is_row")
STATES: Final = ("taken_", "least_", "target_", "decides_")


def _describes(name: str) -> bool:
    return name not in STATE and not name.startswith(STATES)


DESCRIBED: Final = tuple(name for name in COLUMNS if _describes(name))
NUM_FEATURES: Final = len(DESCRIBED) + len(LEFT)


class Encoder:
    """Encodes students of one teacher.

    Args:
        teacher: Architecture of the whole teacher.
    """

    def __init__(self, teacher: Architecture) -> None:
        self.teacher = teacher
        self._rows = rows(teacher, ())
        columns = [COLUMNS.index(name) for name in DESCRIBED]
        self._costs = teacher.params_per_layer, teacher.macs_per_layer
        self._static = static_features(teacher, self._rows)[:, columns]

    def rows(self, student: Architecture) -> NDArray[np.float32]:
        """Rows of a student, (T, ``NUM_FEATURES``), for the T rows of the teacher."""
        mine = student.params_per_layer, student.macs_per_layer
        left = [self._left(student, row.layers, mine) for row in self._rows]
        return np.hstack([self._static, np.array(left, np.float32)])

    def sizes(self, student: Architecture) -> NDArray[np.float32]:
        """Sizes of a student relative to the teacher, (S,); see ``SIZES``."""
        whole = self.teacher
        found = (
            log(max(1, student.num_params) / max(1, whole.num_params)),
            log(max(1, student.num_macs) / max(1, whole.num_macs)),
            len(student.layers) / len(whole.layers),
        )
        return np.array(found, np.float32)

    def batch(
        self, students: Sequence[Architecture]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The rows, (N, T, F), and the sizes, (N, S), of N students."""
        shown = np.array([self.rows(student) for student in students])
        return shown, np.array([self.sizes(student) for student in students])

    def _left(
        self,
        student: Architecture,
        layers: Sequence[int],
        mine: Sequence[Sequence[int]],
    ) -> list[float]:
        """The fractions of a row's layers that a student has, in the order of ``LEFT``.

        All are 0 if the student lacks the first of the layers.

        Args:
            layers: Positions of the row's layers in the teacher.
            mine: Costs of the student's layers: parameters, multiply-accumulates.
        """
        whole, positions = self.teacher, student.positions
        there = [
            found
            for position in layers
            if (found := positions.get(whole.layers[position].name)) is not None
        ]
        lead = positions.get(whole.layers[layers[0]].name)
        if lead is None:
            return [0.0] * len(LEFT)
        layer, before = student.layers[lead], whole.layers[layers[0]]
        return [
            1.0,
            _width(student, lead) / _width(whole, layers[0]),
            _width(student, layer.inputs[0]) / _width(whole, before.inputs[0]),
            _length(layer) / _length(before),
            *(
                _share(each, there, costs, layers)
                for each, costs in zip(mine, self._costs, strict=True)
            ),
        ]


def _width(network: Architecture, position: int) -> int:
    return network.shape_of(position)[0]


def _length(layer: Any) -> int:
    """The longer side of a layer's kernel, in pixels; 1 for a layer without kernel."""
    return max(getattr(layer, "kernel", (1,)))


def _share(
    mine: Sequence[int],
    there: Sequence[int],
    whole: Sequence[int],
    layers: Sequence[int],
) -> float:
    """The fraction of a row's cost that a student has; 1 if the row's cost is 0.

    Args:
        mine: Costs of the student's layers.
        there: Positions, in the student, of those layers of the row that it has.
        whole: Costs of the teacher's layers.
        layers: Positions of the row's layers in the teacher.
    """
    total = sum(whole[position] for position in layers)
    return sum(mine[position] for position in there) / total if total else 1.0
