"""The command line of N2N-Bench's tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.n2n_bench.make import make, merge, open_table
from benchmarks.n2n_bench.rules import report
from benchmarks.n2n_bench.subjects import SUBJECTS, train_teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in {
        "teacher": "train a table's teacher",
        "make": "score students that have no score yet",
        "rules": "what the rules say of a table, or of what there is of it",
        "merge": "take over scores that were made elsewhere",
    }.items():
        command = commands.add_parser(name, help=about)
        command.add_argument("table", choices=SUBJECTS)
        if name == "make":
            command.add_argument("--minutes", type=float, default=1e9)
        if name == "merge":
            command.add_argument("file", type=Path)
    options = parser.parse_args()
    if options.command == "teacher":
        train_teacher(options.table)
    elif options.command == "make":
        make(options.table, options.minutes)
    elif options.command == "rules":
        report(open_table(options.table))
    else:
        merge(options.table, options.file)


if __name__ == "__main__":
    main()
