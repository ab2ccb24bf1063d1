"""Search agents: what a policy has to be better than."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import rollouts


def random_search(
    env: rollouts.Environment,
    *,
    episodes: int,
    seed: int = 0,
    on_episode: Callable[[float, dict[str, Any]], None] | None = None,
) -> None:
    """Play legal actions drawn uniformly.

    Args:
        env: An environment or a vector of such; the episodes are the same.
        episodes: How many; a multiple of a vector's rows.
        on_episode: Called with the return and the last info of each episode.
    """
    acts = [_uniform(np.random.default_rng([seed, k])) for k in range(episodes)]
    for rewards, info in rollouts.play_all(env, acts):
        if on_episode is not None:
            on_episode(sum(rewards), info)


def _uniform(generator: np.random.Generator) -> rollouts.Act:
    """Draws from the legal actions."""

    def act(observation: rollouts.Observation, mask: NDArray[np.int8]) -> int:
        return int(generator.choice(np.flatnonzero(mask)))

    return act
