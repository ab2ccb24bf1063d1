"""How a run spends the minutes it has.

A plan is a list of decisions: how many students are scored, for how many epochs the
finalists are distilled, when a stage has had enough. Each is written down before it
acts. A run that goes on takes them from there and not from the clock; so does one that
repeats another's plan, which has no clock at all.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from n2n_gym.common.files import write_whole

T = TypeVar("T", int, float)

PLAN: Final = "plan.json"  # in the run's folder
EPOCHS: Final = "epochs of round"  # of the finalists
LEAST_SECONDS: Final = 20.0  # that any plan needs beside the teacher


class TooShort(ValueError):
    """The minutes are fewer than what has to be done takes."""


class Plan:
    """Decisions, from the clock or from a file, and the seconds that are left.

    Args:
        path: Where decisions are kept; those that are there come again.
        seconds: That all of the run may take; None where there is no clock.
        began: When it began, by ``time.monotonic``.
        repeated: Another run's plan, to do the same by.
    """

    def __init__(
        self,
        path: Path,
        seconds: float | None,
        began: float,
        repeated: Path | None = None,
    ) -> None:
        self.path, self.seconds, self._repeated = path, seconds, repeated
        # What, its value, and when: seconds since the run began.
        self.decisions: list[tuple[str, Any, float]] = []
        kept: dict[str, Any] = {"seconds": 0.0, "decisions": []}
        if path.exists():
            kept = _read(path)
        self._began: float = began - kept["seconds"]  # other processes have used those
        told = kept if repeated is None else _read(repeated)
        self._told = deque(tuple(each) for each in told["decisions"])
        self.has_clock = seconds is not None and repeated is None

    @property
    def used(self) -> float:
        """Seconds since the run began, in all processes that were at it."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds; infinite where there is no clock."""
        return float("inf") if not self.has_clock else (self.seconds or 0) - self.used

    def decide(self, what: str, by_clock: Callable[[], T], otherwise: T) -> T:
        """What the plan says, or the clock, which is then written down.

        Args:
            otherwise: Where there is neither.

        Raises:
            ValueError: The plan decides something else here: it is another run's. Or it
                is to be repeated, and ends before this.
        """
        if self._told:
            said, value, at = self._told.popleft()
            if said != what:
                raise ValueError(
                    f"{self.path}: the plan decides {said!r} where {what!r} is due; it "
                    f"was made for other options, or changed by hand"
                )
        elif self.has_clock:
            value, at = by_clock(), round(self.used, 1)
        elif self._repeated is not None:
            raise ValueError(
                f"{self._repeated} ends where {what!r} is due: its run was stopped; "
                f"repeat the plan of a finished one"
            )
        else:
            return otherwise
        self.decisions.append((what, value, at))
        self.keep()
        decided: T = value
        return decided

    def is_enough(self, what: str, count: int, until: float) -> bool:
        """Whether a stage ends after so many students.

        Args:
            until: What is to be left then, in seconds.
        """
        name = f"enough {what}"
        if self._told:
            said, value, _ = self._told[0]
            return said == name and count >= value and bool(self.decide(name, int, 0))
        if not self.has_clock:
            return False
        self.keep()
        return self.left <= until and bool(self.decide(name, lambda: count, 0))

    def keep(self) -> None:
        """Write it down, with the seconds used so far."""
        if self.has_clock or self.decisions:
            content = {
                "seconds": round(self.used, 1),
                "of": self.seconds,
                "decisions": [*self.decisions, *self._told],
            }
            write_whole(self.path, json.dumps(content, indent=1).encode())


class Pace:
    """How long something takes, by how much of it was done in how many seconds."""

    def __init__(self) -> None:
        self.amount = self.seconds = 0.0

    @contextmanager
    def measured(self, amount: float) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.amount += amount
        self.seconds += time.monotonic() - started

    def of(self, amount: float, guess: float) -> float:
        """Seconds that so much takes, by what was done, or else by a guess of one."""
        each = self.seconds / self.amount if self.amount else guess
        return amount * each


def final_epochs(path: Path) -> int:
    """Of the last round of finalists, in a run's plan."""
    decisions = _read(path)["decisions"]
    decided = [value for what, value, _ in decisions if what.startswith(EPOCHS)]
    if not decided:
        raise ValueError(f"{path} has come to no finalists yet")
    return int(decided[-1])


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        _ = [(str(what), value, float(at)) for what, value, at in found["decisions"]]
        return {**found, "seconds": float(found["seconds"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no plan: {error!r}") from error
