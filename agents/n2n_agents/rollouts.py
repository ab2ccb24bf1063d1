"""Episodes in an environment, one after another, or in lock step in a vector.

Both ways give the same episodes: each episode has its own actor, and each actor that
samples has its own generator. An actor is a function that chooses actions (``Act``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import create_empty_array
from numpy.typing import NDArray

Observation: TypeAlias = NDArray[np.float32]
Environment: TypeAlias = (
    gym.Env[Observation, Any] | gym.vector.VectorEnv[Observation, Any, NDArray[Any]]
)
# Function that returns an episode's next action, from the observation and the mask.
# With continuous actions the mask is None.
Act: TypeAlias = Callable[[Observation, NDArray[np.int8] | None], Any]
Played: TypeAlias = tuple[list[float], dict[str, Any]]  # rewards, last info


def play_all(env: Environment, acts: Sequence[Act]) -> Iterator[Played]:
    """One episode by each actor, in the order of the actors.

    Raises:
        ValueError: The number of episodes is not a multiple of the vector's rows.
    """
    if not isinstance(env, gym.vector.VectorEnv):
        for act in acts:
            yield _play_one(env, act)
        return
    if len(acts) % env.num_envs:
        raise ValueError(
            f"the number of episodes played together must be a multiple of "
            f"num_envs={env.num_envs}, got {len(acts)}"
        )
    for first in range(0, len(acts), env.num_envs):
        yield from _play_together(env, acts[first : first + env.num_envs])


def _play_one(env: gym.Env[Observation, Any], act: Act) -> Played:
    return play_on(env, *env.reset(), act)


def play_on(
    env: gym.Env[Observation, Any],
    observation: Observation,
    info: dict[str, Any],
    act: Act,
) -> Played:
    """Play the rest of an episode, given the last observation and info."""
    rewards, is_over = [], False
    while not is_over:
        action = act(observation, info.get("action_mask"))
        observation, reward, terminated, truncated, info = env.step(action)
        rewards.append(float(reward))
        is_over = terminated or truncated
    return rewards, info


def _play_together(
    env: gym.vector.VectorEnv[Observation, Any, NDArray[Any]], acts: Sequence[Act]
) -> list[Played]:
    """One episode in each row; no actor is called after the end of its episode."""
    observations, infos = env.reset()
    rewards: list[list[float]] = [[] for _ in acts]
    last: dict[int, dict[str, Any]] = {}
    while len(last) < len(acts):
        masks = infos.get("action_mask")
        running = [i for i in range(len(acts)) if i not in last]
        # Rows that have ended get any legal action.
        actions: Any = (
            create_empty_array(env.single_action_space, env.num_envs)
            if masks is None
            else masks.argmax(1)
        )
        for i in running:
            actions[i] = acts[i](observations[i], None if masks is None else masks[i])
        observations, earned, terminated, truncated, infos = env.step(actions)
        ends = infos.get("final_info", infos)  # used if rows reset automatically
        for i in running:
            rewards[i].append(float(earned[i]))
            if terminated[i] or truncated[i]:
                last[i] = info_of(ends, i)
    return [(rewards[i], last[i]) for i in range(len(acts))]


def play_until(
    env: Environment, acts: Sequence[Act], length: int
) -> tuple[Observation, NDArray[np.int8] | None]:
    """The first row's observation and mask after some steps of an episode.

    Args:
        env: Environment, or vector environment.
        acts: One actor for each row of a vector environment, or one actor.
        length: Number of steps; it must not end the episode.
    """
    if not isinstance(env, gym.vector.VectorEnv):
        (act,) = acts
        observation, info = env.reset()
        for _ in range(length):
            action = act(observation, info.get("action_mask"))
            observation, _, _, _, info = env.step(action)
        return observation, info.get("action_mask")
    observations, infos = env.reset()
    for _ in range(length):
        masks = infos["action_mask"]
        chosen = [act(observations[i], masks[i]) for i, act in enumerate(acts)]
        observations, _, _, _, infos = env.step(np.array(chosen))
    return observations[0], infos["action_mask"][0]


def info_of(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """The info of one row, as a single environment returns it."""
    return {
        key: _value_of(value, row)
        for key, value in infos.items()
        if not key.startswith("_") and infos.get(f"_{key}", {row: True})[row]
    }


def _value_of(values: Any, row: int) -> Any:
    if isinstance(values, dict):
        return info_of(values, row)
    value = values[row]
    return value.item() if isinstance(value, np.generic) else value
