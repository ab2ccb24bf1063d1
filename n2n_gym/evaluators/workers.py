"""Worker processes that measure students side by side."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import torch

from n2n_gym.architecture import Architecture
from n2n_gym.evaluators.distillation import Settings, measure
from n2n_gym.evaluators.parcel import pack, parcel_name
from n2n_gym.evaluators.worker import Broken, Job, Measured
from n2n_gym.rewards import Failure, Score
from n2n_gym.teachers import Teacher

LONGEST: Final = 3600.0  # seconds that a student may take
ATTEMPTS: Final = 2  # at a student whose worker died or got stuck
PROGRAM: Final = "from n2n_gym.evaluators.worker import main; main()"
LONGEST_START: Final = 300.0  # seconds until a worker answers at first


class Task(NamedTuple):
    """A student to measure, and the seed it is trained with."""

    student: Architecture
    seed: int


class Result(NamedTuple):
    """What was found of the task with this number."""

    number: int
    result: Score | Failure
    seconds: float


class Runner(Protocol):
    """Where students are measured."""

    def run(
        self, tasks: Sequence[Task], teacher: Teacher, settings: Settings
    ) -> Iterator[Result]:
        """The results of all tasks, each as soon as it is there."""


class InProcess:
    """Measures one student after another, here."""

    def run(
        self, tasks: Sequence[Task], teacher: Teacher, settings: Settings
    ) -> Iterator[Result]:
        for number, task in enumerate(tasks):
            started = time.perf_counter()
            result = measure(task.student, teacher, settings, seed=task.seed)
            yield Result(number, result, time.perf_counter() - started)


class Workers:
    """Processes that stay, each with one thread, a connection and its teacher.

    A worker that dies, or takes too long over a student, is replaced, and its student
    goes to another, once. A connection each, and nothing that workers share, so that
    one killed at any moment leaves the others alone.

    Args:
        count: Of processes; started at the first use.
        longest: Seconds that a student may take.
        memory: Bytes that a worker may allocate; a student that needs more fails.
    """

    def __init__(
        self, count: int, *, longest: float = LONGEST, memory: int | None = None
    ) -> None:
        if count < 1:
            raise ValueError(f"workers must be at least 1, got {count}")
        self.count = count
        self.longest = longest
        self.memory = memory
        self._workers: list[_Worker] = []
        self._folder = tempfile.TemporaryDirectory(prefix="n2n-gym-")
        self._parcels: dict[str, str] = {}  # paths by their names
        self._close = weakref.finalize(self, _close, self._workers, self._folder)

    def run(
        self, tasks: Sequence[Task], teacher: Teacher, settings: Settings
    ) -> Iterator[Result]:
        parcel = self._parcel(teacher)
        waiting = deque(enumerate(tasks))
        attempts = [0] * len(tasks)
        self._clear()
        while waiting or any(worker.number is not None for worker in self._workers):
            while waiting and len(self._workers) < self.count:
                self._workers.append(_Worker(self.memory))
            for worker in self._workers:
                if waiting and worker.is_free:
                    number, task = waiting.popleft()
                    attempts[number] += 1
                    job = Job(task.student.to_json(), parcel, settings, task.seed)
                    worker.start(number, job)
            for worker in self._after_waiting():
                doing = worker.number
                answer = worker.take(self.longest)
                if isinstance(answer, Measured):
                    assert doing is not None
                    if isinstance(answer.result, Broken):
                        raise RuntimeError(f"in a worker:\n{answer.result.traceback}")
                    yield Result(doing, answer.result, answer.seconds)
                elif isinstance(answer, str):  # why the worker is of no use any more
                    self._workers.remove(worker)
                    if doing is None:
                        raise RuntimeError(f"a worker could not start: it {answer}")
                    if attempts[doing] < ATTEMPTS:
                        waiting.appendleft((doing, tasks[doing]))
                    else:
                        reason = f"the worker that measured it {answer}, twice"
                        yield Result(doing, Failure(reason, retryable=True), 0.0)

    def close(self) -> None:
        """End the processes; a later use starts new ones."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def _parcel(self, teacher: Teacher) -> str:
        """The path of the packed teacher."""
        name = parcel_name(teacher)
        if name not in self._parcels:
            path = Path(self._folder.name) / f"{name}.pt"
            torch.save(pack(teacher), path)
            self._parcels[name] = str(path)
        return self._parcels[name]

    def _clear(self) -> None:
        """End what is still busy with a run that was left in the middle."""
        for worker in [w for w in self._workers if w.number is not None]:
            worker.end()
            self._workers.remove(worker)

    def _after_waiting(self) -> list[_Worker]:
        """The workers that have answered, died, or run out of time."""
        busy = [w for w in self._workers if not w.is_free]
        soonest = min(worker.until(self.longest) for worker in busy)
        wait([w.connection for w in busy], max(0.0, soonest - time.monotonic()))
        now = time.monotonic()
        return [w for w in busy if w.connection.poll() or w.until(self.longest) <= now]


class _Worker:
    """One process, seen from its parent."""

    def __init__(self, memory: int | None) -> None:
        self.connection: Connection[Job, Measured | None]
        self.connection, theirs = Pipe()
        descriptor = theirs.fileno()
        arguments = [str(n) for n in (descriptor, os.getpid(), memory) if n is not None]
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            # What it allocates and frees at each step it keeps: getting it from the
            # kernel again takes longer than many layers.
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "OMP_NUM_THREADS": "1",
                "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
                "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
            },
        )
        theirs.close()
        self.number: int | None = None  # of the task it is busy with
        self._is_ready = False
        self._since = time.monotonic()

    @property
    def is_free(self) -> bool:
        return self._is_ready and self.number is None

    def start(self, number: int, job: Job) -> None:
        self.number, self._since = number, time.monotonic()
        with suppress(ConnectionError):  # it has died: the next wait finds out
            self.connection.send(job)

    def until(self, longest: float) -> float:
        """When it must have answered."""
        return self._since + (longest if self._is_ready else LONGEST_START)

    def take(self, longest: float) -> Measured | str | None:
        """Its answer, None that it is ready, or why it gives none; it is ended then."""
        try:
            if self.connection.poll():
                answer = self.connection.recv()
                self._is_ready, self.number = True, None
                return answer
        except (EOFError, ConnectionError):
            self._process.wait()
            self.end()
            return f"died (exit code {self._process.returncode})"
        self.end()
        return f"took longer than {longest:.0f} s"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self.connection.close()


def _close(workers: list[_Worker], folder: tempfile.TemporaryDirectory[str]) -> None:
    for worker in workers:
        worker.end()
    folder.cleanup()
