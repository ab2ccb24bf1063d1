"""Reading a name: which network a teacher is, and where its weights come from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from n2n_gym.common.plugins import check_call, lookup
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.reading import is_architecture, read_architecture
from n2n_gym.pytorch.determinism import seeded
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.trace import TraceError, trace
from n2n_gym.tasks.arrays import Statistics
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import Teacher, TeacherLike, Weights, name_of_architecture
from n2n_gym.teachers.weights import check_weights, read_weights, state_dict_in
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
    """An untrained teacher, and what its weights are or start from."""

    name: str
    task: Task
    architecture: Architecture
    weights: Mapping[str, Tensor] | None = None  # trained ones
    initial: Mapping[str, Tensor] | None = None  # where training starts
    normalisation: Normalisation | None = None


def read_network(
    teacher: TeacherLike, task: Task, weights: Weights | None
) -> UntrainedNetwork | Teacher:
    """The network that a teacher is, before it is trained.

    Args:
        teacher, weights: As ``load_teacher`` takes them.

    Raises:
        ValueError: There is no such network, or the weights are of another one.
        TraceError: The network uses an operation that is no kind of layer here.
    """
    if isinstance(teacher, Architecture) or is_architecture(teacher):
        return _given(read_architecture("teacher", teacher), task, weights)
    if not isinstance(teacher, (str, nn.Module)) and not callable(teacher):
        raise ValueError(
            f"a teacher is a name, 'module:function', a function of the task, a "
            f"module, an Architecture or a Teacher, got {teacher!r}"
        )
    if isinstance(teacher, str) and is_name(teacher):
        return _by_name(teacher, task, weights)
    if isinstance(teacher, nn.Module):
        own = OWN if weights is None else weights
        return _as_it_is(type(teacher).__name__, teacher, task, own)
    made = _call(teacher, task)
    if isinstance(made, Teacher):
        return made
    name = teacher if isinstance(teacher, str) else _name_of(teacher)
    return _as_it_is(name, made, task, weights)


def _given(
    architecture: Architecture, task: Task, weights: Weights | None
) -> UntrainedNetwork:
    """A network of which the layers are known."""
    task = _in_its_colours(architecture.input_shape[0], task)
    name = name_of_architecture(architecture)
    if weights is None:
        return UntrainedNetwork(name, task, architecture)
    state, source = _read(weights)
    checked = check_weights(state, architecture, source)
    return UntrainedNetwork(name, task, architecture, checked)


def _by_name(name: str, task: Task, weights: Weights | None) -> UntrainedNetwork:
    """One of torchvision's networks."""
    if weights is None:
        return UntrainedNetwork(name, task, teacher_architecture(name, task))
    if isinstance(weights, str) and weights in published(name):
        found = download(name, weights)
        module = torchvision_network(name, found.num_classes)
        source = f"{weights} of {name}"
        network = _with_weights(name, module, task, found.weights, source)
        return network._replace(normalisation=found.normalisation)
    if isinstance(weights, str) and not Path(weights).suffix:
        raise ValueError(
            f"unknown weights {weights!r} of {name}; accepted are "
            f"{', '.join(published(name))}, the path of a safetensors file or of what "
            f"torch.save wrote, and a state dict"
        )
    state, source = _read(weights)
    whole = as_made(name, task.num_classes)
    stem = state.get(f"{whole.layers[whole.first].name}.weight")
    if stem is not None and stem.dim() == 4:
        task = _in_its_colours(stem.shape[1], task)
    module = torchvision_network(name, task.num_classes)
    fitted = teacher_architecture(name, task)
    spare = module.state_dict().keys()
    try:
        checked = check_weights(state, fitted, source, spare=spare)
    except ValueError as error:
        try:  # perhaps it was trained as it is for large images
            return _with_weights(name, module, task, state, source)
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


def _as_it_is(
    name: str, module: nn.Module, task: Task, weights: Weights | None
) -> UntrainedNetwork:
    """A module of the user's."""
    own = module.state_dict()
    if weights is None:
        network = _with_weights(name, module, task, own, name)
        return network._replace(weights=None, initial=network.weights)
    is_own = isinstance(weights, str) and weights == OWN
    state, source = (own, name) if is_own else _read(weights)
    return _with_weights(name, module, task, state, source)


def _with_weights(
    name: str, module: nn.Module, task: Task, weights: Mapping[str, Tensor], source: str
) -> UntrainedNetwork:
    """A module as it is, with trained weights."""
    try:
        architecture = trace(module, task.input_shape)
    except TraceError as error:
        other = _with_its_channels(module, task)
        if other is None:
            raise TraceError(f"{name} cannot be a teacher: {error}") from error
        architecture = other
        task = _in_its_colours(architecture.input_shape[0], task)
    # A module may hold weights that the logits do not need: auxiliary heads.
    spare = module.state_dict().keys()
    checked = check_weights(weights, architecture, source, spare=spare)
    return UntrainedNetwork(name, task, architecture, checked)


def _with_its_channels(module: nn.Module, task: Task) -> Architecture | None:
    """The network for as many channels as it reads, if others than the task has."""
    stems = [m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)][:1]
    for channels in dict.fromkeys([3, 1, *stems]):
        if channels != task.input_shape[0]:
            with suppress(TraceError):
                return trace(module, (channels, *task.input_shape[1:]))
    return None


def _read(weights: Weights) -> tuple[Mapping[str, Tensor], str]:
    if isinstance(weights, Mapping):
        return state_dict_in(weights, "the state dict"), "the state dict"
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
        ValueError: It cannot have so many.
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


def _name_of(teacher: Callable[[Task], Any]) -> str:
    return getattr(teacher, "__name__", type(teacher).__name__)


def read_normalisation(statistics: Statistics) -> Normalisation:
    """A teacher's own normalisation; ValueError where these are no statistics."""
    try:
        mean, std = (tuple(map(float, each)) for each in statistics)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"a normalisation is ((mean, ...), (deviation, ...)), one of each a "
            f"channel, got {statistics!r}"
        ) from error
    return Normalisation(mean, std)


def _call(teacher: str | Callable[[Task], Any], task: Task) -> nn.Module | Teacher:
    """What a function of the task makes, always the same."""
    make: Callable[[Task], Any] = (
        lookup("teacher", teacher, {}) if isinstance(teacher, str) else teacher
    )
    check_call("teacher", teacher, make, task)
    with seeded(0, torch.device("cpu")):
        made = make(task)
    if not isinstance(made, (nn.Module, Teacher)):
        raise ValueError(
            f"teacher {teacher!r} gives {made!r}; it must give a torch module or a "
            f"Teacher"
        )
    return made
