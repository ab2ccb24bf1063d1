"""Layers that neither stage may touch, by name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from n2n_gym.networks.architecture import Architecture


def kept_layers(
    start: Architecture, patterns: str | Sequence[str] | None
) -> frozenset[int]:
    """Positions of the layers that patterns name.

    Args:
        patterns: ``"layer4.*"``: shell patterns of layers' names. The name of a module
            stands for all layers in it: ``"layer4"``.

    Raises:
        ValueError: A pattern names no layer.
    """
    if patterns is None:
        return frozenset()
    found: set[int] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        named = {
            position
            for position, layer in enumerate(start.layers)
            if fnmatchcase(layer.name, pattern)
            or fnmatchcase(layer.name, f"{pattern}.*")
        }
        if not named:
            names = [layer.name for layer in start.layers]
            near = get_close_matches(pattern, names, n=3) or names[:3]
            raise ValueError(
                f"keep={pattern!r} names no layer; there are {', '.join(near)}, ..."
            )
        found |= named
    return frozenset(found)
