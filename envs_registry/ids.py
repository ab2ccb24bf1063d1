"""The environment that each id makes."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import gymnasium as gym

from envs_registry.bench import BENCH, ENTRY
from envs_registry.presets import PRESETS


class EntryPoints(NamedTuple):
    """The functions that make an environment, as ``"module:attribute"``."""

    single: str
    vector: str


MODULE: Final = "n2n_gym:"  # prefix of an id; Gymnasium then imports n2n_gym
# Arguments of the environments, named explicitly in stored results.
DEFAULTS: Final = {"teacher": "resnet18", "task": "digits", "evaluator": "inherit"}
# Another such argument, for environments in which kernels shrink. Results without it
# come from an older rule.
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
    """Register every id that Gymnasium does not know yet."""
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
