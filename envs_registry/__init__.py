"""The ids of the environments. Imports Gymnasium only, never torch."""

from envs_registry.ids import ENVIRONMENTS, register
from envs_registry.presets import PRESETS, Preset

__all__ = ["ENVIRONMENTS", "PRESETS", "Preset", "register"]
