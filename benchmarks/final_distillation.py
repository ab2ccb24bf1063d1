"""How accurate small students become by variants of the final distillation.

    python -m benchmarks.final_distillation --images 10000 --epochs 6 12
    python -m benchmarks.final_distillation --changes today tail+average
    python -m benchmarks.final_distillation --show

The teacher is the shared ResNet-18 for CIFAR-10, unless ``--teacher`` names another
one. Three students have a fifth, a tenth and a twentieth of its parameters, by uniform
width. Each row changes today's final distillation (``full``) in one place.

All rows have equal cost: as much CPU time as today's recipe with the epochs of
``--epochs``. Steps are measured first; changes with the same work share a measurement.
In the row ``longer``, smaller students have more epochs and larger ones fewer, at equal
multiply-accumulates in total. The teacher's logits of stored variants and the elastic
weights are not included: they are made once for all students of a run.

Each result is a line of ``results.jsonl`` in the output folder. After a stop, the same
command resumes, also within a distillation. The table has validation accuracy and, in
brackets, the difference from today's with its standard error, paired by seed and image.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
import torch

from benchmarks.first_students import STATISTICS
from benchmarks.peers.spent import counted, read_spent
from benchmarks.peers.subject import check_alone
from benchmarks.results import Results
from benchmarks.variants import (
    TODAY,
    Changes,
    Line,
    answers,
    folder_of,
    gap,
    learned,
    made_with,
    measured_once,
    merged,
    per_cent,
    points,
    seconds_a_step,
    task_named,
    work_of,
)
from n2n_gym.common.files import data_folder
from n2n_gym.comparison.statistics import as_table
from n2n_gym.evaluators.distillation import Settings, distil, prepare
from n2n_gym.evaluators.elastic import elastic_teacher
from n2n_gym.evaluators.rungs import FULL, GROWTH, Rung
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.scaling import uniform_student
from n2n_gym.pytorch.training import Diverged
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher

CPU: Final = torch.device("cpu")
SHARES: Final = (5, 10, 20)  # of the teacher's parameters: one in so many
KEY: Final = ("change", "share", "epochs", "seed")
COST: Final = ("share", "work")
WEIGHTS: Final = "resnet18_cifar10.safetensors"
LONGER: Final = "longer"
CHANGES: Final[Mapping[str, Changes]] = {
    TODAY: {},
    "variants-1": {"num_variants": 1},  # no augmentation
    "variants-3": {"num_variants": 3},
    # Each batch is augmented anew, and the teacher classifies it.
    "augmented-anew": {"num_variants": 1, "is_augmented": True},
    "cutout": {"cutout": 0.25},
    "logits-0.03": {"logit_weight": 0.03},
    "logits-0.3": {"logit_weight": 0.3},
    "logits-1": {"logit_weight": 1.0},
    "logits-alone": {"hard_weight": 0.0},
    # At high temperatures, the weight 2 equals today's 0.1 with ten classes: the loss
    # tends to ||f - z||^2 / (2 * 10) for logits of mean 0 (Hinton et al., 2015, 2.1).
    "temperature-4": {"temperature": 4.0, "logit_weight": 2.0},
    "smoothing-10": {"label_smoothing": 0.1},
    LONGER: {LONGER: True},
    "average": {"average_share": 0.05},
    "tail": {"fall_power": 2.0},
    "rate-0.03": {"learning_rate": 0.03},
    "progressive": {"smallest_side": 0.5},
    "elastic": {"start": "elastic"},
    "scratch": {"start": "he"},
}
# The changes that alter the work of a step.
WORK: Final = ("is_augmented", "cutout", "average_share", "smallest_side")
OF_RUNG: Final = frozenset(each.name for each in fields(Rung))


def rung_of(changes: Changes, epochs: float) -> Rung:
    """The rung of today's final distillation with changes and a number of epochs."""
    assert FULL.recipe is not None
    recipe = {n: x for n, x in changes.items() if n not in OF_RUNG and n != LONGER}
    rung = {n: x for n, x in changes.items() if n in OF_RUNG}
    return replace(FULL, recipe=replace(FULL.recipe, epochs=epochs, **recipe), **rung)


@dataclass(frozen=True)
class Study:
    """The teacher, its students, and where their results are."""

    teacher: Teacher
    results: Results
    costs: Results

    @cached_property
    def students(self) -> dict[int, Architecture]:
        """The students of uniform width, by share."""
        whole = self.teacher.architecture
        return {n: uniform_student(whole, whole.num_params // n) for n in SHARES}

    @cached_property
    def usual(self) -> Settings:
        """The settings of today's final distillation."""
        return DistillationEvaluator(FULL, device=CPU).settings(self.teacher)

    @cached_property
    def elastic(self) -> Teacher:
        """The teacher with elastic weights; its logits are still the teacher's own."""
        return elastic_teacher(self.teacher, self.usual)

    def cost(self, share: int, changes: Changes) -> float:
        """CPU seconds of an epoch, measured once for all changes with the same work."""
        work = work_of(changes, WORK)
        measure = partial(self._seconds_an_epoch, self.students[share], work)
        said = json.dumps(work, sort_keys=True)
        return measured_once(self.costs, measure, share=share, work=said)

    def _seconds_an_epoch(self, student: Architecture, work: Changes) -> float:
        """CPU seconds of an epoch, from short distillations."""
        assert FULL.recipe is not None
        num_images = len(self.teacher.task.splits["train"])
        steps = num_images // min(FULL.recipe.batch_size, num_images)

        def some(count: int) -> None:
            rung = replace(rung_of(work, count / steps), num_variants=1, statistics=0)
            distil(student, self.teacher, replace(self.usual, rung=rung), seed=0)

        return steps * seconds_a_step(some, steps)

    def epochs(self, share: int, changes: Changes, epochs: float) -> float:
        """The epochs of a student that cost as much as ``epochs`` of today's."""
        if changes.get(LONGER):
            factors = longer([each.num_macs for each in self.students.values()])
            epochs *= factors[SHARES.index(share)]
        return epochs * self.cost(share, {}) / self.cost(share, changes)

    def measure(self, name: str, share: int, epochs: int, seed: int) -> None:
        """Distil one student and write its result."""
        changes = merged(CHANGES, name)
        own_epochs = self.epochs(share, changes, epochs)
        rung = rung_of(changes, own_epochs)
        settings = replace(self.usual, rung=rung)
        teacher, student = self.teacher, self.students[share]
        prepare(teacher, settings)  # its minutes are not counted
        if rung.start == "elastic":
            assert not rung.is_augmented, "elastic weights would answer for the teacher"
            self.elastic.variants.update(teacher.variants)  # the teacher's own logits
            teacher = self.elastic
        path = self.results.path.parent / f"{name}-{share}-{epochs}-{seed}.checkpoint"
        clock = path.with_suffix(".spent")
        try:
            with counted(clock):
                network = distil(student, teacher, settings, seed=seed, checkpoint=path)
        except Diverged as error:
            found: dict[str, Any] = {"error": str(error)}
        else:
            found = answers(network, teacher)
        self.results.add(
            **dict(zip(KEY, (name, share, epochs, seed), strict=True)),
            rung=rung.as_written(),
            own_epochs=own_epochs,
            num_params=student.num_params,
            num_macs=student.num_macs,
            cpu_minutes=read_spent(clock).cpu,
            precision=settings.precision,
            teacher=self.teacher.score.accuracy,
            **found,
            **made_with(),
        )
        for file in (path, clock):
            file.unlink(missing_ok=True)


def longer(macs: Sequence[int]) -> list[float]:
    """Factors of the students' epochs that keep their total cost.

    A student with the fraction s of the work of another one has s^-GROWTH times as many
    epochs, as in the evaluator ``short``.

    Args:
        macs: Multiply-accumulates of each student.
    """
    wanted = [each**-GROWTH for each in macs]
    cost = sum(each * times for each, times in zip(macs, wanted, strict=True))
    return [times * sum(macs) / cost for times in wanted]


def measure_all(study: Study, options: argparse.Namespace) -> None:
    """Distil what the folder does not have yet."""
    every = product(options.seeds, options.epochs, options.changes, SHARES)
    for seed, epochs, name, share in every:
        if (name, share, epochs, seed) not in study.results.read():
            print(f"{name}, 1/{share}, {epochs} epochs", flush=True)
            study.measure(name, share, epochs, seed)


def table(lines: Iterable[Line]) -> str:
    """The changes, at one number of today's epochs."""
    every: dict[str, list[Line]] = {}
    for line in lines:
        every.setdefault(line["change"], []).append(line)
    rows = []
    for name, own in every.items():
        cells, gaps = [name], []
        for share in SHARES:
            here, usual = (
                learned(line for line in some if line["share"] == share)
                for some in (own, every.get(TODAY, ()))
            )
            each = None if name == TODAY else gap(here, usual)
            gaps += [] if each is None else [each]
            cells.append(
                per_cent(here) + ("" if each is None else f" ({points(each)})")
            )
        cells.append(points(np.mean(gaps, 0)) if len(gaps) == len(SHARES) else "")
        cells.append(f"{mean(line['cpu_minutes'] for line in own):.1f}")
        rows.append([*cells, str(len({line["seed"] for line in own}))])
    head = ["change", *(f"1/{share}, %" for share in SHARES)]
    head += [f"all minus {TODAY}, points", "CPU minutes a student", "seeds"]
    return as_table(head, rows)


def show(results: Results) -> None:
    lines = list(results.read().values())
    if not lines:
        print(f"{results.path} has no results yet")
        return
    print(f"teacher: {lines[0]['teacher']:.2%} of the validation images")
    for epochs in sorted({line["epochs"] for line in lines}):
        print(f"\n{epochs} epochs of today's recipe, or as much CPU time\n")
        print(table(line for line in lines if line["epochs"] == epochs))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--changes", nargs="+", default=list(CHANGES), help="names; a+b for both"
    )
    parser.add_argument("--epochs", type=int, nargs="+", default=[6])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, help="for training; by default all")
    parser.add_argument("--teacher", default="resnet18")
    parser.add_argument("--task", default="cifar10")
    parser.add_argument("--weights", type=Path, help=f"of the teacher, as {WEIGHTS}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="default: runs/final_distillation")
    parser.add_argument("--show", action="store_true", help="distil nothing")
    options = parser.parse_args(arguments)
    folder = folder_of(options.output, "final_distillation", is_shown=options.show)
    results = Results(folder, *KEY)
    if not options.show:
        torch.set_num_threads(options.threads)
        if (options.teacher, options.task) == ("resnet18", "cifar10"):
            options.weights = options.weights or data_folder() / WEIGHTS
        names = ("teacher", "task", "weights", "images")
        try:
            for name in options.changes:
                merged(CHANGES, name)
            check_alone(folder, {n: str(getattr(options, n)) for n in names})
            teacher = load_teacher(
                options.teacher,
                task_named(options.task, options.images),
                weights=options.weights,
                normalisation=STATISTICS if options.task == "cifar10" else None,
                device="cpu",
            )
        except ValueError as error:
            parser.error(str(error))
        (folder / "costs").mkdir(exist_ok=True)
        measure_all(Study(teacher, results, Results(folder / "costs", *COST)), options)
    show(results)


if __name__ == "__main__":
    main()
