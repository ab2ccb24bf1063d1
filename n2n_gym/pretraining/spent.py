"""The CPU time of a pretraining, in a file that outlives stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from n2n_gym.pretraining.lines import add_lines, read_lines

EVERY: Final = 60.0  # CPU-seconds after which a line is added; a kill loses no more


@dataclass(frozen=True)
class Spent:
    """CPU times in a file, one JSON object per line: what for, and the seconds."""

    path: Path

    @contextmanager
    def on(self, what: str) -> Iterator[Callable[[], None]]:
        """Context whose CPU time is added to the file.

        Yields:
            A function to call often. It adds the time so far, every ``EVERY`` seconds.
        """
        began = time.process_time()

        def add() -> None:
            nonlocal began
            now = time.process_time()
            add_lines(self.path, [{"what": what, "seconds": now - began}])
            began = now

        def tick() -> None:
            if time.process_time() - began >= EVERY:
                add()

        try:
            yield tick
        finally:
            add()

    @property
    def hours(self) -> float:
        """The time of all lines, in hours."""
        lines = read_lines(self.path)
        return sum(float(line["seconds"]) for line in lines) / 3600
