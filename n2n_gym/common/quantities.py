"""Quantities with units: 1M, 2ms, 1MB, 95%."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_COUNTS: Final = {"": 1.0, "K": 1e3, "k": 1e3, "M": 1e6, "G": 1e9}
# Units by the last word of a resource's name. A bare number has the resource's own
# unit. Of two spellings of a unit, the last is shown.
UNITS: Final[Mapping[str, Mapping[str, float]]] = {
    "params": _COUNTS,
    "macs": _COUNTS,
    "bytes": {
        **{"": 1.0, "B": 1.0, "KB": 1e3, "kB": 1e3, "MB": 1e6, "GB": 1e9},
        **{"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    },
    "ms": {"": 1.0, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3},
    "mj": {"": 1.0, "uJ": 1e-3, "µJ": 1e-3, "mJ": 1.0, "J": 1e3},
    "accuracy": {"": 1.0, "%": 1e-2},
}
_TIME: Final = re.compile(
    r"(?:([0-9.]+)\s*h)?\s*(?:([0-9.]+)\s*(?:m|min|$))?\s*(?:([0-9.]+)\s*s)?"
)
_WRITTEN: Final = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Zµ%]*)")


def read_quantity(name: str, text: str) -> float:
    """The number in the text of a limit, converted to the resource's own unit.

    Args:
        name: Name of the resource: "num_params", "latency_ms", "my.board:latency_ms",
            "accuracy", ...
        text: The limit with or without a unit: "1M", "2.5ms", "95%", "300".

    Raises:
        ValueError: The text is not a number, or the resource does not have this unit.
    """
    units = UNITS.get(re.split("[_:.]", name)[-1], {"": 1.0})
    known = ", ".join(unit for unit in units if unit) or "none"
    # The Greek letter and the micro sign look alike.
    match = _WRITTEN.fullmatch(text.strip().replace("\N{GREEK SMALL LETTER MU}", "µ"))
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
    """The seconds in a text such as "5" or "5m" (minutes), "1h30" or "90s".

    Raises:
        ValueError: The text is not a time, or the time is 0.
    """
    match = _TIME.fullmatch(text.strip())
    hours, minutes, seconds = match.groups() if match else (None, None, None)
    total = 3600 * float(hours or 0) + 60 * float(minutes or 0) + float(seconds or 0)
    if not total:
        raise ValueError(
            f"a time must be minutes or have units, such as 5, 5m, 90s or 1h30, got "
            f"{text!r}"
        )
    return total


def show_quantity(name: str, value: float, *, digits: int = 3) -> str:
    """A value as text, such as 24.5 kB, 12.5 µs, 3.19 M or 95.00%.

    Args:
        name: Name of the resource, or its last word: "num_params", "bytes", ...
        digits: Number of significant digits, except of an accuracy. Beside a limit, 4
            tell a value from a limit that it barely breaks.
    """
    units = UNITS.get(re.split("[_:.]", name)[-1], {"": 1.0})
    if name == "accuracy":
        return f"{value:.2%}"
    # The largest decimal unit that gives 1 or more. Rounded first: 999,900 is 1 M.
    rounded = float(f"{value:.{digits}g}")
    decimal = {factor: unit for unit, factor in units.items() if "i" not in unit}
    factor = max((f for f in decimal if f <= rounded), default=min(decimal))
    return f"{rounded / factor:g} {decimal[factor]}".rstrip()
