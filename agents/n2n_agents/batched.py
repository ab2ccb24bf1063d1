"""Episodes of one policy, played together in all rows of a vector environment.

This is for trainings of millions of steps. The sampled actions depend on how many
episodes are played together.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from n2n_agents.players import Episode
from n2n_agents.policies import NO_ACTION, Policy
from n2n_agents.reading import Reader
from n2n_agents.rollouts import Observation, info_of

Vector = gym.vector.VectorEnv[Observation, Any, NDArray[Any]]


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
