"""The seconds that a run has taken, over all its processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from n2n_gym.common.files import kept_if_possible, read_kept, write_whole
from n2n_gym.common.repeating import repeated

ELAPSED: Final = "elapsed.json"  # in the folder of a run
EVERY: Final = 10.0  # seconds between two writes; a kill loses at most these


@contextmanager
def counted(path: Path, began: float) -> Iterator[Callable[[], float]]:
    """Context with a function that returns the seconds of a run so far.

    The seconds are written to a file regularly and at the end, so that the next process
    of the run continues to count from there. The time between two processes does not
    count.

    Args:
        path: File of the seconds; missing at the start of a run.
        began: Time, by ``time.monotonic``, at which this process took up the run.
    """
    before = read_kept(path, _read) or 0.0

    def seconds() -> float:
        return before + time.monotonic() - began

    def write() -> None:
        content = json.dumps({"seconds": round(seconds(), 1)})
        with kept_if_possible(path):
            write_whole(path, content.encode())

    is_refused = False
    try:
        with repeated(write, EVERY):
            yield seconds
    except ValueError:  # a refusal leaves the run's files as they are
        is_refused = True
        raise
    finally:
        if not is_refused:
            write()


def _read(path: Path) -> float:
    return float(json.loads(path.read_text())["seconds"])
