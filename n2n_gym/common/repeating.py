"""Work that is repeated in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(work: Callable[[], None], seconds: float) -> Iterator[None]:
    """Context in which a thread calls a function every few seconds.

    Args:
        work: The function; at the end of the context, its last call is over.
    """
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(seconds):
            work()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
