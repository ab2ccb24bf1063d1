"""Layers that neither stage may touch, by name."""

from __future__ import annotations

from collections.abc import Sequence, Set
from difflib import get_close_matches
from fnmatch import fnmatchcase

from n2n_gym.networks.architecture import Architecture


def kept_names(
    start: Architecture, patterns: str | Sequence[str] | None
) -> frozenset[str]:
    """Names of the layers that patterns stand for.

    Args:
        patterns: ``"layer4.*"``: shell patterns of layers' names. The name of a module
            stands for all layers in it: ``"layer4"``. One text may hold several, with
            commas between.

    Raises:
        ValueError: A pattern names no layer.
    """
    if patterns is None:
        return frozenset()
    names = [layer.name for layer in start.layers]
    found: set[str] = set()
    if not isinstance(patterns, (str, Sequence, Set)):
        raise ValueError(f"keep names layers, or patterns of names, got {patterns!r}")
    for given in patterns.split(",") if isinstance(patterns, str) else patterns:
        pattern = given.strip()
        named = {
            name
            for name in names
            if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
        }
        if not named:
            near = get_close_matches(pattern, names, n=3) or names[:3]
            raise ValueError(
                f"keep={pattern!r} names no layer; there are {', '.join(near)}, ..."
            )
        found |= named
    return frozenset(found)


def positions_of(network: Architecture, names: Set[str]) -> frozenset[int]:
    """Where a network has these layers, as far as it has them."""
    return frozenset(network.positions[n] for n in names & network.positions.keys())
