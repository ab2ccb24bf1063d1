"""The value of labels: the same students distilled with and without them.

    python -m benchmarks.unlabelled --weights resnet18_cifar10.safetensors

Random students of a ResNet-18 on some images of CIFAR-10 are distilled fully: with
labels and the teacher's logits, and with its logits alone. Prints both accuracies on
labelled test images. For distillation without labels it also prints the agreement with
the teacher on validation images, which takes the place of the accuracy in a reward.
"""

from __future__ import annotations

import argparse
import random
import statistics
from dataclasses import replace
from functools import partial

import torch

from benchmarks.first_students import STATISTICS
from n2n_gym.evaluators.distillation import Settings, distil
from n2n_gym.evaluators.rungs import FULL
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import removals
from n2n_gym.networks.random_students import random_student
from n2n_gym.pytorch.inference import compute_accuracy
from n2n_gym.tasks.arrays import SPLITS
from n2n_gym.tasks.loading import load_task
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher


def smaller(task: Task, num_images: int, num_test: int) -> tuple[Task, Task]:
    """Two tasks of a task's first images: one with labels, one without."""
    sizes = {"train": num_images, "validation": max(100, num_images // 10)}
    sizes["test"] = num_test
    parts = {
        name: tuple(array[: sizes[name]] for array in task.splits[name].arrays())
        for name in SPLITS
    }
    bare = {name: (images, None) for name, (images, _) in parts.items()}
    name = f"{task.name}-{num_images}"
    return (
        replace(task, name=name, read=partial(dict, parts)),
        replace(
            task,
            name=f"{name}-unlabelled",
            num_classes=0,
            class_names=None,
            read=partial(dict, bare),
            unlabelled=SPLITS,
        ),
    )


def draw(teacher: Teacher, count: int, largest: float) -> list[Architecture]:
    """Distinct random students with at most ``largest`` times the teacher's MACs."""
    whole, rng = teacher.architecture, random.Random(0)
    offered, found = removals(whole), dict[str, Architecture]()
    while len(found) < count:
        student = random_student(whole, offered, rng)
        if student.num_macs <= largest * whole.num_macs:
            found[student.fingerprint] = student
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--test", type=int, default=2_000)
    parser.add_argument("--students", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--largest", type=float, default=0.2)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    device = torch.device("cpu")
    rung = replace(FULL, num_variants=1).with_epochs(given.epochs)
    settings = Settings(rung, device, "float32", torch.get_num_threads())
    tasks = smaller(load_task("cifar10"), given.images, given.test)
    teachers = [
        load_teacher(
            "resnet18",
            task,
            weights=given.weights,
            normalisation=STATISTICS,
            device=device,
        )
        for task in tasks
    ]
    test = tasks[0].split("test", device)
    print(f"teacher: {teachers[0].score.accuracy:.2%} of labelled validation images")
    print("parameters  MACs  seed  labels  no labels  agreement (validation)")
    gains = []
    for student in draw(teachers[0], given.students, given.largest):
        for seed in range(given.seeds):
            true, agreement = [], 0.0
            for teacher in teachers:
                network = distil(student, teacher, settings, seed=seed)
                true.append(compute_accuracy(network, test, teacher.normalise))
                validation = teacher.task.split("validation", device)
                agreement = compute_accuracy(network, validation, teacher.normalise)
            gains.append(true[1] - true[0])
            share = student.num_macs / teachers[0].architecture.num_macs
            print(
                f"{student.num_params:>10,}  {share:>4.1%}  {seed:>4}  "
                f"{true[0]:>6.2%}  {true[1]:>9.2%}  {agreement:>9.2%}",
                flush=True,
            )
    spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
    print(
        f"without labels: {100 * statistics.mean(gains):+.2f} points of true test "
        f"accuracy, standard deviation {100 * spread:.2f}, n = {len(gains)}"
    )


if __name__ == "__main__":
    main()
