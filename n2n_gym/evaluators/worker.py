"""A worker process: it measures the students that it is sent, one after another.

It is a separate program. A child of ``multiprocessing`` would import its parent's
script, so every script that uses workers would need ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from n2n_gym.evaluators.distillation import (
    Settings,
    is_out_of_memory,
    measure,
    out_of_memory,
    provenance,
)
from n2n_gym.evaluators.packed_teacher import unpack
from n2n_gym.networks.architecture import Architecture
from n2n_gym.rewards import Failure, Score
from n2n_gym.scores import Provenance
from n2n_gym.teachers.teacher import Teacher


class Job(NamedTuple):
    """One student to measure: a `Trial` in a form that can be sent to a worker."""

    student: str  # JSON
    packed: str  # path of the packed teacher; on Ray, its name
    settings: Settings
    seed: int
    keep: Path | None = None


class Lost(Exception):
    """A worker cannot get the packed teacher; a worker elsewhere might."""


class Broken(NamedTuple):
    """An unexpected error in a worker, with its traceback."""

    traceback: str


class Measured(NamedTuple):
    """A worker's answer to one job."""

    result: Score | Failure | Broken
    seconds: float
    provenance: Provenance


def perform(
    job: Job, teachers: dict[str, Teacher], load: Callable[[str], Mapping[str, Any]]
) -> Measured:
    """Measure a student.

    Args:
        teachers: Loaded teachers, by ``Job.packed``. A newly loaded teacher replaces
            the previous one.
        load: Function that loads a packed teacher, given ``Job.packed``.
    """
    started = time.perf_counter()
    result: Score | Failure | Broken
    try:
        if job.packed not in teachers:
            teachers.clear()
            teachers[job.packed] = unpack(load(job.packed))
        student = Architecture.from_json(job.student)
        teacher = teachers[job.packed]
        result = measure(student, teacher, job.settings, seed=job.seed, keep=job.keep)
    except Lost as error:
        result = Failure(str(error), retryable=True)
    except torch.AcceleratorError:
        # Nothing that this process computes from now on can be trusted.
        traceback.print_exc()
        os._exit(1)
    except Exception as error:  # the parent must hear of any error
        if is_out_of_memory(error):  # while it loaded the teacher
            result = out_of_memory(error)
        else:
            result = Broken(traceback.format_exc())
    seconds = time.perf_counter() - started
    return Measured(result, seconds, provenance(job.settings.device))


def _exit_with(parent: int) -> None:
    """End this process when its parent has ended, even in the middle of a student."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main() -> None:
    """Answer jobs until the parent closes the connection.

    The command line has the connection's file descriptor, the parent's process ID, and
    optionally the number of bytes that the process may allocate.
    """
    descriptor, parent, *limit = map(int, sys.argv[1:])
    # The parent gets Ctrl-C too and decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    if limit:
        import resource  # only POSIX has it

        resource.setrlimit(resource.RLIMIT_DATA, (limit[0], limit[0]))
    torch.set_num_threads(1)
    connection: Connection[Measured | None, Job] = Connection(descriptor)
    connection.send(None)  # it is ready
    teachers: dict[str, Teacher] = {}
    load = partial(torch.load, mmap=True)  # all workers map the same file
    with suppress(EOFError, ConnectionError):
        while True:
            connection.send(perform(connection.recv(), teachers, load))
