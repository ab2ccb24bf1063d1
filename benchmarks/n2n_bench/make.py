"""Making a table: every student listed, then scored, a few at a time, in any order.

    python -m benchmarks.n2n_bench make remove-residual --minutes 60
    python -m benchmarks.n2n_bench merge remove-residual elsewhere.npz

A table is kept in the package from its first score on, and written again every minute:
a stopped run goes on where it was. Students are scored in a fixed order at random, so
that a part of a table is a fair sample of it.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from benchmarks.n2n_bench.subjects import (
    CPU,
    SUBJECTS,
    TASK,
    load_subject,
    weights_hash,
)
from envs_registry.bench import BenchTask
from n2n_gym.bench.env import real_env
from n2n_gym.bench.table import (
    FAILED,
    FOLDER,
    MISSING,
    SCORED,
    SPLITS,
    Table,
    read_table,
    write_table,
)
from n2n_gym.envs import CompressionEnv
from n2n_gym.evaluators.distillation import Settings, distil
from n2n_gym.evaluators.rungs import BENCH_V1, INHERIT, Rung
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.determinism import alone
from n2n_gym.pytorch.inference import BATCH, compute_accuracy
from n2n_gym.pytorch.training import Diverged
from n2n_gym.resources.computed import peak_bytes
from n2n_gym.resources.machine import processor
from n2n_gym.resources.prediction import FileSize
from n2n_gym.teachers.teacher import Teacher

FIDELITIES: Final = (BENCH_V1, INHERIT)
SEEDS: Final = 3
MOST: Final = 4_096  # students of a table
WRITE_EVERY: Final = 60.0  # seconds
NONE: Final = 255  # of ``block``
LICENCE: Final = "CC0-1.0"


def every_student(env: CompressionEnv) -> dict[tuple[int, ...], Architecture]:
    """What legal decisions lead to, by the first of the ways there; ascending."""
    env.reset()
    found: dict[str, tuple[tuple[int, ...], Architecture]] = {}
    left: list[tuple[tuple[int, ...], CompressionEnv]] = [((), env)]
    while left:
        actions, here = left.pop()
        # The last that is put there is taken next: so the lowest comes first.
        for action in np.flatnonzero(here.action_masks())[::-1].tolist():
            after = copy.deepcopy(here)
            after.episode.decide(action)
            if after.is_complete:
                student = after.episode.student
                way = (*actions, action)
                if way < found.get(student.fingerprint, ((*way, 0), student))[0]:
                    found[student.fingerprint] = way, student
            else:
                after._feasible = None
                left.append(((*actions, action), after))
    assert len(found) <= MOST, f"{len(found)} students"
    return dict(sorted(found.values()))


def blank(name: str) -> Table:
    """A table without scores."""
    subject, teacher = SUBJECTS[name], load_subject(name)
    start = teacher.architecture
    shape = SEEDS, len(FIDELITIES)
    header = {
        "name": name,
        "env": subject.env,
        "arguments": dict(subject.arguments),
        "architecture": start.to_json(),
        "fidelities": [rung.name for rung in FIDELITIES],
        "recipes": {rung.name: asdict(rung) for rung in FIDELITIES},
        "cost": {rung.name: _cost(teacher, rung) for rung in FIDELITIES},
        "num_images": {split: len(teacher.task.splits[split]) for split in SPLITS},
        "task": {"name": TASK, "sha256": teacher.task.fingerprint},
        "teacher": {"sha256": weights_hash(name), "correct": _teacher_correct(teacher)},
        "blocks": [],
        "machines": [],
        "licence": LICENCE,
    }
    table = Table(header, **dict.fromkeys(_ARRAYS, np.zeros(0)))  # for its environment
    env = real_env(table, BenchTask(name, "n2n"), "size")
    students = every_student(env)
    count = len(students)
    found = list(students.values())
    size = FileSize.of(start)
    return replace(
        table,
        decisions=np.array(list(students), np.uint8),
        fingerprints=np.array(
            [list(bytes.fromhex(s.fingerprint)) for s in found], np.uint8
        ),
        num_params=np.array([s.num_params for s in found], np.uint32),
        num_macs=np.array([s.num_macs for s in found], np.uint32),
        onnx_bytes=np.array([size(s, start) for s in found]).round().astype(np.uint32),
        peak_bytes=np.array([peak_bytes(s, start) for s in found], np.uint32),
        correct=np.zeros((count, *shape, len(SPLITS)), np.uint16),
        status=np.zeros((count, *shape), np.uint8),
        seconds=np.zeros((count, *shape), np.float32),
        block=np.full(count, NONE, np.uint8),
        latency_ms=np.zeros((count, 0), np.float32),
    )


_ARRAYS: Final = tuple(name for name in Table.__dataclass_fields__ if name != "header")


def _cost(teacher: Teacher, rung: Rung) -> float:
    """Nominal student-epochs of a score."""
    sizes = {name: len(split) for name, split in teacher.task.splits.items()}
    return rung.cost(sizes["train"], sizes["validation"])


def _teacher_correct(teacher: Teacher) -> dict[str, int]:
    return count_correct(teacher.network(CPU), teacher)


def count_correct(network: Any, teacher: Teacher) -> dict[str, int]:
    """Right answers on validation and on test images."""
    found = {}
    for name in SPLITS:
        split = teacher.task.split(name, CPU)
        with alone(1):
            accuracy = compute_accuracy(
                network, split, teacher.normalise, batch_size=BATCH["cpu"]
            )
        found[name] = round(accuracy * len(split))
    return found


def path_of(name: str) -> Any:
    return FOLDER / f"{name}.npz"


def open_table(name: str) -> Table:
    """What there is of a table; with arrays that may be written to."""
    path = path_of(name)
    table = read_table(path) if path.exists() else blank(name)
    arrays = {each: np.array(getattr(table, each)) for each in _ARRAYS}
    return replace(table, **arrays)


def score(
    student: Architecture, teacher: Teacher, rung: Rung, seed: int
) -> dict[str, int] | None:
    """Right answers of one student from one seed; None where it diverged."""
    settings = Settings(rung, CPU, "float32", 1)
    try:
        network = distil(student, teacher, settings, seed=seed)
    except Diverged:
        return None
    return count_correct(network, teacher)


def scored_rows(table: Table) -> NDArray[np.int64]:
    """Rows that all seeds have scored with all fidelities."""
    return np.flatnonzero((table.status == SCORED).all((1, 2)))


def student_of(table: Table, row: int, env: CompressionEnv) -> Architecture:
    """The student of a row, from its decisions."""
    env.reset()
    for action in table.decisions[row].tolist():
        env.episode.decide(action)
    student: Architecture = env.episode.student
    assert student.fingerprint == table.fingerprints[row].tobytes().hex()
    return student


def make(name: str, minutes: float) -> None:
    """Score students that have no score yet, for so long."""
    torch.set_num_threads(1)
    table = open_table(name)
    teacher = load_subject(name)
    assert table.header["teacher"]["sha256"] == weights_hash(name), "another teacher"
    assert table.header["task"]["sha256"] == teacher.task.fingerprint, "other images"
    env = real_env(table, BenchTask(name, "n2n"), "size")
    block = _block_of(table)
    order = np.random.default_rng(0).permutation(len(table))
    left = [row for row in order if (table.status[row] == MISSING).any()]
    ends = written = time.monotonic()
    ends += 60 * minutes
    with tqdm(total=len(table), initial=len(table) - len(left), desc=name) as bar:
        for row in left:
            if time.monotonic() > ends:
                break
            _score_row(table, row, student_of(table, row, env), teacher)
            table.block[row] = block
            bar.update()
            if time.monotonic() - written > WRITE_EVERY:
                write_table(path_of(name), table)
                written = time.monotonic()
    write_table(path_of(name), table)


def _score_row(table: Table, row: int, student: Architecture, teacher: Teacher) -> None:
    for which, rung in enumerate(FIDELITIES):
        for seed in range(SEEDS):
            place = row, seed, which
            if table.status[place] != MISSING:
                continue
            started = time.process_time()
            found = score(student, teacher, rung, seed)
            table.seconds[place] = time.process_time() - started
            table.status[place] = FAILED if found is None else SCORED
            if found is not None:
                table.correct[place] = [found[split] for split in SPLITS]


def _block_of(table: Table) -> int:
    """Where this machine stands among those that have scored the table."""
    here = {
        "torch": torch.__version__,
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    blocks: list[dict[str, str]] = table.header["blocks"]
    if here not in blocks:
        blocks.append(here)
    return blocks.index(here)


def merge(name: str, other: Any) -> None:
    """Take over scores that another file of the same table has and this one lacks."""
    mine, theirs = open_table(name), read_table(other)
    for key in ("architecture", "recipes", "task", "teacher", "fidelities"):
        if mine.header[key] != theirs.header[key]:
            raise ValueError(f"{other} is of another table: its {key} differs")
    assert (mine.fingerprints == theirs.fingerprints).all()
    blocks: list[dict[str, str]] = mine.header["blocks"]
    for row in np.flatnonzero((mine.status == MISSING).all((1, 2))):
        if (theirs.status[row] == MISSING).any():
            continue
        block = theirs.header["blocks"][theirs.block[row]]
        if block not in blocks:
            blocks.append(block)
        for each in ("correct", "status", "seconds"):
            getattr(mine, each)[row] = getattr(theirs, each)[row]
        mine.block[row] = blocks.index(block)
    write_table(path_of(name), mine)
