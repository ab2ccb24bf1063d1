"""Small tables for the tests of N2N-Bench: every student, with made-up scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from benchmarks.n2n_bench.make import every_student
from envs_registry import BENCH
from envs_registry.bench import ENTRY, BenchTask
from n2n_gym.bench import table as tables
from n2n_gym.bench import write_table
from n2n_gym.bench.env import real_env, regrets
from n2n_gym.bench.table import Table
from n2n_gym.pytorch.trace import trace
from tests.networks import SmallResNet

AIMS = {
    "N2NBench/Small-v0": BenchTask("small", "n2n"),
    "N2NBench/Small-Params2-v0": BenchTask("small", "accuracy", ("num_params", 0.5)),
}
ARGUMENTS = {
    "remove": {"granularity": "unit"},
    "shrink": {
        "granularity": "stage",
        "variables": ["width"],
        "rates": [0.3, 0.6, 1.0],
    },
    "compress": {
        "granularity": "block",
        "shrink_granularity": "stage",
        "variables": ["width"],
        "rates": [0.5, 1.0],
    },
}


def small_table(env: str = "remove") -> Table:
    """All students of a small network, with made-up scores: 3 seeds, 2 fidelities."""
    start = trace(SmallResNet(), (1, 8, 8))
    header = {
        "name": "small",
        "env": env,
        "arguments": ARGUMENTS[env],
        "architecture": start.to_json(),
        "fidelities": ["bench-v1", "inherit"],
        "cost": {"bench-v1": 0.25, "inherit": 0.125},
        "num_images": {"validation": 100, "test": 200},
        "teacher": {"correct": {"validation": 90, "test": 178}},
        "blocks": [{"torch": "2", "processor": "one"}],
        "machines": [],
    }
    names = [each.name for each in fields(Table) if each.name != "header"]
    empty = Table(header, **dict.fromkeys(names, np.zeros(0)))
    students = every_student(real_env(empty, AIMS["N2NBench/Small-v0"], "size"))
    found = list(students.values())
    rng, count = np.random.default_rng(0), len(students)
    status = np.full((count, 3, 2), tables.SCORED, np.uint8)
    status[:, 1:, 1] = tables.UNUSED
    return replace(
        empty,
        decisions=np.array(list(students), np.uint8),
        fingerprints=np.array(
            [list(bytes.fromhex(s.fingerprint)) for s in found], "u1"
        ),
        num_params=np.array([s.num_params for s in found], np.uint32),
        num_macs=np.array([s.num_macs for s in found], np.uint32),
        onnx_bytes=np.ones(count, np.uint32),
        peak_bytes=np.ones(count, np.uint32),
        correct=rng.integers(20, 90, (count, 3, 2, 2)).astype(np.uint16),
        status=status,
        seconds=np.full((count, 3, 2), 0.5, np.float32),
        block=np.zeros(count, np.uint8),
        latency_ms=np.zeros((count, 0), np.float32),
    )


@contextmanager
def installed(table: Table, folder: Path) -> Iterator[None]:
    """Such a table where the package's are, with two tasks."""
    with pytest.MonkeyPatch.context() as patch:
        write_table(folder / "small.npz", table)
        patch.setattr(tables, "FOLDER", folder)
        for name in list(BENCH):
            patch.delitem(BENCH, name)
        for name, task in AIMS.items():
            patch.setitem(BENCH, name, task)
            gym.register(id=name, entry_point=ENTRY, kwargs={"task": name})
        regrets.cache_clear()
        yield
        regrets.cache_clear()
        for name in AIMS:
            del gym.registry[name]
