"""The two environments, alone and in batches."""

from n2n_gym.envs.compression import CompressionEnv
from n2n_gym.envs.remove import RemoveEnv
from n2n_gym.envs.shrink import ShrinkEnv
from n2n_gym.envs.vector import (
    CompressionVectorEnv,
    make_remove_vector,
    make_shrink_vector,
)

__all__ = [
    "CompressionEnv",
    "CompressionVectorEnv",
    "RemoveEnv",
    "ShrinkEnv",
    "make_remove_vector",
    "make_shrink_vector",
]
