"""Comparison of teacher and student: test accuracy, file size and latency."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2n_gym.common.progress import progress
from n2n_gym.compression.student_files import Finished, preprocessing_of
from n2n_gym.export.formats import load_model
from n2n_gym.export.onnx import FromPixels, export_onnx, plain
from n2n_gym.pytorch.build import Network
from n2n_gym.pytorch.inference import predict
from n2n_gym.resources.clock import Timing, time_in_turns
from n2n_gym.resources.measured import open_session
from n2n_gym.tasks.loading import TASKS, load_task
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import Teacher

logger = logging.getLogger(__name__)

SECONDS: Final = 2.0  # seconds of timing for each file
BATCH: Final = 250
INPUT: Final = "pixels"  # name of an exported file's input
Z: Final = 1.96  # normal quantile of a 95 % interval


@dataclass(frozen=True)
class Assessment:
    """A network's results on test images, and the size and latency of its ONNX file.

    Attributes:
        confusion: Number of images by true class (rows) and predicted class, (classes,
            classes). If the test images have no labels, rows are the teacher's
            predictions.
        bytes: Size of the ONNX file.
        latency_ms: Median time of one image in ONNX Runtime, on one thread.
    """

    confusion: list[list[int]]
    bytes: int
    latency_ms: float

    @property
    def accuracy(self) -> float:
        """The fraction of images on the diagonal of ``confusion``."""
        right = sum(row[i] for i, row in enumerate(self.confusion))
        return right / sum(map(sum, self.confusion))


@dataclass(frozen=True)
class Comparison:
    """Teacher and student, and the difference between them.

    Attributes:
        difference: The student's accuracy minus the teacher's, in [-1, 1].
        error: Half the width of the 95 % interval of ``difference``, from paired
            predictions.
        num_images: Number of test images.
        classes: Names of the classes, or their numbers if the classes have no names.
    """

    teacher: Assessment
    student: Assessment
    difference: float
    error: float
    num_images: int
    classes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare_networks(
    teacher: Teacher, student: Finished, path: Path, device: torch.device
) -> Comparison:
    """Compare teacher and student on the test images, and compare their ONNX files.

    Args:
        student: The student, with its answers to the test images.
        path: The student's ONNX file.
    """
    split = teacher.task.split("test", device)
    whole = teacher.network(device)
    assert student.answers is not None
    with progress(len(split), "Answers to the test images", "image") as bar:
        theirs = predict(whole, split, teacher.normalise, on_batch=bar.update)
    answers = [theirs, student.answers]
    labels = split.labels.cpu()
    if "test" in teacher.task.unlabelled:
        labels = answers[0]  # as computed on this device
    count = teacher.task.num_classes
    confusions = [confusion(labels, answer, count) for answer in answers]
    is_right = [(answer == labels).double() for answer in answers]
    gains = is_right[1] - is_right[0]
    names = teacher.task.class_names or tuple(map(str, range(count)))
    sizes, timings = _beside_the_teacher([path], teacher)
    one, two = (
        Assessment(found, size, 1e3 * timing.seconds)
        for found, size, timing in zip(confusions, sizes, timings, strict=True)
    )
    error = Z * gains.std().item() / math.sqrt(len(gains))
    return Comparison(one, two, gains.mean().item(), error, len(gains), list(names))


def _beside_the_teacher(
    paths: Sequence[Path], teacher: Teacher
) -> tuple[list[int], list[Timing]]:
    """Sizes in bytes, and latencies, of the teacher's ONNX file and then of ``paths``.

    The teacher's file is written only for this comparison. Files are timed in turns.
    """
    whole = teacher.network(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "teacher.onnx"
        images = teacher.task.splits["test"].images[:2]
        export_onnx(whole, teacher.normalise, images, other, {})
        files = [other, *paths]
        timings = measure_latency(files, teacher.task.input_shape)
        return [each.stat().st_size for each in files], timings


class Parity(NamedTuple):
    """A student's file compared with the student in torch, on the test images.

    Attributes:
        difference: Largest absolute difference between a logit of the file and the
            same logit in torch.
        agreement: Fraction of images for which file and torch predict the same class.
        size: Size of the file as a fraction of the teacher's ONNX file.
        latency_ms: Time of one image in ONNX Runtime, on one thread; None if the file
            is not ONNX.
        latency: Latency as a fraction of the latency of the teacher's ONNX file, with
            both files timed in turns; None if the student's file is not ONNX.
    """

    path: Path
    bytes: int
    accuracy: float
    agreement: float
    difference: float
    size: float
    latency_ms: float | None
    latency: float | None

    @property
    def is_smaller(self) -> bool:
        """Whether the file is smaller than the teacher's and, if timed, not slower."""
        return self.size < 1 and (self.latency is None or self.latency <= 1)


def compare_files(
    paths: Sequence[Path], network: Network, teacher: Teacher
) -> list[Parity]:
    """Compare each file of one student with the student in torch."""
    split = teacher.task.splits["test"]
    labels = split.labels.cpu().numpy()
    models = [load_model(path) for path in paths]
    module = FromPixels(plain(network), teacher.normalise).eval()
    mine: list[NDArray[np.float32]] = []
    theirs: list[list[NDArray[np.float32]]] = [[] for _ in paths]
    for start in range(0, len(labels), BATCH):
        pixels = split.images[start : start + BATCH].cpu().float() / 255
        with torch.no_grad():
            mine.append(module(pixels).numpy())
        for model, found in zip(models, theirs, strict=True):
            found.append(model(pixels.numpy()))
    expected = np.concatenate(mine)
    answers = expected.argmax(1)
    timed = [path for path in paths if path.suffix == ".onnx"]
    (whole, *_), (_, *taken) = _beside_the_teacher(timed, teacher)
    timings = dict(zip(timed, taken, strict=True))
    parities = []
    for path, batches in zip(paths, theirs, strict=True):
        timing = timings.get(path)
        logits = np.concatenate(batches)
        own = logits.argmax(1)
        size = path.stat().st_size
        parities.append(
            Parity(
                path,
                size,
                float((own == labels).mean()),
                float((own == answers).mean()),
                float(np.abs(logits - expected).max()),
                size / whole,
                None if timing is None else 1e3 * timing.seconds,
                None if timing is None else timing.ratio,
            )
        )
    return parities


class Evaluation(NamedTuple):
    """An ONNX file's results on a task's images.

    Attributes:
        low, high: Bounds of the accuracy's 95 % interval (Wilson, 1927).
        latency_ms: Median time of one image, as in `Assessment`.
    """

    task: str
    accuracy: float
    low: float
    high: float
    num_images: int
    bytes: int
    latency_ms: float


def evaluate_onnx(path: Path, task: Task | None, split: str) -> Evaluation:
    """The accuracy, size and latency of an exported student in ONNX Runtime.

    Args:
        task: The task with the images; None for the task named in the file's metadata.
        split: Name of the split with the images.

    Raises:
        ValueError: The file is not ONNX, or does not fit the task's images or number of
            classes. Or the split has no labels. Or ``task`` is None, and the file was
            made for other images than those of a published task.
    """
    session = _open(path)
    if task is not None and split in task.unlabelled:
        raise ValueError(
            f"the {split} images of {task.name} have no labels, so there is no "
            f"accuracy; name labelled images with --task (`n2n-gym export FOLDER` says "
            f"how often a run's student agrees with its teacher)"
        )
    said = session.get_modelmeta().custom_metadata_map
    named = None
    if task is None:
        named = said.get("task", "")
        if named.partition(":")[0] not in TASKS:
            raise ValueError(
                f"{path} was made for the task {named!r}; name it with --task"
            )
        task = load_task(named)
    inputs = session.get_inputs()
    wanted = tuple(inputs[0].shape[1:])
    if wanted[0] == 3 and task.input_shape[0] == 1:
        task = task.in_colour()  # as its teacher got it
    if [each.name for each in inputs] != [INPUT] or wanted != task.input_shape:
        raise ValueError(
            f"{path} has the input {inputs[0].name!r} of shape {wanted}; expected "
            f"{INPUT!r} of shape {task.input_shape}, for the images of {task.name}"
        )
    if named is not None and said.get("preprocessing") != preprocessing_of(task):
        raise ValueError(  # a user's file may be named digits.npz
            f"{path} was made for other images than the published {named} "
            f"({said.get('preprocessing')}); name its images with --task"
        )
    _check_classes(path, session, task)
    images, labels = task.splits[split].images, task.splits[split].labels
    right = 0
    for start in range(0, len(images), BATCH):
        pixels = images[start : start + BATCH].cpu().float().numpy() / 255
        (logits,) = session.run(None, {INPUT: pixels})
        answers = torch.from_numpy(logits).argmax(1)
        right += int((answers == labels[start : start + BATCH].cpu()).sum())
    low, high = wilson(right, len(images))
    (timing,) = measure_latency([path], task.input_shape)
    size = path.stat().st_size
    accuracy = right / len(images)
    latency = 1e3 * timing.seconds
    return Evaluation(task.name, accuracy, low, high, len(images), size, latency)


def _check_classes(
    path: Path, session: onnxruntime.InferenceSession, task: Task
) -> None:
    """Refuse another number of classes than the file's; warn of other class names."""
    count = session.get_outputs()[0].shape[1:]
    if count != [task.num_classes]:
        raise ValueError(
            f"{path} has {', '.join(map(str, count))} classes, the task {task.name} "
            f"has {task.num_classes}"
        )
    said = json.loads(session.get_modelmeta().custom_metadata_map.get("classes", "0"))
    names = list(task.class_names or ())
    if isinstance(said, list) and names and said != names:
        ours, theirs = next(p for p in zip(said, names, strict=True) if p[0] != p[1])
        logger.warning(
            "%s has the classes of another task: its %s is number %d, which is %s in "
            "%s",
            path,
            ours,
            said.index(ours),
            theirs,
            task.name,
        )


def _open(path: Path) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(
            os.fspath(path), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exception classes are not exported
        raise ValueError(f"{path} cannot be read as ONNX: {error}") from error


def wilson(count: int, total: int) -> tuple[float, float]:
    """The bounds of the 95 % interval of ``count / total`` (Wilson, 1927)."""
    from scipy.stats import binomtest  # slow to import

    interval = binomtest(count, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def confusion(labels: Tensor, answers: Tensor, count: int) -> list[list[int]]:
    """Number of images by true class (rows) and predicted class, (count, count).

    Args:
        labels, answers: True and predicted class of each image, (N,) int64.
        count: Number of classes.
    """
    # scikit-learn 1.7 warns of more classes than half the images.
    cells = torch.bincount(labels * count + answers, minlength=count * count)
    rows: list[list[int]] = cells.view(count, count).tolist()
    return rows


def measure_latency(paths: Sequence[Path], input_shape: Sequence[int]) -> list[Timing]:
    """The time of one image in each ONNX file, in ONNX Runtime on one CPU thread.

    The files are timed in turns, so that a slowdown of the machine affects all of them.
    At each turn, untimed runs of the same file first fill the caches. The ``ratio`` of
    a timing is relative to the first file.
    """
    pixels = {INPUT: np.zeros((1, *input_shape), np.float32)}
    sessions = [open_session(path, threads=1) for path in paths]
    runs = [partial(session.run, None, pixels) for session in sessions]
    return time_in_turns(runs, precision=0.0, seconds=SECONDS * len(runs))
