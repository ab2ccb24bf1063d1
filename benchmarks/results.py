"""Results of a benchmark as lines of JSON, so that it can be resumed."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from n2n_gym.common.commit import commit_of_code
from n2n_gym.resources.machine import processor


def made_here(packages: Iterable[str]) -> dict[str, Any]:
    """Versions, processor and commit that results of this process depend on.

    Args:
        packages: Names of packages; those that are not installed are left out.
    """
    versions = {"python": platform.python_version()}
    for name in packages:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "versions": versions,
        "processor": processor(),
        "commit": commit_of_code(),
    }


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
