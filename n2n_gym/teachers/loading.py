"""Teachers from what users name: a network, where its weights are, a task."""

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

    With weights it is scored as it is. Without, it is loaded from the cache, or trained
    and kept there, when it is first needed.

    Args:
        teacher: The name of one of torchvision's classification networks, or
            ``resnet20`` to ``resnet110`` of CIFAR (He et al., 2016);
            ``"timm:resnet18.a1_in1k"``, one of timm's with its published weights and
            normalisation, or ``"timm:resnet18"``, untrained;
            ``"module:function"`` or the function, called with the task, gives a module
            or a ``Teacher``; or a module, whose weights are its own. A class of modules
            is made without arguments, or with the task if it has a parameter ``task``.
            Networks by name are fitted to small images, modules are taken as they are,
            without torch's wrappers. Or an ``Architecture``, its JSON, or the path of
            its .json file. All of them may be named as ``"module:attribute"``.
        task: ``"digits"`` by default, or the task that the teacher given comes with.
            An architecture without a task has no images: its students can be scored by
            size alone.
            Grey images become three equal channels for networks with weights for
            colour.
        weights: A safetensors file, or what a training script saved with
            ``torch.save``; a state dict, or a mapping that one lies in; ``"own"`` for
            those that a function's module comes with; or what torchvision calls the
            ones it publishes ("IMAGENET1K_V1"), which belong to the network as it is
            for large images.
        normalisation: Mean and deviation of each channel, of pixels in [0, 1], which
            inputs are normalised with; by default those of published weights or else
            of the task's training images.
        device: To train on; the accelerator if there is one by default.
        train_teacher: Does nothing; it is accepted because it used to be needed. A
            teacher that has to be trained is trained, however long that takes.
        precision: Of the training's arithmetic, "float32" or "bfloat16"; by default the
            faster one on this machine. With another one it is another teacher.
        epochs: Of training, if it has to be trained; by default by the size of the
            data.
        again: Whether to train it even if it is in the cache.

    Raises:
        ValueError: There is no such teacher, task or device, they do not fit, or the
            weights are of another architecture. A teacher without weights cannot be
            trained, as the training images have no labels.
        TraceError: The network uses an operation that is no kind of layer here.
        OSError: Published weights are not there and cannot be downloaded.
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
    # Torch takes seconds to import, and what came before does without.
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
    """A teacher that was given whole, if it goes with the rest."""
    if weights is not None or normalisation is not None:
        raise ValueError(
            f"teacher {teacher.name} is whole: it comes with weights and normalisation"
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
            f"teacher {teacher.name} has learned task {teacher.task.name}, not "
            f"{wanted.name}"
        )
    return teacher
