"""Baselines for every agent: random search, and a regression on parameters and MACs.

Both baselines read the table directly. The regression knows the parameters and MACs of
all students. An agent sees the parameters and MACs of one student at a time, when only
the last decision about this student remains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from envs_registry.bench import BenchTask
from n2n_gym.bench.table import Table

SAMPLE: Final = 30  # students that the regression is fitted to
PROBES: Final = 20  # best predictions that are scored

Values = NDArray[np.float64]


def random_search(
    rewards: Values, budgets: Sequence[int], rng: np.random.Generator
) -> list[int]:
    """The row of the best student that random search finds with each budget.

    Args:
        rewards: Reward of each student, (N,).
        budgets: Numbers of students that are scored.
    """
    order = rng.permutation(len(rewards))
    return [int(order[:n][rewards[order[:n]].argmax()]) for n in budgets]


def regression_search(
    table: Table,
    task: BenchTask,
    rewards: Values,
    accuracy: Values,
    budgets: Sequence[int],
    rng: np.random.Generator,
    *,
    sample: int | None = None,
) -> list[int]:
    """The row of the best student that the regression finds with each budget.

    The first students of each budget are drawn at random. A quadratic in log parameters
    and log MACs is fitted to their accuracies. The rest of the budget goes to the
    students with the best predicted rewards. With few drawn students the fit is linear,
    not quadratic.

    Args:
        rewards: Reward of each student, (N,).
        accuracy: Accuracy of each student, (N,).
        budgets: Numbers of students that are scored.
        sample: Number of students drawn; by default a third of the budget, from 4 to
            ``SAMPLE``, but never more than the budget.
    """
    within = table.within(task)
    best = []
    for budget in budgets:
        count = sample or min(SAMPLE, max(4, budget // 3))
        drawn = rng.permutation(len(rewards))[: min(count, budget)]
        predicted = _predict(table, accuracy, drawn)
        worth = _worth(table, task, predicted)
        worth[~within] = -np.inf
        worth[drawn] = -np.inf
        chosen = np.argsort(-worth, kind="stable")[: budget - len(drawn)]
        tried = np.concatenate([drawn, chosen])
        best.append(int(tried[rewards[tried].argmax()]))
    return best


def _worth(table: Table, task: BenchTask, accuracy: Values) -> Values:
    """Rewards of students with these accuracies, up to a constant factor."""
    if task.reward == "accuracy":
        return accuracy
    c = 1 - table.num_params / table.start.num_params
    return np.asarray(c * (2 - c) * accuracy)


def _predict(table: Table, accuracy: Values, drawn: NDArray[np.int64]) -> Values:
    """Accuracies of all students, (N,), by a fit to the ``drawn`` students."""
    logs = np.log(np.stack([table.num_params, table.num_macs], 1).astype(float))
    x = (logs - logs.mean(0)) / logs.std(0)
    ones = np.ones((len(x), 1))
    linear = np.hstack([ones, x])
    quadratic = np.hstack([linear, x**2, x[:, :1] * x[:, 1:]])
    features = quadratic if len(drawn) >= 2 * quadratic.shape[1] else linear
    weights, *_ = np.linalg.lstsq(features[drawn], accuracy[drawn], rcond=None)
    return np.asarray(features @ weights)
