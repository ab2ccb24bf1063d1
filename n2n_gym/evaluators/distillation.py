"""Distilling one student, and what that says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from n2n_gym.common.files import kept_if_possible
from n2n_gym.evaluators.classifier import fit_classifier
from n2n_gym.evaluators.rescaling import rescale
from n2n_gym.evaluators.rungs import Rung
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import Network, build
from n2n_gym.pytorch.determinism import alone, seeded
from n2n_gym.pytorch.devices import instruction_set
from n2n_gym.pytorch.inference import (
    BATCH,
    compute_accuracy,
    recompute_statistics,
)
from n2n_gym.pytorch.inputs import Views
from n2n_gym.pytorch.recipe import Precision, Recipe
from n2n_gym.pytorch.saving import save_weights
from n2n_gym.pytorch.training import Classify, Diverged, initialise, train
from n2n_gym.rewards import Failure, Score
from n2n_gym.scores import Provenance
from n2n_gym.tasks.split import Split
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.augmented_logits import teacher_views
from n2n_gym.teachers.teacher import Teacher

OUT_OF_MEMORY: Final = "out of memory"
# What errors say where memory is exhausted.
EXHAUSTED: Final = (
    "allocate memory",  # torch's allocator, and the system's
    OUT_OF_MEMORY,
    "not enough memory",
    "bad_alloc",
    "ALLOC_FAILED",  # cuBLAS, cuDNN
    "could not create a primitive",  # oneDNN
    "could not create a memory object",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # these where little of a GPU is left
    "CUDNN_STATUS_INTERNAL_ERROR",
    "unable to find an engine",
    "can't start new thread",
)
LARGEST_BATCH: Final = 1_000  # on an accelerator
PLAIN_RATE: Final = 0.2  # of SGD's learning rate, for students that normalise nothing


@dataclass(frozen=True)
class Settings:
    """All that a score depends on beside the student, the teacher and the task."""

    rung: Rung
    device: torch.device
    precision: Precision
    threads: int | None  # on a CPU

    @property
    def batch_size(self) -> int:
        """Of images that only pass forward."""
        return BATCH.get(self.device.type, LARGEST_BATCH)


def distil(
    student: Architecture, teacher: Teacher, settings: Settings, *, seed: int
) -> Network:
    """A student trained from what it inherits, on the labels and the teacher's logits.

    Without a recipe it is what it inherits, with batch-norm statistics and a classifier
    of its own.

    Raises:
        Diverged: The loss became infinite or not a number.
    """
    rung, device = settings.rung, settings.device
    split = teacher.task.split("train", device)
    recipe = rung.recipe_for(len(split), _share(student, teacher))
    recipe = recipe and without_labels(recipe, teacher.task)
    with alone(settings.threads), seeded(seed, device) as generator:
        if rung.start in ("fresh", "he"):
            network = build(student).to(device)
            if rung.start == "he":
                initialise(network)
        else:
            network = teacher.inheritance(device).build(student)
            if not student.is_normalised:
                rescale(network, student, teacher)
        network = network.to(memory_format=torch.channels_last)
        if recipe is not None:
            if not student.is_normalised and recipe.optimiser == "sgd":
                rate = PLAIN_RATE * recipe.learning_rate
                recipe = replace(recipe, learning_rate=rate)
            train(
                network,
                split,
                teacher.normalise,
                replace(recipe, precision=settings.precision),
                generator,
                logits=_targets(teacher, settings),
                augment=teacher.task.augmentation if rung.is_augmented else None,
            )
        if rung.statistics:
            renew: Callable[..., None] = recompute_statistics
            if rung.is_fitted:
                logits = teacher.logits(device)
                renew = partial(fit_classifier, student=student, logits=logits)
            renew(
                network,
                split,
                teacher.normalise,
                positions=_balanced(split, rung.statistics, generator),
                precision=settings.precision,
                batch_size=settings.batch_size,
            )
    return network.eval()


def without_labels(recipe: Recipe, task: Task) -> Recipe:
    """The recipe without its loss on labels, where the training images have none.

    The teacher's answers are there instead; as labels they would be learned as true.
    """
    if "train" not in task.unlabelled:
        return recipe
    assert recipe.logit_weight, "there is nothing to learn"
    return replace(recipe, hard_weight=0.0)


def _share(student: Architecture, teacher: Teacher) -> float:
    """Of the teacher's work."""
    return student.num_macs / teacher.architecture.num_macs


def nominal_cost(student: Architecture, teacher: Teacher, rung: Rung) -> float:
    """Of one score, in student-epochs."""
    sizes = {name: len(split) for name, split in teacher.task.splits.items()}
    share = _share(student, teacher)
    return rung.cost(sizes["train"], sizes["validation"], share)


def _targets(teacher: Teacher, settings: Settings) -> Tensor | Classify | Views:
    """What a student learns from its teacher."""
    if settings.rung.is_augmented:
        return teacher.network(settings.device)
    return prepare(teacher, settings) or teacher.logits(settings.device)


def prepare(teacher: Teacher, settings: Settings) -> Views | None:
    """What is made once for all students: the views they see, if more than one."""
    if settings.rung.views == 1:
        return None
    with alone(settings.threads):
        return teacher_views(
            teacher, settings.rung.views, settings.device, settings.precision
        )


def _balanced(split: Split, count: int, generator: torch.Generator) -> Tensor:
    """Positions of so many images drawn at random, of every class its share.

    Without labels the classes are the teacher's answers, which is all that it takes for
    a draw to resemble the split.
    """
    labels = split.labels.cpu()
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    sizes = labels.bincount()
    firsts = sizes.cumsum(0) - sizes
    # Each image's place among those of its class, as a share of them.
    each = labels[by_class]
    place = (torch.arange(len(labels)) - firsts[each]) / sizes[each]
    return by_class[place.argsort(stable=True)][:count]


def is_out_of_memory(error: Exception) -> bool:
    """Whether that is what went wrong; on a CPU, torch has no type for it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in EXHAUSTED
    )


def out_of_memory(error: Exception) -> Failure:
    """What a student is that could not be measured for it."""
    return Failure(f"{OUT_OF_MEMORY}: {error}", retryable=True, needs_memory=True)


def provenance(device: torch.device) -> Provenance:
    """Of what is measured here, on this device."""
    major, minor = torch.__version__.split(".")[:2]
    return Provenance(f"{major}.{minor}", instruction_set(device))


def measure(
    student: Architecture,
    teacher: Teacher,
    settings: Settings,
    *,
    seed: int,
    keep: Path | None = None,
) -> Score | Failure:
    """What a student is worth by these settings.

    Args:
        keep: A file for its weights.
    """
    result = _measure(student, teacher, settings, seed=seed, keep=keep)
    if settings.device.type != "cpu":
        # What torch keeps for the next student, other processes may need.
        torch.accelerator.empty_cache()
    return result


def _measure(
    student: Architecture,
    teacher: Teacher,
    settings: Settings,
    *,
    seed: int,
    keep: Path | None,
) -> Score | Failure:
    rung = settings.rung
    try:
        network = distil(student, teacher, settings, seed=seed)
        validation = teacher.task.split("validation", settings.device)
        with alone(settings.threads):
            accuracy = compute_accuracy(
                network,
                validation,
                teacher.normalise,
                precision=settings.precision,
                batch_size=settings.batch_size,
            )
    except Diverged as error:
        return Failure(f"the distillation diverged: {error}", retryable=False)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return out_of_memory(error)
    if keep is not None:
        with kept_if_possible(keep):
            save_weights(network, keep)
    cost = nominal_cost(student, teacher, rung)
    return Score(accuracy, student.num_params, student.num_macs, cost)
