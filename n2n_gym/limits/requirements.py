"""A search within limits: what is asked, and what keeps it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final

from tqdm.auto import tqdm

from n2n_gym.limits.constraints import ACCURACY, read_limits
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import shrink, shrinkages
from n2n_gym.networks.scaling import (
    OutOfReach,
    at_full_width,
    narrowest,
    uniform_within,
    widest_rates,
)
from n2n_gym.resources import (
    AcceleratorEnergy,
    Energy,
    Latency,
    Meter,
    ResourceError,
    load_meter,
)
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
STEPS: Final = 8  # in which the uniform width is found
# A student that takes more than it has to keep to, but no more than so many times that,
# becomes narrower: by a factor of all its widths, halved in on in so many steps.
MOST_OVER: Final = 1.5
NARROWEST: Final = 0.6
NARROWINGS: Final = 5
# One that takes less than this share of each limit becomes wider, likewise.
ROOM: Final = 0.9
WIDEST: Final = 1.5
WIDENINGS: Final = 4


@dataclass(frozen=True)
class Limited:
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
    """

    teacher: Architecture
    bounds: Mapping[str, float]
    least_accuracy: float | None
    meter: Meter
    notes: int
    block: int = 1

    @classmethod
    def read(
        cls, teacher: Architecture, constraints: Mapping[str, float], task: str = ""
    ) -> Limited:
        """Limits by name.

        Args:
            task: All that a written file says of the task and the teacher.

        Raises:
            ValueError: One makes no sense, or is of an unknown resource.
        """
        bounds = dict(constraints)
        read_limits(bounds)
        least = bounds.pop(ACCURACY, None)
        notes = NOTES + len(task.encode())
        meter = load_meter(bounds)
        block = BLOCK if _is_of_machine(meter) else 1
        return cls(teacher, bounds, least, meter, notes, block)

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

    def aims_by(self, meter: Meter) -> dict[str, float]:
        """The aims, as another meter has them around the uniform width.

        What predicts a resource is as far off for students that are alike: where it
        says too little of one, it has to say less of the others.
        """
        try:
            near = self.uniform(self.block)
            real, said = (m(near, self.teacher) for m in (self.meter, meter))
        except (OutOfReach, ResourceError):
            return self.aims
        return {
            name: aim * (said[name] / real[name] if real[name] else 1)
            for name, aim in self.aims.items()
        }

    def keeps(self, student: Architecture) -> bool:
        """Whether it keeps the limits on resources, with something to spare.

        Raises:
            ResourceError: It cannot be measured.
        """
        if not self.bounds:
            return True
        return self._are_within(self.meter(student, self.teacher))

    def fitted(self, student: Architecture) -> Architecture:
        """The student with all widths up or down by one factor, to what limits allow.

        A search goes by what is predicted, and the best that it finds are those of
        which too little is said: most of them break a limit when they are measured.
        Others leave room, as their scores after little or no training say nothing of
        what a wider one would learn.

        Raises:
            OutOfReach: It breaks a limit by much, or still does with narrower layers.
            ResourceError: It cannot be measured.
        """
        if not self.bounds:
            return student
        values = self.meter(student, self.teacher)
        if not self._are_within(values, MOST_OVER):
            raise OutOfReach("it breaks a limit by much")
        if not self._are_within(values):
            return self._narrowed(student)
        return self._widened(student) if self._are_within(values, ROOM) else student

    def _narrowed(self, student: Architecture) -> Architecture:
        decisions = shrinkages(student, ("width",), block=self.block)
        # One block of channels takes less time than a part of it does.
        in_blocks = [each for each in decisions if each.multiple % self.block == 0]
        rates = dict.fromkeys(in_blocks or decisions, 1.0)
        found = widest_rates(
            student, rates, self._is_within, NARROWINGS, least=NARROWEST
        )
        return shrink(student, found)

    def _widened(self, student: Architecture) -> Architecture:
        """Up to the teacher's widths; the student itself where that is out of reach."""
        whole = at_full_width(student, self.teacher)
        rates = {}
        for each in shrinkages(whole, ("width",), block=self.block):
            mine, most = (net.shape_of(each.layers[0])[0] for net in (student, whole))
            # Parts of blocks are filled first: they take as long as whole ones.
            rates[each] = min(1.0, ceil(mine / each.multiple) * each.multiple / most)
        try:
            found = widest_rates(
                whole, rates, self._is_within, WIDENINGS, least=1.0, most=WIDEST
            )
        except OutOfReach:
            return student
        return shrink(whole, found)

    def _are_within(self, values: Mapping[str, float], share: float = 1.0) -> bool:
        """Whether what was measured is at most this share of each aim."""
        return all(values[name] <= share * aim for name, aim in self.aims.items())

    def _is_within(self, student: Architecture) -> bool:
        """Whether it keeps the limits, as far as it can be measured."""
        try:
            return self.keeps(student)
        except ResourceError as error:
            logger.warning("a width is left out: %s", error)
            return False

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
            values = meter(narrowest(student), self.teacher)
        except ResourceError as error:
            logger.warning("whether a limit can be kept is not known: %s", error)
            return False
        return self._are_within(values)

    def uniform(self, block: int = 1) -> Architecture:
        """The teacher with all widths at one rate, the largest that keeps the limits.

        Args:
            block: Of channels, of which widths are multiples.

        Raises:
            OutOfReach: There is none.
        """
        with tqdm(total=STEPS, desc="Measuring uniform width", leave=False) as bar:

            def keeps(student: Architecture) -> bool:
                bar.update()
                return self.keeps(student)

            return uniform_within(self.teacher, keeps, STEPS, block=block)

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
