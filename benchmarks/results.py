"""Results of a benchmark as lines of JSON, so that it can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Results:
    """The file ``results.jsonl`` of a folder; each result is written at once as a line.

    Args:
        key: The fields that identify a result.
    """

    def __init__(self, folder: Path, *key: str) -> None:
        self.path = folder / "results.jsonl"
        self.key = key

    def read(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        """All complete results, by the values of the fields in ``key``."""
        if not self.path.exists():
            return {}
        lines = self.path.read_text().splitlines()
        whole = [json.loads(line) for line in lines if line.endswith("}")]
        return {tuple(result[name] for name in self.key): result for result in whole}

    def add(self, **result: Any) -> None:
        # A line that a kill cut short must not merge with the next one.
        is_cut = self.path.exists() and not self.path.read_text().endswith("\n")
        line = "\n" * is_cut + json.dumps(result) + "\n"
        # One write for the whole line, because other processes may add lines, too.
        with open(self.path, "ab", buffering=0) as file:
            file.write(line.encode())
