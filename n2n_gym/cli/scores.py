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

from n2n_gym.cli.errors import plain_errors, stoppable
from n2n_gym.cli.output import AsJson, print_json, say
from n2n_gym.rewards import Failure
from n2n_gym.runs import shared_options as options

# SQLAlchemy is imported inside the commands, so that --help is fast.
if TYPE_CHECKING:
    from n2n_gym.scores import Entry, Merged, Provenance, ScoreStore
    from n2n_gym.scores.store import Which

scores = typer.Typer(help="The store of students' scores, shared by all runs.")

# Of their own, because they choose among the scores.
Teacher = Annotated[str | None, typer.Option(help="Only students of this teacher.")]
OfTask = Annotated[str | None, typer.Option(help="Only scores on this task.")]
Rung = Annotated[str | None, typer.Option(help="Only this evaluator: short, full, ...")]
Fingerprint = Annotated[
    str | None,
    typer.Option(help="Only fingerprints that begin like this."),
]


@scores.callback(invoke_without_command=True)
def list_scores(
    context: typer.Context,
    limit: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Scores to list, the newest first."),
    ] = 20,
    teacher: Teacher = None,
    task: OfTask = None,
    rung: Rung = None,
    fingerprint: Fingerprint = None,
    store: options.Store = None,
    as_json: AsJson = False,
) -> None:
    """List the newest scores, and the number of scores of each evaluator.

    `n2n-gym scores export` writes them to a file, `merge` adds those of others.
    """
    if context.invoked_subcommand is not None:
        if any((teacher, task, rung, fingerprint, store, as_json)):
            name = context.invoked_subcommand
            raise typer.BadParameter(f"options of {name} go after {name!r}")
        return
    with plain_errors(), _opened(store, is_read_only=True) as opened:
        which = _which(teacher, task, rung, fingerprint)
        found = opened.count_by(["rung"], **which)
        counts = {name: count for (name,), count in found.items()}
        machines = opened.machines(**which)
        entries = list(opened.rows(newest_first=True, limit=limit, **which))
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
        Path, typer.Argument(help="File to write: .csv, .jsonl or .parquet.")
    ],
    teacher: Teacher = None,
    task: OfTask = None,
    rung: Rung = None,
    fingerprint: Fingerprint = None,
    store: options.Store = None,
    as_json: AsJson = False,
) -> None:
    """Write the scores to a CSV, JSON lines or Parquet file, by its suffix."""
    with plain_errors(), _opened(store, is_read_only=True) as opened:
        from n2n_gym.scores import write_scores

        machines: Counter[Provenance] = Counter()

        def entries() -> Iterator[Entry]:
            for entry in opened.rows(**_which(teacher, task, rung, fingerprint)):
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
        typer.Argument(help="Stores (files or URLs), or files of `scores export`."),
    ],
    store: options.Store = None,
    as_json: AsJson = False,
) -> None:
    """Add the scores of other stores to this one; existing scores stay."""
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
            _say_if_mixed(opened.machines())
    if as_json:
        print_json({other: merged._asdict() for other, merged in found.items()})


Calibration = Annotated[
    Path, typer.Argument(help="File to write; evaluator=FILE uses it.")
]
Cheap = Annotated[
    str, typer.Option(help="The cheap evaluator: short, elastic, inherit or paper.")
]
Students = Annotated[
    int,
    typer.Option(min=5, metavar="N", help="Number of random students to distil fully."),
]
Seed = Annotated[int, typer.Option(help="Random seed of the students drawn.")]


@scores.command()
def calibrate(
    file: Calibration,
    teacher: options.TeacherName = options.TEACHER,
    task: options.TaskName = options.TASK,
    weights: options.Weights = None,
    mean: options.Mean = None,
    std: options.Std = None,
    rung: Cheap = "short",
    students: Students = 24,
    seed: Seed = 0,
    workers: options.Workers = None,
    device: options.Device = None,
    train_teacher: options.TrainTeacher = False,
    store: options.Store = None,
    as_json: AsJson = False,
) -> None:
    """Learn to predict full distillation from a cheap evaluator's scores.

    Scores random students of a teacher with both, and fits a monotone map of accuracy
    and sizes. After a stop, the same command resumes, because the scores are in the
    store.
    """
    with plain_errors():
        if file.suffix != ".json":
            raise ValueError(f"a calibration must be a .json file, got {file}")
        if rung == "full":
            raise ValueError(
                "cannot calibrate 'full'; cheaper evaluators are calibrated against it"
            )
        from n2n_gym.common.files import write_whole
        from n2n_gym.common.progress import progress
        from n2n_gym.evaluators.calibration import calibrate
        from n2n_gym.evaluators.loading import default_runner, load_rung, load_store
        from n2n_gym.evaluators.workers import Workers

        runner = Workers(workers) if workers else default_runner(students)
        opened = load_store(True if store is None else store)
        cheap, full = (
            load_rung(name, device, runner=runner, store=opened)
            for name in (rung, "full")
        )
        loaded = options.named_teacher(
            teacher, task, weights=weights, mean=mean, std=std, device=device
        )
        with stoppable(lambda: "Stopped; all scores are kept."), closing(runner):
            _ = loaded.score  # trained now: its bar comes first
            with progress(2 * students, "Calibrating", is_long=True) as bar:
                cheap.on_result = full.on_result = lambda *_: bar.update()
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


def _which(
    teacher: str | None, task: str | None, rung: str | None, fingerprint: str | None
) -> Which:
    """The options as filters of the store's entries."""
    return {
        "teacher_name": teacher,
        "task_name": task,
        "rung": rung,
        "fingerprint": fingerprint,
    }


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
        # Reading must not create a missing store.
        if is_read_only and Path(str(opened)).is_file():
            opened.close()
            with ScoreStore(_not_to_change(str(opened))) as opened:
                yield opened
        else:
            yield opened


def _not_to_change(other: str) -> str:
    """The URL of another store; the URL of a file opens it for reading only."""
    path = Path(other)
    if "://" in other:
        return other
    if not path.is_file():
        raise ValueError(f"there is no file {other}")
    return f"sqlite:///{path.absolute().as_uri()}?mode=ro&uri=true"


def _table(entries: Iterable[Entry], title: str) -> Table:
    # One space between columns, so that all fit into 80 characters.
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
