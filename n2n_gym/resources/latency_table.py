"""Costs of each kind of work on this machine, which predict a student's latency.

Times of single layers are misleading, because ONNX Runtime fuses layers and reorders
channels between them. So whole students are timed, in turns with the teacher. A
student's latency is modelled as a sum over its kinds of work: amount times cost. The
costs are fitted to the measured times, and are not negative.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from n2n_gym.common.files import cache_folder, cached, write_whole
from n2n_gym.common.progress import progress
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.random_students import random_students, students_in_blocks
from n2n_gym.resources.clock import ROUNDS, ratios_in_rounds
from n2n_gym.resources.graph import timed_onnx
from n2n_gym.resources.machine import processor
from n2n_gym.resources.measured import Latency, open_session, pixels_of
from n2n_gym.resources.nodes import BLOCK, nodes, work

FORMAT: Final = 3  # version of a cached table; other versions are measured again
STUDENTS: Final = 90  # random ones, and as many in blocks, timed for a table
SECONDS: Final = 180.0  # largest time for timing
RIDGE: Final = 1e-4  # penalty that keeps costs small if they hardly matter
STEPS: Final = 20_000  # largest number of steps of the fit
PARTS: Final = 5  # folds of cross-validation, for the error


@dataclass(frozen=True)
class LatencyTable:
    """Cost of each kind of work, as a fraction of the teacher's latency.

    Attributes:
        batch, threads: Batch size and number of threads, as in ``Latency``.
    """

    costs: Mapping[str, float]
    batch: int
    threads: int

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that a prediction depends on besides the student."""
        content = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def ratio(self, student: Architecture) -> float:
        """The student's latency as a multiple of the teacher's."""
        return total(self.costs, work(nodes(student, self.batch, self.threads)))


def total(costs: Mapping[str, float], amounts: Mapping[str, float]) -> float:
    """The cost of all work; a kind of work without a known cost counts as 0."""
    return sum(costs.get(kind, 0.0) * amount for kind, amount in amounts.items())


@dataclass(frozen=True)
class PredictedLatency:
    """Predicts ``Latency``, a hundred times as fast as a measurement.

    Attributes:
        whole: The teacher's latency in milliseconds.
    """

    table: LatencyTable
    whole: float
    is_computed: ClassVar[bool] = True

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the table and of the teacher's latency."""
        content = f"{self.table.fingerprint} {self.whole!r}"
        return hashlib.sha256(content.encode()).hexdigest()

    def __call__(self, student: Architecture, teacher: Architecture) -> float:
        return self.whole * (1.0 if student == teacher else self.table.ratio(student))


@lru_cache(maxsize=8)
def latency_table(teacher: Architecture, latency: Latency) -> LatencyTable:
    """The costs for a teacher's students on this machine: from the cache, or measured.

    A measurement takes about three minutes; the cache keeps the result.
    """
    about = {
        "format": FORMAT,
        "teacher": teacher.fingerprint,
        "processor": processor(),
        "onnxruntime": version("onnxruntime"),
        "batch": latency.batch,
        "threads": latency.threads,
    }
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    path = cache_folder() / "latencies" / f"{key}.json"

    def write(path: Path, costs: dict[str, float]) -> None:
        content = {"about": about, "costs": costs}
        write_whole(path, json.dumps(content, indent=1).encode())

    costs = cached(path, _costs, partial(_measure, teacher, latency), write)
    return LatencyTable(costs, latency.batch, latency.threads)


def _costs(path: Path) -> dict[str, float]:
    return dict(json.loads(path.read_text())["costs"])


def _measure(teacher: Architecture, latency: Latency) -> dict[str, float]:
    students = [
        *random_students(teacher, STUDENTS),
        *students_in_blocks(teacher, STUDENTS, block=BLOCK),
    ]
    amounts = [work(nodes(s, latency.batch, latency.threads)) for s in students]
    title = "Measuring latencies, once for this machine"
    with progress(ROUNDS, title, is_long=True) as bar:
        ratios = time_students(
            teacher, students, latency, seconds=SECONDS, on_round=bar.update
        )
        error = median_error(amounts, ratios)
        bar.set_postfix_str(f"predicted to {error:.1%} (median)")
    return fit_costs(amounts, ratios)


def time_students(
    teacher: Architecture,
    students: Sequence[Architecture],
    latency: Latency,
    *,
    seconds: float,
    on_round: Callable[[], object] | None = None,
    write: Callable[[Architecture], bytes] = timed_onnx,
) -> NDArray[np.float64]:
    """The students' latencies divided by the teacher's latency, (students,).

    Each student is timed for a moment in every round, so that a disturbance of the
    machine affects all students.

    Args:
        latency: Resource that gives the batch size and the number of threads.
        seconds: Time after which no further round begins; see ``ratios_in_rounds``.
        write: Function that makes a network's ONNX file.
    """

    return ratios_in_rounds(
        runner(write(teacher), teacher, latency),
        [runner(write(student), student, latency) for student in students],
        seconds=seconds,
        on_round=on_round,
    )


def runner(
    content: bytes, network: Architecture, latency: Latency
) -> Callable[[], object]:
    """A function to be timed: each call runs one batch through an ONNX file.

    Args:
        content: Content of the network's ONNX file.
        latency: Resource that gives the batch size and the number of threads.
    """
    session = open_session(content, latency.threads)
    return partial(session.run, None, {"pixels": pixels_of(network, latency.batch)})


def fit_costs(
    amounts: Sequence[Counter[str]], ratios: NDArray[np.float64]
) -> dict[str, float]:
    """Cost of each kind of work, fitted by non-negative least squares.

    Errors are relative. A small penalty keeps costs small that hardly affect the
    errors. Kinds of work with a cost of 0 are left out.

    Args:
        amounts: Each student's amount of each kind of work.
        ratios: Each student's latency divided by the teacher's, (students,).
    """
    from scipy.optimize import nnls  # late: it takes a while to import

    kinds = sorted(set().union(*amounts))
    parts = np.array([[found[kind] for kind in kinds] for found in amounts], float)
    parts /= ratios[:, None]  # so that errors are relative
    scale = np.sqrt((parts**2).mean(0))
    scale[scale == 0] = 1.0
    held = np.sqrt(RIDGE * len(ratios)) * np.eye(len(kinds))
    rows = np.concatenate([parts / scale, held])
    wanted = np.concatenate([np.ones(len(ratios)), np.zeros(len(kinds))])
    found, _ = nnls(rows, wanted, maxiter=STEPS)
    return {
        kind: float(cost)
        for kind, cost in zip(kinds, found / scale, strict=True)
        if cost > 0
    }


def median_error(amounts: Sequence[Counter[str]], ratios: NDArray[np.float64]) -> float:
    """Median relative error of predictions, by cross-validation.

    Args:
        amounts, ratios: Measured students, as in ``fit_costs``.
    """
    errors: list[float] = []
    everyone = range(len(ratios))
    for part in range(PARTS):
        own = everyone[part::PARTS]
        others = [each for each in everyone if each not in own]
        costs = fit_costs([amounts[each] for each in others], ratios[others])
        errors += [abs(total(costs, amounts[e]) / ratios[e] - 1) for e in own]
    return float(np.median(errors))
