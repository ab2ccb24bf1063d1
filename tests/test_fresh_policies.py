"""Fresh policies begin near one rate of all widths, with nothing removed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from n2n_agents.kept import load_policy, save_policy
from n2n_agents.players import generator_of
from n2n_agents.policies import initial_bias, make_policy
from n2n_agents.reinforce import FROZEN, MODERN, PAPER, play, train
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


# Policies for many networks.


def test_a_portable_policy_reads_rows_as_they_are_and_standardised(teacher):
    env = make("compress", teacher, 0.25, fit=True)
    policy = make_policy(env, is_portable=True, **BEGIN)
    rows = torch.from_numpy(env.reset()[0])[None, :, policy.columns_in(env).rows]
    told = policy.describe(rows)
    count = rows.shape[-1]
    assert torch.equal(told[..., :count], rows)
    graded = [name for name in policy.columns if name in ("inputs", "params_share")]
    assert len(graded) == 2
    # The first described value after the rows is the first graded column's: type's.
    column = rows[0, :, policy.columns.index("type")]
    expected = (column - column.mean()) / (column.std() + 1e-3)
    torch.testing.assert_close(told[0, :, count], expected.clamp(-3, 3))
    width = policy.context.hidden_size * 2
    assert told.shape[-1] == count + len(policy._graded) + width
    assert not any(policy.columns[i].startswith("is_") for i in policy._graded)


def test_a_portable_policy_does_not_read_positions(teacher):
    """Equal rows are described alike, wherever they are."""
    env = make("compress", teacher, 0.25, fit=True)
    policy = make_policy(env, "autoregressive", is_portable=True, **BEGIN)
    rows = torch.from_numpy(env.reset()[0])[None, :, policy.columns_in(env).rows]
    turned = policy.describe(rows.flip(1)).flip(1)
    torch.testing.assert_close(policy.describe(rows), turned)


def test_a_portable_policy_reads_the_logarithms_of_targets(teacher):
    env = make("compress", teacher, 0.25, fit=True)
    policy = make_policy(env, is_portable=True, **BEGIN)
    states = torch.full((1, 2, len(policy.states)), 0.5)
    states[:, 1] = 0  # a row without a decision
    read = policy.read(states)
    for place, name in enumerate(policy.states):
        is_log = name.startswith(("taken_", "target_"))
        expected = math.log(2) / 4 if is_log else 0.5
        assert read[0, 0, place].item() == pytest.approx(expected)
    assert (read[:, 1] == 0).all()
    assert torch.equal(make_policy(env).read(states), states)


def test_a_portable_policy_comes_back_from_its_file(teacher, tmp_path):
    env = make("compress", teacher, 0.25, fit=True)
    policy = make_policy(env, is_portable=True, **BEGIN)
    save_policy(policy, tmp_path / "policy.pt")
    again = load_policy(tmp_path / "policy.pt")
    assert again.is_portable
    assert torch.equal(play(env, again).actions, play(env, policy).actions)
    assert "is_portable" not in make_policy(env).arguments  # as in older files


def test_a_frozen_policy_plays_its_likeliest_student_first(teacher):
    env = make("shrink", teacher, 0.25)
    policy = make_policy(env, **BEGIN)
    before = {name: w.clone() for name, w in policy.state_dict().items()}
    likeliest = play(env, policy).actions
    played = []
    updates = train(env, policy, FROZEN, updates=2, on_episode=played.append)
    assert torch.equal(played[0].actions, likeliest)
    assert len({tuple(each.actions.tolist()) for each in played}) > 1
    assert [update.gradient for update in updates] == [0, 0]
    assert all(update.entropy > 0 for update in updates)
    after = policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(each.grad is None for each in policy.parameters())
