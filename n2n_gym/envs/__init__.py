"""The two environments."""

from n2n_gym.envs.compression import CompressionEnv
from n2n_gym.envs.remove import RemoveEnv
from n2n_gym.envs.shrink import ShrinkEnv

__all__ = ["CompressionEnv", "RemoveEnv", "ShrinkEnv"]
