"""A search within limits: what is asked, whether it can be, and what keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from n2n_gym.architecture import Architecture
from n2n_gym.constraints import ACCURACY, read_limits
from n2n_gym.controls import uniform_within
from n2n_gym.decisions import (
    RATES,
    Removal,
    legal_removal,
    removals,
    shrink,
    shrinkages,
)
from n2n_gym.resources import Latency, Meter, load_meter
from n2n_gym.rewards import Reward, Toward, n2n
from n2n_gym.units import show_quantity

KEPT: Final = "resources.json"  # in a run's folder: what was measured
# Of a limit on what comes from a clock, this much is left to the clock.
MARGIN: Final = 0.05
EXACT: Final = ("num_params", "num_macs", "peak_bytes")
# Bytes that a written file says about itself, and about each class.
NOTES: Final = (1_000, 20)
STEPS: Final = 8  # in which the uniform width is found


@dataclass(frozen=True)
class Limited:
    """The limits of one search.

    Attributes:
        teacher: What is compressed.
        bounds: The most of each resource, by name, in its unit.
        least_accuracy: On validation, if one is asked for.
        meter: Measures the resources.
    """

    teacher: Architecture
    bounds: Mapping[str, float]
    least_accuracy: float | None
    meter: Meter

    @classmethod
    def read(cls, teacher: Architecture, constraints: Mapping[str, float]) -> Limited:
        """Limits by name.

        Raises:
            ValueError: One makes no sense, or is of an unknown resource.
        """
        bounds = dict(constraints)
        read_limits(bounds)
        least = bounds.pop(ACCURACY, None)
        return cls(teacher, bounds, least, load_meter(bounds))

    def __bool__(self) -> bool:
        """Whether there is a limit on a resource."""
        return bool(self.bounds)

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
        values = self.meter(student, self.teacher)
        return all(values[name] <= aim for name, aim in self.aims.items())

    def _aim(self, name: str, bound: float) -> float:
        if name in EXACT:
            return bound
        if name == "onnx_bytes":
            whole, each = NOTES
            return bound - whole - each * self.teacher.num_outputs
        return bound * (1 - MARGIN)

    def refuse_if_out_of_reach(self, granularity: str) -> None:
        """Raise a ValueError where not even the smallest student keeps a limit.

        The smallest is what is left of all removals that are legal one after another,
        with all that remains at the lowest rate; or the teacher so shrunk, if less.
        """
        if not self.bounds:
            return
        candidates = [_least(self.teacher), _least(_bare(self.teacher, granularity))]
        taken = [self.meter(student, self.teacher) for student in candidates]
        for name, bound in self.bounds.items():
            least = min(values[name] for values in taken)
            if least > bound:
                whole = self.meter(self.teacher, self.teacher)[name]
                raise ValueError(
                    f"no student keeps the limit {name} <= "
                    f"{show_quantity(name, bound)}: the smallest takes "
                    f"{show_quantity(name, least)}, the teacher "
                    f"{show_quantity(name, whole)}"
                )

    def uniform(self) -> Architecture:
        """The teacher with all widths at one rate, the largest that keeps the limits.

        Raises:
            OutOfReach: There is none.
        """
        return uniform_within(self.teacher, self.keeps, STEPS)

    def rows(self, student: Architecture, accuracy: float) -> list[dict[str, Any]]:
        """Each limit, with what teacher and student take."""
        mine = self.meter(student, self.teacher)
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


def _least(start: Architecture) -> Architecture:
    """With all widths and kernels at the lowest rate."""
    return shrink(start, dict.fromkeys(shrinkages(start), RATES[0]))


def _bare(start: Architecture, granularity: str) -> Architecture:
    """Without all that can go, in the order of the decisions."""
    left = start.rewire(frozenset(), frozenset())
    taken: list[Removal] = []
    for removal in removals(start, granularity):
        wiring = legal_removal(start, taken, left, removal)
        if wiring is not None:
            taken.append(removal)
            left = wiring
    return start.keep(left)
