"""Bayesian optimisation: the arithmetic by hand, and that it learns."""

from __future__ import annotations

import math

import numpy as np
import pytest

from n2n_agents.bayesian import (
    Kernel,
    Students,
    covariance,
    distances,
    expected_improvement,
    log_likelihood,
    posterior,
)

KERNEL = Kernel(length=0.5, scale=2.0, sizes=0.25, noise=0.5)


def students(*pairs) -> Students:
    """Of one action and one size each."""
    actions, sizes = np.array(pairs, float).T
    return Students(actions[:, None], sizes[:, None])


def test_the_covariance_is_of_actions_and_of_sizes():
    one = Students(np.array([[0.0, 1.0]]), np.array([[0.0, 3.0]]))
    other = Students(np.array([[0.5, 1.0]]), np.array([[4.0, 0.0]]))
    # Actions differ by .25 on average, sizes by 5.
    expected = 0.25 * math.exp(-25 / 8) + 0.75 * math.exp(-0.25 / 0.5)
    apart = distances(one, other)
    assert (apart.actions.item(), apart.sizes.item()) == (0.25, 25)
    assert covariance(apart, KERNEL).item() == pytest.approx(expected)
    assert covariance(distances(one, one), KERNEL).item() == 1


def test_the_likelihood_is_that_of_a_normal_at_its_best_variance():
    x, y = students((0, 0), (1, 0)), np.array([1.0, -1.0])
    k = 0.25 + 0.75 * math.exp(-2)
    # Along (1, -1) the eigenvalue is 1.5 - k, so that y' K^-1 y = 2 / (1.5 - k).
    variance = 1 / (1.5 - k)
    expected = -0.5 * math.log((1.5 + k) * (1.5 - k)) - math.log(variance)
    assert log_likelihood(distances(x, x), y, KERNEL) == pytest.approx(expected)


def test_the_posterior_of_one_student():
    x, y = students((0, 0)), np.array([3.0])
    mean, deviation = posterior(x, y, students((0, 0), (1, 0)), KERNEL)
    k = 0.25 + 0.75 * math.exp(-2)
    variance = 9 / 1.5  # y' K^-1 y / n
    assert mean == pytest.approx([3 / 1.5, 3 * k / 1.5])
    expected = [variance * (1 - 1 / 1.5), variance * (1 - k * k / 1.5)]
    assert deviation == pytest.approx(np.sqrt(expected))


def test_the_expected_improvement_of_a_normal():
    mean, deviation = np.array([1.0, 3.0, -2.0]), np.array([2.0, 1e-6, 1e-6])
    found = expected_improvement(mean, deviation, best=1.0)
    # At the best itself it is the deviation / sqrt(2 pi); far above, the difference.
    assert found == pytest.approx([2 / math.sqrt(2 * math.pi), 2.0, 0.0])


def test_rewards_that_are_all_equal_are_no_error():
    x, y = students((0, 0), (1, 1), (0, 1)), np.zeros(3)
    mean, deviation = posterior(x, y, students((1, 0)), KERNEL)
    found = expected_improvement(mean, deviation, best=0.0)
    assert np.isfinite([*mean, *deviation, *found]).all()
