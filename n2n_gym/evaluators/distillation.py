"""Distils one student and measures its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from n2n_gym.pytorch.checkpoint import resumable
from n2n_gym.pytorch.determinism import isolated, seeded
from n2n_gym.pytorch.devices import instruction_set
from n2n_gym.pytorch.inference import (
    BATCH,
    compute_accuracy,
    recompute_statistics,
)
from n2n_gym.pytorch.inputs import Variants
from n2n_gym.pytorch.recipe import Precision, Recipe
from n2n_gym.pytorch.saving import save_weights
from n2n_gym.pytorch.training import Classify, Diverged, initialise, train
from n2n_gym.rewards import Failure, Score
from n2n_gym.scores import Provenance
from n2n_gym.tasks.split import Split
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.augmented_logits import teacher_variants
from n2n_gym.teachers.teacher import Teacher

OUT_OF_MEMORY: Final = "out of memory"
# Texts of errors that mean memory is exhausted.
EXHAUSTED: Final = (
    "allocate memory",  # torch's allocator, and the system's
    OUT_OF_MEMORY,
    "not enough memory",
    "bad_alloc",
    "ALLOC_FAILED",  # cuBLAS, cuDNN
    "could not create a primitive",  # oneDNN
    "could not create a memory object",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # if little GPU memory is left
    "CUDNN_STATUS_INTERNAL_ERROR",
    "unable to find an engine",
    "can't start new thread",
)
LARGEST_BATCH: Final = 1_000  # on an accelerator
PLAIN_RATE: Final = 0.2  # factor of SGD's rate, for students without normalisation


@dataclass(frozen=True)
class Settings:
    """What a score depends on, in addition to student, teacher, task and seed.

    Attributes:
        threads: Number of threads on a CPU; None on an accelerator.
    """

    rung: Rung
    device: torch.device
    precision: Precision
    threads: int | None  # on a CPU

    @property
    def batch_size(self) -> int:
        """Batch size of forward passes without training."""
        return BATCH.get(self.device.type, LARGEST_BATCH)


def distil(
    student: Architecture,
    teacher: Teacher,
    settings: Settings,
    *,
    seed: int,
    initial: Mapping[str, Tensor] | None = None,
    checkpoint: Path | None = None,
) -> Network:
    """Build a student and train it on the labels and the teacher's logits.

    The rung's ``start`` determines the student's first weights. If the rung has no
    recipe, the student is not trained; only its batch-norm statistics and its
    classifier are computed from images, as the rung's ``statistics`` and ``is_fitted``
    say.

    Args:
        seed: Seed of the training.
        initial: State dict to start from in place of the weights that ``start`` gives,
            for students that another tool made.
        checkpoint: File of the training's state, written after epochs. If the process
            is killed, the same call in a new process goes on from there, to the same
            student. The caller has to remove the file.

    Raises:
        Diverged: The loss, or an input of the classifier, became infinite or not a
            number.
    """
    rung, device = settings.rung, settings.device
    split = teacher.task.split("train", device)
    recipe = rung.recipe_for(len(split), _share(student, teacher))
    recipe = recipe and without_labels(recipe, teacher.task)
    with isolated(settings.threads), seeded(seed, device) as generator:
        if initial is not None:
            network = build(student).to(device)
            network.load_state_dict(initial)
        elif rung.start in ("fresh", "he"):
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
            recipe = replace(recipe, precision=settings.precision)
            about = {"of": [student.fingerprint, seed, recipe.as_written()]}
            train(
                network,
                split,
                teacher.normalise,
                recipe,
                generator,
                logits=_targets(teacher, settings),
                augment=teacher.task.augmentation if rung.is_augmented else None,
                **resumable(checkpoint, about),
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


def distil_and_keep(
    student: Architecture,
    teacher: Teacher,
    settings: Settings,
    *,
    seed: int,
    keep: Path | None,
) -> Network:
    """Distil a student and save its weights.

    Args:
        keep: File to save the weights in; None saves no weights. Beside this file there
            is a checkpoint while the student is trained: if the process is killed, the
            same call resumes the training.
    """
    if keep is None:
        return distil(student, teacher, settings, seed=seed)
    checkpoint = checkpoint_of(keep)
    network = distil(student, teacher, settings, seed=seed, checkpoint=checkpoint)
    with kept_if_possible(keep):
        save_weights(network, keep)
        checkpoint.unlink(missing_ok=True)
    return network


def checkpoint_of(keep: Path) -> Path:
    """Path of the checkpoint of the training whose weights go to ``keep``."""
    return keep.with_suffix(".checkpoint")


def without_labels(recipe: Recipe, task: Task) -> Recipe:
    """The recipe; without a loss on labels if the training images have no labels.

    A task without training labels has the teacher's predictions in their place. A loss
    on labels would treat these predictions as the truth.
    """
    if "train" not in task.unlabelled:
        return recipe
    assert recipe.logit_weight, "there is nothing to learn"
    return replace(recipe, hard_weight=0.0)


def _share(student: Architecture, teacher: Teacher) -> float:
    """The student's multiply-accumulates as a fraction of the teacher's."""
    return student.num_macs / teacher.architecture.num_macs


def nominal_cost(student: Architecture, teacher: Teacher, rung: Rung) -> float:
    """Cost of scoring a student on a rung, in nominal student-epochs."""
    sizes = {name: len(split) for name, split in teacher.task.splits.items()}
    share = _share(student, teacher)
    return rung.cost(sizes["train"], sizes["validation"], share)


def _targets(teacher: Teacher, settings: Settings) -> Tensor | Classify | Variants:
    """The source of logits that a student learns: stored logits or the teacher."""
    if settings.rung.is_augmented:
        return teacher.network(settings.device)
    return prepare(teacher, settings) or teacher.logits(settings.device)


def prepare(teacher: Teacher, settings: Settings) -> Variants | None:
    """Compute variants of the training images, and the teacher's logits of them.

    All of the teacher's students learn from the same variants. The result is None if
    the unchanged images are the only variant.
    """
    if settings.rung.num_variants == 1:
        return None
    with isolated(settings.threads):
        return teacher_variants(
            teacher, settings.rung.num_variants, settings.device, settings.precision
        )


def _balanced(split: Split, count: int, generator: torch.Generator) -> Tensor:
    """Positions of ``count`` random images, with the split's proportions of classes.

    The classes of images without labels are those that the teacher predicts, which
    suffice for a representative sample.
    """
    labels = split.labels.cpu()
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    sizes = labels.bincount()
    firsts = sizes.cumsum(0) - sizes
    # Rank of each image within its class, as a fraction of the class.
    each = labels[by_class]
    place = (torch.arange(len(labels)) - firsts[each]) / sizes[each]
    return by_class[place.argsort(stable=True)][:count]


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory is exhausted.

    On a CPU, torch has no exception class for this error, so the error's text decides.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in EXHAUSTED
    )


def out_of_memory(error: Exception) -> Failure:
    """The failure of a student that ran out of memory."""
    return Failure(f"{OUT_OF_MEMORY}: {error}", retryable=True, needs_memory=True)


def provenance(device: torch.device) -> Provenance:
    """The kind of machine: torch's version, and the instruction set of the device."""
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
    """Distil a student and measure its validation accuracy.

    Args:
        keep: See `distil_and_keep`.

    Returns:
        The score, or a failure if the distillation diverged or the memory was
        exhausted.
    """
    result = _measure(student, teacher, settings, seed=seed, keep=keep)
    if settings.device.type != "cpu":
        # Release torch's cached memory: other processes may need it.
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
        network = distil_and_keep(student, teacher, settings, seed=seed, keep=keep)
        validation = teacher.task.split("validation", settings.device)
        with isolated(settings.threads):
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
    cost = nominal_cost(student, teacher, rung)
    return Score(accuracy, student.num_params, student.num_macs, cost)
