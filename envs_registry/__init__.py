"""The ids of the environments. Imports Gymnasium only, never torch."""

from envs_registry.bench import BENCH, BenchTask
from envs_registry.ids import DEFAULTS, ENVIRONMENTS, KERNELS, MODULE, register
from envs_registry.presets import PRESETS, Preset

__all__ = [
    "BENCH",
    "DEFAULTS",
    "ENVIRONMENTS",
    "KERNELS",
    "MODULE",
    "PRESETS",
    "BenchTask",
    "Preset",
    "register",
]
