"""n2n-gym and today's pruners on real images, side by side.

    python -m benchmarks.peers                         # everything, 3 seeds
    python -m benchmarks.peers --targets params/10 --methods ours taylor --seeds 0
    python -m benchmarks.peers --show --plot peers.png

The teacher is a ResNet-56 for CIFAR-10 with 10,000 training images. Each student keeps
a target: a fraction of the teacher's parameters, of its latency, or of both parameters
and multiply-accumulates. Methods: uniform width; Torch-Pruning with magnitude or Taylor
importance, all layers ranked together; FastNAS of NVIDIA's ModelOpt, for one target and
one seed; and ours, `n2n-gym compress`. All students are tuned by the same distillation,
from the weights that their method gives. There are two columns: equal epochs of tuning,
and equal time of search and tuning together. For equal time, the other methods get so
many epochs that their search and tuning take as long as ours. Time is CPU time, so
other work on the machine does not count.

Ours and FastNAS choose by validation images; the other methods need none. The recipe
of all tunings is this project's.

The peers' searches come first, because they take minutes and a tuning takes an hour. At
the end, the teacher and all students of a target are timed in turns; the table has
these latencies, and says how many students keep the target.

Each result is written at once as a line of ``results.jsonl`` in the output folder, with
a bit for each test image: 1 if the student is right. After a stop the same command
resumes, from the middle of a tuning too. Runs on one thread. Several processes can
share an output folder; each student is made by one of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.peers import show
from benchmarks.peers.pruners import ADVICE, METHODS, NEEDS, OURS
from benchmarks.peers.subject import TARGETS, check_alone, load_subject, task_of
from benchmarks.peers.timing import time_students
from benchmarks.peers.tuning import (
    COLUMNS,
    EPOCHS,
    KEY,
    PACKAGES,
    TIME,
    Bench,
    Found,
    longer,
    read_compress,
    sizes,
    written,
)
from benchmarks.results import Results, made_here
from n2n_gym.common.files import data_folder
from n2n_gym.common.plugins import refuse_unknown
from n2n_gym.compression.candidates import Failed
from n2n_gym.networks.scaling import OutOfReach
from n2n_gym.pytorch.recipe import read_precision
from n2n_gym.runs.folder import INCIDENTAL

FASTNAS_TARGETS: Final = ("params/10",)
TEACHER: Final = "benchmarks.peers.networks:resnet56"


def rows(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Method, target and seed of each student, our method before the peers."""
    methods = sorted(options.methods, key=lambda name: name != OURS)
    for seed in options.seeds:
        for target in options.targets:
            for method in methods:
                is_rare = method == "fastnas"
                if is_rare and (target not in FASTNAS_TARGETS or seed):
                    continue
                yield method, target, seed


def measure_all(bench: Bench, options: argparse.Namespace, results: Results) -> None:
    """Measure what the folder does not have yet."""
    bench.prepare()
    add_teacher(bench, results)
    # What cannot be found shows within minutes, before the hours of the other work.
    peers = [row for row in rows(options) if row[0] != OURS]
    for row in peers:
        make(bench, options, results, row, is_tuned=False)
    for row in rows(options):
        make(bench, options, results, row)
    for target in options.targets:
        time_students(bench, target, results)


def make(
    bench: Bench,
    options: argparse.Namespace,
    results: Results,
    row: tuple[str, str, int],
    *,
    is_tuned: bool = True,
) -> None:
    """Find and tune one student, as far as its results are missing.

    Args:
        row: Method, target and seed.
        is_tuned: Whether the student is tuned; otherwise it is only found.
    """
    method, target, seed = row
    first = (method, target, EPOCHS, seed)
    wanted = {(method, target, column, seed) for column in options.columns}
    if not wanted - results.read().keys():
        return
    what = f"{method}, {target}, seed {seed}"
    with bench.claimed(*row) as is_mine:
        if not is_mine:
            print(f"{what}: another process works on it", flush=True)
            return
        if not wanted - results.read().keys():
            return  # that process has just ended
        print(f"{what}: {'tuning' if is_tuned else 'search'}", flush=True)
        try:
            found = bench.find(*row)
        except (OutOfReach, Failed) as error:
            print(f"{what}: {error}", flush=True)
            for key in wanted:
                said = dict(zip(KEY, key, strict=True))
                results.add(**said, error=str(error), **bench.made_with())
            return
        if is_tuned and first not in results.read():
            add(bench, results, found, first, bench.epochs)
        if is_tuned and TIME in options.columns:
            add_in_time(bench, results, found, (method, target, TIME, seed))


def add(
    bench: Bench,
    results: Results,
    found: Found,
    key: tuple[str, str, str, int],
    epochs: int,
) -> None:
    """Tune a student and write its result."""
    tuned, spent = bench.tune(found.pruned, epochs, key)
    results.add(
        **dict(zip(KEY, key, strict=True)),
        **sizes(bench.subject, found.pruned),
        epochs=epochs,
        search_minutes=searched(bench, found, key, spent.cpu, "cpu"),
        search_wall_minutes=searched(bench, found, key, spent.wall, "wall"),
        tuning_minutes=spent.cpu,
        tuning_wall_minutes=spent.wall,
        fingerprint=found.pruned.student.fingerprint,
        **tuned,
        **bench.made_with(),
        **({"compress": written(bench.options)} if key[0] == OURS else {}),
    )
    bench.forget(key)


def searched(
    bench: Bench, found: Found, key: tuple[str, str, str, int], tuning: float, of: str
) -> float:
    """Minutes of a search, less the tuning that our command's time includes.

    Args:
        tuning: Minutes of the student's tuning.
        of: Kind of minutes: ``"cpu"`` or ``"wall"``.
    """
    minutes = float(getattr(found.spent, of))
    options = bench.options
    is_tuned = not options.is_timed and options.final_epochs >= bench.epochs
    is_tuned &= key[0] == OURS
    return max(0.0, minutes - tuning) if is_tuned else minutes


def add_in_time(
    bench: Bench, results: Results, found: Found, key: tuple[str, str, str, int]
) -> None:
    """Add the result at equal time; for our method, that at equal epochs.

    A tuning that diverged has no time, so it counts in both columns.
    """
    method, target, _, seed = key
    done = results.read()
    own = done[method, target, EPOCHS, seed]
    if key in done:
        return
    if method == OURS or "error" in own:
        results.add(**{**own, "column": TIME})
        return
    ours = done.get((OURS, target, EPOCHS, seed))
    if ours is None or "error" in ours:
        print(f"{target}, seed {seed}: equal time needs our result first", flush=True)
        return
    epochs = longer(
        own["search_minutes"],
        ours["search_minutes"] + ours["tuning_minutes"],
        bench.epochs,
        own["tuning_minutes"],
    )
    if epochs == own["epochs"]:  # the same training
        results.add(**{**own, "column": TIME})
        return
    add(bench, results, found, key, epochs)


def add_teacher(bench: Bench, results: Results) -> None:
    """Write the teacher's line."""
    key = show.ALONE
    if key in results.read():
        return
    subject = bench.subject
    start = subject.teacher.architecture
    results.add(
        **dict(zip(KEY, key, strict=True)),
        **subject.meter(start, start),
        **bench.answers(subject.teacher.network(torch.device("cpu"))),
        **bench.made_with(),
    )


def parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = [*METHODS, OURS]
    found.add_argument("--methods", nargs="+", default=every, help=", ".join(every))
    found.add_argument(
        "--targets", nargs="+", default=list(TARGETS), help=", ".join(TARGETS)
    )
    found.add_argument("--columns", nargs="+", default=list(COLUMNS), help="both")
    found.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    found.add_argument("--epochs", type=int, default=60, help="of each tuning")
    found.add_argument("--teacher", default=TEACHER, help="module:function, resnet56")
    found.add_argument("--images", type=int, default=10_000, help="for training")
    found.add_argument("--task", help="in place of CIFAR-10")
    found.add_argument("--weights", type=Path, help="of the teacher, if it has any")
    found.add_argument(
        "--teacher-epochs", type=int, default=60, help="of the teacher's training"
    )
    found.add_argument("--compress", type=Path, help="further options of ours, TOML")
    found.add_argument("--workers", type=int, default=1, help="processes of ours")
    found.add_argument("--precision", help="float32, bfloat16; default: the faster")
    found.add_argument("--output", type=Path, default=Path("runs/peers"))
    found.add_argument("--show", action="store_true", help="measure nothing")
    found.add_argument("--plot", type=Path, help="a figure; needs the extra bench")
    return found


def said(options: argparse.Namespace) -> str:
    """The options that differ from the defaults, as text for a command."""
    names = ("teacher", "images", "task", "weights", "teacher_epochs", "epochs")
    names += ("compress", "workers", "precision", "output")
    usual = parser().parse_args([])
    flags = [
        f" --{name.replace('_', '-')} {getattr(options, name)}"
        for name in names
        if getattr(options, name) != getattr(usual, name)
    ]
    return "".join(flags)


def check(options: argparse.Namespace) -> None:
    """Refuse unknown names, and methods whose library is missing.

    Raises:
        ValueError: A name is unknown, a number is below 1, or a library is missing.
    """
    for what, known in (
        ("methods", (*METHODS, OURS)),
        ("targets", tuple(TARGETS)),
        ("columns", COLUMNS),
    ):
        for name in getattr(options, what):
            refuse_unknown(what[:-1], name, known)
    for name in ("epochs", "images", "workers"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(options, name)}")
    read_precision(options.precision)
    if options.show:
        return
    for method in dict.fromkeys(method for method, _, _ in rows(options)):
        package = NEEDS.get(method)
        if package is not None and importlib.util.find_spec(package) is None:
            raise ValueError(f"{ADVICE[package]}, or leave {method} out of --methods")


def run(options: argparse.Namespace, results: Results) -> None:
    torch.set_num_threads(1)
    os.environ["N2N_DATA"] = str(data_folder())
    # The folder has its own cache: no search uses results from other folders.
    os.environ["N2N_CACHE"] = str(options.output.absolute() / "cache")
    task = options.task or task_of(options.images)
    weights = options.weights and str(options.weights)
    names = ("teacher", "teacher_epochs", "epochs", "precision")
    alike = {name: getattr(options, name) for name in names}
    further = read_compress(options.compress, options.epochs, options.workers)
    search = {k: v for k, v in written(further).items() if k not in INCIDENTAL}
    alike |= {
        "task": task,
        "weights": weights,
        "compress": search,
        **made_here(PACKAGES),
    }
    check_alone(options.output, alike)
    subject = load_subject(
        options.teacher,
        task,
        options.output,
        weights=options.weights,
        epochs=options.teacher_epochs,
        precision=options.precision,
    )
    bench = Bench(subject, options.epochs, options.precision, further)
    measure_all(bench, options, results)


def main(arguments: list[str] | None = None) -> None:
    command = parser()
    options: Any = command.parse_args(arguments)
    results = Results(options.output, *KEY)
    try:
        check(options)
        if not options.show:
            run(options, results)
    except (ValueError, FileExistsError) as error:
        command.error(str(error))
    found = results.read()
    print(show.as_markdown(found))
    if missing := show.missing(found, rows(options), options.columns, said(options)):
        print("What fills the blanks:\n")
        print("\n".join(missing))
    if options.plot is not None:
        show.draw(found, options.plot)


if __name__ == "__main__":
    main()
