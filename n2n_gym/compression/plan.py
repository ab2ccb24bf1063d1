"""The plan of a run: how the run spends its minutes.

A plan is a list of decisions: how many students are scored, for how many epochs the
finalists are distilled, in which precision, when a stage ends. Each decision is written
down before it takes effect. A resumed run repeats the decisions in its plan instead of
looking at the clock. A run that is given another run's plan repeats that plan and uses
no clock.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from n2n_gym.common.files import write_whole

T = TypeVar("T", int, float, str)

PLAN: Final = "plan.json"  # in the run's folder
EPOCHS: Final = "epochs of round"  # the finalists' rounds
KEEP_EVERY: Final = 1.0  # seconds between two writings of the time alone


class TooShort(ValueError):
    """The given minutes are too few for the necessary work."""


class Plan:
    """The decisions of a run, made by the clock or read from a file.

    Args:
        path: File of the decisions; decisions already in it are used again.
        seconds: Total time of the run; None without a clock.
        began: Start time of the run in this process, by ``time.monotonic``.
        repeated: File of another run's plan, to be repeated; None if there is no such
            plan.

    Attributes:
        costs: What the work costs on this machine, for the processes that follow.
    """

    def __init__(
        self,
        path: Path,
        seconds: float | None,
        began: float,
        repeated: Path | None = None,
    ) -> None:
        self.path, self.seconds, self._repeated = path, seconds, repeated
        # Name, value and time of a decision: seconds since the run began.
        self.decisions: list[tuple[str, Any, float]] = []
        kept: dict[str, Any] = {"seconds": 0.0, "costs": {}, "decisions": []}
        if path.exists():
            kept = _read(path)
        self.costs: dict[str, list[float]] = kept["costs"]
        self._kept_at = began
        self._began: float = began - kept["seconds"]  # other processes have used those
        told = kept if repeated is None else _read(repeated)
        self._told = deque(tuple(each) for each in told["decisions"])
        self.has_clock = seconds is not None and repeated is None

    @property
    def is_begun(self) -> bool:
        """Whether there is a decision, taken now or by an earlier process."""
        return bool(self.decisions or self._told)

    @property
    def used(self) -> float:
        """Seconds since the run began, over all its processes."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Remaining seconds; infinite without a clock."""
        return float("inf") if not self.has_clock else (self.seconds or 0) - self.used

    def decide(self, what: str, by_clock: Callable[[], T], otherwise: T) -> T:
        """The next decision in the plan or, after the plan's end, one by the clock.

        The decision is written to the plan's file, except the value ``otherwise``.

        Args:
            what: Name of the decision.
            by_clock: Function that decides from the remaining time.
            otherwise: The value if there is neither a plan nor a clock.

        Raises:
            ValueError: The next decision in the plan has another name, so the plan was
                made for other options. Or the plan is another run's, so there is no
                clock, and it has no further decision.
        """
        if self._told:
            said, value, at = self._told.popleft()
            if said != what:
                raise ValueError(
                    f"{self.path}: the plan has {said!r} where {what!r} is expected; "
                    f"it was made for other options, by another version, or changed by "
                    f"hand"
                )
        elif self.has_clock:
            value, at = by_clock(), round(self.used, 1)
        elif self._repeated is not None:
            raise ValueError(
                f"{self._repeated} ends where {what!r} is expected, because its run "
                f"was stopped; give the plan of a finished run"
            )
        else:
            return otherwise
        self.decisions.append((what, value, at))
        self.keep()
        decided: T = value
        return decided

    def is_enough(
        self, what: str, count: int, until: float, *, is_replay: bool = False
    ) -> bool:
        """Whether a stage ends after this many students.

        Args:
            what: Name of the stage.
            count: Number of students that the stage has scored.
            until: Seconds that must remain after the stage.
            is_replay: Whether an earlier process went on after this many students. Then
                the clock is not asked.
        """
        name = f"enough {what}"
        if self._told:
            said, value, _ = self._told[0]
            return said == name and count >= value and bool(self.decide(name, int, 0))
        if is_replay or not self.has_clock:
            return False
        self.keep()
        return self.left <= until and bool(self.decide(name, lambda: count, 0))

    def keep_time(self) -> None:
        """Write the plan unless it was written a moment ago."""
        if time.monotonic() - self._kept_at >= KEEP_EVERY:
            self.keep()

    def keep(self) -> None:
        """Write the plan, with the seconds used so far."""
        if self.has_clock or self.decisions:
            self._kept_at = time.monotonic()
            content = {
                "seconds": round(self.used, 1),
                "of": self.seconds,
                "costs": self.costs,
                "decisions": [*self.decisions, *self._told],
            }
            write_whole(self.path, json.dumps(content, indent=1).encode())


def final_epochs(path: Path) -> float:
    """Epochs of the last round of finalists, from a run's plan."""
    decisions = _read(path)["decisions"]
    decided = [value for what, value, _ in decisions if what.startswith(EPOCHS)]
    if not decided:
        raise ValueError(f"{path} has no finalists yet")
    return float(decided[-1]) if decided[-1] < 1 else int(decided[-1])


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        _ = [(str(what), value, float(at)) for what, value, at in found["decisions"]]
        costs = {
            name: list(map(float, sums))
            for name, sums in found.get("costs", {}).items()
        }
        return {**found, "seconds": float(found["seconds"]), "costs": costs}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no plan: {error!r}") from error
