"""Which environment each id makes."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import gymnasium as gym

from envs_registry.bench import BENCH, ENTRY
from envs_registry.presets import PRESETS


class EntryPoints(NamedTuple):
    """What makes an environment, as ``"module:attribute"``."""

    single: str
    vector: str


MODULE: Final = "n2n_gym:"  # before an id, makes gymnasium import what registers it
# Of the environments' arguments; said outright where results are kept.
DEFAULTS: Final = {"teacher": "resnet18", "task": "digits", "evaluator": "inherit"}
# Likewise of those in which kernels shrink; until this was said, the rule was another.
KERNELS: Final = {"kernels": "nearest"}
ENVIRONMENTS: Final = {
    "N2NRemove-v0": EntryPoints(
        "n2n_gym.envs:RemoveEnv", "n2n_gym.envs:make_remove_vector"
    ),
    "N2NShrink-v0": EntryPoints(
        "n2n_gym.envs:ShrinkEnv", "n2n_gym.envs:make_shrink_vector"
    ),
    "N2NCompress-v0": EntryPoints(
        "n2n_gym.envs:CompressEnv", "n2n_gym.envs:make_compress_vector"
    ),
}


def register() -> None:
    """Register every id once; calling it again changes nothing."""
    wanted: dict[str, tuple[str, Mapping[str, Any]]]
    wanted = {name: (name, {}) for name in ENVIRONMENTS}
    wanted |= {name: (preset.env, preset.arguments) for name, preset in PRESETS.items()}
    for name, (env, arguments) in wanted.items():
        if name not in gym.registry:
            gym.register(
                id=name,
                entry_point=ENVIRONMENTS[env].single,
                vector_entry_point=ENVIRONMENTS[env].vector,
                kwargs=dict(arguments),
            )
    for name in BENCH:
        if name not in gym.registry:
            gym.register(id=name, entry_point=ENTRY, kwargs={"task": name})
