"""Architectures from users' arguments: an ``Architecture``, its JSON, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from n2n_gym.networks.architecture import Architecture

STUDENT: Final = "architecture.json"  # in the folder of a run


def is_architecture(given: object) -> bool:
    """Whether this is an architecture's JSON, the path of a .json file, or a `Path`."""
    if isinstance(given, str):
        return given.lstrip().startswith("{") or given.endswith(".json")
    return isinstance(given, Path)


def read_architecture(what: str, given: Any) -> Architecture:
    """An architecture from a user's argument.

    Args:
        what: Name of the argument, for errors.
        given: An ``Architecture``, its JSON, the path of a file with this JSON, or the
            path of a run's folder.

    Raises:
        ValueError: The argument cannot be read as an architecture.
    """
    if isinstance(given, Architecture):
        return given
    is_json = isinstance(given, str) and given.lstrip().startswith("{")
    try:
        text = str(given) if is_json else _file(Path(given)).read_text()
        return Architecture.from_json(text)
    except (OSError, ValueError, TypeError) as error:
        shown = repr(str(given)[:60] if is_json else str(given))
        raise ValueError(
            f"{what}={shown} cannot be read ({error}); accepted are an Architecture, "
            f"its JSON, or the path of a file with it"
        ) from error


def _file(path: Path) -> Path:
    return path / STUDENT if path.is_dir() else path
