"""Teachers: trained networks, made once and kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm.auto import tqdm

from n2n_gym.architecture import Architecture
from n2n_gym.inheritance import Inheritance
from n2n_gym.rewards import Score
from n2n_gym.small_images import fit
from n2n_gym.tasks import Task, cache_folder, load_task
from n2n_gym.torch_layers import build, trace
from n2n_gym.training import (
    Normalisation,
    Recipe,
    compute_accuracy,
    compute_logits,
    initialise,
    pick_device,
    seeded,
    train,
)

logger = logging.getLogger(__name__)

LONGEST_UNASKED: Final = 600.0  # seconds of training that nobody asked for
_TRACED_AT: Final = (3, 224, 224)  # the images that torchvision's networks are made for


class Trained(NamedTuple):
    """What training gives."""

    weights: Mapping[str, Tensor]  # the state dict, on the CPU
    accuracy: float  # on the validation split, in [0, 1]
    logits: Tensor  # on the training split, (N, classes)


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network and the task it was trained on.

    Attributes:
        provide: Loads or trains it; called at the first use of what needs training.

    Raises:
        ValueError: The architecture does not fit the task.
    """

    name: str
    task: Task
    architecture: Architecture
    provide: Callable[[], Trained] = field(repr=False)

    def __post_init__(self) -> None:
        takes, gives = self.architecture.input_shape, self.architecture.num_outputs
        if takes != self.task.input_shape or gives != self.task.num_classes:
            raise ValueError(
                f"teacher {self.name} takes {takes} images and tells {gives} classes "
                f"apart; task {self.task.name} has {self.task.input_shape} images of "
                f"{self.task.num_classes} classes"
            )

    @cached_property
    def trained(self) -> Trained:
        return self.provide()

    @property
    def weights(self) -> Mapping[str, Tensor]:
        return self.trained.weights

    @cached_property
    def score(self) -> Score:
        architecture = self.architecture
        return Score(
            self.trained.accuracy, architecture.num_params, architecture.num_macs
        )

    @cached_property
    def normalise(self) -> Normalisation:
        return Normalisation(*self.task.normalisation)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the architecture and its weights."""
        digest = hashlib.sha256(self.architecture.fingerprint.encode())
        for name, tensor in sorted(self.weights.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def inheritance(self, device: torch.device) -> Inheritance:
        """What its students start from, kept on the device for the next call."""
        if device not in self._inheritances:
            weights = {name: tensor.to(device) for name, tensor in self.weights.items()}
            self._inheritances[device] = Inheritance(self.architecture, weights)
        return self._inheritances[device]

    @cached_property
    def _inheritances(self) -> dict[torch.device, Inheritance]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self


def load_teacher(
    teacher: str | Teacher = "resnet18",
    task: str | Task | None = None,
    *,
    device: str | torch.device | None = None,
    train_teacher: bool = False,
) -> Teacher:
    """A teacher for a task, by torchvision's name of its network.

    It is loaded from the cache, or trained and kept there, when it is first needed.

    Args:
        task: ``"digits"`` by default, or the task that the teacher given comes with.
        device: To train on; the accelerator if there is one by default.
        train_teacher: Whether training may take longer than ten minutes.

    Raises:
        ValueError: There is no such teacher, task or device, or they do not fit.
        TraceError: The network uses an operation that is no kind of layer here.
        TimeoutError: At the first use, not here: training it would take too long.
    """
    if isinstance(teacher, Teacher):
        if task is not None and load_task(task) is not teacher.task:
            wanted = load_task(task)
            if wanted.fingerprint != teacher.task.fingerprint:
                raise ValueError(
                    f"teacher {teacher.name} has learned task {teacher.task.name}, not "
                    f"{wanted.name}"
                )
        return teacher
    if not isinstance(teacher, str):
        raise ValueError(f"a teacher is a name or a Teacher, got {teacher!r}")
    task = load_task("digits" if task is None else task)
    place = pick_device(device)
    architecture = teacher_architecture(teacher, task)
    return Teacher(
        teacher,
        task,
        architecture,
        lambda: _load_or_train(teacher, task, architecture, place, train_teacher),
    )


def teacher_architecture(name: str, task: Task) -> Architecture:
    """One of torchvision's classification networks, fitted to a task."""
    from torchvision import models  # slow to import, and needed here only

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"unknown teacher {name!r}; known: {', '.join(known)}")
    return fit(_traced(name, task.num_classes), task.input_shape)


@cache
def _traced(name: str, num_classes: int) -> Architecture:
    return trace(torchvision_network(name, num_classes), _TRACED_AT)


def torchvision_network(name: str, num_classes: int, **options: Any) -> nn.Module:
    """One of torchvision's networks, its weights on the meta device."""
    from torchvision import models

    with warnings.catch_warnings(), _WeightsOnMeta():
        # GoogLeNet and Inception announce another initialisation; ours is our own.
        warnings.filterwarnings("ignore", "The default weight init", FutureWarning)
        network: nn.Module = models.get_model(
            name, weights=None, num_classes=num_classes, **options
        )
    return network


class _WeightsOnMeta(TorchFunctionMode):
    """Inside it weights take no memory; other tensors, to compute with, are real."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.empty:
            options["device"] = "meta"
        return func(*args, **options)


def teacher_recipe(task: Task) -> Recipe:
    """How teachers are trained: longer on small data sets, which have short epochs."""
    is_small = len(task.splits["train"].labels) < 10_000
    return Recipe(
        epochs=20 if is_small else 15,
        batch_size=64 if is_small else 128,
        learning_rate=0.1,
        label_smoothing=0.1,
    )


def teacher_folder() -> Path:
    """Where trained teachers are kept."""
    return cache_folder() / "teachers"


def _load_or_train(
    name: str,
    task: Task,
    architecture: Architecture,
    device: torch.device,
    train_teacher: bool,
) -> Trained:
    recipe = teacher_recipe(task)
    made_of = [architecture.fingerprint, task.fingerprint, asdict(recipe)]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]
    path = teacher_folder() / f"{name}-{task.name}-{key}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whoever comes second waits, then finds what the first has made.
    with FileLock(path.with_suffix(".lock")):
        trained = _load(path)
        if trained is None:
            advice = None if train_teacher else _advice(name, task)
            trained = train_network(
                name, task, architecture, recipe, device, advice=advice
            )
            _save(path, trained, name, task, recipe)
    return trained


def train_network(
    name: str,
    task: Task,
    architecture: Architecture,
    recipe: Recipe,
    device: torch.device,
    *,
    advice: str | None = None,
) -> Trained:
    """Train a teacher from scratch, with a progress bar.

    Args:
        advice: What to do instead of waiting for more than ten minutes; None: wait.

    Raises:
        TimeoutError: It would take longer, and there is advice.
    """
    split, normalise = task.split("train", device), Normalisation(*task.normalisation)
    steps = recipe.epochs * (
        len(split.labels) // min(recipe.batch_size, len(split.labels))
    )
    with seeded(0, device) as generator:
        network = build(architecture).to(device).to(memory_format=torch.channels_last)
        initialise(network)
        with tqdm(total=steps, desc=f"Training teacher {name} on {task.name}") as bar:
            watch = _Watch(bar, advice)
            train(network, split, normalise, recipe, generator, after_step=watch)
    accuracy = compute_accuracy(network, task.split("validation", device), normalise)
    logger.info("teacher %s on %s: %.4f on validation", name, task.name, accuracy)
    logits = compute_logits(network, split, normalise).cpu()
    weights = {k: v.cpu().contiguous() for k, v in network.state_dict().items()}
    return Trained(weights, accuracy, logits)


def _advice(name: str, task: Task) -> str:
    return (
        f"run `n2n-gym teachers train {name} --task {task.name}` once, or ask for it "
        f"with train_teacher=True (--train-teacher)"
    )


class _Watch:
    """Moves a progress bar, and stops early a training that would take too long."""

    STEPS_TO_JUDGE = 6  # the first two are not timed: they allocate

    def __init__(self, bar: tqdm[Any], advice: str | None) -> None:
        self.bar = bar
        self.num_steps = 0  # a bar that is switched off does not count
        self.total = bar.total
        self.advice = advice  # what to do instead of waiting; None: wait
        self.started = 0.0

    def __call__(self) -> None:
        self.bar.update()
        self.num_steps += 1
        if self.num_steps == 2:
            self.started = time.perf_counter()
        if self.num_steps == self.STEPS_TO_JUDGE and self.advice is not None:
            each = (time.perf_counter() - self.started) / (self.STEPS_TO_JUDGE - 2)
            expected = each * self.total
            if expected > LONGEST_UNASKED:
                raise TimeoutError(
                    f"training this teacher would take about {expected / 60:.0f} "
                    f"minutes; {self.advice}"
                )


def _save(path: Path, trained: Trained, name: str, task: Task, recipe: Recipe) -> None:
    """Weights first, then the JSON that vouches for them; each appears whole or not."""
    content = save({**trained.weights, "train.logits": trained.logits})
    about = {
        "teacher": name,
        "task": task.name,
        "validation_accuracy": trained.accuracy,
        "recipe": asdict(recipe),
        "torch": torch.__version__,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_whole(path, content)
    write_whole(path.with_suffix(".json"), json.dumps(about, indent=1).encode())


def _load(path: Path) -> Trained | None:
    """What ``_save`` wrote; None if it is not there or damaged, which is said."""
    about_path = path.with_suffix(".json")
    if not path.exists() and not about_path.exists():
        return None
    try:
        about = json.loads(about_path.read_text())
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != about["sha256"]:
            raise ValueError(f"its SHA-256 is {found}, expected {about['sha256']}")
        weights = load_file(path)
        logits = weights.pop("train.logits")
        return Trained(weights, float(about["validation_accuracy"]), logits)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        logger.warning(
            "the teacher in %s is damaged (%s) and is trained again", path, error
        )
        return None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, even after a crash."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
