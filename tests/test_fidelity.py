"""The statistics of the fidelity benchmark."""

import numpy as np
import pytest

from benchmarks.agreement import agreement, left_one_out, tau_of_similar
from n2n_gym.rewards import Score


def test_pairs_of_other_sizes_do_not_count():
    cheap, full = np.array([0.1, 0.2, 0.9, 0.8]), np.array([0.5, 0.6, 0.1, 0.2])
    # Two pairs are of a size: one in the same order on both, one in the other.
    params = np.array([100, 149, 1_000, 1_499])
    assert tau_of_similar(cheap, full, params) == 0
    assert tau_of_similar(cheap[:3], full[:3], params[:3]) == 1
    assert np.isnan(tau_of_similar(cheap[1:3], full[1:3], params[1:3]))


def test_ties_count_as_in_tau_b():
    cheap, full = np.array([0.5, 0.5, 0.6]), np.array([0.1, 0.2, 0.3])
    # Two of three pairs are concordant, the third is tied on one side.
    found = tau_of_similar(cheap, full, np.array([10, 11, 12]))
    assert found == pytest.approx(2 / np.sqrt(2 * 3))


def test_each_value_is_predicted_from_the_others():
    features = np.arange(5.0)[:, None]
    line = 2 * features[:, 0] + 1
    assert left_one_out(features, line) == pytest.approx(line)
    bent = line + np.array([0, 0, 0, 0, 9.0])
    assert left_one_out(features, bent)[4] == pytest.approx(line[4])


def test_rewards_are_compared_by_accuracy_and_size():
    sizes = np.array([[100, 10], [500, 10], [900, 10]])
    whole = Score(0.9, 1_000, 100)
    same = np.full(3, 0.5)
    rising = np.array([0.1, 0.5, 0.9])
    found = agreement(same, rising, sizes, whole)
    assert np.isnan(found["overall"])  # nothing but size to tell them apart
    # Rewards .099, .375 and .171 against .99, .75 and .19 by size: one pair agrees.
    assert found["reward"] == pytest.approx(-1 / 3)
    assert agreement(rising, rising, sizes, whole)["reward"] == 1
