"""What a student takes of something, each measured once."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from n2n_gym.common.files import write_whole
from n2n_gym.networks.architecture import Architecture

SECONDS: Final = 5.0  # of measuring that may be lost where many are written together


class Resource(Protocol):
    """One function: what a student takes, in a unit that the name says.

    It is told the teacher, for what is best measured side by side. What it gives is
    finite and not negative.
    """

    def __call__(self, student: Architecture, teacher: Architecture) -> float: ...


def is_computed(resource: Resource) -> bool:
    """Whether it follows from the layers, so that many students are told in a moment.

    A function of the user's may say so by an attribute of this name.
    """
    return bool(getattr(resource, "is_computed", False))


class ResourceError(ValueError):
    """A resource could not be measured."""


class Meter:
    """Resources of students, by name.

    Attributes:
        known: What was measured of each student, by fingerprint.
    """

    def __init__(self, functions: Mapping[str, Resource]) -> None:
        self.functions = dict(functions)
        self.known: dict[str, dict[str, float]] = {}
        self._path: Path | None = None
        self._waits = False  # with writing
        self._written = 0.0  # when

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.functions)

    def __call__(
        self, student: Architecture, teacher: Architecture
    ) -> dict[str, float]:
        """What a student takes.

        Raises:
            ResourceError: A function raised an error, or gave no number to go by.
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
        """Go on from what a file has, and keep there what is measured from now on."""
        if path.exists():
            self.remember(json.loads(path.read_text()).items())
        self._path = path
        if self.known:
            self._write()

    @contextmanager
    def written_once(self) -> Iterator[None]:
        """What is measured within is written every few seconds, and at its end."""
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
        """Take over what was measured before, by fingerprint."""
        for fingerprint, values in found:
            if self.functions.keys() <= values.keys():
                self.known[fingerprint] = {n: values[n] for n in self.functions}


def measure(
    name: str, function: Resource, student: Architecture, teacher: Architecture
) -> float:
    """What one resource says of a student; ResourceError where it says nothing."""
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
            f"{name} of {_called(student, teacher)} must be a finite number from 0 on, "
            f"got {value!r}"
        )
    return number


def _called(student: Architecture, teacher: Architecture) -> str:
    if student is teacher:
        return "the teacher"
    return f"student {student.fingerprint[:8]}"
