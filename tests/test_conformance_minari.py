"""Minari: episodes recorded with their masks, read, played again, and imitated."""

import gc

import minari
import numpy as np
import pytest
import torch
from torch import nn

from n2n_agents.adapters import MaskedObservation
from tests.journal import make

EPISODES = 40
ABOUT = {  # what a data set says of itself
    "algorithm_name": "random",
    "author": "us",
    "author_email": "us@example.org",
    "code_permalink": "https://example.org",
    "description": "random legal actions",
    "requirements": ["n2n-gym"],
}

# Its collector removes its folder, but leaves the object for it to be collected.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Implicitly cleaning up <TemporaryDirectory:ResourceWarning"
)


def choose_at_random(observation, env):
    return env.action_space.sample(observation["action_mask"].astype(np.int8))


def play(env, choose, *, episodes: int) -> list[float]:
    """The episodes' returns."""
    returns = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        is_over = False
        while not is_over:
            action = choose(observation, env)
            observation, reward, is_over, _, info = env.step(action)
            assert not info["illegal"]
        returns.append(float(reward))
    return returns


def record() -> list[float]:
    played = MaskedObservation(make(teacher="resnet18"))
    env = minari.DataCollector(played)
    env.action_space.seed(0)
    returns = play(env, choose_at_random, episodes=EPISODES)
    made = env.create_dataset(
        "n2n/remove/random-v0",
        eval_env=played.spec,
        **ABOUT,
        ref_min_score=min(returns),
        ref_max_score=max(returns),
    )
    assert made.total_episodes == EPISODES
    env.close()
    return returns


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> minari.MinariDataset:
    """Episodes of random legal actions."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    returns = record()
    gc.collect()  # that warning comes here or in some other test
    kept = minari.load_dataset("n2n/remove/random-v0")
    assert [episode.rewards.sum() for episode in kept] == returns
    return kept


def test_recorded_episodes_play_again_in_the_recovered_environment(dataset):
    env = dataset.recover_environment()
    assert isinstance(env, MaskedObservation)
    assert env.unwrapped.teacher.name == "resnet18"
    for episode in dataset:
        seen = [env.reset()[0]]
        for action, reward, is_over in zip(
            episode.actions, episode.rewards, episode.terminations, strict=True
        ):
            observation, *earned, _, info = env.step(action)
            assert earned == [reward, is_over]
            assert not info["illegal"]
            seen.append(observation)
        assert is_over
        for key, kept in episode.observations.items():
            np.testing.assert_array_equal(kept, [one[key] for one in seen])


def test_imitating_the_best_episodes_beats_random_play(dataset):
    torch.manual_seed(0)
    values = [episode.rewards.sum() for episode in dataset]
    best = dataset.filter_episodes(
        lambda episode: episode.rewards.sum() >= np.quantile(values, 0.8)
    )
    rows = torch.cat(
        [torch.as_tensor(e.observations["observations"][:-1]) for e in best]
    )
    actions = torch.cat([torch.as_tensor(e.actions) for e in best])
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(rows[0].numel(), 64), nn.Tanh(), nn.Linear(64, 2)
    )
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    losses = []
    for _ in range(200):
        loss = nn.functional.cross_entropy(net(rows), actions)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    def choose(observation, env):
        with torch.no_grad():
            logits = net(torch.as_tensor(observation["observations"])[None])[0]
        return int(np.where(observation["action_mask"], logits, -np.inf).argmax())

    (value,) = play(dataset.recover_environment(), choose, episodes=1)
    assert losses[-1] < losses[0] / 2
    assert value > np.mean(values)
