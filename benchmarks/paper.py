"""The paper's results beside ours, and the commands that produce ours.

    python -m benchmarks.paper               # the tables, and commands for blanks
    python -m benchmarks.paper --commands    # only the commands
    python -m benchmarks.paper --commands --teachers FOLDER --seeds 0 1 2

Our results are read from ``runs/paper``: each row is a folder that ``n2n-gym compress``
wrote, or lines that ``benchmarks.controls`` wrote. A run has the paper's compression as
a limit on its parameters, three hours, and two processes that distil students: 6
CPU-hours beside its teacher. With that little time for images like CIFAR-10's, the run
distils two finalists to the end, one in each process.

A run with a limit may make layers narrower even if it removes only. So a row of removal
alone has the best student, on validation, of those whose layers all have the teacher's
widths. If the run kept none, the row says so.

The paper's results are from Ashok et al., ICLR 2018, arXiv 1709.06030. Where the
paper's text gives only the difference from the teacher's accuracy, the table has only
this difference. The paper shows transfer only in curves; ``benchmarks.transfer`` draws
ours.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final, NamedTuple

from benchmarks.results import Results
from n2n_gym.compression.assessment import wilson
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.reading import read_architecture
from n2n_gym.networks.scaling import at_full_width
from n2n_gym.runs.folder import (
    ABOUT,
    HISTORY,
    OPTIONS,
    TEACHER,
    is_finished,
    read_summary,
)
from n2n_gym.runs.history import FINAL, read_history

TEACHERS: Final = Path("runs/paper/teachers")  # {task}-{teacher}.safetensors
MINUTES: Final = 180  # of each run, with two processes
NUM_PARAMS: Final = {  # of the teachers, by name and task
    ("vgg13_bn", "mnist"): 9_414_858,
    ("vgg19_bn", "cifar10"): 20_040_522,
    ("resnet18", "cifar10"): 11_173_962,
    ("resnet34", "cifar10"): 21_282_122,
    ("resnet18", "svhn"): 11_173_962,
    ("resnet18", "cifar100"): 11_220_132,
    ("resnet34", "cifar100"): 21_328_292,
    ("resnet18", "caltech256"): 11_300_673,
    ("resnet34", "imagenet"): 21_789_992,
}


class Row(NamedTuple):
    """One result of the paper; accuracies in per cent."""

    task: str
    teacher: str
    stages: int  # 1: removal alone; 2: then shrinkage
    times: float  # smaller than the teacher
    change: float  # of the student's accuracy from the teacher's
    reward: float  # R = C(2 - C) acc_student / acc_teacher, of the row's figures
    accuracy: float | None = None  # the student's, where the text has it
    name: str | None = None  # of our task, if it is another than the paper's

    @property
    def folder(self) -> str:
        stages = "" if self.stages == 2 else "-removal"
        return f"{self._subject}{stages}"

    @property
    def _subject(self) -> str:
        return f"{(self.name or self.task).replace('@', '-')}-{self.teacher}"

    def of_seed(self, runs: Path, seed: int) -> Path:
        """The folder of a run."""
        return runs / (f"{self.folder}-{seed}" if seed else self.folder)

    def limit(self) -> int:
        """The most parameters of a student that is as small as the paper's."""
        return int(NUM_PARAMS[self.teacher, self.task] / self.times)

    def command(self, runs: Path, teachers: Path = TEACHERS, seed: int = 0) -> str:
        """The command of a run.

        The teacher's weights are those in the folder ``teachers``; without such a file,
        the command trains the teacher.
        """
        weights = teachers / f"{self._subject}.safetensors"
        given = [f"--weights {weights}"] if weights.exists() else []
        if self.stages == 1:
            given.append("--shrinkage-updates 0")
        if seed:
            given.append(f"--seed {seed}")
        return " ".join(
            [
                f"n2n-gym compress --teacher {self.teacher}",
                f"--task {self.name or self.task}",
                *given,
                f"--max-params {self.limit()} --minutes {MINUTES} --workers 2",
                f"--no-controls --output {self.of_seed(runs, seed)}",
            ]
        )


ROWS = (
    Row("mnist", "vgg13_bn", 2, 127.0, 0.01, 1.000),
    Row("cifar10", "vgg19_bn", 2, 20.5, -0.33, 0.994),
    Row("cifar10", "resnet18", 1, 5.3, -0.04, 0.963, 91.97),
    Row("cifar10", "resnet18", 2, 11.0, -0.20, 0.990, 91.81),
    Row("cifar10", "resnet34", 1, 5.5, 1.49, 0.983),
    Row("cifar10", "resnet34", 2, 10.3, 0.30, 0.994),
    Row("svhn", "resnet18", 2, 19.8, 0.14, 0.999, 95.38),
    Row("cifar100", "resnet18", 1, 2.4, -2.58, 0.791, 69.64),
    Row("cifar100", "resnet18", 2, 4.6, -4.21, 0.898, 68.01),
    Row("cifar100", "resnet34", 1, 5.0, -2.75, 0.924, 70.11),
    Row("caltech256", "resnet18", 1, 3.1, -2.94, 0.842, None, "caltech256@64"),
    Row("imagenet", "resnet34", 1, 6.5, -0.65, 0.956, 30.22, "imagenet@32"),
)


class Designed(NamedTuple):
    """A hand-designed network, distilled from a ResNet-18."""

    task: str
    name: str  # as ``n2n_gym.compression.hand_designed`` has it
    num_params: float
    accuracy: float  # per cent, on test images

    def command(self, runs: Path) -> str:
        return (
            f"python -m benchmarks.controls --teacher resnet18 --task {self.task} "
            f"--output {runs / CONTROLS}"
        )


CONTROLS = "controls"  # a folder of ``runs/paper``
DESIGNED = (
    Designed("svhn", "squeezenet", 727e3, 89.34),
    Designed("cifar10", "fitnet4", 1.2e6, 91.33),
    Designed("cifar10", "vgg_small", 1.06e6, 83.93),
)


class Ours(NamedTuple):
    """The results of one of our runs, on test images.

    Attributes:
        low, high: Ends of the 95 % interval of the accuracy.
        hours: Hours of the run, over all its processes.
        is_narrowed: Whether layers have fewer channels than in the teacher.
    """

    times: float
    change: float
    reward: float
    accuracy: float
    low: float
    high: float
    hours: float
    is_narrowed: bool


def read(folder: Path, stages: int = 2) -> Ours | None:
    """The results of a run; None if there is no finished run.

    Args:
        stages: 1 for the best student whose layers all have the teacher's widths; if
            the run has none on its shelf, the chosen student.
    """
    if not is_finished(folder):
        return None
    summary = read_summary(folder)
    teacher, student, is_narrowed = summary["teacher"], summary["student"], False
    if stages == 1:
        whole = removed_alone(folder, summary)
        is_narrowed = whole is None
        student = whole or student
    rho = student["num_params"] / teacher["num_params"]
    share = student["test_accuracy"] / teacher["test_accuracy"]
    count = summary["test"]["num_images"]
    low, high = wilson(round(student["test_accuracy"] * count), count)
    return Ours(
        1 / rho,
        100 * (student["test_accuracy"] - teacher["test_accuracy"]),
        (1 - rho**2) * share,  # C(2 - C) = 1 - rho^2
        100 * student["test_accuracy"],
        100 * low,
        100 * high,
        summary["seconds"] / 3600,
        is_narrowed,
    )


def removed_alone(folder: Path, summary: dict[str, Any]) -> dict[str, Any] | None:
    """The student on a run's shelf that is best on validation and not narrowed."""
    teacher = read_architecture("teacher", folder / TEACHER)
    whole = {
        line["fingerprint"]
        for line in read_history(folder / HISTORY)
        if line["stage"] == FINAL
        and is_of_full_width(Architecture.from_json(line["student"]), teacher)
    }
    found = [place for place in summary["shelf"] if place["fingerprint"] in whole]
    return max(found, key=lambda place: place["accuracy"], default=None)


def is_of_full_width(student: Architecture, teacher: Architecture) -> bool:
    """Whether all layers of a student have as many channels as in the teacher."""
    return at_full_width(student, teacher) == student


def read_designed(row: Designed, runs: Path) -> tuple[float, float] | None:
    """Parameters and mean accuracy of our network; None if there is no result."""
    wanted = {"task": row.task, "control": row.name, "teacher_name": "resnet18"}
    found = [
        line
        for line in Results(runs / CONTROLS, "task", "control", "seed").read().values()
        if wanted.items() <= line.items() and "test" in line
    ]
    if not found:
        return None
    return found[0]["num_params"], 100 * mean(line["test"] for line in found)


def designed_as_markdown(runs: Path) -> str:
    """The table of hand-designed networks: the paper's results / ours."""
    head = ["data", "teacher", "student", "parameters", "accuracy, %"]
    lines = [head, ["---"] * 3 + ["---:"] * 2]
    for row in DESIGNED:
        ours = read_designed(row, runs)
        pairs = [
            _pair(row.num_params, ours and ours[0], ",.0f"),
            _pair(row.accuracy, ours and ours[1], ".2f"),
        ]
        lines.append([row.task, "resnet18", row.name, *pairs])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def commands(
    runs: Path, teachers: Path = TEACHERS, seeds: Sequence[int] = (0,)
) -> list[str]:
    """The commands for the missing results, each once."""
    found = [
        row.command(runs, teachers, seed)
        for seed in seeds
        for row in ROWS
        if not is_finished(row.of_seed(runs, seed))
    ]
    found += [row.command(runs) for row in DESIGNED if read_designed(row, runs) is None]
    return list(dict.fromkeys(found))


def as_markdown(runs: Path, seeds: Iterable[int] = (0,)) -> str:
    """The table of compressed networks: the paper's results / means of ours.

    Our accuracy has its 95 % interval. With several seeds, it has the standard
    deviation instead.
    """
    head = ["data", "teacher", "stages", "times smaller", "accuracy, %"]
    head += ["our accuracy", "change, points", "R", "our hours", "seeds"]
    lines = [head, ["---"] * 3 + ["---:"] * 7]
    for row in ROWS:
        found = [read(row.of_seed(runs, seed), row.stages) for seed in seeds]
        ours = [each for each in found if each is not None]
        stages = "removal" if row.stages == 1 else "both"
        if any(each.is_narrowed for each in ours):
            stages += " (ours: narrowed too)"
        cells = [
            _pair(row.times, _mean(each.times for each in ours), ".1f"),
            _pair(row.accuracy, _mean(each.accuracy for each in ours), ".2f"),
            _spread(ours),
            _pair(row.change, _mean(each.change for each in ours), "+.2f"),
            _pair(row.reward, _mean(each.reward for each in ours), ".3f"),
            f"{mean(each.hours for each in ours):.1f}" if ours else "",
            str(len(ours) or ""),
        ]
        lines.append([row.name or row.task, row.teacher, stages, *cells])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def made_with(runs: Path, seeds: Iterable[int]) -> list[str]:
    """For each finished run, the versions and the processor, and its command."""
    found = []
    for folder in [row.of_seed(runs, seed) for row in ROWS for seed in seeds]:
        if is_finished(folder):
            about = json.loads((folder / ABOUT).read_text())
            said = ", ".join(
                f"{name} {value}" for name, value in about.items() if name != "format"
            )
            command = f"n2n-gym compress --config {folder / OPTIONS}"
            found.append(f"{folder.name}: {said}; {command}")
    return found


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return mean(found) if found else None


def _spread(ours: Sequence[Ours]) -> str:
    if len(ours) == 1:
        return f"{ours[0].low:.2f} to {ours[0].high:.2f}"
    return f"± {stdev(each.accuracy for each in ours):.2f}" if ours else ""


def _pair(theirs: float | None, ours: float | None, form: str) -> str:
    return " / ".join("" if x is None else format(x, form) for x in (theirs, ours))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"))
    parser.add_argument("--commands", action="store_true", help="of the blank rows")
    parser.add_argument(
        "--teachers",
        type=Path,
        default=TEACHERS,
        help="folder with weights of teachers: {task}-{teacher}.safetensors",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    if not options.commands:
        print("Each figure: the paper's / ours.\n")
        print(as_markdown(options.runs, options.seeds))
        print(designed_as_markdown(options.runs))
        if found := made_with(options.runs, options.seeds):
            print("Ours were made with:\n")
            print("\n".join(found), end="\n\n")
        print("What fills the blanks, in their order:\n")
    print("\n".join(commands(options.runs, options.teachers, options.seeds)))


if __name__ == "__main__":
    main()
