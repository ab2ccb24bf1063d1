"""A search within limits: what is asked, and what keeps it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from n2n_gym.limits.constraints import ACCURACY, read_limits
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.scaling import (
    narrowest,
)
from n2n_gym.resources import Energy, Latency, Meter, ResourceError, load_meter
from n2n_gym.resources.accelerator import AcceleratorEnergy
from n2n_gym.resources.nodes import BLOCK
from n2n_gym.rewards import Reward, Toward, n2n

logger = logging.getLogger(__name__)

KEPT: Final = "resources.json"  # in a run's folder: what was measured
# Of a limit on what is measured, this much is left to the next measurement. In turns
# with a teacher that caches do not hold, one takes 0.87 to 1.17 times another, by what
# else reads memory.
MARGIN: Final = 0.1
# Another machine takes other amounts of these, and less where blocks of channels are
# full.
OF_MACHINE: Final = (Latency, Energy, AcceleratorEnergy)
EXACT: Final = ("num_params", "num_macs", "peak_bytes")
NOTES: Final = 800  # bytes that a written file says about itself, but for its task


@dataclass(frozen=True)
class Requirements:
    """The limits of one search.

    Attributes:
        teacher: What is compressed.
        bounds: The most of each resource, by name, in its unit.
        least_accuracy: On validation, if one is asked for.
        meter: Measures the resources.
        notes: Bytes that a written file says about itself.
        block: Channels of which students have whole blocks: more than 1 where they
            have to be fast. ONNX Runtime and accelerators compute convolutions on
            blocks of channels; where one is not full they take as long, or longer.
        keep: Names of layers that stay as they are.
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
        """Limits by name.

        Args:
            task: All that a written file says of the task and the teacher.
            keep: Names of layers that stay as they are.

        Raises:
            ValueError: One makes no sense, or is of an unknown resource.
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
        """Whether a limit is on what another machine would say something else of."""
        return _is_of_machine(self.meter)

    @property
    def reward(self) -> Reward:
        """What a search is for."""
        return Toward(self.aims) if self.bounds else n2n

    @property
    def aims(self) -> dict[str, float]:
        """What a search keeps to, so that what is written of it keeps the limits."""
        return {name: self._aim(name, bound) for name, bound in self.bounds.items()}

    def keeps(self, student: Architecture) -> bool:
        """Whether it keeps the limits on resources, with something to spare.

        Raises:
            ResourceError: It cannot be measured.
        """
        if not self.bounds:
            return True
        return self.are_within(self.meter(student, self.teacher))

    def are_within(self, values: Mapping[str, float], share: float = 1.0) -> bool:
        """Whether what was measured is at most this share of each aim."""
        return all(values[name] <= share * aim for name, aim in self.aims.items())

    def _aim(self, name: str, bound: float) -> float:
        if name in EXACT:
            return bound
        if name == "onnx_bytes":
            return bound - self.notes
        return bound * (1 - MARGIN)

    def can_shrink_to(self, student: Architecture, meter: Meter) -> bool:
        """Whether it keeps the limits with all widths and kernels at the lowest rate.

        Args:
            meter: By which the search goes.
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
        """Each limit, with what teacher and student take.

        Args:
            file: The student's, as it was written.
        """
        mine = self.meter(student, self.teacher)
        mine["onnx_bytes"] = file.stat().st_size
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
        """Measure each network once for a run, however often that is taken up again."""
        if not self.bounds:
            return
        self.meter.keep_in(folder / KEPT)
        whole = self.meter(self.teacher, self.teacher)
        for name, function in self.meter.functions.items():
            if isinstance(function, Latency):
                function.remember(self.teacher, whole[name])


def _is_of_machine(meter: Meter) -> bool:
    return any(isinstance(each, OF_MACHINE) for each in meter.functions.values())
