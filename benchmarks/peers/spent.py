"""The time that work takes, counted across stops."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from n2n_gym.common.files import write_whole
from n2n_gym.common.repeating import repeated

EVERY = 10.0  # seconds between two writes; a kill loses at most these


class Spent(NamedTuple):
    """Minutes of work.

    Attributes:
        wall: Minutes of the wall clock.
        cpu: CPU minutes of this process and of the processes it started. Unlike wall
            time, they do not depend on other work of the machine.
    """

    wall: float = 0.0
    cpu: float = 0.0


def now() -> Spent:
    """Wall minutes since a fixed moment, and CPU minutes so far, with children."""
    times = os.times()
    seconds = times.user + times.system + times.children_user + times.children_system
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            of_child = child.cpu_times()
            seconds += of_child.user + of_child.system
    return Spent(time.monotonic() / 60, seconds / 60)


def read_spent(path: Path) -> Spent:
    """The minutes stored in a file; zero if there is no file."""
    return Spent(*json.loads(path.read_text())) if path.exists() else Spent()


@contextmanager
def counted(path: Path) -> Iterator[None]:
    """Context that adds its time to a file, every few seconds and at its end."""
    before, began = read_spent(path), now()

    def write() -> None:
        gone = now()
        wall = before.wall + gone.wall - began.wall
        # A child that has just ended may be counted only at the next write.
        cpu = before.cpu + max(0.0, gone.cpu - began.cpu)
        write_whole(path, json.dumps([wall, cpu]).encode())

    try:
        with repeated(write, EVERY):
            yield
    finally:
        write()
