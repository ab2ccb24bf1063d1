"""Distilling one student, and what that says about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from n2n_gym.architecture import Architecture
from n2n_gym.evaluators.rungs import Rung
from n2n_gym.rewards import Failure, Score
from n2n_gym.tasks import Split
from n2n_gym.teachers import Teacher, teacher_views
from n2n_gym.torch_layers import Network, build
from n2n_gym.training import (
    Classify,
    Diverged,
    Precision,
    Views,
    compute_accuracy,
    recompute_statistics,
    seeded,
    train,
)

# Of images that only pass forward. On a CPU the maps of larger batches leave the cache.
BATCH: Final = {"cpu": 125}
OUT_OF_MEMORY: Final = (
    "allocate memory",  # torch's allocator, and the system's
    "out of memory",
    "not enough memory",
    "bad_alloc",
    "ALLOC_FAILED",  # cuBLAS, cuDNN
)
LARGEST_BATCH: Final = 1_000  # on an accelerator


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


@contextmanager
def alone(threads: int | None) -> Iterator[None]:
    """Nothing that the caller has set of torch changes what is computed inside.

    Args:
        threads: To compute with on a CPU; None leaves their number as it is.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        thread_count(threads),
    ):
        yield


@contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """Torch computes with so many threads inside; None leaves it alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def distil(
    student: Architecture, teacher: Teacher, settings: Settings, *, seed: int
) -> Network:
    """A student trained from what it inherits, on the labels and the teacher's logits.

    Without a recipe it is what it inherits, with batch-norm statistics of its own.

    Raises:
        Diverged: The loss became infinite or not a number.
    """
    rung, device = settings.rung, settings.device
    split = teacher.task.split("train", device)
    recipe = rung.recipe_for(len(split))
    with alone(settings.threads), seeded(seed, device) as generator:
        if rung.start == "fresh":
            network = build(student).to(device)
        else:
            network = teacher.inheritance(device).build(student)
        network = network.to(memory_format=torch.channels_last)
        if recipe is not None:
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
            chosen = _balanced(split, rung.statistics, generator)
            recompute_statistics(
                network,
                split,
                teacher.normalise,
                positions=chosen,
                precision=settings.precision,
                batch_size=settings.batch_size,
            )
    return network.eval()


def _targets(teacher: Teacher, settings: Settings) -> Tensor | Classify | Views:
    """What a student learns from its teacher."""
    if settings.rung.is_augmented:
        return teacher.network(settings.device)
    return prepare(teacher, settings) or teacher.logits(settings.device)


def prepare(teacher: Teacher, settings: Settings) -> Views | None:
    """What is made once for all students: the views they see, if more than one."""
    if settings.rung.views == 1:
        return None
    return teacher_views(
        teacher, settings.rung.views, settings.device, settings.precision
    )


def _balanced(split: Split, count: int, generator: torch.Generator) -> Tensor:
    """Positions of so many images drawn at random, of every class its share."""
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
        text in str(error) for text in OUT_OF_MEMORY
    )


def measure(
    student: Architecture, teacher: Teacher, settings: Settings, *, seed: int
) -> Score | Failure:
    """What a student is worth by these settings."""
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
        return Failure(f"out of memory: {error}", retryable=True)
    num_images = len(teacher.task.splits["train"])
    cost = rung.cost(num_images, len(validation))
    return Score(accuracy, student.num_params, student.num_macs, cost)
