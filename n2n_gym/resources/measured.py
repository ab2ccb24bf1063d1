"""Resources that are measured on this machine, of a student's ONNX file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from n2n_gym.networks.architecture import Architecture
from n2n_gym.resources.clock import time_in_turns

if TYPE_CHECKING:  # ONNX and its runtime take a second to import: where files are made
    import onnxruntime

SECONDS_OF_ENERGY: Final = 2.0  # for which a counter is read
POWERCAP: Final = Path("/sys/class/powercap")  # where Linux has RAPL's counters


# A file may be hundreds of megabytes; the teacher's and those of the moment are kept.
@lru_cache(maxsize=4)
def onnx_file(student: Architecture) -> bytes:
    """As it would be exported, with random weights."""
    from n2n_gym.export.onnx import untrained_onnx

    return untrained_onnx(student)


def onnx_bytes(student: Architecture, teacher: Architecture) -> float:
    """Size of the ONNX file in float32, without what is said about it."""
    return len(onnx_file(student))


@lru_cache(maxsize=1)
def session_of(teacher: Architecture, threads: int) -> onnxruntime.InferenceSession:
    """One for all measurements in turns with it."""
    return open_session(onnx_file(teacher), threads)


def open_session(
    file: bytes | Path, threads: int, profile: Path | None = None
) -> onnxruntime.InferenceSession:
    """A file in ONNX Runtime, on so many threads of the CPU.

    Args:
        file: What is in it, or where it is.
        profile: How the name of a file begins that it keeps a profile in.
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
    """Milliseconds that ONNX Runtime takes for a batch on the CPU.

    Student and teacher take turns, and what counts is the median of their ratios: it
    does not move with the machine. It is given in milliseconds as a multiple of the
    teacher's, which is measured once.

    The student is opened several times, and its slowest session counts. Where a network
    is about as large as a core's cache, one session may take 0.85 times another for as
    long as both last, by which pages its weights and values come to lie on.

    Attributes:
        batch: Images.
        threads: Of the CPU.
        precision: Half of the ratio's 98 % interval, as a share of it, that is enough.
        seconds: After which a measurement ends, however wide the interval is, though
            not before 20 samples of each session.
        sessions: Of the student.
    """

    batch: int = 1
    threads: int = 1
    precision: float = 0.02
    seconds: float = 20.0
    sessions: int = 3
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
            (alone,) = time_in_turns([self._run(teacher)], **limits)
            reference = self._teachers[teacher.fingerprint] = 1e3 * alone.seconds
        if student == teacher:
            return reference
        opened = [self._run(student, anew=True) for _ in range(self.sessions)]
        _, *timings = time_in_turns([self._run(teacher), *opened], **limits)
        return reference * max(timing.ratio for timing in timings)

    def remember(self, teacher: Architecture, milliseconds: float) -> None:
        """Take over what the teacher took when a search began."""
        self._teachers[teacher.fingerprint] = milliseconds

    def _run(
        self, network: Architecture, *, anew: bool = False
    ) -> Callable[[], object]:
        """One batch through it."""
        if anew:
            session = open_session(onnx_file(network), self.threads)
        else:
            session = session_of(network, self.threads)
        pixels = pixels_of(network, self.batch)
        return lambda: session.run(None, {"pixels": pixels})


@dataclass(frozen=True)
class Energy:
    """Millijoules of the processor for one image in ONNX Runtime, on one thread.

    From the counters that Linux shows of Intel's and AMD's processors (RAPL), which
    count all that the package does.

    Attributes:
        folder: Where the counters are.
    """

    folder: Path = POWERCAP

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
        """What each package has spent, as its counter has it."""
        # intel-rapl:0 is a package, intel-rapl:0:1 a part of it; laptops count all of
        # themselves, packages too, in one more that is called psys.
        found = {
            path.parent.name: int(path.read_text())
            for path in sorted(self.folder.glob("*-rapl:*/energy_uj"))
            if path.with_name("name").read_text().startswith("package")
        }
        if not found:
            raise OSError(f"this machine reports no energy: {self.folder} has none")
        return found

    def _range(self, name: str) -> int:
        """Where a counter begins anew."""
        return int((self.folder / name / "max_energy_range_uj").read_text()) + 1
