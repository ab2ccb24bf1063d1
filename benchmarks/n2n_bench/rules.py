"""The rules that a table has to keep.

    python -m benchmarks.n2n_bench rules remove-residual

(a) Kendall's tau between the accuracies of two seeds is at least .6, over pairs of
    students whose numbers of parameters differ by a factor of at most 1.5.
(b) A regression does not solve the task. It is quadratic in log parameters and log
    MACs, and fitted to thirty random students. Then the twenty students within the
    limit that have the best predictions are scored.
(c) Random search does not solve the task: neither the best of 100 distinct random
    students within the limit nor the best of 100 random episodes.
(d) The rewards of at most 1 % of the students within the limit are within two standard
    errors of the best reward.

A search solves a task if its test regret is at most two standard errors of a reward
above the test regret of a perfect search. A perfect search finds the best student on
validation images. The test regret of this student may be above zero.

In an incomplete table, only students that have scores are judged.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from benchmarks.n2n_bench.make import every_episode, scored_rows
from envs_registry.bench import AIMS, BenchTask, tasks_of
from n2n_gym.bench.env import real_env
from n2n_gym.bench.rivals import fitted_rewards
from n2n_gym.bench.table import Table
from n2n_gym.envs.compression import CompressionEnv

ALIKE: Final = 1.5  # largest ratio of parameters
FEWEST_TAU: Final = 0.6
ERRORS: Final = 2.0
MOST_TIED: Final = 0.01
SAMPLE: Final = 30  # students that the regression of (b) is fitted to
PROBES: Final = 20  # best predictions that are scored
RANDOM: Final = 100
DRAWS: Final = 300  # of (b) and (c)

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one task; regrets are in units of reward."""

    task: str
    students: int
    legal: int  # within the limit
    error: float  # standard error of a reward
    perfect: float  # test regret of the best student on validation images
    regression: float  # (b)
    random: float  # (c), distinct students
    play: float  # (c), episodes
    tied: float  # (d), a share of the legal students
    optimum: float
    size: float  # tau of the rewards with minus the number of parameters

    @property
    def is_kept(self) -> bool:
        gain = min(self.regression, self.random, self.play) - self.perfect
        return gain > ERRORS * self.error and self.tied <= MOST_TIED


def part_of(table: Table, rows: NDArray[np.int64]) -> Table:
    arrays = {
        name: getattr(table, name)[rows]
        for name in Table.__dataclass_fields__
        if name != "header"
    }
    return Table(table.header, **arrays)


def tau_at_fixed_size(table: Table, a: Values, b: Values) -> float:
    """Kendall's tau of two lists of values, over pairs of students of similar size."""
    logs = np.log(table.num_params.astype(float))
    i, j = np.triu_indices(len(logs), 1)
    is_alike = np.abs(logs[i] - logs[j]) < np.log(ALIKE)
    i, j = i[is_alike], j[is_alike]
    return float(np.mean(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])))


def tau_of_seeds(table: Table) -> float:
    """Kendall's tau of rule (a)."""
    a, b = (table.accuracy(seed=seed) for seed in (0, 1))
    return tau_at_fixed_size(table, a, b)


def chances_of_play(env: CompressionEnv) -> dict[str, float]:
    """The probability of each student under random legal play, by fingerprint."""
    found: Counter[str] = Counter()
    for _, chance, student in every_episode(env):
        found[student.fingerprint] += chance
    return dict(found)


def judge(name: str, task: BenchTask, table: Table) -> Verdict:
    """The verdict on one task of a table in which every student has scores."""
    rewards, tests = table.values(task), table.values(task, "test")
    accuracy, within = table.accuracy(), table.within(task)
    whole = table.teacher_score.accuracy
    # With limits, the reward is the accuracy relative to the teacher's. The paper's is
    # C(2 - C) times that, so at most as large.
    best = int(rewards.argmax())
    scale = rewards[best] / (accuracy[best] / whole)
    error = table.standard_error() / whole * scale
    chances = chances_of_play(real_env(table, task, "size"))
    played = np.array([chances[student] for student in table.row_of])
    regrets = []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        searches = (
            _regression(table, task, rng),
            rng.permutation(np.flatnonzero(within))[:RANDOM],
            rng.choice(len(table), RANDOM, p=played / played.sum()),
        )
        found = [rows[rewards[rows].argmax()] for rows in searches]
        regrets.append(tests.max() - tests[found])
    b_mean, c_mean, play_mean = np.mean(regrets, 0)
    is_tied = rewards[within] >= rewards.max() - ERRORS * error
    size = kendalltau(rewards[within], -table.num_params[within].astype(float))
    return Verdict(
        name,
        len(table),
        int(within.sum()),
        float(error),
        float(tests.max() - tests[best]),
        float(b_mean),
        float(c_mean),
        float(play_mean),
        float(is_tied.mean()),
        float(rewards.max()),
        float(size.statistic),
    )


def _regression(
    table: Table, task: BenchTask, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The rows that the regression of rule (b) scores."""
    order = rng.permutation(len(table))  # also of students with equal predictions
    drawn = order[:SAMPLE]
    predicted = fitted_rewards(table, task, table.accuracy(), drawn)
    predicted[~table.within(task)] = -np.inf
    predicted[drawn] = -np.inf
    best = order[np.argsort(-predicted[order], kind="stable")][:PROBES]
    return np.concatenate([drawn, best])


def report(table: Table) -> None:
    """The verdicts on every task of a table."""
    part = part_of(table, scored_rows(table))
    seconds = part.seconds.sum(1).mean(0)
    print(f"{table.name}: {len(part)} of {len(table)} students scored")
    print(
        f"  (a) tau {tau_of_seeds(part):.3f}, standard error "
        f"{100 * part.standard_error():.2f} points"
    )
    for which, fidelity in enumerate(table.fidelities):
        print(f"  {fidelity}: {seconds[which]:.2f} CPU-s a student")
    for name, task in tasks_of(table.name, AIMS).items():
        if part.within(task).sum() < 2:
            print(f"  {name}: {part.within(task).sum()} students within the limit")
            continue
        found = judge(name, task, part)
        print(
            f"  {'kept' if found.is_kept else 'FAILS'} {name}: legal {found.legal}, "
            f"two errors {ERRORS * found.error:.4f}, perfect {found.perfect:.4f}, "
            f"(b) {found.regression:.4f}, (c) {found.random:.4f} and "
            f"{found.play:.4f}, (d) {found.tied:.2%}, optimum "
            f"{found.optimum:.4f}, tau with size {found.size:.2f}"
        )
