"""The ids of the environments. Imports Gymnasium only, never torch."""

from envs_registry.ids import DEFAULTS, ENVIRONMENTS, KERNELS, MODULE, register
from envs_registry.presets import PRESETS, Preset

__all__ = [
    "DEFAULTS",
    "ENVIRONMENTS",
    "KERNELS",
    "MODULE",
    "PRESETS",
    "Preset",
    "register",
]
