"""Episodes that a policy plays, with the inputs and actions that it learns from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n_agents.policies import NO_ACTION, Columns, Policy, require_fit
from n2n_agents.proposals import nearest
from n2n_agents.reading import Reader
from n2n_agents.rollouts import Environment, Observation, play_all


@dataclass(frozen=True)
class Episode:
    """One episode played by a policy."""

    rows: Tensor  # (T, F), columns that describe the rows, without padding rows
    states: Tensor  # (T, S), columns that change, at the time of each row's decision
    actions: Tensor  # (T,) int64, NO_ACTION in rows that are not decided
    masks: Tensor  # (T, A) bool, all True in rows that are not decided
    reward: float  # the return
    info: dict[str, Any]  # the last info


class Player:
    """Plays one episode with a policy and remembers it.

    It calls the policy with one episode at a time. With several episodes in a forward
    pass, logits can differ in the last bits, which can change a sampled action.

    Args:
        generator: Generator that samples actions; None for the likeliest action at
            every step.
        given: Actions to take instead of the policy's, by the decision's position. The
            nearest legal action replaces an illegal one.
    """

    def __init__(
        self,
        policy: Policy,
        columns: Columns,
        generator: torch.Generator | None,
        given: Mapping[int, int] | None = None,
    ) -> None:
        self.policy = policy
        self.columns = columns
        self.generator = generator
        self.given = given or {}
        self.position = -1
        self.is_begun = False

    def act(self, observation: Observation, mask: NDArray[np.int8] | None) -> int:
        assert mask is not None, "policies choose between discrete actions"
        if not self.is_begun:
            self._begin(observation)
        current = int(observation[:, self.columns.current].argmax())
        state = torch.from_numpy(observation[current][self.columns.states])
        is_legal = torch.from_numpy(mask.astype(bool))
        self.position += 1
        action = self._choose(current, state, is_legal)
        self.reader.take(torch.tensor([action]))
        self.states[current], self.masks[current] = state, is_legal
        self.actions[current] = action
        return action

    @torch.no_grad()
    def _choose(self, current: int, state: Tensor, is_legal: Tensor) -> int:
        (logits,) = self.reader.logits(current, state[None])
        if self.position in self.given:
            legal = np.flatnonzero(is_legal.numpy())
            return nearest(legal, self.given[self.position])
        scores = logits.masked_fill(~is_legal, -torch.inf)
        if self.generator is None:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(0), 1, generator=self.generator))

    @torch.no_grad()
    def _begin(self, observation: Observation) -> None:
        self.is_begun = True
        columns = self.columns
        real = observation
        if columns.is_row is not None:  # padding rows come last
            real = observation[: int(observation[:, columns.is_row].sum())]
        self.rows = torch.from_numpy(real[:, columns.rows])
        self.states = torch.zeros(len(self.rows), len(columns.states))
        self.actions = torch.full((len(self.rows),), NO_ACTION)
        shape = len(self.rows), self.policy.num_actions
        self.masks = torch.ones(shape, dtype=torch.bool)
        self.reader = Reader(self.policy, self.rows[None])

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
    """Play one episode: with sampled actions, or with the most probable ones.

    Args:
        generator: Generator for sampling; None for the most probable action at every
            step.
    """
    require_fit(policy, env)
    (episode,) = play_players(env, [Player(policy, policy.columns_in(env), generator)])
    return episode


def play_players(env: Environment, players: Sequence[Player]) -> Iterator[Episode]:
    """One episode by each player, in the order of the players."""
    played = play_all(env, [player.act for player in players])
    for player, (rewards, info) in zip(players, played, strict=True):
        yield player.episode(rewards, info)


def generator_of(seed: int, episode: int) -> torch.Generator:
    """The generator of one episode, which does not depend on earlier episodes."""
    (state,) = np.random.SeedSequence([seed, episode]).generate_state(1)
    return torch.Generator().manual_seed(int(state))
