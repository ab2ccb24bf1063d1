"""Files with one JSON document per line. A killed process may leave half a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from n2n_gym.common.files import to_disk


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All JSON objects in a file; an empty list if the file does not exist.

    An incomplete last line is deleted from the file.

    Raises:
        ValueError: A line is not a JSON object.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    try:
        return [dict(json.loads(line)) for line in whole.splitlines()]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged, each line must be a JSON object: {error}"
        ) from error


def add_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Add lines of JSON to a file, and wait until they are on the disk."""
    with open(path, "a") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")
        to_disk(file)
