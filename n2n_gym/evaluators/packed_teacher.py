"""A teacher and its task as plain values and tensors, for other processes.

The test split is not among them: what scores students cannot read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.inputs import Normalisation, Views
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.split import Split
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import Teacher, Trained

SPLITS = ("train", "validation")


def pack(teacher: Teacher) -> dict[str, Any]:
    """What students of a teacher are scored with: strings, numbers and tensors."""
    task = teacher.task
    return {
        "name": teacher.name,
        "architecture": teacher.architecture.to_json(),
        "weights": dict(teacher.weights),
        "ranked_by": None if teacher.ranked_by is None else dict(teacher.ranked_by),
        "accuracy": teacher.trained.accuracy,
        "logits": teacher.trained.logits,
        "normalisation": (teacher.normalise.mean, teacher.normalise.std),
        "task": task.name,
        "num_classes": task.num_classes,
        "views": {
            key: None if views is None else (views.changes.cpu(), views.logits.cpu())
            for key, views in teacher.views.items()
        },
        "augmentation": (task.augmentation.padding, task.augmentation.flip),
        "resident_bytes": task.resident_bytes,
        "unlabelled": task.unlabelled,
        "splits": {
            name: (split.images, split.labels, split.is_streamed)
            for name, split in task.splits.items()
            if name in SPLITS
        },
    }


def unpack(packed: Mapping[str, Any]) -> Teacher:
    """The teacher that was packed, with its task's training and validation images."""
    architecture = Architecture.from_json(packed["architecture"])
    mean, std = packed["normalisation"]
    task = Task.of_splits(
        packed["task"],
        architecture.input_shape,
        packed["num_classes"],
        {name: Split(*split) for name, split in packed["splits"].items()},
        augmentation=Augmentation(*packed["augmentation"]),
        resident_bytes=packed["resident_bytes"],
        unlabelled=tuple(packed["unlabelled"]),
    )
    views = {
        key: None if views is None else Views(task.augmentation, *views)
        for key, views in packed["views"].items()
    }
    trained = Trained(packed["weights"], packed["accuracy"], packed["logits"])
    teacher = Teacher(
        packed["name"],
        task,
        architecture,
        provide=lambda: trained,
        normalisation=Normalisation(tuple(mean), tuple(std)),
        ranked_by=packed["ranked_by"],
    )
    teacher.views.update(views)
    return teacher


def packed_name(teacher: Teacher) -> str:
    """Tells packed teachers apart."""
    views = ("-".join(map(str, key)) for key in teacher.views)
    return "-".join((teacher.identity[:16], *views))
