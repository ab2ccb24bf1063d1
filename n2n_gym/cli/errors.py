"""How commands end after an error or an interrupt."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType

from rich.console import Console
from rich.markup import escape

from n2n_gym.common.progress import leave_at_once, one_display

INTERRUPTED = 130  # the exit code, as shells have it
with_traceback = False  # whether the user asked for it


@contextmanager
def plain_errors() -> Iterator[None]:
    """Context that shows only one line for an error that the user can fix."""
    try:
        yield
    except (ValueError, OSError, ArithmeticError) as error:
        if with_traceback:
            raise
        Console(stderr=True).print(
            f"[red]Error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(1)


@contextmanager
def stoppable(kept: Callable[[], str], *, has_bars: bool = True) -> Iterator[None]:
    """Context in which Ctrl-C ends the command with a text.

    A second Ctrl-C ends the process at once.

    Args:
        kept: Function that returns the text, which says what has been stored.
        has_bars: Whether one display shows all progress bars of the context.
    """

    def stop(signal_number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: leave_at_once(INTERRUPTED))
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        with one_display() if has_bars else nullcontext():
            yield
    except KeyboardInterrupt:
        said = f"\n{escape(kept())}"
        Console(stderr=True).print(said, highlight=False, soft_wrap=True)
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, before)
