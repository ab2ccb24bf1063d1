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

from envs_registry import DEFAULTS, MODULE, PRESETS
from n2n_gym.cli.errors import plain_errors, stoppable
from n2n_gym.cli.options import (
    FILES,
    PLACE,
    SEARCH,
    Device,
    Keep,
    OptionalTask,
    OptionalTeacher,
)
from n2n_gym.cli.output import AsJson, print_json
from n2n_gym.common.plugins import refuse_unknown

# What needs torch or scipy is imported in the commands, so that --help is quick.
if TYPE_CHECKING:
    from n2n_gym.comparison.statistics import Row

STAGES: Final = ("N2NRemove-v0", "N2NShrink-v0")  # compared by default


def compare(
    env: Annotated[
        list[str] | None,
        typer.Option(
            help="An environment's id, once for each: N2NRemove-v0 and N2NShrink-v0 by "
            "default, or one of the benchmark tasks (N2N/Remove-Digits-ResNet18-v0)."
        ),
    ] = None,
    agents: Annotated[
        str,
        typer.Option(
            help="Names with commas between: reinforce, reinforce-paper, random, "
            "uniform, greedy, beam, evolution, ppo, a2c, dqn, maskable-ppo, "
            "recurrent-ppo, qrdqn, or module:function."
        ),
    ] = "random,evolution,reinforce",
    suite: Annotated[
        str | None,
        typer.Option(help="n2n-bench: all of its tasks by its protocol (--seeds 30)."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Runs of each agent.")
    ] = 5,
    budget: Annotated[
        float | None, typer.Option(help="Nominal student-epochs of a run.")
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option(help="Distinct students of a run, in place of that.")
    ] = None,
    teacher: OptionalTeacher = None,
    task: OptionalTask = None,
    evaluator: Annotated[
        str | None,
        typer.Option(
            help="How students are scored: size, inherit (default), ...", **SEARCH
        ),
    ] = None,
    keep: Keep = None,
    output: Annotated[
        Path, typer.Option(help="A folder for results.jsonl, report.html, curves.png.")
    ] = Path("runs/compare"),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the runs of that folder.", **FILES),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Runs at once; one a core by default.", **PLACE
        ),
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Compare agents at one budget: every agent with every seed.

    A budget counts what each distinct student of a run costs, known or not. Students
    are scored once for all runs: the store keeps them.
    """
    kept = "Stopped. What was scored is kept; go on with the same command and --resume."
    if suite is not None:
        others: dict[str, Any] = {"env": env, "teacher": teacher, "task": task}
        others |= {"evaluator": evaluator, "budget": budget}
        others |= {"evaluations": evaluations, "keep": keep}
        others |= {"device": device, "workers": workers}
        with plain_errors(), stoppable(lambda: kept):
            _compare_on_suite(suite, agents, seeds, output, resume, others, as_json)
        return
    with plain_errors(), stoppable(lambda: kept):
        from n2n_gym.comparison.runner import Results, plan
        from n2n_gym.comparison.runner import compare as perform
        from n2n_gym.comparison.statistics import (
            as_markdown,
            draw,
            read_curves,
            summarise,
        )
        from n2n_gym.evaluators.loading import num_cores
        from n2n_gym.report import write_comparison

        path = output / "results.jsonl"
        if path.exists() and not resume:
            raise ValueError(f"{path} is there already; --resume goes on with it")
        sys.path.append(str(Path.cwd()))  # own agents may be files there
        given = {"teacher": teacher, "task": task, "evaluator": evaluator}
        given["keep"] = keep
        envs = [_resolve(name, given, device) for name in env or STAGES]
        runs = plan(
            envs,
            [name.strip() for name in agents.split(",")],
            range(seeds),
            epochs=budget,
            evaluations=evaluations,
        )
        for name, arguments in envs:
            _prepare(name, arguments)
        perform(runs, path, workers=workers or num_cores())
        curves = read_curves(Results(path).lines())
        best_known = {
            name: preset.reference.best
            for name, preset in PRESETS.items()
            if preset.reference is not None
        }
        rows = summarise(curves, best_known)
        (output / "report.md").write_text(as_markdown(rows))
        unit = "student-epochs" if evaluations is None else "distinct students"
        drawn = _draw(draw, curves, output / "curves.png", unit)
        write_comparison(
            output,
            curves,
            rows,
            budget=f"{evaluations or budget:g} {unit}",
            unit=unit,
            command=shlex.join(["n2n-gym", *sys.argv[1:]]),
        )
    if as_json:
        print_json({"output": str(output), "agents": list(map(_as_document, rows))})
        return
    table = Table("agent", title="Best rewards: interquartile mean, 95 % interval")
    for name in curves:
        table.add_column(escape(name), justify="right")
    table.add_column("better than random", justify="right")
    for row in rows:
        cells = [str(row.by_env.get(name, "")) for name in curves]
        table.add_row(escape(row.agent), *cells, str(row.is_better or ""))
    console = Console()
    console.print(table)
    made = f"report.html, report.md, results.jsonl{drawn}"
    console.print(f"{output}: {made}", highlight=False)


def _compare_on_suite(
    suite: str,
    agents: str,
    seeds: int,
    output: Path,
    resume: bool,
    others: dict[str, Any],
    as_json: bool,
) -> None:
    """Every agent with every seed on every task; writes the leaderboard."""
    from n2n_gym.comparison import suite as protocol

    refuse_unknown("suite", suite, (protocol.SUITE,))
    if given := [f"--{name}" for name, value in others.items() if value is not None]:
        raise ValueError(f"--suite fixes what {', '.join(given)} would; leave it out")
    path = output / "results.jsonl"
    if path.exists() and not resume:
        raise ValueError(f"{path} is there already; --resume goes on with it")
    sys.path.append(str(Path.cwd()))  # own agents may be files there
    runs = protocol.perform_suite(
        [name.strip() for name in agents.split(",")],
        range(seeds),
        path,
        command=shlex.join(["n2n-gym", *sys.argv[1:]]),
    )
    found = protocol.standings(runs)
    (output / "leaderboard.md").write_text(protocol.as_markdown(found))
    drawn = _draw(
        lambda rows, to, _: protocol.draw(rows, to), found, output / "curves.png", ""
    )
    if as_json:
        agents_found = [
            {"agent": one.agent, "seen": one.seen, "gap": one.gap._asdict()}
            | {"at": {n: of._asdict() for n, of in one.at.items()}}
            for one in found
        ]
        print_json({"output": str(output), "agents": agents_found})
        return
    table = Table("agent", title="Test regret: 0 the best student, 1 a random one")
    for budget in protocol.BUDGETS:
        table.add_column(f"{budget} students", justify="right")
    for one in found:
        cells = (f"{one.at[n].value:.3f}" for n in protocol.BUDGETS)
        table.add_row(escape(one.agent), *cells)
    console = Console()
    console.print(table)
    made = f"leaderboard.md, results.jsonl{drawn}"
    console.print(f"{output}: {made}", highlight=False)


def validate(
    path: Annotated[Path, typer.Argument(help="The results.jsonl of a comparison.")],
    rescore: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Students to score anew, the best first."
        ),
    ] = 20,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Check the results of a comparison: replay the decisions, score students anew.

    Accepts rewards within the noise of scores, measured here. The file is read as data:
    it can name what comes with this package, and runs no code of its own.
    """
    with plain_errors(), stoppable(lambda: "Stopped."):
        from n2n_gym.comparison.suite import is_suite, read_suite
        from n2n_gym.comparison.validation import validate as check

        if is_suite(path):
            runs = list(read_suite(path))
            if as_json:
                print_json(
                    {"runs": len(runs), "students": sum(len(r.rows) for r in runs)}
                )
            else:
                Console().print(f"{path} holds: {len(runs)} runs, by the tables.")
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
    """What an agent reached, its figures by name."""
    figures = {name: getattr(row, name) for name in ("normalised", "is_better")}
    return {
        "agent": row.agent,
        "by_env": {env: found._asdict() for env, found in row.by_env.items()},
        **{name: found and found._asdict() for name, found in figures.items()},
    }


def _resolve(
    name: str, given: dict[str, str | None], device: str | None
) -> tuple[str, dict[str, Any]]:
    """An id as gymnasium finds it in any process, and its arguments."""
    chosen = {key: value for key, value in given.items() if value is not None}
    if name.removeprefix(MODULE) in PRESETS:
        if chosen:
            raise ValueError(
                f"{name} has its own teacher, task and evaluator; leave out "
                f"{', '.join(f'--{key}' for key in chosen)}"
            )
        arguments = {}
    else:
        arguments = {**DEFAULTS, **chosen}
    if device is not None:
        arguments["device"] = device
    return (name if ":" in name else MODULE + name), arguments


def _prepare(name: str, arguments: dict[str, Any]) -> None:
    """Make what all runs share before them: the teacher, perhaps an elastic one."""
    import gymnasium as gym

    from n2n_agents.rollouts import play_all

    env = gym.make(name, **arguments)
    list(play_all(env, [lambda observation, mask: env.metadata["keep"]]))
    env.close()


def _draw(draw: Any, curves: Any, path: Path, unit: str) -> str:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        return ' (curves.png needs pip install "n2n-gym[bench]")'
    draw(curves, path, unit)
    return ", curves.png"
