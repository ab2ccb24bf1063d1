"""Episodes as a policy plays them, with what it read and did, to learn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n_agents.policies import NO_ACTION, Places, Policy, require_fit
from n2n_agents.rollouts import Environment, Observation, play_all


@dataclass(frozen=True)
class Episode:
    """One episode as a policy plays it."""

    rows: Tensor  # (T, F), what describes the real rows
    states: Tensor  # (T, S), what changes, as it was when each row was decided
    actions: Tensor  # (T,) int64, NO_ACTION in rows that are not decided
    masks: Tensor  # (T, A) bool, all True in such rows
    reward: float  # the return
    info: dict[str, Any]  # the last


class Player:
    """Plays one episode with a policy, and remembers it.

    It asks the policy for this episode alone, since a forward pass over several can
    differ in the last bits, and with them a draw.
    """

    def __init__(
        self, policy: Policy, places: Places, generator: torch.Generator | None
    ) -> None:
        self.policy = policy
        self.places = places
        self.generator = generator
        self.is_begun = False

    def act(self, observation: Observation, mask: NDArray[np.int8] | None) -> int:
        assert mask is not None, "policies choose between discrete actions"
        if not self.is_begun:
            self._begin(observation)
        current = int(observation[:, self.places.current].argmax())
        self.states[current] = torch.from_numpy(
            observation[current][self.places.states]
        )
        if self.policy.kind != "bidirectional":
            self.logits = self._logits()
        is_legal = self.masks[current] = torch.from_numpy(mask.astype(bool))
        scores = self.logits[current].masked_fill(~is_legal, -torch.inf)
        if self.generator is None:
            action = int(scores.argmax())
        else:
            draw = torch.multinomial(scores.softmax(0), 1, generator=self.generator)
            action = int(draw)
        self.actions[current] = action
        return action

    def _begin(self, observation: Observation) -> None:
        self.is_begun = True
        places = self.places
        real = observation
        if places.is_row is not None:  # rows that only fill up come last
            real = observation[: int(observation[:, places.is_row].sum())]
        self.rows = torch.from_numpy(real[:, places.rows])
        self.states = torch.zeros(len(self.rows), len(places.states))
        self.actions = torch.full((len(self.rows),), NO_ACTION)
        shape = len(self.rows), self.policy.num_actions
        self.masks = torch.ones(shape, dtype=torch.bool)
        if self.policy.kind == "bidirectional":
            self.logits = self._logits()

    @torch.no_grad()
    def _logits(self) -> Tensor:
        """Of this episode's rows, (T, A)."""
        logits: Tensor = self.policy(
            self.rows[None], self.actions[None], self.states[None]
        )
        return logits[0]

    def episode(self, rewards: Sequence[float], info: dict[str, Any]) -> Episode:
        return Episode(
            self.rows,
            self.states,
            self.actions,
            self.masks,
            float(sum(rewards)),  # undiscounted: gamma is 1
            info,
        )


def play(
    env: gym.Env[Observation, Any],
    policy: Policy,
    generator: torch.Generator | None = None,
) -> Episode:
    """Play one episode: sampled from the policy, or its likeliest actions.

    Args:
        generator: Samples; None for the likeliest action at every step.
    """
    require_fit(policy, env)
    (episode,) = play_players(env, [Player(policy, policy.places(env), generator)])
    return episode


def play_players(env: Environment, players: Sequence[Player]) -> Iterator[Episode]:
    """An episode with each of the players, in their order."""
    played = play_all(env, [player.act for player in players])
    for player, (rewards, info) in zip(players, played, strict=True):
        yield player.episode(rewards, info)


def generator_of(seed: int, episode: int) -> torch.Generator:
    """An episode's own, so that it does not matter which are played before it."""
    (state,) = np.random.SeedSequence([seed, episode]).generate_state(1)
    return torch.Generator().manual_seed(int(state))
