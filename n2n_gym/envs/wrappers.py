"""Wrappers of either environment: limits that close in, and a reward with parts."""

from __future__ import annotations

from typing import Any, Final, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from n2n_gym.envs.compression import CompressionEnv, Observation

POWER: Final = 4  # of the share of progress that is left
EPISODES: Final = 75  # until nothing is left


def epsilon_at(progress: float) -> float:
    """eps = (1 - progress)^4: from 1 to 0 while progress goes from 0 to 1."""
    return (1 - progress) ** POWER


class _ClosingIn:
    """Progress that never goes back, and eps with it."""

    _value = 0.0
    _count = 0  # of episodes that have ended
    _episodes: int | None = None

    @property
    def epsilon(self) -> float:
        """What is left of the reward of a student that breaks a limit."""
        return epsilon_at(self._value)

    def set_progress(self, progress: float) -> None:
        """Say how far the training is, from 0 to 1; there is no way back.

        Raises:
            ValueError: It is no number from 0 to 1.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress is from 0 to 1, got {progress!r}")
        self._value = max(self._value, progress)
        self._put(self.epsilon)

    def _count_up_to(self, episodes: int | None) -> None:
        if episodes is not None and episodes < 1:
            raise ValueError(f"episodes must be 1 or more, got {episodes}")
        self._episodes = episodes
        self.set_progress(0.0)

    def _end_episodes(self, count: int) -> None:
        self._count += count
        if count and self._episodes is not None:
            self.set_progress(min(1.0, self._count / self._episodes))

    def _put(self, epsilon: float) -> None:
        """Give it to the environment."""
        raise NotImplementedError


class ProgressiveConstraint(
    _ClosingIn, gym.Wrapper[Observation, Any, Observation, Any]
):
    """Limits that close in while an agent learns, as in N2N learning.

    A student that breaks a limit earns eps (R + 1) - 1. eps falls from 1, where limits
    cost nothing, to 0, where such a student earns -1, and never rises again. For the
    environment alone, with its fixed ``epsilon=``, rewards are stationary; with this
    they are not.

    Args:
        env: An environment with ``constraints=``.
        episodes: After so many, eps is 0; by default after 15 updates of 5, as in the
            paper's code. None where ``set_progress`` alone is to move it.
    """

    def __init__(
        self, env: gym.Env[Observation, Any], episodes: int | None = EPISODES
    ) -> None:
        super().__init__(env)
        self._count_up_to(episodes)

    def step(
        self, action: Any
    ) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._end_episodes(int(terminated))
        return observation, reward, terminated, truncated, info

    def _put(self, epsilon: float) -> None:
        _compression(self).epsilon = epsilon


class ProgressiveConstraintVector(_ClosingIn, gym.vector.VectorWrapper):
    """The same for the rows of a vector environment, which share their progress.

    Args:
        env: As ``gym.make_vec`` gives it for either environment.
        episodes: As in `ProgressiveConstraint`, of all rows together.
    """

    def __init__(
        self, env: gym.vector.VectorEnv, episodes: int | None = EPISODES
    ) -> None:
        super().__init__(env)
        self._count_up_to(episodes)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        result = self.env.step(actions)
        self._end_episodes(int(np.sum(result[2])))
        return result

    def _put(self, epsilon: float) -> None:
        rows: Any = self.env.unwrapped  # both kinds of ours and Gymnasium's have it
        rows.set_attr("epsilon", epsilon)


class MultiObjective(gym.Wrapper[Observation, Any, Observation, Any]):
    """MO-Gymnasium's interface: the reward is ``info["reward_vector"]``.

    Its parts, all to be large, are named in ``env.unwrapped.objectives``; accuracy
    against the teacher's first, then what is saved of each resource. Limits do not
    show in it. ``reward_space`` bounds it.
    """

    def __init__(self, env: gym.Env[Observation, Any]) -> None:
        super().__init__(env)
        savings = len(_compression(self).objectives) - 1
        self.reward_space = gym.spaces.Box(
            np.array([0.0] + [-np.inf] * savings),
            np.array([np.inf] + [1.0] * savings),
            dtype=np.float64,
        )
        # MO-Gymnasium's wrappers look for it underneath. No other environment has it:
        # TorchRL reads the rewards of one that does by it.
        _compression(self).reward_space = self.reward_space

    def step(
        self, action: Any
    ) -> tuple[Observation, NDArray[np.float64], bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        vector = np.array(info["reward_vector"])
        return observation, vector, terminated, truncated, info


def _compression(wrapper: gym.Wrapper[Any, Any, Any, Any]) -> CompressionEnv:
    """The environment underneath."""
    env = wrapper.unwrapped
    if not isinstance(env, CompressionEnv):
        raise ValueError(f"{type(wrapper).__name__} wraps N2N environments, got {env}")
    return env
