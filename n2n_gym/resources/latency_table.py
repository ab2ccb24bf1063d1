"""What each kind of work costs on this machine, and so what a student's latency is.

Layers timed one by one mislead, since ONNX Runtime fuses them and reorders channels
between them. So whole students are timed, in turns with the teacher, and the costs are
fitted to them: numbers from 0 on that bring the sum of all work near what was measured.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from n2n_gym.common.files import alone_with, cache_folder, kept_if_possible, write_whole
from n2n_gym.common.progress import progress
from n2n_gym.networks.architecture import Architecture
from n2n_gym.resources.clock import ROUNDS, ratios_in_rounds
from n2n_gym.resources.graph import timed_onnx
from n2n_gym.resources.machine import processor
from n2n_gym.resources.measured import Latency, open_session, pixels_of
from n2n_gym.resources.nodes import BLOCK, nodes, work
from n2n_gym.resources.students import random_students, students_in_blocks

logger = logging.getLogger(__name__)

FORMAT: Final = 3  # of a table; another one is measured anew
STUDENTS: Final = 90  # of either kind, timed for a table
SECONDS: Final = 180.0  # that the timing takes at most
RIDGE: Final = 1e-4  # a cost that hardly matters stays small
STEPS: Final = 20_000  # of the fit, at most
PARTS: Final = 5  # of the students; each is predicted from the others, for the error


@dataclass(frozen=True)
class LatencyTable:
    """Costs by kind of work, as shares of the teacher's latency.

    Attributes:
        batch, threads: As in ``Latency``.
    """

    costs: Mapping[str, float]
    batch: int
    threads: int

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that a prediction depends on beside the student."""
        content = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def ratio(self, student: Architecture) -> float:
        """The student's latency as a multiple of the teacher's."""
        return total(self.costs, work(nodes(student, self.batch, self.threads)))


def total(costs: Mapping[str, float], amounts: Mapping[str, float]) -> float:
    """What all work costs; nothing where a kind of it is unknown."""
    return sum(costs.get(kind, 0.0) * amount for kind, amount in amounts.items())


@dataclass(frozen=True)
class PredictedLatency:
    """Milliseconds as ``Latency`` would measure them, in hundredths of its time.

    Attributes:
        whole: The teacher's.
    """

    table: LatencyTable
    whole: float
    is_computed: ClassVar[bool] = True

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the table and of what its shares are of."""
        content = f"{self.table.fingerprint} {self.whole!r}"
        return hashlib.sha256(content.encode()).hexdigest()

    def __call__(self, student: Architecture, teacher: Architecture) -> float:
        return self.whole * (1.0 if student == teacher else self.table.ratio(student))


@lru_cache(maxsize=8)
def latency_table(teacher: Architecture, latency: Latency) -> LatencyTable:
    """The costs for a teacher's students on this machine: from the cache, or measured.

    Measuring takes some three minutes, once.
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
    with alone_with(path):
        costs = _known(path)
        if costs is None:
            costs = _measure(teacher, latency)
            with kept_if_possible(path):
                content = {"about": about, "costs": costs}
                write_whole(path, json.dumps(content, indent=1).encode())
    return LatencyTable(costs, latency.batch, latency.threads)


def _known(path: Path) -> dict[str, float] | None:
    """Costs measured before."""
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text())["costs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s) and is measured anew", path, error)
        return None


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
    """Latencies as multiples of the teacher's, (students,).

    All are timed over and over, a little each time, so that what else goes on on the
    machine meets all of them alike.

    Args:
        seconds: See ``ratios_in_rounds``.
        write: Makes a network's ONNX file.
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
    """What is timed of a network's file."""
    session = open_session(content, latency.threads)
    return partial(session.run, None, {"pixels": pixels_of(network, latency.batch)})


def fit_costs(
    amounts: Sequence[Counter[str]], ratios: NDArray[np.float64]
) -> dict[str, float]:
    """Costs from 0 on, with the least squares of relative errors."""
    from scipy.optimize import nnls  # late: it takes a while to import

    kinds = sorted(set().union(*amounts))
    parts = np.array([[found[kind] for kind in kinds] for found in amounts], float)
    parts /= ratios[:, None]  # relative errors count: limits are shares
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
    """Of predictions, as a share, on students that they were not fitted to."""
    errors: list[float] = []
    everyone = range(len(ratios))
    for part in range(PARTS):
        own = everyone[part::PARTS]
        others = [each for each in everyone if each not in own]
        costs = fit_costs([amounts[each] for each in others], ratios[others])
        errors += [abs(total(costs, amounts[e]) / ratios[e] - 1) for e in own]
    return float(np.median(errors))
