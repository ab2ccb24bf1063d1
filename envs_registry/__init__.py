"""The ids of the environments. Imports Gymnasium only, never torch."""

from envs_registry.ids import ENVIRONMENTS, register

__all__ = ["ENVIRONMENTS", "register"]
