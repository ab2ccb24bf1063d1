"""A teacher: a trained network and the task it was trained on.

Torch is imported when what was trained is first needed: an environment whose scores
need no weights never does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from n2n_gym.common.plugins import is_picklable
from n2n_gym.networks.architecture import Architecture
from n2n_gym.rewards import Score
from n2n_gym.tasks.task import Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from n2n_gym.pytorch.build import Network
    from n2n_gym.pytorch.inheritance import Inheritance
    from n2n_gym.pytorch.inputs import Normalisation, Views

# What users give as a teacher, and as its weights: see ``load_teacher``.
TeacherLike: TypeAlias = (
    "str | Path | nn.Module | Architecture | Teacher | Callable[[Task], Any]"
)
Weights: TypeAlias = "str | Path | Mapping[str, Tensor]"


class Trained(NamedTuple):
    """What training gives."""

    weights: Mapping[str, Tensor]  # the state dict, on the CPU
    accuracy: float  # on the validation split, in [0, 1]
    logits: Tensor  # on the training split, (N, classes)
    # The class it takes each image for, (N,) int64, of splits without labels.
    answers: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network and the task it was trained on.

    Attributes:
        provide: Loads or trains it; called at the first use of what needs training.
        normalisation: What its inputs go through first; that of the task's training
            images by default.
        ranked_by: The weights whose norms say which channels its students keep; its own
            by default.

    Raises:
        ValueError: The architecture or the normalisation does not fit the task, or the
            architecture is no classifier.
    """

    name: str
    task: Task
    architecture: Architecture
    provide: Callable[[], Trained] = field(repr=False)
    normalisation: Normalisation | None = None
    ranked_by: Mapping[str, Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        takes, gives = self.architecture.input_shape, self.architecture.num_outputs
        if len(self.architecture.shapes[-1]) != 1:
            raise ValueError(
                f"teacher {self.name} emits {self.architecture.shapes[-1]}; a "
                f"classifier's logits have one axis, (classes,)"
            )
        task = self.task
        if takes != task.input_shape:
            raise ValueError(
                f"teacher {self.name} takes {takes} images, those of task {task.name} "
                f"are {task.input_shape}"
            )
        if task.unlabelled and task.answers is None:
            classes = task.num_classes or gives
            task = task.answered(classes, self._answers)
            object.__setattr__(self, "task", task)
        if gives != task.num_classes:
            raise ValueError(
                f"teacher {self.name} tells {gives} classes apart, task {task.name} "
                f"has {task.num_classes}"
            )
        if self.normalisation is not None:
            mean, std = self.normalisation.mean, self.normalisation.std
            fits = len(mean) == len(std) == takes[0]
            if not (fits and all(0 <= m <= 1 for m in mean)):
                self._refuse_normalisation()
            if not all(0 < s <= 1 for s in std):
                self._refuse_normalisation()

    def _refuse_normalisation(self) -> None:
        assert self.normalisation is not None
        raise ValueError(
            f"a normalisation has a mean from 0 to 1 and a deviation above 0, up to 1, "
            f"of pixels in [0, 1] (bytes divided by 255), for each of "
            f"{self.architecture.input_shape[0]} channels; got "
            f"{self.normalisation.mean} and {self.normalisation.std}"
        )

    @cached_property
    def trained(self) -> Trained:
        return self.provide()

    @property
    def weights(self) -> Mapping[str, Tensor]:
        return self.trained.weights

    @cached_property
    def score(self) -> Score:
        """With its accuracy on validation; with itself it agrees everywhere."""
        architecture = self.architecture
        is_agreement = "validation" in self.task.unlabelled
        accuracy = 1.0 if is_agreement else self.trained.accuracy
        return Score(accuracy, architecture.num_params, architecture.num_macs)

    def _answers(self) -> Mapping[str, Tensor]:
        """The class it takes each image for, of the splits without labels.

        Raises:
            ValueError: It takes all images of a split for the same class.
        """
        found = dict(self.trained.answers or {})
        missing = [name for name in self.task.unlabelled if name not in found]
        if missing:  # it was given whole
            from torch import device

            from n2n_gym.teachers.answers import compute_answers

            assert self.task.unanswered is not None
            place = device("cpu")
            logits = {"train": self.trained.logits} | compute_answers(
                self.name,
                self.network(place),
                self.architecture,
                self.task.unanswered,
                [name for name in missing if name != "train"],
                place,
                self.normalise,
                "float32",
            )
            found |= {name: logits[name].argmax(1).cpu() for name in missing}
        for name, classes in found.items():
            if len(classes) > 1 and bool((classes == classes[0]).all()):
                raise ValueError(
                    f"teacher {self.name} takes all {len(classes)} {name} images of "
                    f"{self.task.name} for the same class, {int(classes[0])}: there is "
                    f"nothing to learn from it; are its weights trained, and its "
                    f"inputs normalised as it is used to?"
                )
        return found

    @cached_property
    def normalise(self) -> Normalisation:
        """What its inputs go through first."""
        from n2n_gym.pytorch.inputs import Normalisation

        return self.normalisation or Normalisation(*self.task.normalisation)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that students learn of it.

        That is the architecture, its weights, its logits and its own normalisation.
        """
        digest = hashlib.sha256(self.architecture.fingerprint.encode())
        if self.normalisation is not None:
            digest.update(repr(self.normalisation).encode())
        # Logits depend on the device too; and they may be those of an ensemble.
        tensors = {**self.weights, "(logits)": self.trained.logits}
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the teacher and of all of its task that students learn from."""
        of_task = self.task.fingerprint, repr(self.task.augmentation)
        return hashlib.sha256(repr((self.fingerprint, *of_task)).encode()).hexdigest()

    def inheritance(self, device: torch.device) -> Inheritance:
        """What its students start from, kept on the device for the next call."""
        from n2n_gym.pytorch.inheritance import Inheritance

        if device not in self._inheritances:
            weights = {name: tensor.to(device) for name, tensor in self.weights.items()}
            self._inheritances[device] = Inheritance(
                self.architecture, weights, self.ranked_by
            )
        return self._inheritances[device]

    def network(self, device: torch.device) -> Network:
        """A new module with its weights, in eval mode."""
        return self.inheritance(device).build(self.architecture).eval()

    def logits(self, device: torch.device) -> Tensor:
        """Its own on the training split, (N, classes), kept on the device."""
        if device not in self._logits:
            self._logits[device] = self.trained.logits.to(device)
        return self._logits[device]

    @cached_property
    def views(self) -> dict[tuple[int, str, str], Views | None]:
        """Augmented training images with its logits: see `teacher_views`.

        By their number, and the device and the precision that the logits came from.
        """
        return {}

    @cached_property
    def squares(self) -> dict[torch.device, dict[str, Tensor]]:
        """What `rescale` fits students to, once it has been asked for."""
        return {}

    @cached_property
    def _inheritances(self) -> dict[torch.device, Inheritance]:
        return {}

    @cached_property
    def _logits(self) -> dict[torch.device, Tensor]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: the attributes, and what has been trained.

        It is trained now where `provide` cannot go there.
        """
        state = {each.name: getattr(self, each.name) for each in fields(self)}
        if "trained" in self.__dict__ or not is_picklable(self.provide):
            state["provide"] = partial(Trained, *self.trained)
        return state


def untrained_teacher(architecture: Architecture) -> Teacher:
    """A network in a teacher's place, without images or weights.

    Its students can be scored by what depends on architectures alone; anything else
    raises a ValueError when it asks for images or weights.
    """
    name = name_of_architecture(architecture)
    refuse = partial(_refuse, name)
    task = Task(name, architecture.input_shape, architecture.num_outputs, read=refuse)
    return Teacher(name, task, architecture, provide=refuse)


def _refuse(name: str) -> Any:
    raise ValueError(
        f"teacher {name} is an architecture alone, without images or weights: its "
        f"students can be scored with evaluator='size'; give task= to train it"
    )


def is_untrained(teacher: Teacher) -> bool:
    """Whether it is an architecture alone, without images or weights."""
    return teacher.task.name == name_of_architecture(teacher.architecture)


def name_of_architecture(architecture: Architecture) -> str:
    """What a teacher is called of which the layers were given."""
    return f"architecture-{architecture.fingerprint[:8]}"
