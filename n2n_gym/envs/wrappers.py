"""Wrappers: penalties that grow during a training, and rewards that are vectors."""

from __future__ import annotations

from typing import Any, Final, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from n2n_gym.envs.compression import CompressionEnv, Observation

POWER: Final = 4  # exponent of the remaining progress
EPISODES: Final = 75  # until eps is 0


def epsilon_at(progress: float) -> float:
    """eps = (1 - progress)^4, which falls from 1 to 0 as progress rises from 0 to 1."""
    return (1 - progress) ** POWER


class _ClosingIn:
    """The progress of a training, which never falls, and eps, which depends on it."""

    episodes: int | None = None  # until eps is 0
    _value = 0.0
    _count = 0  # number of finished episodes

    @property
    def epsilon(self) -> float:
        """The eps in eps (R + 1) - 1, the reward of a student that breaks a limit."""
        return epsilon_at(self._value)

    def set_progress(self, progress: float) -> None:
        """Set the progress of the training, from 0 to 1. It cannot be lowered.

        Raises:
            ValueError: The progress is not a number from 0 to 1.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must be from 0 to 1, got {progress!r}")
        self._value = max(self._value, progress)
        self._put(self.epsilon)

    def _count_up_to(self, episodes: int | None) -> None:
        if episodes is not None and episodes < 1:
            raise ValueError(f"episodes must be 1 or more, got {episodes}")
        self.episodes = episodes
        self.set_progress(0.0)

    def _end_episodes(self, count: int) -> None:
        self._count += count
        if count and self.episodes is not None:
            self.set_progress(min(1.0, self._count / self.episodes))

    def _put(self, epsilon: float) -> None:
        """Set eps in the environment."""
        raise NotImplementedError


class ProgressiveConstraint(
    _ClosingIn, gym.Wrapper[Observation, Any, Observation, Any]
):
    """Limits with a penalty that grows while an agent learns, as in N2N learning.

    A student that breaks a limit gets eps (R + 1) - 1 instead of the reward R. eps
    falls from 1 (limits cost nothing) to 0 (the reward is -1) and never rises. The
    environment's own rewards, with a fixed ``epsilon=``, are stationary; those of this
    wrapper are not.

    Args:
        env: An environment with ``constraints=``.
        episodes: Number of episodes until eps is 0; by default 15 updates of 5
            episodes, as in the paper's code. With None, only ``set_progress`` changes
            eps.
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
    """``ProgressiveConstraint`` for a vector environment; all rows have the same eps.

    Args:
        env: A vector environment, made by ``gym.make_vec``.
        episodes: Number of episodes until eps is 0, counted over all rows.
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
        rows: Any = self.env.unwrapped  # ours or Gymnasium's, both with set_attr
        rows.set_attr("epsilon", epsilon)


class MultiObjective(gym.Wrapper[Observation, Any, Observation, Any]):
    """MO-Gymnasium's interface: the reward is ``info["reward_vector"]``.

    All entries are to be maximised; ``env.unwrapped.objectives`` names them. The first
    entry is the accuracy divided by the teacher's. The other entries are the fractions
    of resources that the student saves. Limits do not change the vector.
    ``reward_space`` has the vector's bounds.
    """

    def __init__(self, env: gym.Env[Observation, Any]) -> None:
        super().__init__(env)
        savings = len(_compression(self).objectives) - 1
        self.reward_space = gym.spaces.Box(
            np.array([0.0] + [-np.inf] * savings),
            np.array([np.inf] + [1.0] * savings),
            dtype=np.float64,
        )
        # MO-Gymnasium's wrappers look for this attribute in the unwrapped environment.
        # Without this wrapper it must be missing, or TorchRL would read rewards by it.
        _compression(self).reward_space = self.reward_space

    def step(
        self, action: Any
    ) -> tuple[Observation, NDArray[np.float64], bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        vector = np.array(info["reward_vector"])
        return observation, vector, terminated, truncated, info


def _compression(wrapper: gym.Wrapper[Any, Any, Any, Any]) -> CompressionEnv:
    """The unwrapped environment; a ValueError if it is not an N2N environment."""
    env = wrapper.unwrapped
    if not isinstance(env, CompressionEnv):
        raise ValueError(
            f"{type(wrapper).__name__} must wrap an N2N environment, got {env}"
        )
    return env
