"""Controls for students: narrower teachers, and hand-designed networks.

    python -m benchmarks.controls                     # ResNet-18 on digits, 3 seeds
    python -m benchmarks.controls --teacher vgg19_bn --task cifar10 --seeds 1

Students of uniform width and of magnitude pruning (Li et al., 2017) inherit the
teacher's weights, and have a quarter, a tenth or a fortieth of its parameters.
SqueezeNet, FitNet-4 and a small VGG start from random weights. All of these networks
are distilled by the recipe of the evaluator ``full``.

Each result is written at once as a line of ``results.jsonl`` in the output folder.
After a stop, the same command resumes. Results for another teacher, task or number of
epochs are added to the same folder. Runs on one thread. The teacher is trained first,
or taken from the cache.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm

from benchmarks.results import Results
from n2n_gym.compression.controls import magnitude_student
from n2n_gym.compression.hand_designed import FULL_FRESH, HAND_DESIGNED
from n2n_gym.evaluators.distillation import Settings, distil
from n2n_gym.evaluators.rungs import FULL, Rung
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.scaling import OutOfReach, uniform_student
from n2n_gym.pytorch.build import Network
from n2n_gym.pytorch.devices import pick_device
from n2n_gym.pytorch.inference import compute_accuracy
from n2n_gym.pytorch.training import Diverged
from n2n_gym.rewards import Score, n2n
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher

SHARES = (4, 10, 40)  # of the teacher's parameters: one in so many
KEY = ("teacher", "student", "rung", "device", "seed")  # fingerprints of the first two


class Control(NamedTuple):
    name: str
    student: Architecture
    rung: Rung


def make_controls(teacher: Teacher, epochs: int) -> list[Control]:
    """The controls by name; a control that cannot be made small enough is reported."""
    inherited, fresh = (rung.with_epochs(epochs) for rung in (FULL, FULL_FRESH))
    found = []
    for share in SHARES:
        num_params = teacher.architecture.num_params // share
        try:
            uniform = uniform_student(teacher.architecture, num_params)
            magnitude = magnitude_student(teacher, num_params)
        except OutOfReach as error:
            print(f"1/{share} of {teacher.name}: {error}")
            continue
        found.append(Control(f"uniform width, 1/{share}", uniform, inherited))
        found.append(Control(f"magnitude, 1/{share}", magnitude, inherited))
    for name, design in HAND_DESIGNED.items():
        found.append(Control(name, design(teacher.task), fresh))
    return found


def accuracies(
    network: Network, teacher: Teacher, device: torch.device
) -> dict[str, float]:
    return {
        split: compute_accuracy(
            network, teacher.task.split(split, device), teacher.normalise
        )
        for split in ("validation", "test")
    }


def key_of(
    teacher: Teacher, control: Control, device: torch.device, seed: int
) -> tuple[Any, ...]:
    student = control.student.fingerprint
    return teacher.fingerprint, student, control.rung.name, device.type, seed


def measure_all(
    teacher: Teacher,
    controls: list[Control],
    *,
    seeds: int,
    settings: Settings,
    results: Results,
) -> None:
    """Measure what the folder does not have yet."""
    device = settings.device
    done = results.read()
    bar = tqdm([(seed, control) for seed in range(seeds) for control in controls])
    for seed, control in bar:
        bar.set_description(f"{control.name}, seed {seed}")
        key = key_of(teacher, control, device, seed)
        if key in done:
            continue
        student, own = control.student, replace(settings, rung=control.rung)
        try:
            network = distil(student, teacher, own, seed=seed)
        except Diverged as error:
            found: dict[str, Any] = {"error": str(error)}
        else:
            found = accuracies(network, teacher, device)
        results.add(
            **dict(zip(KEY, key, strict=True)),
            teacher_name=teacher.name,
            task=teacher.task.name,
            control=control.name,
            num_params=student.num_params,
            num_macs=student.num_macs,
            precision=settings.precision,
            **found,
        )


def show(
    teacher: Teacher,
    controls: list[Control],
    *,
    seeds: int,
    device: torch.device,
    results: Results,
) -> None:
    whole = teacher.score
    known = results.read()
    head = ("parameters", "smaller", "validation", "test", "reward")
    print(f"{'':22}{head[0]:>12}{head[1]:>9}" + "".join(f"{h:>17}" for h in head[2:]))
    own = accuracies(teacher.network(device), teacher, device)
    cells = f"{own['validation']:17.2%}{own['test']:17.2%}"
    print(f"{'teacher':22}{whole.num_params:12,}{'':9}{cells}")
    for control in controls:
        student = control.student
        each = [known[key_of(teacher, control, device, s)] for s in range(seeds)]
        scored = [result for result in each if "error" not in result]
        times = whole.num_params / student.num_params
        row = f"{control.name:22}{student.num_params:12,}{times:8.1f}x"
        if scored:
            validation = [result["validation"] for result in scored]
            test = [result["test"] for result in scored]
            sizes = student.num_params, student.num_macs
            rewards = [n2n(Score(value, *sizes), whole) for value in validation]
            row += spread(validation, "{:.2%}") + spread(test, "{:.2%}")
            row += spread(rewards, "{:.4f}")
        if len(scored) < seeds:
            row += f"  {seeds - len(scored)} of {seeds} diverged"
        print(row)


def spread(values: list[float], form: str) -> str:
    """The mean, and the standard deviation if there are several values."""
    text = form.format(mean(values))
    if len(values) > 1:
        text += " ± " + form.format(stdev(values))
    return f"{text:>17}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="resnet18")
    parser.add_argument("--task", default="digits")
    assert FULL.recipe is not None
    parser.add_argument("--epochs", type=int, default=int(FULL.recipe.epochs))
    parser.add_argument("--seeds", type=int, default=3, help="of each distillation")
    parser.add_argument("--device", help="the accelerator, if there is one")
    parser.add_argument("--output", type=Path, default=Path("runs/controls"))
    options = parser.parse_args()
    for name in ("epochs", "seeds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    torch.set_num_threads(1)
    device = pick_device(options.device)
    options.output.mkdir(parents=True, exist_ok=True)
    teacher = load_teacher(options.teacher, options.task, device=device)
    controls = make_controls(teacher, options.epochs)
    settings = DistillationEvaluator(FULL, device=device).settings(teacher)
    results = Results(options.output, *KEY)
    print(
        f"{teacher.name} on {teacher.task.name}, {options.epochs} epochs, mean and "
        f"deviation of {options.seeds} seeds; {device.type}, {settings.precision}, "
        f"torch {torch.__version__}"
    )
    seeds = options.seeds
    measure_all(teacher, controls, seeds=seeds, settings=settings, results=results)
    show(teacher, controls, seeds=seeds, device=device, results=results)


if __name__ == "__main__":
    main()
