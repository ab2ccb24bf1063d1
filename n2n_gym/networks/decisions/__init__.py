"""What can be decided about an architecture: what to remove, how far to shrink."""

from n2n_gym.networks.decisions.removal import (
    GRANULARITIES,
    Removal,
    legal_removal,
    removals,
    remove,
    single_layers,
    units,
    without,
)
from n2n_gym.networks.decisions.shrinkage import (
    RATES,
    VARIABLES,
    Shrinkage,
    shrink,
    shrinkages,
)

__all__ = [
    "GRANULARITIES",
    "RATES",
    "VARIABLES",
    "Removal",
    "Shrinkage",
    "legal_removal",
    "removals",
    "remove",
    "shrink",
    "shrinkages",
    "single_layers",
    "units",
    "without",
]
