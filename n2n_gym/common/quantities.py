"""Quantities as people write them: 1M, 2ms, 1MB, 95%."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_COUNTS: Final = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}
# By the last word of a resource's name; a bare number is in the resource's own unit.
UNITS: Final[Mapping[str, Mapping[str, float]]] = {
    "params": _COUNTS,
    "macs": _COUNTS,
    "bytes": {
        **{"": 1.0, "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9},
        **{"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    },
    "ms": {"": 1.0, "us": 1e-3, "ms": 1.0, "s": 1e3},
    "mj": {"": 1.0, "uJ": 1e-3, "mJ": 1.0, "J": 1e3},
    "accuracy": {"": 1.0, "%": 1e-2},
}
_TIME: Final = re.compile(
    r"(?:([0-9.]+)\s*h)?\s*(?:([0-9.]+)\s*(?:m|min|$))?\s*(?:([0-9.]+)\s*s)?"
)
_WRITTEN: Final = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z%]*)")


def read_quantity(name: str, text: str) -> float:
    """A limit of a resource, in the resource's own unit.

    Args:
        name: "num_params", "latency_ms", "my.board:latency_ms", "accuracy", ...
        text: "1M", "2.5ms", "95%", "300".

    Raises:
        ValueError: It is no number, or has a unit that the resource does not have.
    """
    units = UNITS.get(re.split("[_:.]", name)[-1], {"": 1.0})
    known = ", ".join(unit for unit in units if unit) or "none"
    match = _WRITTEN.fullmatch(text.strip())
    try:
        number = float(match[1]) if match else None
    except ValueError:
        number = None
    if match is None or number is None:
        raise ValueError(
            f"the limit of {name} must be a number with a unit, got {text!r}; "
            f"known units: {known}"
        )
    if match[2] not in units:
        raise ValueError(
            f"unknown unit {match[2]!r} of {name} in {text!r}; known: {known}"
        )
    return number * units[match[2]]


def read_minutes(text: str) -> float:
    """Seconds of a time as people write it: "5" and "5m" are minutes, "1h30", "90s".

    Raises:
        ValueError: It is none, or nothing.
    """
    match = _TIME.fullmatch(text.strip())
    hours, minutes, seconds = match.groups() if match else (None, None, None)
    total = 3600 * float(hours or 0) + 60 * float(minutes or 0) + float(seconds or 0)
    if not total:
        raise ValueError(
            f"a time is a number of minutes, or has units, got {text!r}; accepted are "
            f"5, 5m, 90s, 1h30"
        )
    return total


def show_quantity(name: str, value: float) -> str:
    """For people: with a unit in which it has few digits."""
    units = UNITS.get(re.split("[_:.]", name)[-1], {"": 1.0})
    if name == "accuracy":
        return f"{value:.2%}"
    # The largest unit of which there is one or more; decimal ones before binary.
    decimal = {u: f for u, f in units.items() if "i" not in u and u != "kB"}
    least = min(decimal.values())
    fitting = [(f, u) for u, f in decimal.items() if f <= max(value, least)]
    factor, unit = max(fitting, key=lambda pair: (pair[0], len(pair[1])))
    return f"{value / factor:.4g} {unit}".rstrip()
