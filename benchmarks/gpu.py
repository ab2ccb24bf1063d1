"""How fast a GPU distils students: one script of at most twelve minutes.

    python -m benchmarks.gpu                  # --device cpu shows that it works at all

1. The device's peak: products of large bfloat16 matrices.
2. Students per minute, scored one after another: a ResNet-18, and uniform width at a
   tenth of its parameters. Each is trained for an epoch on 20,000 noise images of
   CIFAR-10's size. "Of peak" compares the students' multiply-accumulates per second
   with the device's peak.
3. Students per minute with several processes on the same device.
4. `compress` on digits, with a time limit of four minutes.

Each result is printed at once. Noise images take as long as real ones.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from n2n_gym.compression.pipeline import compress
from n2n_gym.evaluators.rungs import FULL, Rung
from n2n_gym.evaluators.runner import InProcess, Runner
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.evaluators.workers import Workers
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.scaling import uniform_student
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.devices import pick_device
from n2n_gym.runs.options import Options
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher
from n2n_gym.teachers.zoo import teacher_architecture

SIDE = {"cuda": 8192, "cpu": 1024}  # of the square matrices
REPEATS = 20
STUDENTS = 4  # at least this many at a time, and at least two for each process
PROCESSES = (2, 4, 8)


def peak(device: torch.device) -> float:
    """Multiply-accumulates per second of one large bfloat16 product, the median."""
    side = SIDE.get(device.type, SIDE["cpu"])
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        (a @ b).sum().item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return side**3 / statistics.median(seconds)


def noise(num_images: int) -> Task:
    rng = np.random.default_rng(0)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return images, np.arange(count) % 10

    sizes = {"train": num_images, "validation": 250, "test": 250}
    arrays = {name: split(count) for name, count in sizes.items()}
    return Task("noise", (3, 32, 32), 10, lambda: arrays)


def students(teacher: Architecture, share: int, count: int) -> list[Architecture]:
    """Distinct students of nearly the same size; equal students would be scored once.

    Args:
        share: The largest size is the teacher's parameters, divided by this.
    """
    size = teacher.num_params // share
    sizes = np.linspace(size, 0.8 * size, 8 * count).astype(int)
    made = {s.fingerprint: s for s in (uniform_student(teacher, int(n)) for n in sizes)}
    assert len(made) >= count
    return list(made.values())[:count]


def measure(
    teacher: Teacher,
    share: int,
    rung: Rung,
    device: torch.device,
    runner: Runner,
    processes: int,
) -> tuple[float, float, str]:
    """Students per minute, their multiply-accumulates per second, and the precision.

    Args:
        share: The teacher's parameters, divided by this, are the students' size.
        processes: Number of processes that the runner has.
    """
    evaluator = DistillationEvaluator(rung, device=device, runner=runner)
    # A first student in each process, for one-time costs.
    evaluator(students(teacher.architecture, 50, 2 * processes), teacher)
    chosen = students(teacher.architecture, share, max(STUDENTS, 2 * processes))
    started = time.perf_counter()
    evaluator(chosen, teacher)
    seconds = time.perf_counter() - started
    images = len(teacher.task.splits["train"])
    work = sum(3 * student.num_macs * images for student in chosen)
    precision = evaluator.settings(teacher).precision
    return 60 * len(chosen) / seconds, work / seconds, precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="the accelerator, if there is one")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--minutes", default="4", help="of the last part; 0 for none")
    chosen = parser.parse_args()
    device = pick_device(chosen.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    whole = peak(device)
    print(f"{name}, torch {torch.__version__}: {2 * whole / 1e12:.3g} TFLOP/s in bf16")

    architecture = teacher_architecture("resnet18", Task("n", (3, 32, 32), 10, dict))
    weights = build(architecture).state_dict()
    teacher = load_teacher(architecture, noise(chosen.images), weights=weights)
    rung = FULL.with_epochs(1).with_variants(1)
    print(f"{'parameters':>12}{'processes':>11}{'students/min':>14}{'of peak':>9}")
    for share in (1, 10):
        for count in (1, *PROCESSES):
            runner = InProcess() if count == 1 else Workers(count)
            with closing(runner):
                pace, work, precision = measure(
                    teacher, share, rung, device, runner, count
                )
            print(
                f"{'1/' + str(share):>12}{count:11}{pace:14.1f}{work / whole:9.1%}  "
                f"{precision}",
                flush=True,
            )

    if chosen.minutes != "0":
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            output = Path(folder) / "run"
            found = compress(
                Options(output=output, minutes=chosen.minutes, device=device.type)
            )
            minutes = (time.perf_counter() - started) / 60
        student = found.student
        times = found.teacher.num_params / student.student.num_params
        print(
            f"compress on digits: {minutes:.2f} minutes, {found.num_scored} students "
            f"scored, {times:.1f}x smaller, {student.test_accuracy:.2%} of the test "
            f"images (teacher {found.teacher_test_accuracy:.2%})"
        )


if __name__ == "__main__":
    main()
