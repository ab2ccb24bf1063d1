"""Limits on latency and size: are they kept, and do students beat uniform width?

    python -m benchmarks.limits                      # all of it, resumable
    python -m benchmarks.limits --tasks digits --shares 5 --seeds 1
    python -m benchmarks.limits --again              # time the files once more
    python -m benchmarks.limits --show               # what was measured so far

Each search compresses a ResNet-18 to 1/2, 1/5, 1/10 or 1/20 of its latency, or of its
ONNX file's size. The search is that of ``n2n-gym compress``, with a short budget. The
student's file is measured again: its size, and its latency in five new sessions, in
turns with the teacher's file. ``--again`` repeats this for students with a limit on
latency. Sessions differ by where weights lie in memory and by other work of the
machine. So a limit counts as kept if the median of all sessions is within it; the
slowest session is shown too. The student is compared with uniform width within the same
limit, distilled for as many epochs from as many seeds. For latency there is also
uniform width in blocks of channels, from which the search starts.

Each result is a line of ``results.jsonl`` in the output folder. Runs on one thread.
CIFAR-10 needs the folder that ``N2N_DATA`` names, with the trained teacher's weights.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from statistics import mean, median
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.results import Results
from benchmarks.subjects import some_of_cifar10
from n2n_gym.common.files import data_folder, write_whole
from n2n_gym.compression import pacing
from n2n_gym.compression.pipeline import compress
from n2n_gym.compression.student_files import metadata_of
from n2n_gym.evaluators.distillation import distil
from n2n_gym.evaluators.rungs import FULL
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.export.onnx import export_onnx
from n2n_gym.limits.fitting import widest_uniform
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.scaling import OutOfReach
from n2n_gym.pytorch.build import Network
from n2n_gym.pytorch.inference import compute_accuracy
from n2n_gym.resources import RESOURCES, Latency
from n2n_gym.resources.clock import time_in_turns
from n2n_gym.resources.measured import open_session, pixels_of
from n2n_gym.resources.nodes import BLOCK
from n2n_gym.runs.folder import ONNX, is_finished
from n2n_gym.runs.options import Options
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher

RESOURCE_OF: Final = {"latency": "latency_ms", "size": "onnx_bytes"}
SHARES: Final = (2, 5, 10, 20)  # the teacher's amount, divided by this, is a limit
AGAIN: Final = "student, time "  # followed by its number, from 2 on
UNIFORM: Final = {"uniform": 1, "uniform in blocks": BLOCK}
KEY: Final = ("task", "resource", "share", "seed", "of")
CPU: Final = torch.device("cpu")
# Fewer finalists than in a run of the command, because there are 48 searches: two
# students, and the uniform widths.
ROUNDS: Final = {
    "latency": ((4, 1 / 2), (1, 1.0)),
    "size": ((3, 1 / 2), (1, 1.0)),
}
SESSIONS: Final = 5  # for each file that is measured again
PRECISION: Final = 0.01  # target for each latency
SECONDS: Final = 30.0


class Budget(NamedTuple):
    """The budget of one search."""

    options: dict[str, Any]  # teacher and task
    removal_updates: int
    shrinkage_updates: int
    epochs: int


def some_cifar10() -> Task:
    # Each run computes the teacher's predictions on the test images; all of them take a
    # minute.
    return some_of_cifar10(5_000, 500, 2_000)


def cifar10_teacher(task: Task) -> Teacher:
    """One teacher for all runs, because its logits of augmented images take minutes."""
    return _cifar10_teacher()


@cache
def _cifar10_teacher() -> Teacher:
    weights = data_folder() / "resnet18_cifar10.safetensors"
    statistics = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    task = some_cifar10()
    return load_teacher("resnet18", task, weights=weights, normalisation=statistics)


BUDGETS: Final = {
    "digits": Budget({"teacher": "resnet18", "task": "digits"}, 2, 10, 30),
    "cifar10": Budget(
        {
            "teacher": "benchmarks.limits:cifar10_teacher",
            "task": "benchmarks.limits:some_cifar10",
        },
        2,
        6,
        2,
    ),
}


class Cell(NamedTuple):
    """One limit on one resource."""

    task: str
    resource: str
    share: int

    def name(self, seed: int) -> str:
        return f"{self.task}-{self.resource}-{self.share}-{seed}"


def options_of(cell: Cell, bound: float, seed: int, folder: Path) -> Options:
    budget = BUDGETS[cell.task]
    # In the resources' own units. A latency keeps all digits, so that the limit is
    # always exactly the same.
    limit = {
        "latency": {"max_latency": f"{bound!r}ms"},
        "size": {"max_size": f"{bound:.0f}B"},
    }[cell.resource]
    return Options(
        output=folder / cell.name(seed),
        removal_updates=budget.removal_updates,
        shrinkage_updates=budget.shrinkage_updates,
        final_epochs=budget.epochs,
        evaluator="inherit",
        controls="none",
        workers=1,
        seed=seed,
        device="cpu",
        **budget.options,
        **limit,
    )


def bounds_of(task: str, teacher: Teacher, folder: Path) -> dict[str, float]:
    """The teacher's resources, measured once for all cells."""
    path = folder / f"{task}.json"
    whole = teacher.architecture
    if not path.exists():
        found = {
            name: RESOURCES[resource](whole, whole)
            for name, resource in RESOURCE_OF.items()
        }
        write_whole(path, json.dumps(found).encode())
    bounds: dict[str, float] = json.loads(path.read_text())
    latency = RESOURCES["latency_ms"]
    assert isinstance(latency, Latency)
    latency.remember(whole, bounds["latency"])
    return bounds


def afresh(path: Path, teacher: Teacher) -> dict[str, Any]:
    """A file's latency and size, measured again, as fractions of the teacher's.

    Latency is also given by session, and in milliseconds.
    """
    images = teacher.task.splits["test"].images[:2]
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / ONNX
        export_onnx(teacher.network(CPU), teacher.normalise, images, whole, {})
        teachers, students = whole.read_bytes(), path.read_bytes()
    pixels = {"pixels": pixels_of(teacher.architecture, 1)}
    contents = (teachers, *[students] * SESSIONS)
    sessions = [open_session(content, 1) for content in contents]
    _, *timings = time_in_turns(
        [lambda s=s: s.run(None, pixels) for s in sessions],
        precision=PRECISION,
        seconds=SECONDS,
    )
    return {
        "latency": median(timing.ratio for timing in timings),
        "latency_ms": 1e3 * median(timing.seconds for timing in timings),
        "sessions": [timing.ratio for timing in timings],
        "size": len(students) / len(teachers),
    }


def search(cell: Cell, teacher: Teacher, options: Options) -> dict[str, Any]:
    """Results of the student that a search finds within a limit."""
    started = time.perf_counter()
    folder = options.output
    if not is_finished(folder):
        pacing.ROUNDS = ROUNDS[cell.resource]
        compress(options)
    summary = json.loads((folder / "summary.json").read_text())["student"]
    return {
        "test": summary["test_accuracy"],
        "num_params": summary["num_params"],
        "seconds": time.perf_counter() - started,
        **afresh(folder / ONNX, teacher),
    }


def uniform_of(
    cell: Cell, teacher: Teacher, bound: float, block: int
) -> Architecture | None:
    """The widest uniform width that keeps a limit; None if no width keeps it."""
    limits = {RESOURCE_OF[cell.resource]: bound}
    requirements = Requirements.read(teacher.architecture, limits, metadata_of(teacher))
    try:
        return widest_uniform(requirements, block)
    except OutOfReach:
        return None


def thin(
    cell: Cell, teacher: Teacher, student: Architecture, seed: int, folder: Path
) -> dict[str, Any]:
    """Results of a uniform width, distilled like the search's student."""
    rung = FULL.with_epochs(BUDGETS[cell.task].epochs)
    settings = DistillationEvaluator(rung, device=CPU).settings(teacher)
    network: Network = distil(student, teacher, settings, seed=seed)
    path = folder / f"{cell.name(seed)}.onnx"
    images = teacher.task.splits["test"].images[:16]
    export_onnx(network, teacher.normalise, images, path, {})
    split = teacher.task.split("test", CPU)
    return {
        "test": compute_accuracy(network.eval(), split, teacher.normalise),
        "num_params": student.num_params,
        **afresh(path, teacher),
    }


def measure_all(
    tasks: list[str], wanted: list[str], shares: list[int], seeds: int, folder: Path
) -> None:
    """Measure what the folder does not have yet."""
    results = Results(folder, *KEY)
    for task in tasks:
        teacher = Options(**BUDGETS[task].options).load_teacher(CPU)
        bounds = bounds_of(task, teacher, folder)
        cells = [Cell(task, name, share) for share in shares for name in wanted]
        bar = tqdm([(cell, seed) for cell in cells for seed in range(seeds)])
        uniform: dict[tuple[Cell, str], Architecture | None] = {}
        for cell, seed in bar:
            bar.set_description(cell.name(seed))
            done = results.read()
            bound = bounds[cell.resource] / cell.share
            if (*cell, seed, "student") not in done:
                options = options_of(cell, bound, seed, folder)
                found = search(cell, teacher, options)
                results.add(**cell._asdict(), seed=seed, of="student", **found)
            for of, block in UNIFORM.items():
                if (*cell, seed, of) in done or (block > 1 and cell.resource == "size"):
                    continue
                if (cell, of) not in uniform:
                    uniform[cell, of] = uniform_of(cell, teacher, bound, block)
                student = uniform[cell, of]
                found = (
                    {"test": None}  # out of reach
                    if student is None
                    else thin(cell, teacher, student, seed, folder)
                )
                results.add(**cell._asdict(), seed=seed, of=of, **found)


def measure_again(tasks: list[str], folder: Path) -> None:
    """Measure the files of students with a limit on latency once more."""
    results = Results(folder, *KEY)
    for task in tasks:
        teacher = Options(**BUDGETS[task].options).load_teacher(CPU)
        done = results.read()
        keys = [key for key in done if (key[0], key[-1]) == (task, "student")]
        for name, resource, share, seed, _ in tqdm(keys, desc=f"{task} again"):
            cell = Cell(name, resource, share)
            path = folder / cell.name(seed) / ONNX
            if resource == "latency" and path.exists():
                number = 1 + len(lines_of(done, cell, seed))
                found = afresh(path, teacher)
                results.add(**cell._asdict(), seed=seed, of=f"{AGAIN}{number}", **found)


def spread(values: list[float]) -> str:
    return f"{mean(values):.2%} ± {np.std(values):.2%}"


def lines_of(
    done: Mapping[tuple[Any, ...], Mapping[str, Any]], cell: Cell, seed: int
) -> list[Mapping[str, Any]]:
    """All measurements of a student."""
    return [
        line
        for key, line in done.items()
        if key[:4] == (*cell, seed) and key[4].startswith("student")
    ]


def taken_by(lines: list[Mapping[str, Any]], resource: str) -> list[float]:
    """Sizes, or latencies of all sessions, as fractions of the teacher's."""
    if resource == "size":
        return [line["size"] for line in lines]
    return [share for line in lines for share in line["sessions"]]


def show(folder: Path) -> None:
    """Print one row per limit: test accuracies over the seeds, and measurements."""
    done = Results(folder, *KEY).read()
    cells = dict.fromkeys(Cell(*key[:3]) for key in done)
    heads = ("task", "limit", "used, highest", "in one session", "kept")
    heads = (*heads, "student", "uniform width")
    heads = (*heads, "better by", "uniform in blocks")
    print(f"| {' | '.join(heads)} |\n|---|---|{'---:|' * 7}")
    kept, in_sessions = [], []
    for cell in cells:
        mine, theirs, blocks = (
            [line for key, line in done.items() if key[:3] == cell and key[4] == of]
            for of in ("student", *UNIFORM)
        )
        if not mine or not theirs:
            continue
        sessions = [
            taken_by(lines_of(done, cell, line["seed"]), cell.resource) for line in mine
        ]
        taken = [median(each) for each in sessions]
        within = [share <= 1 / cell.share for share in taken]
        kept += within
        slowest = ""
        if cell.resource == "latency":
            slowest = f"1/{1 / max(map(max, sessions)):.1f}"
            in_sessions += [each <= 1 / cell.share for each in chain(*sessions)]
        one, other = ([line["test"] for line in lines] for lines in (mine, theirs))
        is_reached = None not in other
        last = [line["test"] for line in blocks]
        cells_of_row = (
            cell.task,
            f"1/{cell.share} of its {cell.resource}",
            f"1/{1 / max(taken):.1f}",
            slowest,
            f"{sum(within)} of {len(within)}",
            spread(one),
            spread(other) if is_reached else "out of reach",
            f"{mean(one) - mean(other):+.2%}" if is_reached else "",
            ("out of reach" if None in last else spread(last)) if last else "",
        )
        print(f"| {' | '.join(cells_of_row)} |")
    print(
        f"\n{sum(kept)} of {len(kept)} students kept their limits when measured afresh,"
        f" those on latency in {sum(in_sessions)} of {len(in_sessions)} sessions."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    parser.add_argument(
        "--resources", nargs="+", choices=RESOURCE_OF, default=list(RESOURCE_OF)
    )
    parser.add_argument("--shares", nargs="+", type=int, default=list(SHARES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/limits"))
    parser.add_argument("--again", action="store_true", help="measure what is there")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.again:
        measure_again(options.tasks, options.output)
    elif not options.show:
        measure_all(
            options.tasks,
            options.resources,
            options.shares,
            options.seeds,
            options.output,
        )
    show(options.output)


if __name__ == "__main__":
    main()
