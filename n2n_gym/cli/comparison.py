"""The command that compares agents."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from envs_registry import BENCH, DEFAULTS, MODULE, PRESETS
from n2n_gym.cli.errors import plain_errors, stoppable
from n2n_gym.cli.output import AsJson, draw_if_possible, print_json
from n2n_gym.cli.suites import check_suite, compare_on_suite, validate_suite
from n2n_gym.runs.shared_options import (
    COMPARISON,
    FILES,
    PLACE,
    Device,
    Keep,
    OptionalEvaluator,
    OptionalTask,
    OptionalTeacher,
)

# Torch and scipy are imported inside the commands, so that --help is fast.
if TYPE_CHECKING:
    from n2n_gym.comparison.runner import AgentRun
    from n2n_gym.comparison.statistics import Curves, Row

STAGES: Final = ("N2NRemove-v0", "N2NShrink-v0")  # compared by default


KEPT: Final = (
    "Stopped. What was scored is kept; go on with the same command and --resume."
)

Envs = Annotated[
    list[str] | None,
    typer.Option(
        help="Id of an environment or a benchmark task "
        "(N2N/Remove-Digits-ResNet18-v0); repeat for more. By default N2NRemove-v0 and "
        "N2NShrink-v0."
    ),
]
Agents = Annotated[
    str,
    typer.Option(
        help="Agents, separated by commas: reinforce, reinforce@none, reinforce-paper, "
        "random, random-within, uniform, greedy, beam, evolution, local, bayesian, "
        "imitation, ppo, a2c, dqn, maskable-ppo, recurrent-ppo, qrdqn, or "
        "module:function; with --suite also regression."
    ),
]
Suite = Annotated[
    str | None,
    typer.Option(
        help="n2n-bench: all its tasks by its protocol (--seeds 30); "
        "n2n-bench-development: those on which settings may be chosen."
    ),
]
Seen = Annotated[
    str | None,
    typer.Option(
        help="With --suite: what the agents were trained on before, names of tables or "
        "other words, separated by commas.",
        **COMPARISON,
    ),
]
Seeds = Annotated[
    int, typer.Option(min=1, metavar="N", help="Number of runs of each agent.")
]
Budget = Annotated[
    float | None, typer.Option(help="Budget of a run, in nominal student-epochs.")
]
Evaluations = Annotated[
    int | None, typer.Option(help="Budget of a run, in distinct students instead.")
]
Output = Annotated[
    Path, typer.Option(help="Folder for results.jsonl, report.html, curves.png.")
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Resume the comparison in that folder.", **FILES),
]
# Of its own, because here a process makes a whole run.
AtOnce = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Parallel runs; by default one per core.", **PLACE
    ),
]


def compare(
    env: Envs = None,
    agents: Agents = "random,evolution,reinforce",
    suite: Suite = None,
    seen: Seen = None,
    seeds: Seeds = 5,
    budget: Budget = None,
    evaluations: Evaluations = None,
    teacher: OptionalTeacher = None,
    task: OptionalTask = None,
    evaluator: OptionalEvaluator = None,
    keep: Keep = None,
    output: Output = Path("runs/compare"),
    resume: Resume = False,
    workers: AtOnce = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Compare agents at one budget: every agent with every seed.

    The budget counts each distinct student of a run, even if its score is known. Each
    student is scored once for all runs, because the store keeps scores.
    """
    names = [name.strip() for name in agents.split(",")]
    with plain_errors(), stoppable(lambda: KEPT):
        from n2n_gym.comparison.runner import plan

        if suite is not None:
            others: dict[str, Any] = {"env": env, "teacher": teacher, "task": task}
            others |= {"evaluator": evaluator, "budget": budget}
            others |= {"evaluations": evaluations, "keep": keep}
            others |= {"device": device}
            check_suite(suite, others)
            path = _results(output, is_resumed=resume)
            compare_on_suite(
                suite,
                names,
                seeds,
                path,
                workers,
                seen=[word for word in map(str.strip, (seen or "").split(",")) if word],
                as_json=as_json,
            )
            return
        if seen is not None:
            raise ValueError("--seen is only for --suite")
        path = _results(output, is_resumed=resume)
        given = {"teacher": teacher, "task": task, "evaluator": evaluator}
        given["keep"] = keep
        envs = [_resolve(name, given, device) for name in env or STAGES]
        runs = plan(envs, names, range(seeds), epochs=budget, evaluations=evaluations)
        curves, rows = _perform(envs, runs, path, workers)
        unit = "student-epochs" if evaluations is None else "distinct students"
        drawn = _write(curves, rows, output, f"{evaluations or budget:g}", unit)
    if as_json:
        agents_found = list(map(_as_document, rows))
        print_json({"output": str(output), "agents": agents_found})
    else:
        _show(curves, rows, f"{output}: report.html, report.md, results.jsonl{drawn}")


def _results(output: Path, *, is_resumed: bool) -> Path:
    """The file for results; raise a ValueError if a new comparison finds it there."""
    path = output / "results.jsonl"
    if path.exists() and not is_resumed:
        raise ValueError(
            f"{path} already exists; resume it with --resume, or give another file"
        )
    sys.path.append(str(Path.cwd()))  # own agents may be files there
    return path


def _perform(
    envs: list[tuple[str, dict[str, Any]]],
    runs: list[AgentRun],
    path: Path,
    workers: int | None,
) -> tuple[Curves, list[Row]]:
    """Make the runs that the file lacks; return the curves and results of all runs."""
    from n2n_gym.comparison.runner import Results
    from n2n_gym.comparison.runner import compare as perform
    from n2n_gym.comparison.statistics import read_curves, summarise
    from n2n_gym.evaluators.loading import num_cores

    for name, arguments in envs:
        _prepare(name, arguments)
    perform(runs, path, workers=workers or num_cores())
    curves = read_curves(Results(path).lines())
    best_known = {
        name: preset.reference.best
        for name, preset in PRESETS.items()
        if preset.reference is not None
    }
    return curves, summarise(curves, best_known)


def _write(
    curves: Curves, rows: list[Row], output: Path, budget: str, unit: str
) -> str:
    """Write the files of a comparison; return the text that mentions curves.png."""
    from n2n_gym.comparison.statistics import as_markdown, draw
    from n2n_gym.report import write_comparison

    (output / "report.md").write_text(as_markdown(rows))
    drawn = draw_if_possible(draw, curves, output / "curves.png", unit)
    write_comparison(
        output,
        curves,
        rows,
        budget=f"{budget} {unit}",
        unit=unit,
        command=shlex.join(["n2n-gym", *sys.argv[1:]]),
    )
    return drawn


def _show(curves: Curves, rows: list[Row], written: str) -> None:
    table = Table("agent", title="Best rewards: interquartile mean, 95 % interval")
    for name in curves:
        table.add_column(escape(name), justify="right")
    table.add_column("better than random", justify="right")
    for row in rows:
        cells = [str(row.by_env.get(name, "")) for name in curves]
        table.add_row(escape(row.agent), *cells, str(row.is_better or ""))
    console = Console()
    console.print(table)
    console.print(written, highlight=False)


def validate(
    path: Annotated[Path, typer.Argument(help="The results.jsonl of a comparison.")],
    rescore: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Students to score again, the best first."
        ),
    ] = 20,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Check the results of a comparison: replay the decisions, score students again.

    Rewards may differ by the noise of scores, which is measured here. On N2N-Bench,
    rewards must be those of the tables. The file is only read as data: it can name only
    what belongs to this package, and no code in it runs.
    """
    with plain_errors(), stoppable(lambda: "Stopped."):
        from n2n_gym.comparison.suite import is_suite
        from n2n_gym.comparison.validation import validate as check

        if is_suite(path):
            validate_suite(path, as_json=as_json)
            return

        found = check(path, rescore=rescore, device=device)
    if as_json:
        rescored = [one._asdict() for one in found.rescored]
        counts = {"runs": found.runs, "students": found.students}
        print_json({**counts, "rescored": rescored})
        return
    console = Console()
    console.print(
        f"[green]Valid[/green]: {found.runs} runs, {found.students} students replayed, "
        f"{len(found.rescored)} scored anew.",
        highlight=False,
    )
    if found.worst is not None:
        console.print(
            f"Furthest off, {escape(found.worst.where)}: {found.worst.claimed:.4f} "
            f"claimed, {found.worst.found:.4f} found; {found.worst.tolerance:.4f} is "
            f"allowed.",
            highlight=False,
        )


def _as_document(row: Row) -> dict[str, Any]:
    """An agent's results as a JSON document."""
    figures = {name: getattr(row, name) for name in ("normalised", "is_better")}
    return {
        "agent": row.agent,
        "by_env": {env: found._asdict() for env, found in row.by_env.items()},
        **{name: found and found._asdict() for name, found in figures.items()},
    }


def _resolve(
    name: str, given: dict[str, str | None], device: str | None
) -> tuple[str, dict[str, Any]]:
    """The full id of an environment, and the environment's arguments.

    The id names its module, so that gymnasium finds the environment in any process.

    Args:
        given: Options by name; None for an option that is not given.

    Raises:
        ValueError: There is no such environment, or it does not take an option.
    """
    import gymnasium as gym

    known = name.removeprefix(MODULE)
    chosen = {key: value for key, value in given.items() if value is not None}
    place = {} if device is None else {"device": device}
    wrong: dict[str, Any] = {}
    arguments: dict[str, Any]
    if known in BENCH:  # scores come from a table, so no device is needed
        wrong, arguments = chosen | place, {}
    elif known in PRESETS:
        wrong, arguments = chosen, place
    else:
        arguments = {**DEFAULTS, **chosen, **place}
    if wrong:
        raise ValueError(
            f"{name} has its own teacher, task and evaluator; leave out "
            f"{', '.join(f'--{key}' for key in wrong)}"
        )
    full = name if ":" in name else MODULE + name
    try:
        gym.spec(known)
    except gym.error.Error as error:
        raise ValueError(f"there is no environment {name!r}: {error}") from error
    return full, arguments


def _prepare(name: str, arguments: dict[str, Any]) -> None:
    """Play one episode, which makes the networks that all runs need.

    These are the teacher and, for some evaluators, an elastic teacher.
    """
    import gymnasium as gym

    from n2n_agents.rollouts import play_all

    env = gym.make(name, **arguments)
    list(play_all(env, [lambda observation, mask: env.metadata["keep"]]))
    env.close()
