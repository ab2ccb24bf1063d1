"""The files of a finished student: ONNX, weights and architectures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from n2n_gym.common.files import write_whole
from n2n_gym.export.onnx import export_onnx
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import Network
from n2n_gym.pytorch.saving import save_weights
from n2n_gym.rewards import Score, n2n
from n2n_gym.runs.folder import ONNX, STUDENT, TEACHER, WEIGHTS
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import Teacher


class Finished(NamedTuple):
    """A student distilled to the end."""

    student: Architecture
    network: Network
    score: Score  # on the validation split
    test_accuracy: float
    answers: Tensor | None = None  # predicted classes of the test images, (N,) int64


def write_student(finished: Finished, teacher: Teacher, folder: Path) -> float:
    """Write all files of a student.

    Returns:
        The largest difference between the logits of ONNX Runtime and of torch.
    """
    write_whole(folder / TEACHER, teacher.architecture.to_json().encode())
    write_whole(folder / STUDENT, finished.student.to_json().encode())
    save_weights(finished.network, folder / WEIGHTS)
    return write_onnx(finished, teacher, folder / ONNX)


def write_onnx(finished: Finished, teacher: Teacher, path: Path) -> float:
    """Write only the ONNX file of a student.

    Returns:
        The largest difference between the logits of ONNX Runtime and of torch.
    """
    student, network, task = finished.student, finished.network, teacher.task
    about = {
        "teacher": teacher.name,
        "task": teacher.task.name,
        "classes": classes_of(teacher.task),
        "preprocessing": preprocessing_of(teacher.task),
        "fingerprint": student.fingerprint,
        figure("validation", task): f"{finished.score.accuracy:.4f}",
        figure("test", task): f"{finished.test_accuracy:.4f}",
        **({"unlabelled": said_unlabelled(task)} if task.unlabelled else {}),
        "num_params": str(student.num_params),
        "reward": f"{n2n(finished.score, teacher.score):.4f}",
    }
    images = teacher.task.splits["test"].images[:256]
    return export_onnx(network, teacher.normalise, images, path, about)


def metadata_of(teacher: Teacher) -> str:
    """All metadata of a student's file that depend on the teacher, as one text.

    Limits on the file's size leave room for a text of this length.
    """
    task, normalise = teacher.task, str(teacher.normalise)
    texts = (
        classes_of(teacher.task),
        task.preprocessing,
        task.name,
        teacher.name,
        normalise,
        said_unlabelled(task),
    )
    return "".join(texts)


def figure(split: str, task: Task) -> str:
    """Metadata key of a split's accuracy, or of the agreement if it has no labels."""
    return f"{split}_{'agreement' if split in task.unlabelled else 'accuracy'}"


def said_unlabelled(task: Task) -> str:
    """Metadata about the splits without labels; empty if all splits have labels."""
    if not task.unlabelled:
        return ""
    return f"{', '.join(task.unlabelled)}: the teacher's answers instead of labels"


def classes_of(task: Task) -> str:
    """Metadata about the classes: their names, or their number."""
    return json.dumps(task.class_names or task.num_classes)


def preprocessing_of(task: Task) -> str:
    """Metadata about preprocessing: how an image file becomes an input."""
    return f"{task.preprocessing}; for pixels divided by 255"
