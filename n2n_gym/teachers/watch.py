"""Refuses work on a teacher for which a run has too little time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

JUDGED: Final = 2.0  # seconds after which the seconds of all batches are estimated


class Watch(NamedTuple):
    """The most seconds that the work may take, and a callback after each step."""

    longest: float = math.inf
    on_step: Callable[[], object] = lambda: None


_UNWATCHED: Final = Watch()
_watch: ContextVar[Watch] = ContextVar("watch", default=_UNWATCHED)


class TakesTooLong(ValueError):
    """Work on a teacher would take longer than the time allowed.

    Attributes:
        seconds: Estimated seconds for the rest of the work.
    """

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what} takes about {math.ceil(seconds / 60)} minutes")
        self.seconds = seconds


@contextmanager
def refused_after(
    seconds: float, on_step: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Context in which work of over ``seconds`` seconds raises `TakesTooLong`.

    Args:
        on_step: Callback after each step of a training, and after each batch.
    """
    token = _watch.set(Watch(seconds, on_step))
    try:
        yield
    finally:
        _watch.reset(token)


def watch() -> Watch:
    """The watch of the innermost ``refused_after``; without one, of infinite time."""
    return _watch.get()


def watched_batches(what: str, total: int) -> Callable[[int], None]:
    """A function to call with the number of images of each batch that is done.

    It raises `TakesTooLong` as soon as an estimate shows that the work would take too
    long, or if the work takes longer than was estimated.

    Args:
        what: Name of the work, for errors.
        total: Number of images.
    """
    longest, on_step = watch()
    began, first, done, is_judged = 0.0, 0, 0, False

    def after(count: int) -> None:
        nonlocal began, first, done, is_judged
        on_step()
        now, done = time.monotonic(), done + count
        if not first:  # the first batch is slower
            began, first = now, count
            return
        used = now - began
        left = used * (total - done) / (done - first)
        is_due = not is_judged and used >= JUDGED
        is_judged |= is_due
        if used > longest or (is_due and left > longest):
            raise TakesTooLong(what, left)

    return after
