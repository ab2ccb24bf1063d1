"""Worker processes that measure several students at the same time."""

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
# The worker gets its parent's sys.path before any import. Otherwise files in the
# current folder could shadow modules. Only the parent handles Ctrl-C.
PROGRAM: Final = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "import sys; sys.path[:] = sys.argv.pop(1).splitlines(); "
    "from n2n_gym.evaluators.worker import main; main()"
)
LONGEST_START: Final = 300.0  # most seconds until a new worker is ready
LONGEST_END: Final = 10.0  # most seconds from a closed connection to the worker's exit
STARTS: Final = 3  # times that all workers may die before one is ready
# A file without a name vanishes with the last process that has it open, even a killed
# one. On Linux other processes open it by this path.
OPEN_FILES: Final = "/proc/{process}/fd/{descriptor}"
HAS_OPEN_FILES: Final = Path("/proc/self/fd").is_dir()
# A forked process must neither use its parent's workers nor end them.
_INHERITED: Final[list[list[_Worker]]] = []


class Workers:
    """Worker processes that stay alive, each with one thread and its copy of a teacher.

    A worker that dies or takes too long is replaced. The student that it was measuring
    counts as a retryable failure, which `evaluate` retries once. Workers have no state
    in common, so killing one does not affect the others. All workers end with this
    process, even if this process is killed. On Linux, they leave nothing on disk.

    Args:
        count: Number of processes; they start at the first use.
        longest: Time limit for one student in seconds. If the student's nominal cost is
            above 1 student-epoch, the limit is multiplied by that cost.
        memory: Largest number of bytes that a worker can allocate; None sets no limit.
            A student that needs more fails.

    Raises:
        ValueError: ``count`` is below 1, or the system is not POSIX.
        RuntimeError: In ``run``: a worker cannot start, or has an unexpected error.
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
        self._end(lambda worker: worker.number is not None)  # from a stopped run
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
                        # Its heap is fragmented: even a small student might not fit.
                        self._workers.remove(worker)
                        worker.end()
                    yield Result(
                        doing, answer.result, answer.seconds, answer.provenance
                    )
                elif answer is None:  # it is ready
                    self._false_starts = 0
                else:  # the reason why the worker has ended
                    self._workers.remove(worker)
                    if doing is None:
                        self._note_false_start(answer)
                    else:
                        reason = f"the worker that measured it {answer}"
                        yield Result(doing, Failure(reason, retryable=True), 0.0)

    def close(self) -> None:
        """End the worker processes; the next ``run`` starts new ones."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        for file in self._packed.values():
            file.close()
        self._packed.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Workers:
        return self

    def __reduce__(self) -> tuple[Callable[[], Workers], tuple[()]]:
        """Pickle only the arguments; a copy elsewhere starts workers of its own."""
        again = partial(Workers, self.count, longest=self.longest, memory=self.memory)
        return again, ()

    def _path_of(self, teacher: Teacher) -> str:
        """The path of a file with the packed teacher, written if necessary."""
        name = packed_name(teacher)
        if name not in self._packed:
            self._packed[name] = _written(pack(teacher))
        file = self._packed[name]
        if not HAS_OPEN_FILES:
            return file.name
        return OPEN_FILES.format(process=os.getpid(), descriptor=file.fileno())

    def _disown(self) -> None:
        """After a fork, forget the workers: they belong to the parent process."""
        if self._owner != os.getpid():
            _INHERITED.append(list(self._workers))
            self._workers.clear()
            self._owner = os.getpid()

    def _end(self, which: Callable[[_Worker], bool]) -> None:
        for worker in list(filter(which, self._workers)):
            worker.end()
            self._workers.remove(worker)

    def _note_false_start(self, why: str) -> None:
        """Count a worker that died before it was ready; raise an error after many."""
        self._false_starts += 1
        if self._false_starts == STARTS * self.count:
            raise RuntimeError(
                f"a worker could not start: it {why}, the last of "
                f"{self._false_starts} in a row"
            )
        logger.warning("a worker %s as it started; another is started", why)

    def _after_waiting(self) -> list[_Worker]:
        """Wait, and return the workers that have answered, died or run out of time."""
        busy = [w for w in self._workers if not w.is_free]
        soonest = min(worker.until for worker in busy)
        wait([w.connection for w in busy], max(0.0, soonest - time.monotonic()))
        now = time.monotonic()
        return [w for w in busy if w.connection.poll() or w.until <= now]


class _Worker:
    """One worker process, as its parent sees it."""

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
            # The process keeps the memory that a step frees. Getting memory from the
            # kernel again takes longer than computing many a layer.
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
                "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
            },
        )
        theirs.close()
        self.number: int | None = None  # number of its present trial
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
        """Time by which the worker must have answered, as of ``time.monotonic``."""
        return self._since + self._longest

    def start(self, number: int, job: Job, longest: float) -> None:
        self.number, self._longest = number, longest
        self._since = time.monotonic()
        with suppress(ConnectionError):  # it has died: the next wait finds out
            self.connection.send(job)

    def take(self) -> Measured | str | None:
        """Take the worker's answer, or end a worker that died or took too long.

        Returns:
            A result; None if the worker has become ready; or the reason why it has
            ended.
        """
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
    """Seconds after which the trial's worker counts as stuck.

    Args:
        longest: Limit in seconds for a nominal cost of at most 1 student-epoch.
    """
    return longest * max(1.0, nominal_cost(trial.student, teacher, settings.rung))


def _written(packed: Mapping[str, Any]) -> IO[bytes]:
    """A temporary file with a packed teacher."""
    make = tempfile.TemporaryFile if HAS_OPEN_FILES else tempfile.NamedTemporaryFile
    file: IO[bytes] = make(prefix="n2n-gym-")
    try:
        torch.save(packed, file)
        file.flush()
    except (OSError, RuntimeError) as error:
        # Torch replaces the error of writing by its own.
        reason = error if isinstance(error, OSError) else error.__context__
        with suppress(OSError):
            file.close()
        if not isinstance(reason, OSError):
            raise
        raise OSError(
            f"the teacher cannot be written to {tempfile.gettempdir()} for the "
            f"workers: {reason}; set TMPDIR to another folder"
        ) from None
    return file


def _close(owner: int, workers: list[_Worker], packed: dict[str, IO[bytes]]) -> None:
    if owner == os.getpid():
        for worker in workers:
            worker.end()
    for file in packed.values():
        file.close()
