"""A baseline for every agent: a regression of accuracy on parameters and MACs.

It reads the table directly, so it knows the parameters and MACs of all students. An
agent sees the parameters and MACs of one student at a time, when only the last decision
about this student remains.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from envs_registry.bench import BenchTask
from n2n_gym.bench.table import Table

FIRST: Final = 5  # random students before the first fit
EXPLORED: Final = 3  # after them, each third student is random
QUADRATIC: Final = 12  # with fewer scored students the fit is linear
LINEAR: Final = 3  # features of a linear fit: 1, log parameters, log MACs

Values = NDArray[np.float64]


def regression_search(
    table: Table, task: BenchTask, count: int, rng: np.random.Generator
) -> list[int]:
    """The rows of the distinct students that the regression scores, in order.

    All are within the task's limit. Some are random. Each of the others has the best
    predicted reward of all students that are not scored yet, by a fit to all that are.
    Of students with equal predictions, a random one is taken.

    Args:
        count: Number of students; all students within the limit if there are fewer.
    """
    accuracy = table.accuracy()
    left = [int(row) for row in rng.permutation(np.flatnonzero(table.within(task)))]
    tried: list[int] = []
    while left and len(tried) < count:
        if len(tried) < FIRST or len(tried) % EXPLORED == 0:
            row = left[0]
        else:
            predicted = fitted_rewards(table, task, accuracy, np.array(tried))
            row = max(left, key=lambda each: predicted[each])
        left.remove(row)
        tried.append(row)
    return tried


def fitted_rewards(
    table: Table, task: BenchTask, accuracy: Values, scored: NDArray[np.int64]
) -> Values:
    """Predicted rewards of all students, (N,), up to a constant factor.

    A quadratic in log parameters and log MACs is fitted to the accuracies of the
    ``scored`` students; with few of them the fit is linear.

    Args:
        accuracy: Accuracy of each student, (N,); only those of ``scored`` are used.
    """
    scored = scored[~np.isnan(accuracy[scored])]  # without failures
    features, place = _features(table)
    if len(scored) < QUADRATIC:
        features = features[:, :LINEAR]
    known = features[place[scored]]
    weights, *_ = np.linalg.lstsq(known, accuracy[scored], rcond=None)
    fitted = (features @ weights)[place]
    if task.reward == "accuracy":
        return np.asarray(fitted)
    c = 1 - table.num_params / table.start.num_params
    return np.asarray(c * (2 - c) * fitted)


@lru_cache(maxsize=8)  # a search fits many times
def _features(table: Table) -> tuple[Values, NDArray[np.int64]]:
    """Features of each size, (K, 6), the first ``LINEAR`` linear, and students' sizes.

    The second array, (N,), has the position of each student's size among the K sizes:
    students of equal size must have equal predictions to the bit.
    """
    sizes = np.stack([table.num_params, table.num_macs], 1)
    unique, place = np.unique(sizes, axis=0, return_inverse=True)
    logs = np.log(unique.astype(float))
    x = (logs - logs.mean(0)) / logs.std(0)
    return np.hstack([np.ones((len(x), 1)), x, x**2, x[:, :1] * x[:, 1:]]), place
