"""What a worker process does: measure the students it is sent, one after another.

It is a program of its own and not started by ``multiprocessing``, whose children import
their parent's script: so scripts need no ``if __name__ == "__main__"``.
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
    """One student to measure, as `Trial`."""

    student: str  # JSON
    packed: str  # where the packed teacher is
    settings: Settings
    seed: int
    keep: Path | None = None


class Lost(Exception):
    """What a worker needs could not be had; elsewhere it may."""


class Broken(NamedTuple):
    """A mistake of ours in a worker, with its traceback."""

    traceback: str


class Measured(NamedTuple):
    """A worker's answer."""

    result: Score | Failure | Broken
    seconds: float
    provenance: Provenance


def perform(
    job: Job, teachers: dict[str, Teacher], load: Callable[[str], Mapping[str, Any]]
) -> Measured:
    """Measure a student.

    Args:
        teachers: What this process has loaded; it keeps the last one.
        load: Gives a packed teacher.
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
    except Exception as error:  # whatever it is, the parent must hear of it
        if is_out_of_memory(error):  # as it loaded the teacher
            result = out_of_memory(error)
        else:
            result = Broken(traceback.format_exc())
    seconds = time.perf_counter() - started
    return Measured(result, seconds, provenance(job.settings.device))


def _exit_with(parent: int) -> None:
    """End this process when its parent has, even in the middle of a student."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main() -> None:
    """Answer jobs until the parent closes the connection.

    Its arguments: the connection's file descriptor, the parent's process number, and
    perhaps how many bytes it may allocate.
    """
    descriptor, parent, *limit = map(int, sys.argv[1:])
    # The parent hears Ctrl-C too, and decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    if limit:
        import resource  # POSIX alone has it

        resource.setrlimit(resource.RLIMIT_DATA, (limit[0], limit[0]))
    torch.set_num_threads(1)
    connection: Connection[Measured | None, Job] = Connection(descriptor)
    connection.send(None)  # it is ready
    teachers: dict[str, Teacher] = {}
    load = partial(torch.load, mmap=True)  # all workers map the same file
    with suppress(EOFError, ConnectionError):
        while True:
            connection.send(perform(connection.recv(), teachers, load))
