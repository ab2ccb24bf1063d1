"""The requirements of one search: its limits, and safety margins below them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from n2n_gym.limits.constraints import ACCURACY, read_limits
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.scaling import narrowest
from n2n_gym.resources import Latency, Meter, ResourceError, load_meter
from n2n_gym.resources.nodes import BLOCK
from n2n_gym.resources.records import MARGIN, RECORDS
from n2n_gym.resources.resource import is_of_machine
from n2n_gym.rewards import Reward, Toward, n2n

logger = logging.getLogger(__name__)

KEPT: Final = "resources.json"  # in a run's folder: the measured resources
NOTES: Final = 800  # bytes of a written file's metadata, without its task's
OF_FILE: Final = tuple(name for name, record in RECORDS.items() if record.is_of_file)


@dataclass(frozen=True)
class Requirements:
    """The limits of one search.

    Attributes:
        teacher: The network to compress.
        bounds: Upper limit of each resource, by name, in the resource's unit.
        least_accuracy: Minimum accuracy on validation images; None for no minimum.
        meter: Meter that measures the resources.
        notes: Bytes of a limit on file size that are reserved for the file's metadata.
        block: Number of channels in a block. Layers wider than a block get widths that
            are multiples of a block. The number is more than 1 if a limit is on latency
            or energy: ONNX Runtime and accelerators compute convolutions in blocks, and
            a partly filled block takes as long as a full one, or longer.
        keep: Names of layers that stay unchanged.
    """

    teacher: Architecture
    bounds: Mapping[str, float]
    least_accuracy: float | None
    meter: Meter
    notes: int
    block: int = 1
    keep: frozenset[str] = frozenset()

    @classmethod
    def read(
        cls,
        teacher: Architecture,
        constraints: Mapping[str, float],
        task: str = "",
        keep: frozenset[str] = frozenset(),
    ) -> Requirements:
        """The requirements of a search with these limits.

        Args:
            constraints: Upper limit of each resource and minimum "accuracy", by name.
            task: Metadata about the task and the teacher, for the student's ONNX file.
            keep: Names of layers that stay unchanged.

        Raises:
            ValueError: A limit is malformed, or its resource is unknown.
        """
        bounds = dict(constraints)
        read_limits(bounds)
        least = bounds.pop(ACCURACY, None)
        notes = NOTES + len(task.encode())
        meter = load_meter(bounds)
        block = BLOCK if _is_of_machine(meter) else 1
        return cls(teacher, bounds, least, meter, notes, block, keep)

    def __bool__(self) -> bool:
        """Whether there is a limit on a resource."""
        return bool(self.bounds)

    @property
    def is_of_machine(self) -> bool:
        """Whether a limit is on a resource that depends on the machine."""
        return _is_of_machine(self.meter)

    @property
    def reward(self) -> Reward:
        """The reward of the search."""
        return Toward(self.aims) if self.bounds else n2n

    @property
    def aims(self) -> dict[str, float]:
        """The limits minus safety margins, by name; the search aims at them."""
        return {name: self._aim(name, bound) for name, bound in self.bounds.items()}

    def keeps(self, student: Architecture) -> bool:
        """Whether a student keeps the limits on resources with their safety margins.

        Raises:
            ResourceError: The student cannot be measured.
        """
        if not self.bounds:
            return True
        return self.are_within(self.meter(student, self.teacher))

    def are_within(self, values: Mapping[str, float], share: float = 1.0) -> bool:
        """Whether each measured value is at most ``share`` times its aim."""
        return all(values[name] <= share * aim for name, aim in self.aims.items())

    def _aim(self, name: str, bound: float) -> float:
        if name in OF_FILE:
            return bound - self.notes
        record = RECORDS.get(name)  # None: a user's resource
        return bound * (1 - (record.margin if record else MARGIN))

    def can_shrink_to(self, student: Architecture, meter: Meter) -> bool:
        """Whether a student, shrunk as far as possible, keeps the limits.

        Args:
            meter: Meter that measures or predicts the resources in the search.
        """
        if not self.bounds:
            return True
        try:
            values = meter(narrowest(student, keep=self.keep), self.teacher)
        except ResourceError as error:
            logger.warning("whether a limit can be kept is not known: %s", error)
            return False
        return self.are_within(values)

    def rows(
        self, student: Architecture, accuracy: float, file: Path
    ) -> list[dict[str, Any]]:
        """Each limit, with the teacher's and the student's values.

        Args:
            file: The student's ONNX file.
        """
        mine = self.meter(student, self.teacher)
        mine |= dict.fromkeys(OF_FILE, file.stat().st_size)
        whole = self.meter(self.teacher, self.teacher)
        rows: list[dict[str, Any]] = [
            {
                "name": name,
                "bound": bound,
                "teacher": whole[name],
                "student": mine[name],
                "is_kept": mine[name] <= bound,
            }
            for name, bound in self.bounds.items()
        ]
        if self.least_accuracy is not None:
            rows.append(
                {
                    "name": ACCURACY,
                    "bound": self.least_accuracy,
                    "student": accuracy,
                    "is_kept": accuracy >= self.least_accuracy,
                }
            )
        return rows

    def keep_in(self, folder: Path) -> None:
        """Write measurements to the run's folder, and read earlier ones from it."""
        if not self.bounds:
            return
        self.meter.keep_in(folder / KEPT)
        whole = self.meter(self.teacher, self.teacher)
        for name, function in self.meter.functions.items():
            if isinstance(function, Latency):
                function.remember(self.teacher, whole[name])


def _is_of_machine(meter: Meter) -> bool:
    return any(map(is_of_machine, meter.functions.values()))
