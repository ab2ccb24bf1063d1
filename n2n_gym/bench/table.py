"""A table of all students that legal actions can lead to, scored with several seeds.

A file has arrays (``numpy.savez_compressed``). It is read without unpickling and
checked against its own SHA-256. ``docs/n2n-bench.md`` explains each array.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from envs_registry.bench import BENCH, BenchTask
from n2n_gym.common.files import write_whole
from n2n_gym.networks.architecture import Architecture
from n2n_gym.rewards import DEGENERATE, Score, load_reward

FORMAT: Final = 1
FOLDER: Final = Path(__file__).parent / "tables"
MISSING, SCORED, FAILED, UNUSED = 0, 1, 2, 3  # values of ``status``
SPLITS: Final = ("validation", "test")  # the last axis of ``correct``

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Table:
    """Every student of one teacher, with its scores.

    N students, T decisions, S seeds, F fidelities, M machines.

    Attributes:
        header: Facts about the whole table; see ``docs/n2n-bench.md``.
        decisions: uint8 (N, T): the actions that lead to each student. Of several
            sequences for one student, this is the lexicographically first. Rows are in
            ascending order.
        fingerprints: uint8 (N, 32): SHA-256 of the student.
        num_params, num_macs, onnx_bytes, peak_bytes: uint32 (N,).
        correct: uint16 (N, S, F, 2): number of correct predictions on validation and on
            test images.
        status: uint8 (N, S, F): 0 not scored yet, 1 scored, 2 failed, 3 a seed that the
            fidelity does not have. Only with status 1 is the value in ``correct`` a
            count; missing counts are never estimated.
        seconds: float32 (N, S, F): CPU time of a score.
        block: uint8 (N,): index in ``header["blocks"]`` of the machine that scored the
            student; 255 if no machine has.
        latency_ms: float32 (N, M): predicted latency on each machine.
    """

    header: Mapping[str, Any]
    decisions: NDArray[np.uint8]
    fingerprints: NDArray[np.uint8]
    num_params: NDArray[np.uint32]
    num_macs: NDArray[np.uint32]
    onnx_bytes: NDArray[np.uint32]
    peak_bytes: NDArray[np.uint32]
    correct: NDArray[np.uint16]
    status: NDArray[np.uint8]
    seconds: NDArray[np.float32]
    block: NDArray[np.uint8]
    latency_ms: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.decisions)

    @property
    def name(self) -> str:
        return str(self.header["name"])

    @property
    def fidelities(self) -> tuple[str, ...]:
        return tuple(self.header["fidelities"])

    def num_seeds(self, fidelity: str | None = None) -> int:
        """Number of seeds of a fidelity; None stands for the table's first."""
        which = self.which(fidelity)
        return int((self.status[:, :, which] != UNUSED).any(0).sum())

    def which(self, fidelity: str | None) -> int:
        """Index of a fidelity; None stands for the table's first."""
        known = self.fidelities
        return self._place("fidelity", fidelity or known[0], known)

    @property
    def is_complete(self) -> bool:
        return not (self.status == MISSING).any()

    @cached_property
    def scores_hash(self) -> str:
        """A hash of the students and their scores: 16 hexadecimal digits."""
        names = ("fingerprints", "num_params", "num_macs", "correct", "status")
        digest = _digest({name: getattr(self, name) for name in names})
        return str(digest.hexdigest())[:16]

    @cached_property
    def start(self) -> Architecture:
        """The teacher's architecture."""
        return Architecture.from_json(self.header["architecture"])

    @cached_property
    def row_of(self) -> Mapping[str, int]:
        """The row of each student, by the student's fingerprint."""
        return {row.tobytes().hex(): i for i, row in enumerate(self.fingerprints)}

    def accuracy(
        self,
        split: str = "validation",
        *,
        fidelity: str | None = None,
        seed: int | None = None,
    ) -> Values:
        """Accuracy of each student, (N,); nan where a score is missing or failed.

        Args:
            split: Name of the split: "validation" or "test".
            fidelity: Name of the fidelity; by default the table's first.
            seed: Number of the seed, from 0; by default the mean over all seeds of the
                fidelity.

        Raises:
            ValueError: There is no such split, fidelity or seed.
        """
        place = self._place("split", split, SPLITS)
        which, seeds = self.which(fidelity), range(self.num_seeds(fidelity))
        if seed is not None:
            self._place("seed", seed, seeds)
        chosen = seeds if seed is None else [seed]
        counts = self.correct[:, chosen, which, place].astype(float)
        counts[self.status[:, chosen, which] != SCORED] = np.nan
        found: Values = counts.mean(1) / self.header["num_images"][split]
        return found

    def _place(self, what: str, value: Any, known: Any) -> int:
        if value not in known:
            raise ValueError(
                f"unknown {what} {value!r} of table {self.name}; known: "
                f"{', '.join(map(str, known))}"
            )
        return list(known).index(value)

    def score(
        self, row: int, *, fidelity: str | None = None, seed: int | None = None
    ) -> Score | None:
        """The score of a student, as evaluators return it; None if scoring failed."""
        found = self._accuracy_by(fidelity, seed)[row]
        if np.isnan(found):
            return None
        params, macs = int(self.num_params[row]), int(self.num_macs[row])
        cost = self.header["cost"][fidelity or self.fidelities[0]]
        return Score(float(found), params, macs, float(cost))

    def _accuracy_by(self, fidelity: str | None, seed: int | None) -> Values:
        key = fidelity, seed
        if key not in self._known:
            self._known[key] = self.accuracy(fidelity=fidelity, seed=seed)
        return self._known[key]

    @cached_property
    def _known(self) -> dict[tuple[str | None, int | None], Values]:
        return {}

    @property
    def teacher_score(self) -> Score:
        return self._teacher("validation")

    def _teacher(self, split: str) -> Score:
        accuracy = self.header["teacher"]["correct"][split]
        accuracy /= self.header["num_images"][split]
        return Score(accuracy, self.start.num_params, self.start.num_macs)

    def values(
        self,
        task: BenchTask,
        split: str = "validation",
        *,
        fidelity: str | None = None,
        seed: int | None = None,
    ) -> Values:
        """The reward of each student, (N,); -1 for a broken limit or a missing score.

        The array is read-only, because later calls return the same array.
        """
        key = task, split, fidelity, seed
        if key not in self._rewards:
            self._rewards[key] = self._values(*key)
        return self._rewards[key]

    @cached_property
    def _rewards(self) -> dict[Any, Values]:
        return {}

    def _values(
        self, task: BenchTask, split: str, fidelity: str | None, seed: int | None
    ) -> Values:
        reward, whole = load_reward(task.reward), self._teacher(split)
        accuracy = self.accuracy(split, fidelity=fidelity, seed=seed)
        found = np.full(len(self), DEGENERATE)
        for row in np.flatnonzero(self.within(task) & ~np.isnan(accuracy)):
            params, macs = int(self.num_params[row]), int(self.num_macs[row])
            found[row] = reward(Score(float(accuracy[row]), params, macs), whole)
        found.flags.writeable = False
        return found

    def within(self, task: BenchTask) -> NDArray[np.bool_]:
        """Mask of the students that keep the task's limit, (N,)."""
        if task.limit is None:
            return np.ones(len(self), bool)
        name, bound = self.bound(task)
        kept: NDArray[np.bool_] = getattr(self, name) <= bound
        return kept

    def bound(self, task: BenchTask) -> tuple[str, int]:
        """Name of the resource that the task limits, and its largest amount."""
        assert task.limit is not None
        name, share = task.limit
        return name, int(getattr(self.start, name) * share)

    def pareto(self, cost: str = "num_params", split: str = "validation") -> Values:
        """Rows of Pareto-optimal students, (P,), ascending in cost.

        Args:
            split: Name of the images of the accuracy: "validation" or "test".
            cost: Name of an array: "num_params", "num_macs", "onnx_bytes" or
                "peak_bytes".
        """
        accuracy, costs = self.accuracy(split), getattr(self, cost)
        best, front = -np.inf, []
        for row in np.lexsort((-accuracy, costs)):
            if accuracy[row] > best:
                best = accuracy[row]
                front.append(row)
        return np.array(front)

    def standard_error(
        self, split: str = "validation", fidelity: str | None = None
    ) -> float:
        """Standard error of a student's mean accuracy over seeds; nan with one seed.

        The variance over seeds is averaged over all students.
        """
        count = self.num_seeds(fidelity)
        if count < 2:
            return float("nan")
        seeds = [
            self.accuracy(split, fidelity=fidelity, seed=seed) for seed in range(count)
        ]
        variance = np.nanmean(np.var(seeds, axis=0, ddof=1))
        return float(np.sqrt(variance / count))


class DamagedTable(ValueError):
    """The file is not a table, or has changed since it was written."""


def find_task(name: str) -> BenchTask:
    """A task by its id.

    Raises:
        ValueError: There is no such task; the message names the nearest.
    """
    plain = name.rpartition(":")[2]
    if not BENCH:
        raise ValueError(
            f"unknown task {name!r}: no table of N2N-Bench is complete yet"
        )
    if plain not in BENCH:
        near = difflib.get_close_matches(plain, BENCH, 1, 0.0)
        raise ValueError(
            f"unknown task {name!r}; the nearest is {near[0]!r}, and all are: "
            f"{', '.join(BENCH)}"
        )
    return BENCH[plain]


def load_table(name: str) -> Table:
    """A table by its name, or by the id of one of its tasks.

    Raises:
        ValueError: There is no such table, or it is damaged; the message names the
            file.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.npz"))
    if name not in known:
        if not known:
            raise ValueError(f"unknown table {name!r}: no table has been made yet")
        if "/" not in name:
            near = difflib.get_close_matches(name, (*known, *BENCH), 1, 0.0)
            raise ValueError(
                f"unknown table {name!r}; the nearest is {near[0]!r}, and all are: "
                f"{', '.join(known)}"
            )
        name = find_task(name).table
    return _load(FOLDER / f"{name}.npz")


@lru_cache
def _load(path: Path) -> Table:
    return read_table(path)


def read_table(path: Path) -> Table:
    """A table from a file.

    Raises:
        DamagedTable: The file is not a table, or has changed.
    """
    try:
        # Read completely first: if NumPy fails half-way, it leaves the file open.
        arrays = dict(np.load(io.BytesIO(path.read_bytes()), allow_pickle=False))
        found = arrays.pop("sha256").tobytes().hex()
        expected = _digest(arrays).hexdigest()
        if found != expected:
            raise ValueError(f"its SHA-256 is {expected}, expected {found}")
        header = json.loads(arrays.pop("header").tobytes())
        if header["format"] != FORMAT:
            raise ValueError(f"its format is {header['format']}, known is {FORMAT}")
        return Table(header, **arrays)
    except (
        *(OSError, ValueError, KeyError, TypeError, EOFError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise DamagedTable(f"the table {path} cannot be read: {error}") from error


def write_table(path: Path, table: Table) -> None:
    """Write a table completely or not at all."""
    arrays = {
        each.name: getattr(table, each.name)
        for each in fields(table)
        if each.name != "header"
    }
    header = json.dumps({**table.header, "format": FORMAT}, sort_keys=True)
    arrays["header"] = np.frombuffer(header.encode(), np.uint8)
    digest = np.frombuffer(_digest(arrays).digest(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, sha256=digest, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, buffer.getvalue())


def _digest(arrays: Mapping[str, NDArray[Any]]) -> Any:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest
