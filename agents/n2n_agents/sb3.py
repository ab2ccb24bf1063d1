"""Agents of Stable-Baselines3 and sb3-contrib, with settings for N2N's environments.

Episodes are short, have one reward at the end, and are expensive to score. So there are
few steps between updates, many gradient steps per update, and no discount.
``LayerSequence`` reads the rows by attention, so a policy fits any number of rows. With
``max_rows=``, several teachers have the same observation space, so one policy can play
with all of them. Stable-Baselines3 saves and loads policies.
"""

from __future__ import annotations

from typing import Any, Final

import gymnasium as gym
import sb3_contrib
import stable_baselines3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

ON_POLICY: Final = ("PPO", "A2C", "MaskablePPO", "RecurrentPPO")
VALUE: Final = ("DQN", "QRDQN")
CONTINUOUS: Final = ("SAC", "TD3")
ALGORITHMS: Final = (*ON_POLICY, *VALUE, *CONTINUOUS)
EPISODES: Final = 5  # episodes between updates
EXPLORING: Final = 60  # episodes in which a search's exploration rate falls
ENDLESS: Final = 10**8  # steps


class LayerSequence(BaseFeaturesExtractor):
    """Features of rows: attention over rows, then the current row and the mean of all.

    Padding rows do not count.

    Args:
        observation_space: Space of rows, (T, F).
        current: Position of the column that marks the current row.
        width: Width of the attention layers; there are twice as many features.
    """

    def __init__(
        self,
        observation_space: gym.spaces.Box,
        width: int = 64,
        heads: int = 4,
        current: int = -3,
    ) -> None:
        super().__init__(observation_space, features_dim=2 * width)
        self.current = current
        self.embed = nn.Linear(observation_space.shape[1], width)
        self.attend = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )

    def forward(self, observations: Tensor) -> Tensor:
        """(B, T, F) -> (B, 2 * width)."""
        is_row = observations.any(-1)  # (B, T)
        is_row[:, 0] = True  # recurrent algorithms fill their batches up with zeros
        rows = self.attend(self.embed(observations), src_key_padding_mask=~is_row)
        current = observations[..., self.current, None]  # (B, T, 1), none at the end
        here = (rows * current).sum(1)
        everywhere = (rows * is_row[..., None]).sum(1) / is_row.sum(1, keepdim=True)
        return torch.cat([here, everywhere], -1)


def make(
    algorithm: str, env: gym.Env[Any, Any], *, seed: int = 0, **settings: Any
) -> BaseAlgorithm:
    """An agent of one of ``ALGORITHMS`` that fits an environment.

    Args:
        env: One environment, with rows as observations. SAC and TD3 take continuous
            actions, the others discrete ones.
        settings: Arguments of the algorithm that replace those of this module.

    Raises:
        ValueError: The algorithm is unknown, or the observations are not rows.
    """
    if algorithm not in ALGORITHMS:
        known = ", ".join(ALGORITHMS)
        raise ValueError(f"unknown algorithm {algorithm!r}; known: {known}")
    space = env.observation_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 2:
        raise ValueError(f"observations must be rows, (T, F), got {space}")
    home = stable_baselines3 if hasattr(stable_baselines3, algorithm) else sb3_contrib
    chosen = _settings(algorithm, rows=space.shape[0]) | settings
    columns = env.metadata.get("columns")
    reader = dict(chosen["policy_kwargs"])
    if columns is not None and reader.get("features_extractor_class") is LayerSequence:
        current = {"current": list(columns).index("current")}
        current |= reader.get("features_extractor_kwargs", {})
        chosen["policy_kwargs"] = reader | {"features_extractor_kwargs": current}
    policy = "MlpLstmPolicy" if algorithm == "RecurrentPPO" else "MlpPolicy"
    made: BaseAlgorithm = getattr(home, algorithm)(
        chosen.pop("policy", policy), env, seed=seed, **chosen
    )
    return made


def _settings(algorithm: str, rows: int) -> dict[str, Any]:
    """This module's settings, for episodes of at most ``rows`` decisions."""
    steps = EPISODES * rows
    reader = {"features_extractor_class": LayerSequence, "net_arch": [64]}
    common = {"gamma": 1.0, "policy_kwargs": reader, "device": "cpu"}
    if algorithm == "A2C":
        # Every step gets the full return: there is nothing to bootstrap from.
        return common | {
            "n_steps": steps,
            "learning_rate": 1e-3,
            "gae_lambda": 1.0,
            "ent_coef": 0.01,
            "normalize_advantage": True,
        }
    if algorithm in ON_POLICY:
        return common | {
            "n_steps": steps,
            "batch_size": steps,
            "n_epochs": 10,
            "learning_rate": 1e-3,
            "gae_lambda": 1.0,
            "ent_coef": 0.01,
        }
    several = {
        "buffer_size": 100_000,
        "learning_starts": 2 * steps,
        "batch_size": 64,
        "learning_rate": 5e-4,
        "train_freq": 4,
    }
    if algorithm in VALUE:
        return (
            common
            | several
            | {
                "target_update_interval": 250,
                "exploration_fraction": 0.3,
                "exploration_final_eps": 0.02,
            }
        )
    return common | several


def search(env: gym.Env[Any, Any], algorithm: str, *, seed: int = 0) -> None:
    """Learn until an exception, for example at the end of a budget."""
    settings: dict[str, Any] = {}
    if algorithm in VALUE:  # a fraction of all steps, which never end
        assert isinstance(env.observation_space, gym.spaces.Box)
        rows, _ = env.observation_space.shape
        settings["exploration_fraction"] = EXPLORING * rows / ENDLESS
    make(algorithm, env, seed=seed, **settings).learn(ENDLESS)
