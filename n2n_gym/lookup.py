"""Pluggable arguments given as strings."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def lookup(what: str, name: str, known: Mapping[str, T]) -> T:
    """The object a string names: a known name, or ``"package.module:attribute"``.

    Args:
        what: What is looked up, for the error: "task", "reward", ...

    Raises:
        ValueError: There is no such name, module or attribute.
    """
    if name in known:
        return known[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(
            f"unknown {what} {name!r}; known: {', '.join(known)}, or 'module:attribute'"
        )
    try:
        found: T = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{what} {name!r} cannot be imported: {error}") from error
    return found
