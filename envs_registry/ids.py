"""Which environment each id makes."""

from typing import Final, NamedTuple

import gymnasium as gym


class EntryPoints(NamedTuple):
    """What makes an environment, as ``"module:attribute"``."""

    single: str
    vector: str


ENVIRONMENTS: Final = {
    "N2NRemove-v0": EntryPoints(
        "n2n_gym.envs:RemoveEnv", "n2n_gym.envs:make_remove_vector"
    ),
    "N2NShrink-v0": EntryPoints(
        "n2n_gym.envs:ShrinkEnv", "n2n_gym.envs:make_shrink_vector"
    ),
}


def register() -> None:
    """Register every id once; calling it again changes nothing."""
    for name, entry_points in ENVIRONMENTS.items():
        if name not in gym.registry:
            gym.register(
                id=name,
                entry_point=entry_points.single,
                vector_entry_point=entry_points.vector,
            )
