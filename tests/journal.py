"""The results of an environment, recorded beside what a library made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym

import n2n_gym  # noqa: F401  registers the ids


class Episode(NamedTuple):
    """A finished one."""

    actions: list[Any]
    rewards: list[float]
    was_illegal: list[bool]
    info: dict[str, Any]  # the last

    @property
    def value(self) -> float:
        return sum(self.rewards)


class Journal(gym.Wrapper):
    """Keeps every finished episode of an environment."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.episodes: list[Episode] = []
        self._running = Episode([], [], [], {})

    def reset(self, **arguments):
        self._running = Episode([], [], [], {})
        return self.env.reset(**arguments)

    def step(self, action):
        result = self.env.step(action)
        _, reward, terminated, truncated, info = result
        assert not truncated
        self._running.actions.append(action)
        self._running.rewards.append(reward)
        self._running.was_illegal.append(info["illegal"])
        if terminated:
            self.episodes.append(self._running._replace(info=info))
        return result

    @property
    def values(self) -> list[float]:
        return [episode.value for episode in self.episodes]


def make(name: str = "N2NRemove-v0", **arguments) -> gym.Env:
    """An environment of a small network that costs nothing to score."""
    arguments = {"teacher": "vgg11_bn", "evaluator": "size", **arguments}
    return gym.make(name, **arguments)


def check_episodes(journal: Journal, *, at_least: int) -> None:
    """Whole episodes, earned at their end, which their actions alone explain."""
    assert len(journal.episodes) >= at_least
    num_decisions = len(journal.unwrapped.decisions)
    for episode in journal.episodes:
        assert len(episode.actions) == num_decisions
        assert not any(episode.rewards[:-1])
        assert episode.info["num_params"] > 0
        assert episode.info["is_success"]
    last, env = journal.episodes[-1], journal.unwrapped
    taken = zip(last.actions, last.was_illegal, strict=True)
    *first, final = [env.metadata["keep"] if bad else a for a, bad in taken]
    env.reset(options={"decisions": first})
    _, reward, terminated, _, info = env.step(final)
    assert terminated
    assert (reward, info["fingerprint"]) == (last.value, last.info["fingerprint"])


def check_legal(journals: Sequence[Journal], *, at_least: int) -> None:
    """Whole episodes of legal actions, earned at their end."""
    played = [episode for journal in journals for episode in journal.episodes]
    assert len(played) >= at_least
    for episode in played:
        assert len(episode.actions) == len(journals[0].unwrapped.decisions)
        assert not any(episode.was_illegal)
        assert not any(episode.rewards[:-1])
