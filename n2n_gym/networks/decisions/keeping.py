"""Names of the layers that neither stage changes."""

from __future__ import annotations

from collections.abc import Sequence, Set
from difflib import get_close_matches
from fnmatch import fnmatchcase

from n2n_gym.networks.architecture import Architecture


def kept_names(
    start: Architecture, patterns: str | Sequence[str] | None
) -> frozenset[str]:
    """Names of the layers that match patterns.

    Args:
        patterns: Shell patterns of layers' names: ``"layer4.*"``. A module's name means
            all layers in it: ``"layer4"``. One string can have several patterns,
            separated by commas. None matches no layer.

    Raises:
        ValueError: A pattern matches no layer.
    """
    if patterns is None:
        return frozenset()
    names = [layer.name for layer in start.layers]
    found: set[str] = set()
    if not isinstance(patterns, (str, Sequence, Set)):
        raise ValueError(f"keep must be names of layers or patterns, got {patterns!r}")
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
    """Positions of these layers in a network; missing layers are skipped."""
    return frozenset(network.positions[n] for n in names & network.positions.keys())
