"""Whether a table is worth being one: the rules that it has to keep.

    python -m benchmarks.n2n_bench rules remove-residual

(a) Kendall's tau between two seeds' accuracies, among students within 1.5 times in
    parameters, is at least .6.
(b) Thirty random students, a quadratic regression on log parameters and log MACs, and
    its twenty best predictions scored: a test regret above two standard errors.
(c) The best of 100 random students: likewise.
(d) At most 1 % of students are within two standard errors of the best.

A part of a table is judged as if it were all there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from benchmarks.n2n_bench.make import scored_rows
from envs_registry.bench import AIMS, BenchTask, tasks_of
from n2n_gym.bench.rivals import PROBES, SAMPLE, random_search, regression_search
from n2n_gym.bench.table import Table

ALIKE: Final = 1.5  # times, in parameters
FEWEST_TAU: Final = 0.6
ERRORS: Final = 2.0
MOST_TIED: Final = 0.01
RANDOM: Final = 100
DRAWS: Final = 300  # of (b) and (c)

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """What the rules say of one task; regrets are in rewards."""

    task: str
    students: int
    legal: int  # within the limit
    error: float  # standard error of a reward
    regression: float  # (b)
    random: float  # (c)
    tied: float  # (d), a share
    optimum: float
    size: float  # tau of the reward with minus parameters

    @property
    def is_kept(self) -> bool:
        least = ERRORS * self.error
        return min(self.regression, self.random) > least and self.tied <= MOST_TIED


def part_of(table: Table, rows: NDArray[np.int64]) -> Table:
    arrays = {
        name: getattr(table, name)[rows]
        for name in Table.__dataclass_fields__
        if name != "header"
    }
    return Table(table.header, **arrays)


def tau_at_fixed_size(table: Table, a: Values, b: Values) -> float:
    """Kendall's tau of two rankings, over pairs of students alike in size."""
    logs = np.log(table.num_params.astype(float))
    i, j = np.triu_indices(len(logs), 1)
    is_alike = np.abs(logs[i] - logs[j]) < np.log(ALIKE)
    i, j = i[is_alike], j[is_alike]
    return float(np.mean(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])))


def tau_of_seeds(table: Table, fidelity: str | None = None) -> float:
    """(a)"""
    a, b = (table.accuracy(fidelity=fidelity, seed=seed) for seed in (0, 1))
    return tau_at_fixed_size(table, a, b)


def judge(name: str, task: BenchTask, table: Table) -> Verdict:
    """One task of a table that is scored throughout."""
    rewards, tests = table.values(task), table.values(task, "test")
    accuracy, within = table.accuracy(), table.within(task)
    whole = table.teacher_score.accuracy
    # Within limits a reward is the accuracy over the teacher's; the paper's, C(2 - C)
    # times that, at most.
    best = int(rewards.argmax())
    scale = rewards[best] / (accuracy[best] / whole)
    error = table.standard_error() / whole * scale
    regrets = []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        budget = SAMPLE + PROBES
        (b,) = regression_search(
            table, task, rewards, accuracy, [budget], rng, sample=SAMPLE
        )
        (c,) = random_search(rewards, [RANDOM], rng)
        regrets.append(tests.max() - tests[[b, c]])
    b_mean, c_mean = np.mean(regrets, 0)
    is_tied = rewards >= rewards.max() - ERRORS * error
    size = kendalltau(rewards[within], -table.num_params[within].astype(float))
    return Verdict(
        name,
        len(table),
        int(within.sum()),
        float(error),
        float(b_mean),
        float(c_mean),
        float(is_tied.mean()),
        float(rewards.max()),
        float(size.statistic),
    )


def report(table: Table) -> None:
    """What the rules say of every task of a table."""
    part = part_of(table, scored_rows(table))
    seconds = part.seconds.sum(1).mean(0)
    print(f"{table.name}: {len(part)} of {len(table)} students scored")
    for which, fidelity in enumerate(table.fidelities):
        print(
            f"  {fidelity}: (a) tau {tau_of_seeds(part, fidelity):.3f}, standard error "
            f"{100 * part.standard_error(fidelity=fidelity):.2f} points, "
            f"{seconds[which]:.2f} CPU-s a student"
        )
    for name, task in tasks_of(table.name, AIMS).items():
        if part.within(task).sum() < 2:
            print(f"  {name}: {part.within(task).sum()} students within the limit")
            continue
        found = judge(name, task, part)
        print(
            f"  {'kept' if found.is_kept else 'FAILS'} {name}: legal {found.legal}, "
            f"two errors {ERRORS * found.error:.4f}, (b) {found.regression:.4f}, "
            f"(c) {found.random:.4f}, (d) {found.tied:.2%}, optimum "
            f"{found.optimum:.4f}, tau with size {found.size:.2f}"
        )
