"""What a benchmark has measured: lines of JSON, so that it goes on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Results:
    """The file ``results.jsonl`` of a folder, a line a result, written at once.

    Args:
        key: The fields that tell results apart.
    """

    def __init__(self, folder: Path, *key: str) -> None:
        self.path = folder / "results.jsonl"
        self.key = key

    def read(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        """All whole lines, by what their key's fields hold."""
        if not self.path.exists():
            return {}
        lines = self.path.read_text().splitlines()
        whole = [json.loads(line) for line in lines if line.endswith("}")]
        return {tuple(result[name] for name in self.key): result for result in whole}

    def add(self, **result: Any) -> None:
        # What a kill cut short must not swallow the next line.
        is_cut = self.path.exists() and not self.path.read_text().endswith("\n")
        with open(self.path, "a") as file:
            file.write("\n" * is_cut + json.dumps(result) + "\n")
