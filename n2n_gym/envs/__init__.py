"""The environments: one episode at a time, and in vectors."""

from n2n_gym.envs.both import CompressEnv
from n2n_gym.envs.compression import CompressionEnv
from n2n_gym.envs.remove import RemoveEnv
from n2n_gym.envs.shrink import ShrinkEnv
from n2n_gym.envs.vector import (
    CompressionVectorEnv,
    make_compress_vector,
    make_remove_vector,
    make_shrink_vector,
)

__all__ = [
    "CompressEnv",
    "CompressionEnv",
    "CompressionVectorEnv",
    "RemoveEnv",
    "ShrinkEnv",
    "make_compress_vector",
    "make_remove_vector",
    "make_shrink_vector",
]
