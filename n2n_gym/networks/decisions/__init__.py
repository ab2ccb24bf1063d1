"""The decisions about an architecture: removals and shrinkages."""

from n2n_gym.networks.decisions.keeping import kept_names, positions_of
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
    KERNELS,
    RATES,
    SCOPES,
    VARIABLES,
    Shrinkage,
    has_free_kernel,
    kernels_at,
    shrink,
    shrinkages,
    widths_at,
)

__all__ = [
    "GRANULARITIES",
    "KERNELS",
    "RATES",
    "SCOPES",
    "VARIABLES",
    "Removal",
    "Shrinkage",
    "has_free_kernel",
    "kept_names",
    "kernels_at",
    "legal_removal",
    "positions_of",
    "removals",
    "remove",
    "shrink",
    "shrinkages",
    "single_layers",
    "units",
    "widths_at",
    "without",
]
