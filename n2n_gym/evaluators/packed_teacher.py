"""A teacher and its task as strings, numbers and tensors, for other processes.

A packed teacher has no test split, so workers that score students cannot read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.inputs import Normalisation, Variants
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.split import Split
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import Teacher, Trained

SPLITS = ("train", "validation")


def pack(teacher: Teacher) -> dict[str, Any]:
    """Pack what is needed to score a teacher's students: strings, numbers, tensors."""
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
        "variants": {
            key: None
            if variants is None
            else (variants.changes.cpu(), variants.logits.cpu())
            for key, variants in teacher.variants.items()
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
    """The packed teacher, with its task's training and validation images."""
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
    variants = {
        key: None if variants is None else Variants(task.augmentation, *variants)
        for key, variants in packed["variants"].items()
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
    teacher.variants.update(variants)
    return teacher


def packed_name(teacher: Teacher) -> str:
    """A name that identifies a packed teacher."""
    variants = ("-".join(map(str, key)) for key in teacher.variants)
    return "-".join((teacher.identity[:16], *variants))
