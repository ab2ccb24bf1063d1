"""A teacher: a trained network and its task.

Torch is imported when trained weights are first needed. An environment that scores
without weights never imports it.
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
    from n2n_gym.pytorch.inputs import Normalisation, Variants

# The types of ``load_teacher``'s arguments.
TeacherLike: TypeAlias = (
    "str | Path | nn.Module | Architecture | Teacher | Callable[[Task], Any]"
)
Weights: TypeAlias = "str | Path | Mapping[str, Tensor]"


class Trained(NamedTuple):
    """The result of training a teacher, or of scoring given weights."""

    weights: Mapping[str, Tensor]  # the state dict, on the CPU
    accuracy: float  # on the validation split, in [0, 1]
    logits: Tensor  # on the training split, (N, classes)
    # Predicted classes of unlabelled splits, (N,) int64 each.
    answers: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network and the task it was trained on.

    Attributes:
        provide: Function that loads or trains the teacher; called when trained weights
            are first needed.
        normalisation: Normalisation of the inputs; by default that of the task's
            training images.
        ranked_by: Weights that rank the teacher's channels. Students inherit the
            channels with the largest norms. By default the teacher's own weights.

    Raises:
        ValueError: The architecture or the normalisation does not fit the task, or the
            architecture is not a classifier.
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
                f"teacher {self.name} has outputs of shape "
                f"{self.architecture.shapes[-1]}; a classifier's logits have one axis, "
                f"(classes,)"
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
                f"teacher {self.name} has {gives} classes, task {task.name} has "
                f"{task.num_classes}"
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
            f"a normalisation must have a mean in [0, 1] and a deviation in (0, 1] for "
            f"each of {self.architecture.input_shape[0]} channels, for pixels in [0, "
            f"1] (bytes divided by 255); got {self.normalisation.mean} and "
            f"{self.normalisation.std}"
        )

    @cached_property
    def trained(self) -> Trained:
        return self.provide()

    @property
    def weights(self) -> Mapping[str, Tensor]:
        return self.trained.weights

    @cached_property
    def score(self) -> Score:
        """The teacher's score: validation accuracy, or 1 without validation labels."""
        architecture = self.architecture
        is_agreement = "validation" in self.task.unlabelled
        accuracy = 1.0 if is_agreement else self.trained.accuracy
        return Score(accuracy, architecture.num_params, architecture.num_macs)

    def _answers(self) -> Mapping[str, Tensor]:
        """The teacher's predicted classes for unlabelled splits.

        Raises:
            ValueError: The teacher predicts the same class for all images of a split.
        """
        found = dict(self.trained.answers or {})
        missing = [name for name in self.task.unlabelled if name not in found]
        if missing:  # the user made this Teacher
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
                    f"teacher {self.name} predicts class {int(classes[0])} for all "
                    f"{len(classes)} {name} images of {self.task.name}, so there is "
                    f"nothing to learn from it; are its weights trained, and its "
                    f"inputs normalised as in its training?"
                )
        return found

    @cached_property
    def normalise(self) -> Normalisation:
        """The normalisation of the network's inputs."""
        from n2n_gym.pytorch.inputs import Normalisation

        return self.normalisation or Normalisation(*self.task.normalisation)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that students learn from the teacher itself.

        These are its architecture, weights, logits and normalisation.
        """
        digest = hashlib.sha256(self.architecture.fingerprint.encode())
        if self.normalisation is not None:
            digest.update(repr(self.normalisation).encode())
        # Logits are included: they depend on the device, or may be an ensemble's.
        tensors = {**self.weights, "(logits)": self.trained.logits}
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the teacher, the task's data and the task's augmentation."""
        of_task = self.task.fingerprint, repr(self.task.augmentation)
        return hashlib.sha256(repr((self.fingerprint, *of_task)).encode()).hexdigest()

    def inheritance(self, device: torch.device) -> Inheritance:
        """The weights that students start from; they stay on the device."""
        from n2n_gym.pytorch.inheritance import Inheritance

        if device not in self._inheritances:
            weights = {name: tensor.to(device) for name, tensor in self.weights.items()}
            self._inheritances[device] = Inheritance(
                self.architecture, weights, self.ranked_by
            )
        return self._inheritances[device]

    def network(self, device: torch.device) -> Network:
        """A new module with the teacher's weights, in eval mode."""
        return self.inheritance(device).build(self.architecture).eval()

    def logits(self, device: torch.device) -> Tensor:
        """The teacher's logits on the training split, (N, classes), on the device."""
        if device not in self._logits:
            self._logits[device] = self.trained.logits.to(device)
        return self._logits[device]

    @cached_property
    def variants(self) -> dict[tuple[int, str, str], Variants | None]:
        """Augmented training images with the teacher's logits; see `teacher_variants`.

        Keys are the number of variants per image, and the logits' device and precision.
        """
        return {}

    @cached_property
    def squares(self) -> dict[torch.device, dict[str, Tensor]]:
        """Mean squares of each layer's output channels, by device; see `rescale`."""
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
        """The attributes for another process, with the trained weights if known.

        If `provide` cannot be pickled, it is called now, which may train the teacher.
        """
        state = {each.name: getattr(self, each.name) for each in fields(self)}
        if "trained" in self.__dict__ or not is_picklable(self.provide):
            state["provide"] = partial(Trained, *self.trained)
        return state


def untrained_teacher(architecture: Architecture) -> Teacher:
    """A teacher that has only an architecture, without images or weights.

    Its students can only be scored by size. Asking for images or weights raises a
    ValueError.
    """
    name = name_of_architecture(architecture)
    refuse = partial(_refuse, name)
    task = Task(name, architecture.input_shape, architecture.num_outputs, read=refuse)
    return Teacher(name, task, architecture, provide=refuse)


def _refuse(name: str) -> Any:
    raise ValueError(
        f"teacher {name} has no weights and no images; give task= to train it, or "
        f"score its students with evaluator='size'"
    )


def is_untrained(teacher: Teacher) -> bool:
    """Whether a teacher has only an architecture, without images or weights."""
    return teacher.task.name == name_of_architecture(teacher.architecture)


def name_of_architecture(architecture: Architecture) -> str:
    """The name of a teacher that was given by its layers."""
    return f"architecture-{architecture.fingerprint[:8]}"
