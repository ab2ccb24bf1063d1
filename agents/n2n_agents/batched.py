"""Episodes of one policy, played together in all rows of a vector environment.

This is for trainings of millions of steps. A step reads one row of each episode's
observation, while a ``Player`` reads all rows of its observation at every step. The
sampled actions depend on how many episodes are played together.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n_agents.players import Episode
from n2n_agents.policies import NO_ACTION, Policy, one_hot
from n2n_agents.rollouts import Observation, info_of

Vector = gym.vector.VectorEnv[Observation, Any, NDArray[Any]]


class Reader:
    """A policy that reads N observations row by row, in order, each row only once.

    Args:
        rows: The columns that describe rows, (N, T, F).
    """

    def __init__(self, policy: Policy, rows: Tensor) -> None:
        self.policy, self.rows = policy, rows
        self._described = policy.describe(rows)
        self._next = 0  # the first row that is not read yet
        self._memory: tuple[Tensor, Tensor] | None = None  # of the LSTM
        self._before = torch.full((len(rows),), NO_ACTION)
        self._all: Tensor | None = None
        if policy.kind == "bidirectional":
            none = torch.full(rows.shape[:2], NO_ACTION)
            self._all = policy(rows, none)

    def logits(self, row: int, states: Tensor) -> Tensor:
        """Logits of the actions in one row, (N, A).

        Args:
            row: Index of the row; it must be higher than in the call before.
            states: The columns that change, at the time of this decision, (N, S).
        """
        if self._all is not None:
            return self._all[:, row]
        first, self._next = self._next, row + 1
        assert first <= row, "rows are read once, in their order"
        read = [self._described[:, first : row + 1]]
        before = torch.full((len(states), row + 1 - first), NO_ACTION)
        before[:, 0] = self._before
        read.append(one_hot(before, self.policy.num_actions).to(states))
        if self.policy.states:
            shown = states.new_zeros(len(states), row + 1 - first, states.shape[1])
            shown[:, -1] = states
            read.append(self.policy.read(shown))
        inputs = torch.cat(read, -1)
        found, self._memory = self.policy.lstm(inputs, self._memory)
        # Rows between decisions have no action, whatever comes next.
        self._before = torch.full_like(self._before, NO_ACTION)
        return self.policy.decide(found[:, -1], inputs[:, -1], self.rows[:, row])

    def take(self, actions: Tensor) -> None:
        """Set the actions that were taken in the row read last, (N,)."""
        self._before = actions


@torch.no_grad()
def play_batch(
    env: Vector,
    policy: Policy,
    generator: torch.Generator | None,
    options: dict[str, Any] | None = None,
) -> list[Episode]:
    """Play one episode in each row of a vector environment.

    At every step, all rows must be at the same decision; the actions can differ.

    Args:
        generator: Generator that samples actions; None for the likeliest action at
            every step.
        options: Options of ``reset``.

    Raises:
        ValueError: The rows are at different decisions.
    """
    columns = policy.columns_in(env)
    observations, infos = env.reset(options=options)
    height = observations.shape[1]
    if columns.is_row is not None:  # padding rows come last
        height = int(observations[0, :, columns.is_row].sum())
    rows = torch.from_numpy(observations[:, :height][..., columns.rows])
    reader = Reader(policy, rows)
    states = torch.zeros(env.num_envs, height, len(columns.states))
    actions = torch.full((env.num_envs, height), NO_ACTION)
    shape = env.num_envs, height, policy.num_actions
    masks = torch.ones(shape, dtype=torch.bool)
    total, is_over = np.zeros(env.num_envs), False
    while not is_over:
        (row,) = set(observations[..., columns.current].argmax(1).tolist())
        states[:, row] = torch.from_numpy(observations[:, row][:, columns.states])
        masks[:, row] = torch.from_numpy(infos["action_mask"].astype(bool))
        scores = reader.logits(row, states[:, row])
        scores = scores.masked_fill(~masks[:, row], -torch.inf)
        if generator is None:
            chosen = scores.argmax(-1)
        else:
            draws = torch.multinomial(scores.softmax(-1), 1, generator=generator)
            chosen = draws[:, 0]
        reader.take(chosen)
        actions[:, row] = chosen
        observations, earned, terminated, _, infos = env.step(chosen.numpy())
        total += earned
        is_over = bool(terminated.all())
    return [
        Episode(
            rows[i], states[i], actions[i], masks[i], float(total[i]), info_of(infos, i)
        )
        for i in range(env.num_envs)
    ]
