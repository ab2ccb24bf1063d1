"""Teachers from what users name: a network, where its weights are, a task."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from n2n_gym.common.files import alone_with, kept_if_possible
from n2n_gym.common.plugins import check_call, lookup
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch import TraceError, build, trace
from n2n_gym.pytorch.training import (
    Normalisation,
    compute_accuracy,
    compute_logits,
    pick_device,
    seeded,
)
from n2n_gym.tasks import Task, load_task
from n2n_gym.tasks.summary import Statistics
from n2n_gym.teachers import learning
from n2n_gym.teachers.store import load_trained, save_trained, teacher_path
from n2n_gym.teachers.teacher import Teacher, Trained
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

# A path, a published name, or a state dict.
Weights: TypeAlias = str | Path | Mapping[str, Tensor]
OWN = "own"


class _Network(NamedTuple):
    """An untrained teacher, and what its weights are or start from."""

    name: str
    task: Task
    architecture: Architecture
    weights: Mapping[str, Tensor] | None  # trained ones
    initial: Mapping[str, Tensor] | None  # where training starts
    normalisation: Normalisation | None


def load_teacher(
    teacher: str | nn.Module | Teacher | Callable[[Task], Any] = "resnet18",
    task: str | Task | None = None,
    *,
    weights: Weights | None = None,
    normalisation: Statistics | None = None,
    device: str | torch.device | None = None,
    train_teacher: bool = False,
    epochs: int | None = None,
    again: bool = False,
) -> Teacher:
    """A teacher for a task.

    With weights it is scored as it is. Without, it is loaded from the cache, or trained
    and kept there, when it is first needed.

    Args:
        teacher: The name of one of torchvision's classification networks;
            ``"module:function"`` or the function, called with the task, gives a module
            or a ``Teacher``; or a module, whose weights are its own. Networks by name
            are fitted to small images, modules are taken as they are.
        task: ``"digits"`` by default, or the task that the teacher given comes with.
            Grey images become three equal channels for networks with weights for
            colour.
        weights: A safetensors file, or a state dict that ``torch.save`` wrote; a state
            dict; ``"own"`` for those that a function's module comes with; or what
            torchvision calls the ones it publishes ("IMAGENET1K_V1"), which belong to
            the network as it is for large images.
        normalisation: Mean and deviation of each channel, of pixels in [0, 1], which
            inputs are normalised with; by default those of published weights or else
            of the task's training images.
        device: To train on; the accelerator if there is one by default.
        train_teacher: Whether training may take longer than ten minutes.
        epochs: Of training, if it has to be trained; by default by the size of the
            data.
        again: Whether to train it even if it is in the cache.

    Raises:
        ValueError: There is no such teacher, task or device, they do not fit, or the
            weights are of another architecture.
        TraceError: The network uses an operation that is no kind of layer here.
        OSError: Published weights are not there and cannot be downloaded.
        TimeoutError: At the first use, not here: training it would take too long.
    """
    if isinstance(teacher, Teacher):
        return _checked(teacher, task, weights, normalisation)
    if not isinstance(teacher, (str, nn.Module)) and not callable(teacher):
        raise ValueError(
            f"a teacher is a name, 'module:function', a function of the task, a module "
            f"or a Teacher, got {teacher!r}"
        )
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    data = load_task("digits" if task is None else task)
    place = pick_device(device)
    if isinstance(teacher, str) and is_name(teacher):
        network = _by_name(teacher, data, weights)
    else:
        made = teacher if isinstance(teacher, nn.Module) else _call(teacher, data)
        if isinstance(made, Teacher):
            return _checked(made, task, weights, normalisation)
        if isinstance(teacher, nn.Module) and weights is None:
            weights = OWN
        name = teacher if isinstance(teacher, str) else _name_of(teacher)
        network = _as_it_is(name, made, data, weights)
    if normalisation is not None:
        network = network._replace(normalisation=_normalisation(normalisation))
    asked = task if isinstance(task, str) else data.name
    advice = None if train_teacher else _advice(network, asked)
    return Teacher(
        network.name,
        network.task,
        network.architecture,
        lambda: _provide(network, place, advice, epochs, again=again),
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
    wanted = teacher.task if task is None else load_task(task)
    if wanted is not teacher.task and wanted.fingerprint != teacher.task.fingerprint:
        raise ValueError(
            f"teacher {teacher.name} has learned task {teacher.task.name}, not "
            f"{wanted.name}"
        )
    return teacher


def _name_of(teacher: nn.Module | Callable[[Task], Any]) -> str:
    if isinstance(teacher, nn.Module):
        return type(teacher).__name__
    return getattr(teacher, "__name__", type(teacher).__name__)


def _normalisation(statistics: Statistics) -> Normalisation:
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


def _by_name(name: str, task: Task, weights: Weights | None) -> _Network:
    """One of torchvision's networks."""
    if weights is None:
        return _Network(name, task, teacher_architecture(name, task), None, None, None)
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
    return _Network(name, task, fitted, checked, None, None)


def _as_it_is(
    name: str, module: nn.Module, task: Task, weights: Weights | None
) -> _Network:
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
) -> _Network:
    """A module as it is, with trained weights."""
    try:
        architecture = trace(module, task.input_shape)
    except TraceError as error:
        if task.input_shape[0] != 1:
            raise TraceError(f"{name} cannot be a teacher: {error}") from error
        task = task.in_colour()  # perhaps it is for colour
        try:
            architecture = trace(module, task.input_shape)
        except TraceError:
            raise TraceError(f"{name} cannot be a teacher: {error}") from error
    # A module may hold weights that the logits do not need: auxiliary heads.
    spare = module.state_dict().keys()
    checked = check_weights(weights, architecture, source, spare=spare)
    return _Network(name, task, architecture, checked, None, None)


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
    """The task with as many channels as the first convolution reads."""
    is_grey = task.input_shape[0] == 1
    return task.in_colour() if channels == 3 and is_grey else task


def _provide(
    network: _Network,
    device: torch.device,
    advice: str | None,
    epochs: int | None,
    *,
    again: bool,
) -> Trained:
    """Load the teacher from the cache, or train or score it and keep it there."""
    task, architecture = network.task, network.architecture
    start = network.weights or network.initial or {}
    made_of = [
        architecture.fingerprint,
        task.fingerprint,
        repr(network.normalisation),
        repr(task.augmentation),
        _digest(start),
        "trained" if network.weights is None else "given",
    ]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    path = teacher_path(network.name, task.name, key)
    checkpoint = path.with_suffix(".checkpoint")
    # Whoever comes second waits, then finds what the first has made.
    with alone_with(path):
        trained = None if again else load_trained(path)
        if trained is None:
            about: dict[str, Any] = {
                "teacher": network.name,
                "task": task.name,
                "num_params": architecture.num_params,
                "torch": torch.__version__,
            }
            if network.weights is None:
                recipe = learning.teacher_recipe(task, architecture)
                recipe = replace(recipe, epochs=epochs or recipe.epochs)
                about["recipe"] = asdict(recipe)
                trained = learning.train_network(
                    network.name,
                    task,
                    architecture,
                    recipe,
                    device,
                    initial=network.initial,
                    normalisation=network.normalisation,
                    checkpoint=checkpoint,
                    advice=advice,
                )
            else:
                trained = _score(network, network.weights, device)
            _warn_of_chance(network, trained.accuracy)
            with kept_if_possible(path):
                save_trained(path, trained, about)
                checkpoint.unlink(missing_ok=True)
    return trained


def _warn_of_chance(network: _Network, accuracy: float) -> None:
    task = network.task
    chance = 1 / task.num_classes
    if accuracy >= 1.5 * chance:
        return
    order = ", ".join((task.class_names or ())[:4])
    logger.warning(
        "teacher %s is right on %.2f%% of the validation images, chance is %.2f%%; are "
        "its classes in the order of the task's (%s, ...), and its inputs normalised "
        "as it is used to?",
        network.name,
        100 * accuracy,
        100 * chance,
        order or "0, 1, 2",
    )


def _score(
    network: _Network, weights: Mapping[str, Tensor], device: torch.device
) -> Trained:
    module = build(network.architecture, "meta")
    module.load_state_dict(weights, assign=True)
    module = module.to(device).to(memory_format=torch.channels_last)
    task = network.task
    normalise = network.normalisation or Normalisation(*task.normalisation)
    accuracy = compute_accuracy(module, task.split("validation", device), normalise)
    logits = compute_logits(module, task.split("train", device), normalise).cpu()
    return Trained(weights, accuracy, logits)


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _advice(network: _Network, task: str) -> str:
    command = f"n2n-gym teachers train {network.name} --task {task}"
    if network.normalisation is not None:
        mean, std = network.normalisation.mean, network.normalisation.std
        command += f" --mean {','.join(map(str, mean))} --std {','.join(map(str, std))}"
    return (
        f"run `{command}` once, or ask for it with train_teacher=True (--train-teacher)"
    )
