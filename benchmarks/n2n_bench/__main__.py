"""The command line of N2N-Bench's tables."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.n2n_bench import checks, rules
from benchmarks.n2n_bench.make import make, merge, open_table
from benchmarks.n2n_bench.subjects import SUBJECTS, train_teacher

COMMANDS: Final[dict[str, tuple[str, Callable[[Any], None]]]] = {
    "teacher": ("train a table's teacher", lambda of: train_teacher(of.table)),
    "make": (
        "score students that have no score yet",
        lambda of: make(of.table, of.minutes),
    ),
    "merge": (
        "take over scores that were made elsewhere",
        lambda of: merge(of.table, of.file),
    ),
    "rules": (
        "what the rules say of a table, or of what there is of it",
        lambda of: rules.report(open_table(of.table)),
    ),
    "again": ("score twenty students once more", lambda of: checks.again(of.table)),
    "converge": (
        "distil forty students to convergence",
        lambda of: checks.converge(of.table, of.minutes),
    ),
    "latency": ("predict latencies", lambda of: checks.latency(of.table)),
    "speed": ("steps a second", lambda of: checks.speed(of.table)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (about, _) in COMMANDS.items():
        command = commands.add_parser(name, help=about)
        command.add_argument("table", choices=SUBJECTS)
        if name in ("make", "converge"):
            command.add_argument("--minutes", type=float, default=1e9)
        if name == "merge":
            command.add_argument("file", type=Path)
    options = parser.parse_args()
    COMMANDS[options.command][1](options)


if __name__ == "__main__":
    main()
