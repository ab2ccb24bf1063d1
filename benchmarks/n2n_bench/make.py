"""Making a table: list every student, then score them in random order.

    python -m benchmarks.n2n_bench make remove-residual --minutes 60
    python -m benchmarks.n2n_bench merge remove-residual elsewhere.npz

The table's file is in the package. It is written every minute, so a stopped run can be
resumed. Students are scored in a fixed random order, so the scored part of a table is a
fair sample of the table.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx.experimental.optimization import fuse
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
    UNUSED,
    Table,
    read_table,
    write_table,
)
from n2n_gym.envs import CompressionEnv
from n2n_gym.evaluators.distillation import Settings, distil
from n2n_gym.evaluators.rungs import BENCH_V1, INHERIT, Rung
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.determinism import isolated
from n2n_gym.pytorch.inference import BATCH, compute_accuracy
from n2n_gym.pytorch.training import Diverged
from n2n_gym.resources.computed import peak_bytes
from n2n_gym.resources.machine import processor
from n2n_gym.resources.prediction import FileSize
from n2n_gym.teachers.teacher import Teacher

FIDELITIES: Final = (BENCH_V1, INHERIT)
SEEDS: Final = {BENCH_V1.name: 3, INHERIT.name: 1}
MOST: Final = 4_096  # students of a table
WRITE_EVERY: Final = 60.0  # seconds
NONE: Final = 255  # ``block`` of a student without a score
LICENCE: Final = "CC0-1.0"


def every_episode(
    env: CompressionEnv,
) -> Iterator[tuple[tuple[int, ...], float, Architecture]]:
    """Each sequence of legal decisions, its probability under random play, its student.

    Random play draws uniformly from the legal actions.
    """
    env.reset()
    left: list[tuple[tuple[int, ...], float, CompressionEnv]] = [((), 1.0, env)]
    while left:
        before, chance, here = left.pop()
        legal = np.flatnonzero(here.action_masks()).tolist()
        for action in legal:
            after = copy.deepcopy(here)
            after.advance(action)
            actions, mine = (*before, action), chance / len(legal)
            if after.is_complete:
                yield actions, mine, after.episode.student
            else:
                left.append((actions, mine, after))


def every_student(env: CompressionEnv) -> dict[tuple[int, ...], Architecture]:
    """All students of legal decisions, each by its first sequence; ascending."""
    found: dict[str, tuple[tuple[int, ...], Architecture]] = {}
    for actions, _, student in every_episode(env):
        known = found.get(student.fingerprint)
        if known is None or actions < known[0]:
            found[student.fingerprint] = actions, student
    assert len(found) <= MOST, f"{len(found)} students"
    return dict(sorted(found.values()))


def blank(name: str) -> Table:
    """A table without scores."""
    subject, teacher = SUBJECTS[name], load_subject(name)
    start = teacher.architecture
    shape = max(SEEDS.values()), len(FIDELITIES)
    status = np.full((MOST, *shape), MISSING, np.uint8)
    for which, rung in enumerate(FIDELITIES):
        status[:, SEEDS[rung.name] :, which] = UNUSED
    header = {
        "name": name,
        "env": subject.env,
        "arguments": dict(subject.arguments),
        "architecture": start.to_json(),
        "fidelities": [rung.name for rung in FIDELITIES],
        "recipes": {rung.name: rung.as_written() for rung in FIDELITIES},
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
        status=status[:count],
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
    """Number of correct predictions on validation and on test images."""
    fused = fuse(network.eval())  # batch norm inside convolutions takes no time
    found = {}
    for name in SPLITS:
        split = teacher.task.split(name, CPU)
        with isolated(1):
            accuracy = compute_accuracy(
                fused, split, teacher.normalise, batch_size=BATCH["cpu"]
            )
        found[name] = round(accuracy * len(split))
    return found


def path_of(name: str) -> Any:
    return FOLDER / f"{name}.npz"


def open_table(name: str) -> Table:
    """The table so far, with writable arrays."""
    path = path_of(name)
    table = read_table(path) if path.exists() else blank(name)
    arrays = {each: np.array(getattr(table, each)) for each in _ARRAYS}
    return replace(table, **arrays)


def score(
    student: Architecture, teacher: Teacher, rung: Rung, seed: int
) -> dict[str, int] | None:
    """Correct predictions of one student with one seed; None if it diverged."""
    settings = Settings(rung, CPU, "float32", 1)
    try:
        network = distil(student, teacher, settings, seed=seed)
    except Diverged:
        return None
    return count_correct(network, teacher)


def scored_rows(table: Table) -> NDArray[np.int64]:
    """Rows with scores for all seeds and fidelities."""
    return np.flatnonzero(np.isin(table.status, (SCORED, UNUSED)).all((1, 2)))


def student_of(table: Table, row: int, env: CompressionEnv) -> Architecture:
    """The student of a row, from its decisions."""
    env.reset()
    for action in table.decisions[row].tolist():
        env.episode.decide(action)
    student: Architecture = env.episode.student
    assert student.fingerprint == table.fingerprints[row].tobytes().hex()
    return student


def make(name: str, minutes: float) -> None:
    """Score students that have no score yet, until the minutes are over."""
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
        for seed in range(SEEDS[rung.name]):
            place = row, seed, which
            if table.status[place] != MISSING:
                continue
            started = time.process_time()
            found = score(student, teacher, rung, seed)
            table.seconds[place] = time.process_time() - started
            table.status[place] = FAILED if found is None else SCORED
            if found is not None:
                table.correct[place] = [found[split] for split in SPLITS]


def here() -> dict[str, str]:
    """This machine, as far as scores depend on it."""
    return {
        "torch": torch.__version__,
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def _block_of(table: Table) -> int:
    """Index of this machine among those that have scored the table."""
    machine = here()
    blocks: list[dict[str, str]] = table.header["blocks"]
    if machine not in blocks:
        blocks.append(machine)
    return blocks.index(machine)


def merge(name: str, other: Any) -> None:
    """Add the scores that this table lacks and another file of the same table has."""
    mine, theirs = open_table(name), read_table(other)
    for key in ("architecture", "recipes", "task", "teacher", "fidelities"):
        if mine.header[key] != theirs.header[key]:
            raise ValueError(f"{other} is of another table: its {key} differs")
    assert (mine.fingerprints == theirs.fingerprints).all()
    blocks: list[dict[str, str]] = mine.header["blocks"]
    for row in np.flatnonzero((mine.status == MISSING).any((1, 2))):
        if (theirs.status[row] == MISSING).any():
            continue
        block = theirs.header["blocks"][theirs.block[row]]
        if block not in blocks:
            blocks.append(block)
        for each in ("correct", "status", "seconds"):
            getattr(mine, each)[row] = getattr(theirs, each)[row]
        mine.block[row] = blocks.index(block)
    write_table(path_of(name), mine)
