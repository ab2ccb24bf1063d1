"""The suites of N2N-Bench on the command line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from n2n_gym.cli.output import draw_if_possible, print_json
from n2n_gym.common.commit import commit_of_code
from n2n_gym.common.plugins import refuse_unknown

# Torch and scipy are imported inside the commands, so that --help is fast.
if TYPE_CHECKING:
    from n2n_gym.comparison.leaderboard import Standing


def check_suite(suite: str, others: dict[str, Any]) -> None:
    """Raise a ValueError if the suite is unknown, or one of ``others`` is given."""
    from n2n_gym.comparison.suite import SUITES

    refuse_unknown("suite", suite, SUITES)
    if given := [f"--{name}" for name, value in others.items() if value is not None]:
        raise ValueError(
            f"--suite determines these options; leave out {', '.join(given)}"
        )


def compare_on_suite(
    suite: str,
    agents: list[str],
    seeds: int,
    path: Path,
    workers: int | None,
    *,
    seen: list[str],
    as_json: bool,
) -> None:
    """Run every agent with every seed on every task; write the leaderboard."""
    from n2n_gym.comparison import leaderboard
    from n2n_gym.comparison.suite import perform_suite, tasks_of_suite
    from n2n_gym.evaluators.loading import num_cores

    output = path.parent
    runs = perform_suite(
        agents,
        range(seeds),
        path,
        tasks=tasks_of_suite(suite),
        seen=seen,
        command=shlex.join(["n2n-gym", *sys.argv[1:]]),
        commit=commit_of_code(),
        workers=workers or num_cores(),
    )
    found = leaderboard.boards(runs)
    text = leaderboard.boards_as_markdown(found)
    (output / "leaderboard.md").write_text(f"{text}\n")
    first = found.headline or found.development
    drawn = draw_if_possible(
        lambda rows, to, _: leaderboard.draw(rows, to), first, output / "curves.png", ""
    )
    if as_json:
        parts = found._asdict()
        agents_found = {part: list(map(_standing, of)) for part, of in parts.items()}
        print_json({"output": str(output), "agents": agents_found})
        return
    console = Console()
    for title, rows in zip(leaderboard.BOARDS, found, strict=True):
        if rows:
            console.print(_as_table(title, rows))
    made = f"leaderboard.md, results.jsonl{drawn}"
    console.print(f"{output}: {made}", highlight=False)


def _as_table(title: str, rows: Sequence[Standing]) -> Table:
    text = f"{title}. Test regret: 0 the best student, 1 a random one"
    table = Table(title=text)
    table.add_column("agent", overflow="fold")
    table.add_column("mean", justify="right")
    for budget in rows[0].at:
        table.add_column(f"{budget} students", justify="right", max_width=8)
    for one in rows:
        cells = (f"{found.value:.3f}" for found in (one.mean, *one.at.values()))
        table.add_row(escape(one.agent), *cells)
    return table


def _standing(one: Standing) -> dict[str, Any]:
    """An agent's standing as a JSON document."""
    at = {budget: found._asdict() for budget, found in one.at.items()}
    return {"agent": one.agent, "seen": one.seen, "mean": one.mean._asdict(), "at": at}


def validate_suite(path: Path, *, as_json: bool) -> None:
    """Check a file of runs on N2N-Bench, and say which runs it lacks."""
    from n2n_gym.comparison.suite import BUDGETS, lacking, read_suite, suite_of

    runs = list(read_suite(path))
    if not runs:
        raise ValueError(f"{path} has no runs")
    suite, num_rows = suite_of(runs), [len(one.rows) for one in runs]
    missing = lacking(runs, suite)
    if as_json:
        content = {"suite": suite, "runs": len(runs), "students": sum(num_rows)}
        print_json({**content, "missing": missing})
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"[green]Valid[/green]: {len(runs)} runs, {sum(num_rows)} students.")
    if short := sum(count < BUDGETS[-1] for count in num_rows):
        console.print(f"{short} runs ended with fewer than {BUDGETS[-1]} students.")
    if missing:
        console.print(
            f"Not whole: for {suite}, {len(missing)} runs are missing, first "
            f"{missing[0]}."
        )
    else:
        console.print(f"Whole: every task of {suite} with every seed.")
