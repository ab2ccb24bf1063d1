"""Progress bars; all bars are made here.

In a terminal, one display shows all bars of a command. The display moves even during a
long step, and each finished bar leaves a line. Outside a terminal, bars are tqdm's.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, NoReturn, Protocol, Self

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
)
from rich.table import Column, Table
from rich.text import Text

AFTER: Final = 2.0  # seconds until a bar appears
REFRESH: Final = 4.0  # a second
MEMORY: Final = 3600.0  # seconds to estimate the pace from: steps may take minutes
SHOW_CURSOR: Final = b"\x1b[?25h"
BAR: Final = 16  # characters
TITLE: Final = "{task.description} [dim]{task.fields[said]}"
QUIET: Final = "TQDM_DISABLE"  # environment variable that hides bars

_display: Progress | None = None  # the display of all bars


class Bar(Protocol):
    """A progress bar, in any form of display."""

    n: float
    total: float | None

    def update(self, n: float = 1) -> object: ...

    def set_postfix_str(self, s: str) -> object:
        """Show a text beside the count."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> object: ...


def progress(
    total: float | None,
    title: str,
    unit: str = "it",
    *,
    initial: int = 0,
    is_long: bool = False,
    is_kept: bool = True,
) -> Bar:
    """A bar that appears after two seconds, so that short work shows none.

    Args:
        total: Number of units, if known; with the unit "B", sizes are in kB or MB.
        title: Text before the bar.
        unit: Name of one unit.
        initial: Number of units that are already done.
        is_long: Whether the bar appears at once, because one step takes seconds.
        is_kept: Whether a line remains when the bar is done.
    """
    delay = 0.0 if is_long else AFTER
    if _display is not None:
        return _Row(_display, total, title, unit, initial, delay, is_kept)
    from tqdm.auto import tqdm  # reads --quiet as it is imported

    bar: Bar = tqdm(
        total=total,
        desc=title,
        unit=unit,
        unit_scale=unit == "B",
        initial=initial,
        delay=delay,
        leave=is_kept,
    )
    return bar


@contextmanager
def one_display() -> Iterator[None]:
    """Context in which one display shows all bars, if in a terminal and not quiet."""
    global _display
    console = Console(stderr=True)
    is_quiet = os.environ.get(QUIET, "") not in ("", "0")
    if _display is not None or is_quiet or not console.is_terminal:
        yield
        return
    handlers = [
        each
        for each in logging.getLogger().handlers
        if isinstance(each, logging.StreamHandler) and each.stream is sys.stderr
    ]
    before = sys.stderr
    with _Display(console) as _display:
        for each in handlers:  # log messages go above the bars
            each.setStream(sys.stderr)
        try:
            yield
        finally:
            _display = None
            for each in handlers:
                each.setStream(before)


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Context in which a terminal shows that an import takes seconds."""
    with one_display(), progress(None, what, is_kept=False):
        yield


def leave_at_once(code: int) -> NoReturn:
    """End the process immediately, but restore the terminal's cursor."""
    if _display is not None:
        os.write(2, SHOW_CURSOR)
    os._exit(code)


class _Left(ProgressColumn):
    """The remaining time, or the elapsed time if the total is unknown."""

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        said = _clock(task.elapsed or 0) if left is None else f"{_clock(left)} left"
        return Text(said, style="cyan", justify="right")


class _Display(Progress):
    def __init__(self, console: Console) -> None:
        title = Column(ratio=1, overflow="fold")
        super().__init__(
            SpinnerColumn(),
            TextColumn(TITLE, table_column=title),
            BarColumn(BAR),
            TextColumn("{task.fields[count]}", justify="right"),
            _Left(),
            console=console,
            refresh_per_second=REFRESH,
            speed_estimate_period=MEMORY,
            redirect_stdout=sys.stdout.isatty(),  # otherwise another program reads it
            expand=True,
        )

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        """A table of the bars that take long enough to be shown."""
        due = [task for task in tasks if (task.elapsed or 0) >= task.fields["delay"]]
        return super().make_tasks_table(due)


class _Row:
    """A bar in the display of all bars."""

    def __init__(
        self,
        display: Progress,
        total: float | None,
        title: str,
        unit: str,
        initial: float,
        delay: float,
        is_kept: bool,
    ) -> None:
        self.total, self.n, self._said = total, initial, ""
        self._display, self._title, self._unit = display, title, unit
        self._delay, self._is_kept = delay, is_kept
        self._began = time.monotonic()
        self._task = display.add_task(
            escape(title),
            total=total,
            completed=int(initial),
            delay=delay,
            count=self._count(),
            said="",
        )

    def update(self, n: float = 1) -> None:
        self.n += n
        self._display.update(self._task, completed=self.n, count=self._count())

    def set_postfix_str(self, s: str) -> None:
        self._said = s
        self._display.update(self._task, said=escape(s))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        seconds = time.monotonic() - self._began
        self._display.remove_task(self._task)
        if self._is_kept and seconds >= self._delay:
            mark = "[green]✓[/green]" if error is None else "[yellow]-[/yellow]"
            took = f"{self._count()} in {_clock(seconds)}"
            said = f", {escape(self._said)}" if self._said else ""
            line = f"{mark} {escape(self._title)}: {took}{said}"
            self._display.console.print(line, highlight=False)

    def _count(self) -> str:
        if self._unit == "B":
            done, whole = (decimal(int(each)) for each in (self.n, self.total or 0))
        else:
            done, whole = f"{self.n:,.0f}", f"{self.total or 0:,.0f}"
        return done if self.total is None else f"{done}/{whole}"


def _clock(seconds: float) -> str:
    """A time as 1:02:03, 2:03 or 3 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"
