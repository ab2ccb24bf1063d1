"""From the arguments of ``load_teacher`` to a network's architecture and weights."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from n2n_gym.common.plugins import check_call, lookup
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.reading import is_architecture, read_architecture
from n2n_gym.pytorch.determinism import seeded
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.plain import plain, tensors_of, unwrapped
from n2n_gym.pytorch.trace import TraceError, trace
from n2n_gym.tasks.arrays import Statistics
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.from_timm import is_tagged, is_timm, untrained
from n2n_gym.teachers.from_timm import published as from_timm
from n2n_gym.teachers.teacher import Teacher, TeacherLike, Weights, name_of_architecture
from n2n_gym.teachers.weights import check_weights, read_weights, state_dicts_for
from n2n_gym.teachers.zoo import (
    as_made,
    download,
    is_name,
    published,
    teacher_architecture,
    torchvision_network,
)

logger = logging.getLogger(__name__)

OWN: Final = "own"


class UntrainedNetwork(NamedTuple):
    """A teacher before it is trained or scored.

    Attributes:
        weights: Trained weights; None if the teacher has to be trained.
        initial: Weights that training starts from; None for random ones.
        normalisation: Normalisation of inputs; None for that of the training images.
    """

    name: str
    task: Task
    architecture: Architecture
    weights: Mapping[str, Tensor] | None = None  # trained ones
    initial: Mapping[str, Tensor] | None = None  # where training starts
    normalisation: Normalisation | None = None


def check_trainable(network: UntrainedNetwork) -> None:
    """Refuse a network that would have to be trained without labels."""
    if network.weights is None:
        _check_labelled(network.name, network.task)


def _check_labelled(name: str, task: Task) -> None:
    if "train" in task.unlabelled:
        raise ValueError(
            f"{name} cannot be trained: the training images of task {task.name} have "
            f"no labels; give a trained teacher, weights=... or --weights"
        )


def read_network(
    teacher: TeacherLike, task: Task, weights: Weights | None
) -> UntrainedNetwork | Teacher:
    """The network of a teacher, before training.

    Args:
        teacher, weights: The arguments of ``load_teacher``.

    Raises:
        ValueError: There is no such network, or the weights are of another network.
        TraceError: The network uses an operation that is not supported.
    """
    if isinstance(teacher, Architecture) or is_architecture(teacher):
        return _given(read_architecture("teacher", teacher), task, weights)
    found: Any = teacher
    if isinstance(teacher, str):
        if is_timm(teacher):
            return _of_timm(teacher, task, weights)
        if is_name(teacher):
            return _by_name(teacher, task, weights)
        found = lookup("teacher", teacher, {})
    elif not callable(teacher):
        raise ValueError(
            f"a teacher must be a name, 'module:function', a function of the task, a "
            f"module, an Architecture or a Teacher, got {teacher!r}"
        )
    if isinstance(found, nn.Module):
        weights = OWN if weights is None else weights
    elif not isinstance(found, (Teacher, Architecture)):
        found = _call(teacher, found, task)
    if isinstance(found, Teacher):
        return found
    if isinstance(found, Architecture):
        return _given(found, task, weights)
    name = teacher if isinstance(teacher, str) else _name_of(teacher)
    return _as_it_is(name, found, task, weights)


def _given(
    architecture: Architecture, task: Task, weights: Weights | None
) -> UntrainedNetwork:
    """A network that is given by its architecture."""
    task = _in_its_colours(architecture.input_shape[0], task)
    name = name_of_architecture(architecture)
    if weights is None:
        return UntrainedNetwork(name, task, architecture)
    saved, source = _read(weights)
    checked = check_weights(saved, architecture, source)
    return UntrainedNetwork(name, task, architecture, checked)


def _by_name(name: str, task: Task, weights: Weights | None) -> UntrainedNetwork:
    """A network of torchvision, or a ResNet for CIFAR."""
    if weights is None:
        _check_labelled(name, task)
        return UntrainedNetwork(name, task, teacher_architecture(name, task))
    if isinstance(weights, str) and weights in published(name):
        found = download(name, weights)
        module = torchvision_network(name, found.num_classes)
        source = f"{weights} of {name}"
        network = _with_weights(name, module, task, found.weights, source)
        return network._replace(normalisation=found.normalisation)
    if isinstance(weights, str) and not Path(weights).suffix:
        accepted = ", ".join([*published(name), "the path"])
        raise ValueError(
            f"unknown weights {weights!r} of {name}; accepted are {accepted} of a "
            f"safetensors file or of what torch.save wrote, and a state dict"
        )
    saved, source = _read(weights)
    if not task.num_classes:
        task = replace(task, num_classes=_classes_of(name, saved, source))
    whole = as_made(name, task.num_classes)
    module = torchvision_network(name, task.num_classes)
    spare = module.state_dict().keys()
    state, *_ = state_dicts_for(whole, saved, source, spare).values()
    stem = state.get(f"{whole.layers[whole.first].name}.weight")
    if stem is not None and stem.dim() == 4:
        task = _in_its_colours(stem.shape[1], task)
    fitted = teacher_architecture(name, task)
    try:
        checked = check_weights(saved, fitted, source, spare=spare)
    except ValueError as error:
        try:  # perhaps it was trained without adapting it to small images
            return _with_weights(name, module, task, saved, source)
        except ValueError as other:
            raise ValueError(f"{error}. Nor as torchvision makes it: {other}") from None
    if fitted.layers != whole.layers:
        logger.warning(
            "%s: %s is taken as fitted to %dx%d images; if it was trained as "
            "torchvision makes it, give the module itself",
            source,
            name,
            *task.input_shape[1:],
        )
    return UntrainedNetwork(name, task, fitted, checked)


def _classes_of(name: str, saved: Any, source: str) -> int:
    """Number of classes of saved weights for a network of torchvision.

    Raises:
        ValueError: The weights do not show this number.
    """
    one, two = (torchvision_network(name, count).state_dict() for count in (10, 11))
    key = [key for key in one if one[key].shape != two[key].shape][-1]
    counts = {
        len(tensor)
        for other, tensor in _tensors_in(saved)
        if other == key or other.endswith(f".{key}")
    }
    if len(counts) != 1:
        raise ValueError(
            f"{source} does not show how many classes {name} has (it lacks {key}), and "
            f"the images have no labels"
        )
    return counts.pop()


def _tensors_in(saved: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors in a checkpoint, at any depth."""
    for name, value in saved.items() if isinstance(saved, Mapping) else ():
        if isinstance(value, Tensor) and value.dim():
            yield str(name), value
        else:
            yield from _tensors_in(value)


def _of_timm(name: str, task: Task, weights: Weights | None) -> UntrainedNetwork:
    """A network of timm, with published weights if its name has a tag."""
    if weights is None and is_tagged(name):
        module, normalisation = from_timm(name)
        network = _with_weights(name, module, task, None, name)
        return network._replace(normalisation=normalisation)
    module = untrained(name, task.num_classes, task.input_shape[0])
    if weights is not None:
        return _with_weights(name, module, task, *_read(weights))
    network = _with_weights(name, module, task, None, name)
    return network._replace(weights=None)


def _as_it_is(
    name: str, module: nn.Module, task: Task, weights: Weights | None
) -> UntrainedNetwork:
    """The network of a user's module, unchanged."""
    if weights is not None and weights != OWN:
        return _with_weights(name, module, task, *_read(weights))
    network = _with_weights(name, module, task, None, name)
    if weights == OWN:
        return network
    return network._replace(weights=None, initial=network.weights)


def _with_weights(
    name: str, module: nn.Module, task: Task, weights: Any, source: str
) -> UntrainedNetwork:
    """The network of a module, with the given weights or, by default, its own."""
    try:
        architecture = trace(module, task.input_shape)
    except TraceError as error:
        other = _with_its_channels(module, task)
        if other is None:
            raise TraceError(f"{name} cannot be a teacher: {error}") from error
        architecture = other
        task = _in_its_colours(architecture.input_shape[0], task)
    own = tensors_of(plain(module))
    given = own if weights is None else weights
    # A module may have weights that the logits do not need, such as auxiliary heads.
    checked = check_weights(given, architecture, source, spare=own)
    return UntrainedNetwork(name, task, architecture, checked)


def _with_its_channels(module: nn.Module, task: Task) -> Architecture | None:
    """The network traced with another number of channels than the task's, or None."""
    stems = [m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)][:1]
    for channels in dict.fromkeys([3, 1, *stems]):
        if channels != task.input_shape[0]:
            with suppress(TraceError):
                return trace(module, (channels, *task.input_shape[1:]))
    return None


def _read(weights: Weights) -> tuple[Any, str]:
    """The content of a checkpoint, and its name for errors."""
    if isinstance(weights, Mapping):
        return weights, "the state dict"
    if not isinstance(weights, (str, Path)):
        raise ValueError(
            f"weights must be a name, a path, a state dict or a training script's "
            f"checkpoint, got {type(weights).__name__}"
        )
    path = Path(weights).expanduser()
    if not path.suffix and not path.exists():
        raise ValueError(
            f"unknown weights {str(weights)!r}; accepted are the path of a safetensors "
            f"file or of what torch.save wrote, a state dict, and 'own' for those that "
            f"a module:function comes with"
        )
    return read_weights(path), str(weights)


def _in_its_colours(channels: int, task: Task) -> Task:
    """The task with as many channels as the network reads.

    Raises:
        ValueError: The task cannot have this number of channels.
    """
    given = task.input_shape[0]
    if channels == given:
        return task
    if channels == 3 and given == 1:
        return task.in_colour()
    layout = "(N, H, W)" if channels == 1 else f"(N, H, W, {channels})"
    raise ValueError(
        f"the network reads {channels} channel{'s'[: channels != 1]}, the images of "
        f"task {task.name} have {given}: change its first layer to {given} input "
        f"channels, or give the images as {layout} in an .npz file"
    )


def _name_of(teacher: Any) -> str:
    """The name of a module, or of a function of the task."""
    if isinstance(teacher, nn.Module):
        return type(unwrapped(teacher)).__name__
    return getattr(teacher, "__name__", type(teacher).__name__)


def read_normalisation(statistics: Statistics) -> Normalisation:
    """The normalisation with these means and standard deviations of channels.

    Raises:
        ValueError: ``statistics`` is not a pair of sequences of numbers.
    """
    try:
        mean, std = (tuple(map(float, each)) for each in statistics)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"a normalisation must be ((mean, ...), (deviation, ...)), with one value "
            f"of each per channel, got {statistics!r}"
        ) from error
    return Normalisation(mean, std)


def _call(teacher: object, make: Any, task: Task) -> nn.Module | Teacher:
    """The module or teacher that a function or class makes, with a fixed seed."""
    if isinstance(make, type) and issubclass(make, nn.Module):
        make = _of_class(teacher, make)
    check_call("teacher", teacher, make, task)
    with seeded(0, torch.device("cpu")):
        made = make(task)
    if not isinstance(made, (nn.Module, Teacher)):
        raise ValueError(
            f"teacher {teacher!r} must return a torch module or a Teacher, got {made!r}"
        )
    return made


def _of_class(teacher: object, network: type[nn.Module]) -> Callable[[Task], nn.Module]:
    """A function of the task that makes a network of this class.

    The class gets the task if it has a parameter ``task``, and no other arguments.
    """
    signature = inspect.signature(network)
    takes_task = "task" in signature.parameters
    try:
        signature.bind(**dict.fromkeys(["task"] * takes_task))
    except TypeError as error:
        raise ValueError(
            f"teacher {teacher!r} is a class that needs other arguments than a task "
            f"({error}); give a function, `def make(task): return "
            f"{network.__name__}(...)`"
        ) from None
    return lambda task: network(task=task) if takes_task else network()
