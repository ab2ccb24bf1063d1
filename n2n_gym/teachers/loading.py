"""Teachers from the user's arguments: a network, its weights, a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.reading import is_architecture, read_architecture
from n2n_gym.pytorch.recipe import read_precision
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import (
    Teacher,
    TeacherLike,
    Weights,
    is_untrained,
    untrained_teacher,
)

if TYPE_CHECKING:
    import torch

    from n2n_gym.tasks.arrays import Statistics


def load_teacher(
    teacher: TeacherLike = "resnet18",
    task: str | Task | None = None,
    *,
    weights: Weights | None = None,
    normalisation: Statistics | None = None,
    device: str | torch.device | None = None,
    train_teacher: bool = False,
    precision: str | None = None,
    epochs: int | None = None,
    again: bool = False,
) -> Teacher:
    """A teacher for a task.

    With weights, the teacher is only scored; without weights, it is trained. Scoring or
    training starts when the teacher is first needed, and the cache keeps the result.

    Args:
        teacher: One of the following. The name of a classification network of
            torchvision, or ``resnet20`` to ``resnet110`` of CIFAR (He et al., 2016).
            ``"timm:resnet18.a1_in1k"``, a network of timm with published weights and
            normalisation, or ``"timm:resnet18"``, untrained. A function of the task
            that returns a module or a ``Teacher``. A module, with its own weights. A
            subclass of ``nn.Module``, called without arguments, or with the task if it
            has a parameter ``task``. An ``Architecture``, its JSON, or the path of its
            .json file. A ``Teacher``. ``"module:attribute"`` names any of these.
            Networks of torchvision by name are adapted to small images. Modules and
            networks of timm are used unchanged, without torch's wrappers.
        task: Task, or its name or path; by default ``"digits"``, or the given teacher's
            own task. An architecture without a task has no images: its students can
            only be scored by size. Grey images are repeated to three equal channels if
            the network's weights are for colour images.
        weights: A safetensors file, a file of ``torch.save``, a state dict, or a
            checkpoint that contains one. Or ``"own"``, the weights that a function's
            module already has. Or torchvision's name for published weights
            ("IMAGENET1K_V1"); the network is then used as published, for large images.
        normalisation: Mean and standard deviation of each channel, for pixels in
            [0, 1], that normalise the inputs. By default those that published weights
            expect; without published weights, those of the task's training images.
        device: Device for training and scoring; by default the accelerator, or the CPU
            of a machine without accelerator.
        train_teacher: Has no effect; older versions needed it. A teacher without
            weights is trained in any case.
        precision: Precision of training, or of computing the logits of given weights:
            "float32" or "bfloat16". By default the faster one on this machine; float32
            if there are few images. The precision is part of the teacher's identity.
        epochs: Number of training epochs; by default chosen by the size of the data.
        again: Whether to train or score the teacher even if the cache has it.

    Raises:
        ValueError: There is no such teacher, task or device, they do not fit together,
            or the weights are of another architecture. Or the teacher has to be trained
            and the training images have no labels.
        TraceError: The network uses an operation that is not supported.
        OSError: Published weights are missing and cannot be downloaded.
    """
    kind = read_precision(precision)
    if isinstance(teacher, Teacher):
        return _checked(teacher, task, weights, normalisation)
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    is_given = isinstance(teacher, Architecture) or is_architecture(teacher)
    if device is not None:
        from n2n_gym.pytorch.devices import pick_device

        pick_device(device)
    if is_given and task is None and weights is None and normalisation is None:
        return untrained_teacher(read_architecture("teacher", teacher))
    # Importing torch takes seconds, and the cases above do not need it.
    from n2n_gym.pytorch.devices import pick_device
    from n2n_gym.tasks.loading import load_task
    from n2n_gym.teachers.network import (
        check_trainable,
        read_network,
        read_normalisation,
    )
    from n2n_gym.teachers.providing import Provider

    data = load_task("digits" if task is None else task)
    place = pick_device(device)
    found = read_network(teacher, data, weights)
    if isinstance(found, Teacher):
        return _checked(found, task, weights, normalisation)
    network = found
    check_trainable(network)
    if normalisation is not None:
        network = network._replace(normalisation=read_normalisation(normalisation))
    return Teacher(
        network.name,
        network.task,
        network.architecture,
        Provider(network, place, epochs, again, kind),
        network.normalisation,
    )


def _checked(
    teacher: Teacher,
    task: str | Task | None,
    weights: Weights | None,
    normalisation: Statistics | None,
) -> Teacher:
    """The given ``Teacher``, if it fits the other arguments."""
    if weights is not None or normalisation is not None:
        raise ValueError(
            f"teacher {teacher.name} already has weights and normalisation; leave "
            f"these arguments out"
        )
    if task is None:
        return teacher
    from n2n_gym.tasks.loading import load_task

    if is_untrained(teacher):
        raise ValueError(
            f"teacher {teacher.name} was made of an architecture alone and has no "
            f"task; give load_teacher the architecture and task={task!r} together"
        )
    wanted = load_task(task)
    has = teacher.task.unanswered or teacher.task
    if wanted is not has and wanted.fingerprint != has.fingerprint:
        raise ValueError(
            f"teacher {teacher.name} was trained on task {teacher.task.name}, not on "
            f"{wanted.name}"
        )
    return teacher
