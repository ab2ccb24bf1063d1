"""Resources of a student's ONNX file, measured on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from n2n_gym.networks.architecture import Architecture
from n2n_gym.resources.clock import time_in_turns

if TYPE_CHECKING:  # it takes a second to import: only where sessions are opened
    import onnxruntime

SECONDS_OF_ENERGY: Final = 2.0  # seconds between two readings of a counter
POWERCAP: Final = Path("/sys/class/powercap")  # where Linux has RAPL's counters


# A file may have hundreds of megabytes, so only the teacher's and the latest are kept.
@lru_cache(maxsize=4)
def onnx_file(student: Architecture) -> bytes:
    """The student's ONNX file as exported, with random weights."""
    from n2n_gym.export.onnx import untrained_onnx

    return untrained_onnx(student)


def onnx_bytes(student: Architecture, teacher: Architecture) -> float:
    """Size of the float32 ONNX file, without metadata."""
    return len(onnx_file(student))


@lru_cache(maxsize=1)
def session_of(teacher: Architecture, threads: int) -> onnxruntime.InferenceSession:
    """The teacher's session; all measurements use the same one."""
    return open_session(onnx_file(teacher), threads)


def open_session(
    file: bytes | Path, threads: int, profile: Path | None = None
) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU.

    Args:
        file: Content or path of the ONNX file.
        threads: Number of threads of the CPU.
        profile: Beginning of the path of a profile; by default none is written.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = os.fspath(profile)
    content = file if isinstance(file, bytes) else os.fspath(file)
    return onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"]
    )


def pixels_of(network: Architecture, batch: int) -> NDArray[np.float32]:
    """A batch of black images, (batch, C, H, W)."""
    return np.zeros((batch, *network.input_shape), np.float32)


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch in ONNX Runtime on the CPU.

    Student and teacher take turns, so that the median ratio of their times does not
    drift with the machine. The result is this ratio times the teacher's milliseconds,
    which are measured once.

    The student is loaded several times and the slowest session counts. For networks
    about as large as a core's cache, latency depends on the memory pages of a session.
    All runs of one session can take 0.85 times as long as those of another.

    Attributes:
        batch: Number of images in a batch.
        threads: Number of threads of the CPU.
        precision: Target for half the width of the ratio's 98 % interval, relative to
            the ratio.
        seconds: Time after which a measurement ends even without this precision, once
            each session has 20 samples.
        sessions: Number of times the student is loaded.
    """

    batch: int = 1
    threads: int = 1
    precision: float = 0.02
    seconds: float = 20.0
    sessions: int = 3
    is_of_machine: ClassVar[bool] = True
    _teachers: dict[str, float] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        for name in ("batch", "threads", "sessions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")

    def __call__(self, student: Architecture, teacher: Architecture) -> float:
        limits = {"precision": self.precision, "seconds": self.seconds}
        reference = self._teachers.get(teacher.fingerprint)
        if reference is None:
            (whole,) = time_in_turns([self._run(teacher)], **limits)
            reference = self._teachers[teacher.fingerprint] = 1e3 * whole.seconds
        if student == teacher:
            return reference
        opened = [self._run(student, anew=True) for _ in range(self.sessions)]
        _, *timings = time_in_turns([self._run(teacher), *opened], **limits)
        return reference * max(timing.ratio for timing in timings)

    def remember(self, teacher: Architecture, milliseconds: float) -> None:
        """Use this latency of the teacher instead of measuring it again."""
        self._teachers[teacher.fingerprint] = milliseconds

    def _run(
        self, network: Architecture, *, anew: bool = False
    ) -> Callable[[], object]:
        """A function that runs one batch through the network.

        Args:
            anew: Whether to open a new session instead of using the cached one.
        """
        if anew:
            session = open_session(onnx_file(network), self.threads)
        else:
            session = session_of(network, self.threads)
        pixels = pixels_of(network, self.batch)
        return lambda: session.run(None, {"pixels": pixels})


@dataclass(frozen=True)
class Energy:
    """Energy of the processor in millijoules per image, in ONNX Runtime on one thread.

    The energy is read from the counters of Intel's and AMD's processors in Linux
    (RAPL). These counters include everything that runs on the processor, not only the
    student.

    Attributes:
        folder: Folder in which Linux has the counters.
    """

    folder: Path = POWERCAP
    is_of_machine: ClassVar[bool] = True

    def __call__(self, student: Architecture, teacher: Architecture) -> float:
        run = Latency()._run(student, anew=True)
        before = self._microjoules()
        ends, count = time.perf_counter() + SECONDS_OF_ENERGY, 0
        while time.perf_counter() < ends:
            run()
            count += 1
        spent = {
            name: (now - before[name]) % self._range(name)
            for name, now in self._microjoules().items()
        }
        return sum(spent.values()) / 1e3 / count

    def _microjoules(self) -> dict[str, int]:
        """Energy of each processor package in microjoules, by the counter's name."""
        # intel-rapl:0 is a package, intel-rapl:0:1 a part of it. Laptops have one more
        # counter for everything, packages included, called psys.
        found = {
            path.parent.name: int(path.read_text())
            for path in sorted(self.folder.glob("*-rapl:*/energy_uj"))
            if path.with_name("name").read_text().startswith("package")
        }
        if not found:
            raise OSError(f"this machine has no energy counters in {self.folder}")
        return found

    def _range(self, name: str) -> int:
        """The value at which a counter starts again from 0."""
        return int((self.folder / name / "max_energy_range_uj").read_text()) + 1
