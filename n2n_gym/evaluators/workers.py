"""Worker processes that measure students side by side."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import IO, Any, Final

import torch

from n2n_gym.evaluators.distillation import Settings, nominal_cost
from n2n_gym.evaluators.packed_teacher import pack, packed_name
from n2n_gym.evaluators.runner import Result, Trial
from n2n_gym.evaluators.worker import Broken, Job, Measured
from n2n_gym.rewards import Failure, Score
from n2n_gym.teachers.teacher import Teacher

logger = logging.getLogger(__name__)

LONGEST: Final = 3600.0  # seconds that a student may take, for each epoch of its cost
# Its path is set before it imports anything: files in the current folder must not stand
# in for modules that they do not stand in for here. A Ctrl-C is for who started it.
PROGRAM: Final = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "import sys; sys.path[:] = sys.argv.pop(1).splitlines(); "
    "from n2n_gym.evaluators.worker import main; main()"
)
LONGEST_START: Final = 300.0  # seconds until a worker answers at first
LONGEST_END: Final = 10.0  # seconds from the end of its connection to its own
STARTS: Final = 3  # times that all workers may die before one of them is ready
# A file without a name is gone with the last process that has it open, even a killed
# one; this is how other processes open it, on Linux.
OPEN_FILES: Final = "/proc/{process}/fd/{descriptor}"
HAS_OPEN_FILES: Final = Path("/proc/self/fd").is_dir()
# A forked process must neither use its parent's workers nor end them.
_INHERITED: Final[list[list[_Worker]]] = []


class Workers:
    """Processes that stay, each with one thread, a connection and its teacher.

    A worker that dies, or takes too long over a student, is replaced; its student is a
    failure that may be tried again (`evaluate` does so, once). A connection each, and
    nothing that workers share, so that one killed at any moment leaves the others
    alone. They end with this process, and nothing of it stays on the disk, even if it
    is killed.

    Args:
        count: Of processes; started at the first use.
        longest: Seconds that a student may take, for each student-epoch of its nominal
            cost where that is more than one.
        memory: Bytes that a worker may allocate; a student that needs more fails.

    Raises:
        RuntimeError: In ``run``: a worker cannot start, or made a mistake of ours.
        OSError: In ``run``: the folder for temporary files is full.
    """

    def __init__(
        self, count: int, *, longest: float = LONGEST, memory: int | None = None
    ) -> None:
        if count < 1:
            raise ValueError(f"workers must be at least 1, got {count}")
        if os.name != "posix":
            raise ValueError(f"worker processes need POSIX, this is {os.name!r}")
        self.count = count
        self.longest = longest
        self.memory = memory
        self._workers: list[_Worker] = []
        self._false_starts = 0  # in a row
        self._packed: dict[str, IO[bytes]] = {}  # by their names
        self._owner = os.getpid()
        self._close = weakref.finalize(
            self, _close, self._owner, self._workers, self._packed
        )

    def run(
        self, trials: Sequence[Trial], teacher: Teacher, settings: Settings
    ) -> Iterator[Result]:
        packed = self._path_of(teacher)
        waiting = deque(enumerate(trials))
        self._disown()
        self._false_starts = 0
        self._end(lambda worker: worker.number is not None)  # of a run that was left
        while waiting or any(worker.number is not None for worker in self._workers):
            self._end(lambda worker: worker.has_died_idle)
            while waiting and len(self._workers) < self.count:
                self._workers.append(_Worker(self.memory))
            for worker in self._workers:
                if waiting and worker.is_free:
                    number, trial = waiting.popleft()
                    student = trial.student.to_json()
                    job = Job(student, packed, settings, trial.seed, trial.keep)
                    longest = time_limit(self.longest, trial, teacher, settings)
                    worker.start(number, job, longest)
            for worker in self._after_waiting():
                doing = worker.number
                answer = worker.take()
                if isinstance(answer, Measured):
                    assert doing is not None
                    if isinstance(answer.result, Broken):
                        raise RuntimeError(f"in a worker:\n{answer.result.traceback}")
                    if _needs_memory(answer.result):
                        # Its heap is in pieces: a small student might find no room.
                        self._workers.remove(worker)
                        worker.end()
                    yield Result(
                        doing, answer.result, answer.seconds, answer.provenance
                    )
                elif answer is None:  # it is ready
                    self._false_starts = 0
                else:  # why the worker is of no use any more
                    self._workers.remove(worker)
                    if doing is None:
                        self._note_false_start(answer)
                    else:
                        reason = f"the worker that measured it {answer}"
                        yield Result(doing, Failure(reason, retryable=True), 0.0)

    def close(self) -> None:
        """End the processes; a later use starts new ones."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        for file in self._packed.values():
            file.close()
        self._packed.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Workers:
        return self

    def __reduce__(self) -> tuple[Callable[[], Workers], tuple[()]]:
        """Processes do not travel: a copy elsewhere starts its own."""
        again = partial(Workers, self.count, longest=self.longest, memory=self.memory)
        return again, ()

    def _path_of(self, teacher: Teacher) -> str:
        """The path of the packed teacher."""
        name = packed_name(teacher)
        if name not in self._packed:
            self._packed[name] = _written(pack(teacher))
        file = self._packed[name]
        if not HAS_OPEN_FILES:
            return file.name
        return OPEN_FILES.format(process=os.getpid(), descriptor=file.fileno())

    def _disown(self) -> None:
        """Leave the workers to the process that this one was forked from."""
        if self._owner != os.getpid():
            _INHERITED.append(list(self._workers))
            self._workers.clear()
            self._owner = os.getpid()

    def _end(self, which: Callable[[_Worker], bool]) -> None:
        for worker in list(filter(which, self._workers)):
            worker.end()
            self._workers.remove(worker)

    def _note_false_start(self, why: str) -> None:
        """One died before it was ready; the run starts another, but not for ever."""
        self._false_starts += 1
        if self._false_starts == STARTS * self.count:
            raise RuntimeError(
                f"a worker could not start: it {why}, the last of "
                f"{self._false_starts} in a row"
            )
        logger.warning("a worker %s as it started; another is started", why)

    def _after_waiting(self) -> list[_Worker]:
        """The workers that have answered, died, or run out of time."""
        busy = [w for w in self._workers if not w.is_free]
        soonest = min(worker.until for worker in busy)
        wait([w.connection for w in busy], max(0.0, soonest - time.monotonic()))
        now = time.monotonic()
        return [w for w in busy if w.connection.poll() or w.until <= now]


class _Worker:
    """One process, seen from its parent."""

    def __init__(self, memory: int | None) -> None:
        self.connection: Connection[Job, Measured | None]
        self.connection, theirs = Pipe()
        descriptor = theirs.fileno()
        path = "\n".join(entry for entry in sys.path if isinstance(entry, str))
        arguments = [str(n) for n in (descriptor, os.getpid(), memory) if n is not None]
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, path, *arguments],
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            # What it allocates and frees at each step it keeps: getting it from the
            # kernel again takes longer than many layers.
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
                "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
            },
        )
        theirs.close()
        self.number: int | None = None  # of the trial it is busy with
        self._is_ready = False
        self._longest = LONGEST_START
        self._since = time.monotonic()

    @property
    def is_free(self) -> bool:
        return self._is_ready and self.number is None

    @property
    def has_died_idle(self) -> bool:
        return self.is_free and self._process.poll() is not None

    @property
    def until(self) -> float:
        """When it must have answered."""
        return self._since + self._longest

    def start(self, number: int, job: Job, longest: float) -> None:
        self.number, self._longest = number, longest
        self._since = time.monotonic()
        with suppress(ConnectionError):  # it has died: the next wait finds out
            self.connection.send(job)

    def take(self) -> Measured | str | None:
        """Its answer, None that it is ready, or why it gives none; it is ended then."""
        try:
            if self.connection.poll():
                answer = self.connection.recv()
                self._is_ready, self.number = True, None
                return answer
        except (EOFError, OSError):  # the latter in the middle of an answer
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LONGEST_END)
            self.end()
            return f"died (exit code {self._process.returncode})"
        self.end()
        return f"took longer than {self._longest:.0f} s"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self.connection.close()


def _needs_memory(result: Score | Failure) -> bool:
    return isinstance(result, Failure) and result.needs_memory


def time_limit(
    longest: float, trial: Trial, teacher: Teacher, settings: Settings
) -> float:
    """Seconds after which the trial's worker is taken to be stuck."""
    return longest * max(1.0, nominal_cost(trial.student, teacher, settings.rung))


def _written(packed: Mapping[str, Any]) -> IO[bytes]:
    """A temporary file with a packed teacher."""
    make = tempfile.TemporaryFile if HAS_OPEN_FILES else tempfile.NamedTemporaryFile
    file: IO[bytes] = make(prefix="n2n-gym-")
    try:
        torch.save(packed, file)
        file.flush()
    except (OSError, RuntimeError) as error:
        # What writing raised, torch replaces by an error of its own.
        reason = error if isinstance(error, OSError) else error.__context__
        with suppress(OSError):
            file.close()
        if not isinstance(reason, OSError):
            raise
        raise OSError(
            f"{tempfile.gettempdir()}: the teacher cannot be written there for the "
            f"workers: {reason}; TMPDIR can name another folder"
        ) from None
    return file


def _close(owner: int, workers: list[_Worker], packed: dict[str, IO[bytes]]) -> None:
    if owner == os.getpid():
        for worker in workers:
            worker.end()
    for file in packed.values():
        file.close()
