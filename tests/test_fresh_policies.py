"""Fresh policies begin near one rate of all widths, with nothing removed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from n2n_agents.kept import load_policy, save_policy
from n2n_agents.players import generator_of
from n2n_agents.policies import initial_bias, make_policy
from n2n_agents.reinforce import MODERN, PAPER, play, train
from n2n_gym.envs import CompressionVectorEnv
from n2n_gym.networks.decisions import Removal
from tests.test_proposals import make

BEGIN = {"uniformity": MODERN.uniformity}


def choices(env, policy, episodes: int = 30) -> dict[str, np.ndarray]:
    """What was decided about removals, widths and kernels: shares kept, (N,)."""
    found: dict[str, list[float]] = {}
    for number in range(episodes):
        play(env, policy, generator_of(7, number))
        made = zip(env.decisions, env.episode.choices, strict=True)
        for decision, choice in made:
            is_removal = isinstance(decision, Removal)
            kind = "removal" if is_removal else decision.variable
            found.setdefault(kind, []).append(1 - choice if is_removal else choice)
    return {kind: np.array(values) for kind, values in found.items()}


def test_the_bias_is_a_normal_about_the_level_and_the_log_odds_of_keeping():
    width = initial_bias("decides_width", 10, 9, 0.9, 0.5)
    assert width[4] == 0
    assert width[9] == pytest.approx(-(math.log(2) ** 2) / (2 * 0.25**2))
    assert initial_bias("decides_unit", 2, 0, 0.9, 1.0) == [
        pytest.approx(math.log(9)),
        0,
    ]
    assert initial_bias("decides_kernel", 10, 9, 0.5, 0.3) == [pytest.approx(0)] * 10


def test_first_students_have_one_rate_as_wide_as_the_limit_allows(teacher):
    env = make("shrink", teacher, 0.25)
    first = choices(env, make_policy(env, **BEGIN))
    plain = choices(env, make_policy(env))
    rates = np.log(first["width"])
    assert np.exp(rates.mean()) == pytest.approx(0.5, abs=0.12)
    assert rates.std() < 0.4 < np.log(plain["width"]).std()
    assert (first["kernel"] == 1).mean() > 0.75 > (plain["kernel"] == 1).mean()


@pytest.mark.parametrize("share", [0.25, 0.1])
def test_nothing_is_removed_where_widths_follow(share, teacher):
    env = make("compress", teacher, share, fit=True)
    first = choices(env, make_policy(env, **BEGIN))
    plain = choices(env, make_policy(env))
    assert first["removal"].mean() > 0.8 > plain["removal"].mean()
    assert np.log(first["width"]).std() < 0.5


def test_of_removals_alone_a_policy_keeps_as_many_as_it_is_told(teacher):
    env = make("remove", teacher)
    kept = {
        level: choices(env, make_policy(env, level=level, **BEGIN))["removal"].mean()
        for level in (1.0, None)
    }
    assert kept[1.0] > 0.8
    assert 0.3 < kept[None] < 0.8  # half of those that can go still


def test_a_vector_gives_the_same_policy(teacher):
    env = make("shrink", teacher, 0.25)
    one, two = (
        make_policy(each, **BEGIN) for each in (env, CompressionVectorEnv(env, 5))
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.parameters(), two.parameters(), strict=True)
    )


def test_the_papers_begin_as_their_layers_do(teacher):
    env = make("shrink", teacher, 0.25)
    assert PAPER.uniformity == 0
    for arguments in ({}, {"is_plain": True}, {"is_plain": True, **BEGIN}):
        assert not make_policy(env, **arguments).kinds
    biased, plain = make_policy(env, **BEGIN), make_policy(env)
    assert biased.kinds
    # All else is as it was.
    weights = plain.state_dict()
    assert all(
        torch.equal(biased.state_dict()[name], weights[name]) for name in weights
    )


def test_the_bias_is_learned_and_kept(teacher, tmp_path):
    env = make("shrink", teacher)
    policy = make_policy(env, **BEGIN)
    before = policy.bias.detach().clone()
    train(env, policy, MODERN, updates=1)
    assert not torch.equal(policy.bias, before)
    save_policy(policy, tmp_path / "policy.pt")
    again = load_policy(tmp_path / "policy.pt")
    assert torch.equal(play(env, again).actions, play(env, policy).actions)
    assert torch.equal(again.bias, policy.bias)
