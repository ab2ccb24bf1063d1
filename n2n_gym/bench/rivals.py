"""What every agent has to beat: random search, and a regression on two numbers.

Both work on the table itself. The regression knows the parameters and MACs of students
that it has not scored, which an agent does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from envs_registry.bench import BenchTask
from n2n_gym.bench.table import Table

SAMPLE: Final = 30  # students that the regression is fitted to
PROBES: Final = 20  # of its best predictions, which are then scored

Values = NDArray[np.float64]


def random_search(
    rewards: Values, budgets: Sequence[int], rng: np.random.Generator
) -> list[int]:
    """The best row within each budget, of distinct students in random order."""
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
    """The best row within each budget, by a quadratic in log parameters and log MACs.

    A part of each budget is drawn at random, and the regression is fitted to it; the
    rest are its best predictions. Small samples fit fewer terms.

    Args:
        sample: How many are drawn; a third by default, at most ``SAMPLE``.
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
    """What students of these accuracies would earn, up to a factor."""
    if task.reward == "accuracy":
        return accuracy
    c = 1 - table.num_params / table.start.num_params
    return np.asarray(c * (2 - c) * accuracy)


def _predict(table: Table, accuracy: Values, drawn: NDArray[np.int64]) -> Values:
    """Accuracies of all students, from those of a few."""
    logs = np.log(np.stack([table.num_params, table.num_macs], 1).astype(float))
    x = (logs - logs.mean(0)) / logs.std(0)
    ones = np.ones((len(x), 1))
    linear = np.hstack([ones, x])
    quadratic = np.hstack([linear, x**2, x[:, :1] * x[:, 1:]])
    features = quadratic if len(drawn) >= 2 * quadratic.shape[1] else linear
    weights, *_ = np.linalg.lstsq(features[drawn], accuracy[drawn], rcond=None)
    return np.asarray(features @ weights)
