"""Resources of a student, each measured once."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from n2n_gym.common.files import read_json, write_whole
from n2n_gym.networks.architecture import Architecture

SECONDS: Final = 5.0  # a kill loses at most this many seconds of measuring


class Resource(Protocol):
    """A function that returns a student's amount of a resource.

    The amount is finite and not negative, in the unit at the end of the resource's
    name. The function also gets the teacher, because some resources are best measured
    on student and teacher in turns.
    """

    def __call__(self, student: Architecture, teacher: Architecture) -> float: ...


def is_computed(resource: Resource) -> bool:
    """Whether a resource is computed from the layers instead of measured.

    A computed resource takes hardly any time. A user's function declares itself as
    computed by an attribute ``is_computed = True``.
    """
    return bool(getattr(resource, "is_computed", False))


def is_of_machine(resource: Resource) -> bool:
    """Whether a resource depends on the machine, as latency and energy do.

    Its class has an attribute ``is_of_machine = True``. On the machine, full blocks of
    channels take less than partly filled ones.
    """
    return bool(getattr(resource, "is_of_machine", False))


class ResourceError(ValueError):
    """A resource could not be measured."""


class Meter:
    """A function that measures the resources of students, each student once.

    Attributes:
        known: Resources by name of each measured student, by its fingerprint.
    """

    def __init__(self, functions: Mapping[str, Resource]) -> None:
        self.functions = dict(functions)
        self.known: dict[str, dict[str, float]] = {}
        self._path: Path | None = None
        self._waits = False  # whether writing may wait some seconds
        self._written = 0.0  # time of the last writing

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.functions)

    def __call__(
        self, student: Architecture, teacher: Architecture
    ) -> dict[str, float]:
        """The student's resources, by name.

        Raises:
            ResourceError: A function raised an error, or its result is not a finite
                number >= 0.
        """
        known = self.known.get(student.fingerprint)
        if known is None:
            known = {
                name: measure(name, function, student, teacher)
                for name, function in self.functions.items()
            }
            self.known[student.fingerprint] = known
            self._write()
        return dict(known)

    def keep_in(self, path: Path) -> None:
        """Read earlier measurements from a file, and write new ones to it.

        Raises:
            ValueError: The file is damaged.
        """
        if path.exists():
            found = read_json(path, lambda of: {k: dict(v) for k, v in of.items()})
            self.remember(found.items())
        self._path = path
        if self.known:
            self._write()

    @contextmanager
    def written_once(self) -> Iterator[None]:
        """Context in which new measurements are written only every few seconds.

        The last ones are written at the end of the context.
        """
        self._waits, self._written = True, time.monotonic()
        try:
            yield
        finally:
            self._waits = False
            self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        if self._waits and time.monotonic() < self._written + SECONDS:
            return
        write_whole(self._path, json.dumps(self.known, indent=1).encode())
        self._written = time.monotonic()

    def remember(self, found: Iterable[tuple[str, Mapping[str, float]]]) -> None:
        """Use earlier measurements instead of measuring again.

        Args:
            found: Pairs of a student's fingerprint and its resources by name. A pair
                that lacks one of the meter's resources is ignored.
        """
        for fingerprint, values in found:
            if self.functions.keys() <= values.keys():
                self.known[fingerprint] = {n: values[n] for n in self.functions}


def measure(
    name: str, function: Resource, student: Architecture, teacher: Architecture
) -> float:
    """The student's amount of one resource.

    Args:
        name: Name of the resource, for errors.
        function: Function that measures the resource.

    Raises:
        ResourceError: The function raised an error, or its result is not a finite
            number >= 0.
    """
    try:
        value: Any = function(student, teacher)
    except Exception as error:
        raise ResourceError(
            f"{name} of {_called(student, teacher)} could not be measured: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise ResourceError(
            f"{name} of {_called(student, teacher)} must be a finite number >= 0, got "
            f"{value!r}"
        )
    return number


def _called(student: Architecture, teacher: Architecture) -> str:
    if student is teacher:
        return "the teacher"
    return f"student {student.fingerprint[:8]}"
