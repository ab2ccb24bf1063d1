"""A policy that plays all rows of a vector at once plays what it plays alone."""

import numpy as np
import pytest
import torch

from n2n_agents.batched import play_batch
from n2n_agents.policies import NO_ACTION, make_policy
from n2n_agents.reading import Reader
from n2n_agents.reinforce import log_probabilities, play
from n2n_gym.envs import CompressEnv, CompressionVectorEnv, RemoveEnv, ShrinkEnv

LIMITS = {"constraints": {"num_params": 3_000}, "fit": True}


def make(kind, teacher, **arguments):
    return kind(teacher, evaluator="size", **arguments)


@pytest.mark.parametrize("kind", ["two-pass", "autoregressive", "bidirectional"])
@pytest.mark.parametrize(
    ("env", "arguments"),
    [(RemoveEnv, {}), (ShrinkEnv, {}), (CompressEnv, LIMITS), (RemoveEnv, LIMITS)],
)
def test_the_likeliest_actions_are_those_of_one_episode_alone(
    kind, env, arguments, teacher
):
    one = make(env, teacher, **arguments, max_rows=80)
    policy = make_policy(one, kind, seed=3)
    alone = play(one, policy)
    for episode in play_batch(CompressionVectorEnv(one, 3), policy, None):
        assert torch.equal(episode.actions, alone.actions)
        assert torch.equal(episode.masks, alone.masks)
        assert torch.equal(episode.states, alone.states)
        assert episode.reward == alone.reward
        assert episode.info["fingerprint"] == alone.info["fingerprint"]


@pytest.mark.parametrize("is_portable", [False, True])
def test_what_was_drawn_had_the_probability_that_learning_computes(
    teacher, is_portable
):
    """Rows read one after another have the logits of all rows at once."""
    one = make(CompressEnv, teacher, **LIMITS)
    policy = make_policy(one, uniformity=0.9, seed=1, is_portable=is_portable)
    generator = torch.Generator().manual_seed(0)
    episodes = play_batch(CompressionVectorEnv(one, 4), policy, generator)
    assert len({tuple(e.actions.tolist()) for e in episodes}) > 1
    with torch.no_grad():
        whole = log_probabilities(policy, episodes)
        reader = Reader(policy, torch.stack([e.rows for e in episodes]))
        for row in range(whole.shape[1]):
            actions = torch.stack([e.actions[row] for e in episodes])
            if actions[0] == NO_ACTION:
                continue
            states = torch.stack([e.states[row] for e in episodes])
            masks = torch.stack([e.masks[row] for e in episodes])
            logits = reader.logits(row, states).masked_fill(~masks, -torch.inf)
            reader.take(actions)
            np.testing.assert_allclose(
                logits.log_softmax(-1).exp(), whole[:, row].exp(), atol=1e-6
            )


def test_a_seed_says_what_is_drawn(teacher):
    vector = CompressionVectorEnv(make(RemoveEnv, teacher), 3)
    policy = make_policy(vector)
    first, second, other = (
        play_batch(vector, policy, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    drawn = [[e.actions.tolist() for e in some] for some in (first, second, other)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_limits_of_an_episode_go_to_every_row(teacher):
    one = make(CompressEnv, teacher, **LIMITS)
    vector = CompressionVectorEnv(one, 2)
    options = {"limits": {"num_params": 1_000}}
    policy = make_policy(vector)
    for episode in play_batch(vector, policy, None, options):
        assert episode.info["limit_num_params"] == 1_000
        assert episode.info["num_params"] <= 1_000
