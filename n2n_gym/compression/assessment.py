"""Teacher and student side by side: on the test images, as files, and on the clock."""

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
from n2n_gym.compression.student_files import preprocessing_of
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

SECONDS: Final = 2.0  # of timing, for each file
BATCH: Final = 250
INPUT: Final = "pixels"  # of an exported file
Z: Final = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class Assessment:
    """What is known of one network on a task's test images, and of its file.

    Attributes:
        confusion: Images by class (rows) and by predicted class, (classes, classes).
            Where images have no labels, the teacher's answers are the rows.
        bytes: Of the ONNX file.
        latency_ms: Median time of one image in ONNX Runtime, on one thread.
    """

    confusion: list[list[int]]
    bytes: int
    latency_ms: float

    @property
    def accuracy(self) -> float:
        """The share of images on the diagonal."""
        right = sum(row[i] for i, row in enumerate(self.confusion))
        return right / sum(map(sum, self.confusion))


@dataclass(frozen=True)
class Comparison:
    """Teacher and student, and how the student differs.

    Attributes:
        difference: The student's accuracy less the teacher's, in [-1, 1].
        error: Half of its 95 % interval, from both networks' answers to each image.
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
    teacher: Teacher, network: Network, path: Path, device: torch.device
) -> Comparison:
    """Both networks on the test images.

    Args:
        network: The student.
        path: Its ONNX file.
    """
    split = teacher.task.split("test", device)
    whole = teacher.network(device)
    networks = [whole, network.to(device)]
    with progress(2 * len(split), "Answers to the test images", "image") as bar:
        answers = [
            predict(each, split, teacher.normalise, on_batch=bar.update)
            for each in networks
        ]
    labels = split.labels.cpu()
    if "test" in teacher.task.unlabelled:
        labels = answers[0]  # to this device's last digit
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
    """Bytes and latencies of the teacher's ONNX file and of others in turns with it."""
    whole = teacher.network(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "teacher.onnx"
        images = teacher.task.splits["test"].images[:2]
        export_onnx(whole, teacher.normalise, images, other, {})
        files = [other, *paths]
        timings = measure_latency(files, teacher.task.input_shape)
        return [each.stat().st_size for each in files], timings


class Parity(NamedTuple):
    """A file of a student against the student itself, on the test images.

    Attributes:
        difference: The largest between logits.
        agreement: The share of images that both take for the same class.
        size: Its bytes as a share of those of the teacher's ONNX file.
        latency_ms: Of one image in ONNX Runtime, on one thread; None if it is no ONNX.
        latency: As a share of the teacher's, measured in turns.
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
        """Than the teacher's file, and not slower either."""
        return self.size < 1 and (self.latency is None or self.latency <= 1)


def compare_files(
    paths: Sequence[Path], network: Network, teacher: Teacher
) -> list[Parity]:
    """Files of one student, each against torch."""
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
    """An ONNX file on a task's images.

    Attributes:
        low, high: 95 % interval of the accuracy (Wilson, 1927).
        latency_ms: As `Assessment` has it.
    """

    task: str
    accuracy: float
    low: float
    high: float
    num_images: int
    bytes: int
    latency_ms: float


def evaluate_onnx(path: Path, task: Task | None, split: str) -> Evaluation:
    """What an exported student gets right, in ONNX Runtime.

    Args:
        task: That named in the file, if None.

    Raises:
        ValueError: It is no ONNX file, takes other images than the task has, tells
            another number of classes apart, or names no task, or one that is not the
            published one of that name.
    """
    session = _open(path)
    if task is not None and split in task.unlabelled:
        raise ValueError(
            f"the {split} images of {task.name} have no labels to compare answers "
            f"with; name labelled images with --task (`n2n-gym export FOLDER` says how "
            f"often a run's student agrees with its teacher)"
        )
    said = session.get_modelmeta().custom_metadata_map
    named = None
    if task is None:
        named = said.get("task", "")
        if named not in TASKS:
            raise ValueError(
                f"{path} was made for the task {named!r}; name it with --task"
            )
        task = load_task(named)
    inputs = session.get_inputs()
    wanted = tuple(inputs[0].shape[1:])
    if wanted[0] == 3 and task.input_shape[0] == 1:
        task = task.in_colour()  # as its teacher saw them
    if [each.name for each in inputs] != [INPUT] or wanted != task.input_shape:
        raise ValueError(
            f"{path} takes {inputs[0].name!r} of {wanted}; accepted is {INPUT!r} of "
            f"{task.input_shape}, the images of {task.name}"
        )
    if named is not None and said.get("preprocessing") != preprocessing_of(task):
        raise ValueError(  # an own file may be called digits.npz
            f"{path} was made for other images than the {named} that is published "
            f"({said.get('preprocessing')}); name them with --task"
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
    """Refuse a task of more or fewer classes; warn of one that names them otherwise."""
    count = session.get_outputs()[0].shape[1:]
    if count != [task.num_classes]:
        raise ValueError(
            f"{path} tells {', '.join(map(str, count))} classes apart, the task "
            f"{task.name} has {task.num_classes}"
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
    except Exception as error:  # of classes that it does not export
        raise ValueError(f"{path} cannot be read as ONNX: {error}") from error


def wilson(count: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    from scipy.stats import binomtest  # slow to import

    interval = binomtest(count, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def confusion(labels: Tensor, answers: Tensor, count: int) -> list[list[int]]:
    """How many images of each class were taken for which, (classes, classes)."""
    found = torch.zeros(count, count, dtype=torch.int64)
    found.index_put_((labels, answers), torch.tensor(1), accumulate=True)
    rows: list[list[int]] = found.tolist()
    return rows


def measure_latency(paths: Sequence[Path], input_shape: Sequence[int]) -> list[Timing]:
    """How long ONNX Runtime takes for one image, on one thread of the CPU.

    The files take turns, so that a machine that slows down slows all of them, each with
    the caches as its own runs leave them. Ratios are to the first.
    """
    pixels = {INPUT: np.zeros((1, *input_shape), np.float32)}
    sessions = [open_session(path, threads=1) for path in paths]
    runs = [partial(session.run, None, pixels) for session in sessions]
    return time_in_turns(runs, precision=0.0, seconds=SECONDS * len(runs))
