"""Searches that cannot write files, and students that diverge."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.searching import WILD, Search, start
from n2n_gym.scores import ScoreStore

ANY: Final = object()  # expected value of a finding that is only reported


class Finding(NamedTuple):
    """A line of the report."""

    what: str
    found: object
    expected: object = ANY

    @property
    def holds(self) -> bool:
        return self.expected is ANY or self.found == self.expected

    def __str__(self) -> str:
        but = "" if self.holds else f"  <- EXPECTED {self.expected}"
        return f"  {self.what:<58} {self.found}{but}"


def rows_of(store: Path) -> dict[str, tuple[Any, ...]]:
    """All values of the scores, by key, without their times."""
    which = "key, fingerprint, accuracy, num_params, num_macs, cost, error"
    rows = ask(store, f"SELECT {which} FROM scores")
    return {row[0]: row[1:] for row in rows}


def ask(store: Path, question: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute(question).fetchall()


class Trouble(NamedTuple):
    """A search that cannot write a file, and how it must end."""

    what: str
    search: Search
    told: Sequence[str]  # texts in its errors, each in a line of its own
    exit_code: int = 0
    cache: str | None = None


def troubles(folder: Path) -> list[Trouble]:
    blocked, unwritable = folder / "file", folder / "read-only.sqlite"
    blocked.touch()
    with ScoreStore(unwritable) as store:
        store.get([])
        store.count()
    few = {"episodes": 2, "rung": "inherit"}
    read_only = f"sqlite:///file:{unwritable}?mode=ro&uri=true"
    full = str(folder / "full")
    return [
        Trouble(
            "a full disk",
            Search([0], True, workers=None, largest_file=0, **few),
            told=(
                f"{full}/teachers/small_network-digits-",
                f"{full}/precision.json cannot be kept: ",
                f"{full}/scores.sqlite: ",
            ),
            cache=full,
        ),
        Trouble(
            "no folder for the cache",
            Search([0], True, **few),
            told=(
                f"{blocked}/cache/teachers/small_network-digits-",
                f"{blocked}/cache/precision.json cannot be kept: ",
                f"{blocked}/cache/scores.sqlite: ",
            ),
            cache=f"{blocked}/cache",
        ),
        Trouble(
            "a store that is read-only",
            Search([0], read_only, **few),
            told=(f"scores cannot be kept: {unwritable}: ",),
        ),
        Trouble(
            "no room for temporary files",
            Search([0], False, largest_file=100_000, **few),
            told=(f"OSError: the teacher cannot be written to {folder / 'tmp'}",),
            exit_code=1,
        ),
    ]


def check_trouble(trouble: Trouble, folder: Path) -> list[Finding]:
    """Check that a trouble is reported, and that the run goes on if it can."""
    environment = {} if trouble.cache is None else {"N2N_CACHE": trouble.cache}
    options = trouble.search._asdict()
    child = start("search", options, folder, env=environment, stderr=subprocess.PIPE)
    output, errors = child.communicate()
    lines = [line for line in errors.splitlines() if "cannot be" in line]
    told = all(sum(part in line for line in lines) == 1 for part in trouble.told)
    findings = [
        Finding(f"{trouble.what}: exit code", child.returncode, trouble.exit_code),
        Finding("  lines that tell it", len(lines), len(trouble.told)),
        Finding("  they name the path and the reason", told, True),
        *(Finding(f"    {line}", "") for line in lines),
    ]
    if trouble.exit_code == 0 and output:
        (episodes,) = json.loads(output)
        scored = [accuracy for _, _, accuracy, _ in episodes if accuracy is not None]
        findings.append(Finding("  students scored", len(scored), 2))
    return findings


def check_diverging(folder: Path) -> list[Finding]:
    """Check rewards, infos and stored rows of students that diverge."""
    store = folder / "diverged.sqlite"
    chosen = Search([0], str(store), episodes=4, rung=WILD.name)
    output, _ = start("search", chosen._asdict(), folder).communicate()
    (episodes,) = json.loads(output)
    rewards = {reward for _, reward, _, _ in episodes}
    reasons = ["diverged" in error for *_, error in episodes]
    rows = rows_of(store)
    return [
        Finding("episodes with a student that diverges", len(episodes), 4),
        Finding("  their reward", rewards, {-1.0}),
        Finding("  their infos say so", all(reasons), True),
        Finding("  rows in the store", len(rows), len({e[0] for e in episodes})),
    ]
