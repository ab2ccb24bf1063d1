"""The pages of N2N-Bench, written from the repository's tables and results.

    python -m benchmarks.n2n_bench.pages

Reads and checks every file of ``benchmarks/data/n2n_bench/leaderboard``. Each is a
``results.jsonl`` of `n2n-gym compare --suite n2n-bench`, compressed or not. Writes
``docs/leaderboard.md`` with its picture, and ``docs/n2n-bench-tables.md``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.n2n_bench.rules import ERRORS, judge, tau_of_seeds
from envs_registry.bench import BENCH, DEVELOPMENT
from n2n_gym.bench import load_table
from n2n_gym.bench.table import Table
from n2n_gym.comparison.leaderboard import Boards, boards, boards_as_markdown, draw
from n2n_gym.comparison.statistics import as_table
from n2n_gym.comparison.suite import SEEDS, SuiteRun, lacking, read_suite

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks" / "data" / "n2n_bench" / "leaderboard"
PAGE: Final = ROOT / "docs" / "leaderboard.md"
PICTURE: Final = ROOT / "docs" / "pictures" / "leaderboard.png"

HEAD: Final = """\
# Leaderboard of N2N-Bench

An agent's result is the test regret of its best student on validation images: 0 is the
best student of the table, 1 is a random student within the limit. A student that breaks
the task's limit uses up one unit of the budget and gets the reward -1, so a regret can
be above 1.

| column | meaning |
|---|---|
| mean | mean regret at 5, 10, 30 and 100 students, each clipped at 1 |
| 5 to 300 students | interquartile mean of the regrets over all tasks and seeds |
| better than random | probability of less regret than random search at 100 students |

The agent with the lowest mean stands first. A tie with random search counts half.
Brackets are 95 % bootstrap intervals. The picture is of the headline tables. Settings
of an agent may be chosen on the development tables alone. [The
protocol](n2n-bench.md#protocol) has the details.
"""

FOOT: Final = """\
## Add your agent

1. Write a function `search(env, *, seed)` in a file with a name of its own, say
   `annealing.py`: see [agents](how-to/agents.md). Choose its settings with `--suite
   n2n-bench-development`.
2. Run the suite in the folder of that file: `n2n-gym compare --suite n2n-bench --agents
   annealing:search --seeds 30 --output runs/annealing`. An agent that does not learn
   takes some minutes of one core. An agent that was trained on tables before names
   them: `--seen remove-residual`. Such agents stand last.
3. Check the file: `n2n-gym validate runs/annealing/results.jsonl`. It must not lack
   runs.
4. Copy it: `gzip -9 -n -c runs/annealing/results.jsonl >
   benchmarks/data/n2n_bench/leaderboard/annealing.jsonl.gz`.
5. Write this page and its picture again, in two minutes: `python -m
   benchmarks.n2n_bench.pages`.
6. Open a pull request with all of these. The agent's own file belongs beside its
   results, as `annealing.py`, unchanged: each run has the beginning of its SHA-256.
"""


TABLES: Final = ROOT / "docs" / "n2n-bench-tables.md"
ABOUT_TABLES: Final = """\
# Tables of N2N-Bench

The figures of each table, and those of [the rules](n2n-bench.md#rules) that it keeps.
This page is written by `python -m benchmarks.n2n_bench.pages`.

| column | meaning |
|---|---|
| (a) | tau between two seeds' accuracies, among students of similar size |
| convergence | tau of the table's accuracies with long distillation, 40 students |
| ceiling | tau between two seeds of that long distillation |
| error | standard error of a student's mean validation accuracy, in points |
| CPU-hours | of all scores, both fidelities |

Tau is Kendall's rank correlation. Long distillation takes 45 times as many steps.
"""
ABOUT_TASKS: Final = """\
Rewards are on validation images, regrets on test images. (b), (c) and "play" have to
exceed "perfect" by "two errors", which are two standard errors of a reward.

| column | meaning |
|---|---|
| legal | students within the limit |
| perfect | regret of the best student on validation images |
| (b) | mean regret of the regression with 50 students |
| (c) | mean regret of random search with 100 distinct legal students |
| play | mean regret of 100 random episodes |
| (d) | share of legal students within two standard errors of the best |
| optimum | the highest reward |
| tau with size | Kendall's tau of the rewards with minus the number of parameters |
"""


def read_all(folder: Path = RESULTS) -> list[SuiteRun]:
    """Every run of the folder's files; each has been checked against the tables.

    Raises:
        ValueError: A file is wrong, two files have the same run, or an agent lacks one.
    """
    found: dict[str, tuple[SuiteRun, Path]] = {}
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")]):
        for run in read_suite(path):
            if run.name in found:
                _, other = found[run.name]
                raise ValueError(
                    f"{run.name} is in {other.name} and in {path.name}; each agent "
                    f"needs a name of its own"
                )
            found[run.name] = run, path
    runs = [run for run, _ in found.values()]
    for run, path in found.values():
        if run.seed not in range(SEEDS):
            raise ValueError(
                f"{path.name}: {run.name}; the leaderboard has seeds 0 to {SEEDS - 1}"
            )
    if missing := lacking(runs):
        raise ValueError(f"{len(missing)} runs are missing, first {missing[0]}")
    return runs


def page(runs: Sequence[SuiteRun], found: Boards) -> str:
    """The leaderboard's page, from all runs and the standings of the agents."""
    tasks = list(dict.fromkeys(run.task for run in runs))
    seeds = len({run.seed for run in runs})
    tables = dict.fromkeys(BENCH[task].table for task in tasks)
    students = "\n".join(
        f"| `{name}` | {len(load_table(name)):,} | {_part(name)} |" for name in tables
    )
    made: dict[tuple[str, str], set[str]] = defaultdict(set)
    for run in runs:
        made[run.command, run.commit].add(run.agent)
    rows = "\n".join(
        f"| {', '.join(sorted(who))} | `{how}` | {commit} |"
        for (how, commit), who in made.items()
    )
    return "\n".join(
        [
            HEAD,
            "![Regret by budget, and performance profiles](pictures/leaderboard.png)\n",
            f"{len(tasks)} tasks, {seeds} seeds.\n",
            f"| table | students | for |\n|---|---|---|\n{students}\n",
            boards_as_markdown(found) + "\n",
            "## Commands\n",
            "| agents | command | commit |\n|---|---|---|",
            rows + "\n",
            FOOT,
        ]
    )


def _part(table: str) -> str:
    return "development" if table in DEVELOPMENT else "headline"


def tables_page() -> str:
    names = dict.fromkeys(task.table for task in BENCH.values())
    heads = ["table", "students", "seeds", "(a)", "convergence", "ceiling", "error"]
    tables = [_about(load_table(name)) for name in names]
    heads_of_tasks = ["task", "legal", "two errors", "perfect", "(b)", "(c)", "play"]
    return "\n".join(
        [
            ABOUT_TABLES,
            as_table([*heads, "CPU-hours"], tables),
            ABOUT_TASKS,
            as_table(
                [*heads_of_tasks, "(d)", "optimum", "tau with size"],
                [*map(_judged, BENCH)],
            ),
        ]
    )


def _about(table: Table) -> list[str]:
    known = table.header.get("convergence", {})
    return [
        f"`{table.name}`",
        f"{len(table):,}",
        str(table.num_seeds()),
        f"{tau_of_seeds(table):.3f}",
        *(str(known.get(name, "")) for name in ("tau", "ceiling")),
        f"{100 * table.standard_error():.2f}",
        f"{table.seconds.sum() / 3600:.2f}",
    ]


def _judged(name: str) -> list[str]:
    found = judge(name, BENCH[name], load_table(BENCH[name].table))
    return [
        f"`{name.removeprefix('N2NBench/')}`",
        f"{found.legal:,}",
        f"{ERRORS * found.error:.4f}",
        f"{found.perfect:.4f}",
        f"{found.regression:.4f}",
        f"{found.random:.4f}",
        f"{found.play:.4f}",
        f"{found.tied:.2%}",
        f"{found.optimum:.4f}",
        f"{found.size:.2f}",
    ]


def main() -> None:
    try:
        runs = read_all()
    except ValueError as error:
        raise SystemExit(f"Error: {error}") from error
    found = boards(runs)
    PAGE.write_text(page(runs, found))
    TABLES.write_text(tables_page())
    draw(found.headline, PICTURE)
    print(boards_as_markdown(found))


if __name__ == "__main__":
    main()
