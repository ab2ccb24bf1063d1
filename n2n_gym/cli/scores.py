"""The commands for the store of scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from n2n_gym.cli import options
from n2n_gym.cli.errors import plain_errors, stoppable
from n2n_gym.cli.output import AsJson, print_json, say
from n2n_gym.rewards import Failure

# SQLAlchemy is imported in the commands, so that --help is quick.
if TYPE_CHECKING:
    from n2n_gym.scores import Entry, Merged, Provenance, ScoreStore

scores = typer.Typer(help="Scores: what was measured of students, kept for all runs.")

Teacher = Annotated[str | None, typer.Option(help="Students of this teacher alone.")]
OfTask = Annotated[str | None, typer.Option(help="On this task alone.")]
Rung = Annotated[str | None, typer.Option(help="Of this rung alone.")]
Fingerprint = Annotated[
    str | None, typer.Option(help="Of the student whose fingerprint begins so.")
]
Store = Annotated[
    str | None,
    typer.Option(
        help="The store: a file, or a database's URL "
        "(postgresql+psycopg://host/name); by default scores.sqlite in the cache "
        "folder."
    ),
]


@scores.callback(invoke_without_command=True)
def list_scores(
    context: typer.Context,
    limit: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="How many to list, the newest first."),
    ] = 20,
    teacher: Teacher = None,
    task: OfTask = None,
    rung: Rung = None,
    fingerprint: Fingerprint = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """List the newest scores kept, and how many there are of each rung.

    `n2n-gym scores export` writes them to a file, `merge` adds those of others.
    """
    if context.invoked_subcommand is not None:
        if any((teacher, task, rung, fingerprint, store, as_json)):
            name = context.invoked_subcommand
            raise typer.BadParameter(f"options of {name} go after {name!r}")
        return
    with plain_errors(), _opened(store, is_read_only=True) as opened:
        counts = opened.count_by_rung(
            teacher_name=teacher, task_name=task, rung=rung, fingerprint=fingerprint
        )
        machines = opened.count_by_machine(
            teacher_name=teacher, task_name=task, rung=rung, fingerprint=fingerprint
        )
        newest = opened.rows(
            teacher_name=teacher,
            task_name=task,
            rung=rung,
            fingerprint=fingerprint,
            newest_first=True,
            limit=limit,
        )
        entries = list(newest)
        if as_json:
            from n2n_gym.scores.entry import as_row

            rows = list(map(as_row, entries))
            about = {"store": str(opened), "counts": counts}
            print_json({**about, "machines": _plain(machines), "newest": rows})
            return
        if entries:
            Console().print(_table(entries, f"The newest in {opened}"))
        for entry in entries:
            if isinstance(entry.result, Failure):
                say(f"{entry.key.fingerprint[:12]} failed: {entry.result.reason}")
        each = ", ".join(f"{name}: {count:,}" for name, count in counts.items())
        say(f"{sum(counts.values()):,} scores in {opened}{each and f' ({each})'}")
        _say_if_mixed(machines)


@scores.command()
def export(
    file: Annotated[
        Path, typer.Argument(help="What to write: .csv, .jsonl or .parquet.")
    ],
    teacher: Teacher = None,
    task: OfTask = None,
    rung: Rung = None,
    fingerprint: Fingerprint = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Write the scores to a CSV, JSON lines or Parquet file, by its suffix."""
    with plain_errors(), _opened(store, is_read_only=True) as opened:
        from n2n_gym.scores import write_scores

        machines: Counter[Provenance] = Counter()

        def entries() -> Iterator[Entry]:
            for entry in opened.rows(
                teacher_name=teacher, task_name=task, rung=rung, fingerprint=fingerprint
            ):
                machines[entry.provenance] += 1
                yield entry

        count = write_scores(file, entries())
    if as_json:
        found = {"path": str(file), "count": count}
        print_json({**found, "machines": _plain(machines)})
    else:
        say(f"{count:,} scores written to {file}")
        _say_if_mixed(machines)


@scores.command()
def merge(
    others: Annotated[
        list[str],
        typer.Argument(help="Stores (files or URLs), or files that export wrote."),
    ],
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Add the scores of other stores to this one; those that are here already stay."""
    with plain_errors(), _opened(store) as opened:
        from n2n_gym.scores import read_scores

        found: dict[str, Merged] = {}
        for other in others:
            path = Path(other)
            if path.suffix.lower() in (".csv", ".jsonl", ".parquet"):
                merged = opened.merge(read_scores(path))
            else:
                with _opened(_not_to_change(other)) as source:
                    merged = opened.merge(source)
            found[other] = merged
            if not as_json:
                say(
                    f"{other}: {merged.added:,} added, {merged.known:,} here already, "
                    f"{merged.different:,} here with another accuracy, which stays"
                )
        if not as_json:
            _say_if_mixed(opened.count_by_machine())
    if as_json:
        print_json({other: merged._asdict() for other, merged in found.items()})


@scores.command()
def calibrate(
    file: Annotated[
        Path, typer.Argument(help="What to write; then evaluator=FILE uses it.")
    ],
    teacher: options.Teacher = "resnet18",
    task: options.TaskName = "digits",
    weights: options.Weights = None,
    mean: options.Mean = None,
    std: options.Std = None,
    rung: Annotated[
        str,
        typer.Option(help="The cheap one: short, elastic, inherit or paper."),
    ] = "short",
    students: Annotated[
        int,
        typer.Option(
            min=5, metavar="N", help="How many to distil fully, drawn at random."
        ),
    ] = 24,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Processes; one for each core by default."
        ),
    ] = None,
    device: options.Device = None,
    train_teacher: options.TrainTeacher = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Learn what full distillation would make of a cheap rung's scores.

    Distils random students of a teacher on both and fits a monotone map of accuracy
    and sizes. Stopped, it goes on where it was: the scores are in the store.
    """
    with plain_errors():
        if file.suffix != ".json":
            raise ValueError(f"a calibration is a .json file, got {file}")
        if rung == "full":
            raise ValueError("full distillation is what cheap rungs are calibrated by")
        from n2n_gym.common.files import write_whole
        from n2n_gym.common.progress import progress
        from n2n_gym.evaluators.calibration import calibrate
        from n2n_gym.evaluators.loading import default_runner, load_rung, load_store
        from n2n_gym.evaluators.workers import Workers
        from n2n_gym.runs.options import statistics
        from n2n_gym.teachers.loading import load_teacher

        runner = Workers(workers) if workers else default_runner(students)
        opened = load_store(True if store is None else store)
        cheap, full = (
            load_rung(name, device, runner=runner, store=opened)
            for name in (rung, "full")
        )
        loaded = load_teacher(
            teacher,
            task,
            weights=weights,
            normalisation=statistics(mean, std),
            device=device,
        )
        with stoppable(lambda: "Stopped; all scores are kept."), closing(runner):
            _ = loaded.score  # trained now: its bar comes first
            with progress(2 * students, "Calibrating", is_long=True) as bar:
                cheap.on_result = full.on_result = bar.update
                found = calibrate(loaded, cheap, full, num_students=students, seed=seed)
        write_whole(file, found.to_json().encode())
    if as_json:
        print_json({"path": str(file), **asdict(found)})
        return
    say(f"logit(accuracy when distilled fully) = {found.accuracy_map}")
    say(
        f"{found.num_students} students, {found.cost:,.0f} student-epochs. Use it with "
        f'evaluator="{file}".'
    )


def _plain(machines: Mapping[Provenance, int]) -> list[dict[str, Any]]:
    return [{**each._asdict(), "count": count} for each, count in machines.items()]


def _say_if_mixed(machines: Mapping[Provenance, int]) -> None:
    if len(machines) > 1:
        each = "; ".join(f"{count:,} of {kind}" for kind, count in machines.items())
        say(f"scores of {len(machines)} kinds of machine: {each}")


@contextmanager
def _opened(store: str | None, *, is_read_only: bool = False) -> Iterator[ScoreStore]:
    from n2n_gym.scores import ScoreStore

    with ScoreStore(store) as opened:
        # One that is not there yet is not made by reading either.
        if is_read_only and Path(str(opened)).is_file():
            opened.close()
            with ScoreStore(_not_to_change(str(opened))) as opened:
                yield opened
        else:
            yield opened


def _not_to_change(other: str) -> str:
    """The URL of somebody's store, to be read alone."""
    path = Path(other)
    if "://" in other:
        return other
    if not path.is_file():
        raise ValueError(f"there is no file {other}")
    return f"sqlite:///{path.absolute().as_uri()}?mode=ro&uri=true"


def _table(entries: Iterable[Entry], title: str) -> Table:
    # Nothing but a space between columns: all of them fit into 80 characters.
    table = Table(title=escape(title), box=box.SIMPLE, padding=0, show_edge=False)
    for name in ("teacher", "task", "rung"):
        table.add_column(name, overflow="fold")
    for name in ("accuracy", "parameters", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("UTC", no_wrap=True)
    table.add_column("student", no_wrap=True)
    for entry in entries:
        if isinstance(entry.result, Failure):
            measured = ["[red]failed[/red]", "", ""]
        else:
            score = entry.result
            measured = [f"{score.accuracy:.2%}", f"{score.num_params:,}"]
            measured.append(f"{score.cost:,.3g}")
        table.add_row(
            *map(escape, (entry.teacher_name, entry.task_name, entry.key.rung)),
            *measured,
            entry.created[5:16].replace("T", " "),
            entry.key.fingerprint[:12],
        )
    return table
