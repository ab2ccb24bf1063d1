"""The commit of the code, which is recorded with results."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit_of_code() -> str:
    """The commit of the git clone with this code, followed by "+" if files differ.

    The result is empty if the code is not in a clone.
    """
    folder = ["git", "-C", str(Path(__file__).parent)]
    try:
        for question in (
            ["ls-files", "--error-unmatch", Path(__file__).name],
            ["describe", "--always", "--abbrev=10", "--dirty=+"],
        ):
            said = subprocess.run(
                [*folder, *question], capture_output=True, text=True, check=True
            )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said.stdout.strip()
