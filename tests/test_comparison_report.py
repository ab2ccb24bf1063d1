import numpy as np
import pytest

from n2n_gym.comparison.statistics import (
    Curve,
    _band,
    as_markdown,
    bands,
    draw,
    estimate,
    heights,
    improvement,
    iqm,
    iqm_of_all,
    read_curves,
    summarise,
)


def lines(agent: str, seed: int, rewards: list[float], env: str = "a") -> list[dict]:
    common = {"env": f"m:{env}", "arguments": {"teacher": "t"}, "agent": agent}
    common |= {"seed": seed, "epochs": 10.0}
    evaluations = [
        {**common, "kind": "evaluation", "number": i, "cost": 2.0 * i, "reward": reward}
        for i, reward in enumerate(rewards, 1)
    ]
    return [*evaluations, {**common, "kind": "end"}]


def test_a_curve_is_the_best_so_far():
    curves = read_curves(lines("x", 3, [0.2, 0.5, 0.1, 0.6]))
    curve = curves["a t"]["x"][3]
    assert curve.costs.tolist() == [2, 4, 6, 8]
    assert curve.best.tolist() == [0.2, 0.5, 0.5, 0.6]
    at = curve.at(np.array([1.0, 2.0, 5.0, 99.0]))
    assert np.isnan(at[0])
    assert at[1:].tolist() == [0.2, 0.5, 0.6]


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    assert iqm(np.array([0.0, 1.0, 2.0, 100.0])) == 1.5
    assert iqm(np.array([7.0])) == 7.0


def test_intervals_hold_the_value_and_narrow_with_more_runs():
    rng = np.random.default_rng(1)
    few, many = (estimate(iqm_of_all, [rng.normal(size=n)]) for n in (5, 500))
    for found in (few, many):
        assert found.low <= found.value <= found.high
    assert many.high - many.low < 0.4 * (few.high - few.low)


def test_a_band_is_the_intervals_of_its_points():
    values = np.random.default_rng(0).normal(size=(6, 3))
    middle, low, high = _band(values)
    for column, *found in zip(values.T, middle, low, high, strict=True):
        one = estimate(iqm_of_all, [column])
        assert found == pytest.approx(one, abs=0.1)
        assert found[0] == pytest.approx(one.value)


def test_plots_show_where_the_agents_end():
    found = [*lines("x", 0, [0.0, 0.7, 0.9]), *lines("y", 0, [0.1, 0.8, 0.8])]
    low, high = heights(bands(read_curves(found)["a t"]))
    assert (low, high) == pytest.approx((0.79, 0.91))
    alike = lines("x", 0, [0.5, 0.5])
    low, high = heights(bands(read_curves(alike)["a t"]))
    assert low < 0.5 < high


def test_groups_are_resampled_by_themselves():
    """Two that are constant each leave nothing to vary."""
    found = estimate(iqm_of_all, [np.zeros(4), np.ones(4)])
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


def test_the_probability_of_improvement_counts_pairs():
    a, b = np.array([1.0, 2.0]), np.array([0.0, 1.0, 3.0])
    # 1: beats 0, ties 1; 2: beats 0 and 1.
    assert improvement([a, b]) == pytest.approx((1 + 0.5 + 2) / 6)
    assert improvement([a, a, b, a]) == pytest.approx(((1 + 0.5 + 2) / 6 + 0.5) / 2)


def test_random_search_is_zero_and_the_best_known_is_one():
    found = []
    for env, best in (("a", 0.8), ("b", 0.6)):
        for seed in range(3):
            found += lines("random", seed, [0.4], env)
            found += lines("good", seed, [best], env)
    good, random = summarise(read_curves(found))
    assert (good.agent, random.agent) == ("good", "random")
    assert good.normalised.value == pytest.approx(1)
    assert random.normalised.value == pytest.approx(0, abs=1e-12)
    assert good.is_better.value == 1
    assert random.is_better is None
    (first, _) = summarise(read_curves(found), {"a t": 1.2, "b t": 0.8})
    assert first.normalised.value == pytest.approx(0.5)


def test_a_task_where_random_search_finds_the_best_says_nothing():
    best = [0.3, 0.1 + 0.2]  # equal but for rounding
    found = [*lines("random", 0, best[:1]), *lines("good", 0, best[1:])]
    assert best[1] > best[0]
    assert [row.normalised.value for row in summarise(read_curves(found))] == [0, 0]


def test_tables_and_pictures_are_drawn(tmp_path):
    found = []
    for seed in range(3):
        found += lines("random", seed, [0.1, 0.4 + 0.01 * seed])
        found += lines("good", seed, [0.3, 0.2, 0.5 + 0.01 * seed])
    curves = read_curves(found)
    table = as_markdown(summarise(curves)).splitlines()
    assert table[0] == "| agent | a t | normalised | better than random |"
    assert table[2].startswith("| good | 0.5100 [")
    pytest.importorskip("matplotlib", reason="the extra bench draws")
    draw(curves, tmp_path / "curves.png", "student-epochs")
    assert (tmp_path / "curves.png").stat().st_size > 5_000


def test_a_curve_needs_no_budget_of_epochs():
    found = lines("x", 0, [0.5, 0.6])
    for line in found:
        line["epochs"] = None
    assert isinstance(read_curves(found)["a t"]["x"][0], Curve)
    assert read_curves(found)["a t"]["x"][0].costs.tolist() == [1, 2]
