"""Search agents: what a policy has to be better than."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray


def random_search(
    env: gym.Env[NDArray[np.float32], Any],
    *,
    episodes: int,
    seed: int = 0,
    on_episode: Callable[[float, dict[str, Any]], None] | None = None,
) -> None:
    """Play legal actions drawn uniformly.

    Args:
        on_episode: Called with the return and the last info of each episode.
    """
    env.action_space.seed(seed)
    for _ in range(episodes):
        _, info = env.reset()
        earned, is_over = 0.0, False
        while not is_over:
            action = env.action_space.sample(info["action_mask"])
            _, reward, terminated, truncated, info = env.step(action)
            earned += float(reward)
            is_over = terminated or truncated
        if on_episode is not None:
            on_episode(earned, info)
