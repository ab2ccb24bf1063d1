"""Which environment each id makes."""

from typing import Final

import gymnasium as gym

ENVIRONMENTS: Final = {
    "N2NRemove-v0": "n2n_gym.envs:RemoveEnv",
    "N2NShrink-v0": "n2n_gym.envs:ShrinkEnv",
}


def register() -> None:
    """Register every id once; calling it again changes nothing."""
    for name, entry_point in ENVIRONMENTS.items():
        if name not in gym.registry:
            gym.register(id=name, entry_point=entry_point)
