"""Wrappers that put masks and infos where other libraries expect them."""

from __future__ import annotations

from numbers import Number
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Observation = NDArray[np.float32]
Masked = dict[str, NDArray[Any]]
Info = dict[str, Any]


class MaskedObservation(
    gym.Wrapper[Any, Any, Observation, Any], gym.utils.RecordConstructorArgs
):
    """Observations with masks: a dictionary of the rows and a mask, (A,) bool.

    The mask is True for legal actions. The default names are RLlib's; TorchRL uses the
    same name for the mask. Tianshou needs ``observations="obs", action_mask="mask"``.

    Args:
        env: An environment with discrete actions and ``info["action_mask"]``.
        observations: Name of the observation in the dictionary.
        action_mask: Name of the mask in the dictionary.

    Raises:
        ValueError: The actions are not discrete, so there is no mask.
    """

    def __init__(
        self,
        env: gym.Env[Observation, Any],
        *,
        observations: str = "observations",
        action_mask: str = "action_mask",
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self, observations=observations, action_mask=action_mask
        )
        super().__init__(env)
        if not isinstance(env.action_space, gym.spaces.Discrete):
            raise ValueError(
                f"only discrete actions have a mask, got {env.action_space}"
            )
        self._names = observations, action_mask
        num_actions = int(env.action_space.n)
        masks: gym.Space[Any] = gym.spaces.Box(0, 1, (num_actions,), np.dtype(bool))
        self.observation_space = gym.spaces.Dict(
            {observations: env.observation_space, action_mask: masks}
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Masked, Info]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(observation, info), info

    def step(self, action: Any) -> tuple[Masked, Any, bool, bool, Info]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        masked = self._with_mask(observation, info)
        return masked, reward, terminated, truncated, info

    def _with_mask(self, observation: Observation, info: Info) -> Masked:
        observations, action_mask = self._names
        return {observations: observation, action_mask: info["action_mask"] > 0}


class NumericInfo(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Infos without their strings, such as the student's architecture.

    Tianshou stores infos in its buffers, with None for a string that a step lacks. It
    then takes None for a broken number and refuses to train. TorchRL's info reader
    takes only arrays; ``dtype="float32"`` gives the type that it expects by default.

    Args:
        env: An environment with numbers and strings in its infos.
        dtype: Type of arrays: each number becomes an array of shape (), each tuple an
            array of shape (N,). By default numbers stay Python numbers, and tuples are
            left out.
    """

    def __init__(self, env: gym.Env[Any, Any], *, dtype: str | None = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, dtype=dtype)
        super().__init__(env)
        self._dtype = None if dtype is None else np.dtype(dtype)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Info]:
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._numbers(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Info]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, self._numbers(info)

    def _numbers(self, info: Info) -> Info:
        if self._dtype is None:
            return {
                k: v for k, v in info.items() if isinstance(v, (Number, np.ndarray))
            }
        return {
            key: value
            if isinstance(value, np.ndarray)
            else np.array(value, self._dtype)
            for key, value in info.items()
            if isinstance(value, (Number, np.ndarray, tuple))
        }
