"""The paper's results beside ours, and the commands that produce ours.

    python -m benchmarks.paper               # the tables, and commands for blanks
    python -m benchmarks.paper --commands    # only the commands

Our results are read from ``runs/paper``: each row is a folder that ``n2n-gym compress``
wrote, or lines that ``benchmarks.controls`` wrote. The paper's results are from Ashok
et al., ICLR 2018, arXiv 1709.06030. Where the paper's text gives only the difference
from the teacher's accuracy, the table has only this difference. The paper shows
transfer only in curves; ``benchmarks.transfer`` draws ours.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from benchmarks.results import Results


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
        task = (self.name or self.task).replace("@", "-")
        return f"{task}-{self.teacher}{stages}"

    def command(self, runs: Path) -> str:
        task, shrinkage = self.name or self.task, 100 if self.stages == 2 else 0
        return (
            f"n2n-gym compress --teacher {self.teacher} --task {task} "
            f"--removal-updates 100 --shrinkage-updates {shrinkage} "
            f"--output {runs / self.folder}"
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
    """The results of one of our runs, on test images."""

    times: float
    change: float
    reward: float
    accuracy: float


def read(folder: Path) -> Ours | None:
    """The results of a run; None if there is no finished run."""
    path = folder / "summary.json"
    if not path.exists():
        return None
    summary: dict[str, Any] = json.loads(path.read_text())
    teacher, student = summary["teacher"], summary["student"]
    rho = student["num_params"] / teacher["num_params"]
    share = student["test_accuracy"] / teacher["test_accuracy"]
    return Ours(
        1 / rho,
        100 * (student["test_accuracy"] - teacher["test_accuracy"]),
        (1 - rho**2) * share,  # C(2 - C) = 1 - rho^2
        100 * student["test_accuracy"],
    )


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


def commands(runs: Path) -> list[str]:
    """The commands for the missing results, each once."""
    found = [row.command(runs) for row in ROWS if read(runs / row.folder) is None]
    found += [row.command(runs) for row in DESIGNED if read_designed(row, runs) is None]
    return list(dict.fromkeys(found))


def as_markdown(runs: Path) -> str:
    """The table of compressed networks: the paper's results / ours."""
    head = ["data", "teacher", "stages", "times smaller", "accuracy, %"]
    head += ["change, points", "R"]
    lines = [head, ["---"] * 3 + ["---:"] * 4]
    for row in ROWS:
        ours = read(runs / row.folder)
        pairs = [
            _pair(row.times, ours and ours.times, ".1f"),
            _pair(row.accuracy, ours and ours.accuracy, ".2f"),
            _pair(row.change, ours and ours.change, "+.2f"),
            _pair(row.reward, ours and ours.reward, ".3f"),
        ]
        stages = "removal" if row.stages == 1 else "both"
        lines.append([row.name or row.task, row.teacher, stages, *pairs])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _pair(theirs: float | None, ours: float | None, form: str) -> str:
    return " / ".join("" if x is None else format(x, form) for x in (theirs, ours))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"))
    parser.add_argument("--commands", action="store_true", help="of the blank rows")
    options = parser.parse_args()
    if not options.commands:
        print("Each figure: the paper's / ours.\n")
        print(as_markdown(options.runs))
        print(designed_as_markdown(options.runs))
        print("What fills the blanks, in their order:\n")
    print("\n".join(commands(options.runs)))


if __name__ == "__main__":
    main()
