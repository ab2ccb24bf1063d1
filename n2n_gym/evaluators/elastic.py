"""An elastic teacher: trained once, so that students cut from it need no training."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.func import functional_call

from n2n_gym.common.files import cache_folder, cached, kept_if_possible
from n2n_gym.common.progress import progress
from n2n_gym.evaluators.distillation import Settings, measure, without_labels
from n2n_gym.evaluators.rungs import INHERIT
from n2n_gym.networks.decisions import (
    removals,
)
from n2n_gym.networks.random_students import random_student
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.checkpoint import read_checkpoint, write_checkpoint
from n2n_gym.pytorch.determinism import isolated, seeded
from n2n_gym.pytorch.devices import autocast
from n2n_gym.pytorch.inheritance import Inheritance
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.pytorch.training import Diverged, distillation_loss, set_rate
from n2n_gym.rewards import Failure
from n2n_gym.teachers.store import about_path, read_trained, save_trained, teacher_path
from n2n_gym.teachers.teacher import Teacher, Trained

logger = logging.getLogger(__name__)

STEPS: Final = 3_000  # training steps at least, unless MOST_EPOCHS are fewer
MOST_EPOCHS: Final = 60  # with few images, more epochs do not help
RECIPE: Final = Recipe(
    epochs=4,
    batch_size=64,
    learning_rate=0.1,
    weight_decay=1e-4,
    logit_weight=0.1,
    largest_gradient=3.0,
)
STUDENTS: Final = 2  # cut at each step
ATTEMPTS: Final = 4  # attempts, with ever lower learning rates
LEAST: Final = 0.8  # least accuracy of the uncut elastic teacher / of the teacher
CHECK_EVERY: Final = 50  # steps
KEEP_EVERY: Final = 60.0  # seconds at least between checkpoints
# The values of a checkpoint, besides those that identify the training.
STATE: Final = ("weights", "optimiser", "random", "generator", "torch", "order", "done")


def recipe_for(num_images: int) -> Recipe:
    """The recipe that makes a teacher elastic with this number of training images."""
    size = min(RECIPE.batch_size, num_images)
    fewest = min(STEPS / (num_images // size), MOST_EPOCHS)
    return replace(RECIPE, epochs=max(RECIPE.epochs, fewest))


def elastic_cost(num_images: int) -> float:
    """Cost of an elastic teacher, in nominal student-epochs."""
    return recipe_for(num_images).epochs * STUDENTS


def train_elastic(
    teacher: Teacher,
    settings: Settings,
    recipe: Recipe,
    *,
    students: int = STUDENTS,
    checkpoint: Path | None = None,
) -> dict[str, Tensor]:
    """Train a copy of the teacher's weights inside random students.

    Each step cuts random students out of the weights, and updates the weights with the
    mean of the students' gradients. Students learn the labels and the teacher's stored
    logits.

    Args:
        students: Number of students in a step.
        checkpoint: Path of the checkpoint of a training on a CPU. If the process is
            killed, the same call resumes from it, with the same result to the last bit.
            The caller has to remove it.

    Raises:
        Diverged: The loss became infinite or not a number.
    """
    device, whole = settings.device, teacher.architecture
    weights = {
        name: tensor.to(device, copy=True) for name, tensor in teacher.weights.items()
    }
    names = sorted(name for name, _ in build(whole, "meta").named_parameters())
    trained = [weights[name].requires_grad_() for name in names]
    inheritance = Inheritance(whole, weights, teacher.weights)
    offered, rng = removals(whole), random.Random(0)
    split, logits = teacher.task.split("train", device), teacher.logits(device)
    size = min(recipe.batch_size, len(split))
    steps = len(split) // size
    optimiser = _optimiser(trained, recipe)

    def loss_of_cut(inputs: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        student = random_student(whole, offered, rng)
        cut = inheritance.blank(student).train()
        with autocast(device, settings.precision):
            slices = inheritance.slices(student, cut)
            outputs = functional_call(cut, slices, (inputs,))
        return distillation_loss(outputs.float(), labels, targets, recipe)

    total = round(recipe.epochs * steps)
    bar = progress(total, f"Making {teacher.name} elastic", is_long=True)
    with isolated(settings.threads), seeded(0, device) as generator, bar:
        about = {"recipe": recipe.as_written(), "students": students}
        path = checkpoint if device.type == "cpu" else None
        keeper = _Keeper(path, about, trained, optimiser, rng, generator)
        order, first = keeper.restore()
        bar.update(first)
        for done in range(first, total):
            if done % steps == 0:
                order = torch.randperm(len(split), generator=generator)
            if done % steps == 0 or done == first:
                batches = split.batches(size, order[done % steps * size : steps * size])
            images, labels, positions = next(batches)
            inputs = teacher.normalise(images)
            set_rate(optimiser, recipe, done / total)
            optimiser.zero_grad(set_to_none=True)
            for _ in range(students):
                loss = loss_of_cut(inputs, labels, logits[positions]) / students
                loss.backward()  # type: ignore[no-untyped-call]
            assert recipe.largest_gradient is not None
            torch.nn.utils.clip_grad_norm_(trained, recipe.largest_gradient)
            optimiser.step()
            bar.update()
            if done % CHECK_EVERY == 0 and not torch.isfinite(loss):
                raise Diverged(f"the loss became {loss.item()}")
            keeper.keep(order, done + 1)
    return {name: tensor.detach() for name, tensor in weights.items()}


def _optimiser(trained: Sequence[Tensor], recipe: Recipe) -> torch.optim.SGD:
    return torch.optim.SGD(
        trained,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
        foreach=False,
    )


@dataclass
class _Keeper:
    """Writes the state of a training to its checkpoint, and restores it.

    Attributes:
        path: Path of the checkpoint; None for none.
        about: Plain values that identify the training.
    """

    path: Path | None
    about: dict[str, Any]
    trained: Sequence[Tensor]
    optimiser: torch.optim.SGD
    rng: random.Random
    generator: torch.Generator
    kept_at: float = field(default_factory=time.monotonic)

    def restore(self) -> tuple[Tensor, int]:
        """The order of the images in this epoch, and the number of steps done."""
        kept = read_checkpoint(self.path, self.about, *STATE)
        if kept is None:
            return torch.empty(0), 0
        with torch.no_grad():
            for tensor, value in zip(self.trained, kept["weights"], strict=True):
                tensor.copy_(value)
        self.optimiser.load_state_dict(kept["optimiser"])
        self.rng.setstate(kept["random"])
        self.generator.set_state(kept["generator"])
        torch.default_generator.set_state(kept["torch"])
        return kept["order"], kept["done"]

    def keep(self, order: Tensor, done: int) -> None:
        """Write the state if the last time was long ago."""
        if self.path is None or time.monotonic() - self.kept_at < KEEP_EVERY:
            return
        state = {
            "weights": self.trained,
            "optimiser": self.optimiser.state_dict(),
            "random": self.rng.getstate(),
            "generator": self.generator.get_state(),
            "torch": torch.default_generator.get_state(),
            "order": order,
            "done": done,
        }
        write_checkpoint(self.path, self.about | state)
        self.kept_at = time.monotonic()


def elastic_teacher(teacher: Teacher, settings: Settings) -> Teacher:
    """The teacher with elastic weights, which are trained once and kept in the cache.

    Its logits are still those of the original weights.

    Raises:
        Diverged: Training, or the check of the trained weights, failed at every
            learning rate that was tried.
    """
    recipe = recipe_for(len(teacher.task.splits["train"]))
    recipe = without_labels(recipe, teacher.task)
    about = {
        "teacher": teacher.fingerprint,
        "task": teacher.task.fingerprint,
        "recipe": recipe.as_written(),
        "students": STUDENTS,
        "device": settings.device.type,
        "precision": settings.precision,
        "threads": settings.threads,
        "version": 1,
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    readable = teacher_path(teacher.name, teacher.task.name, key).name
    path = cache_folder() / "elastic" / readable
    checkpoint = path.with_suffix(".unfinished")
    make = partial(_make, teacher, settings, recipe, checkpoint)
    write = partial(save_trained, about=about)
    trained = cached(path, read_trained, make, write, about_path(path))
    with kept_if_possible(path):
        checkpoint.unlink(missing_ok=True)
    return _with(teacher, trained)


def _with(teacher: Teacher, trained: Trained) -> Teacher:
    """The teacher with elastic weights."""
    return replace(
        teacher,
        provide=lambda: trained,
        ranked_by=teacher.weights,
        normalisation=teacher.normalise,
    )


def _make(
    teacher: Teacher, settings: Settings, recipe: Recipe, checkpoint: Path
) -> Trained:
    """Train elastic weights, and check that the uncut teacher is accurate with them.

    If the training or the check fails, training starts again at a third of the learning
    rate. Networks without normalisation need such lower rates.
    """
    recipes = [
        replace(recipe, learning_rate=recipe.learning_rate / 3**attempt)
        for attempt in range(ATTEMPTS)
    ]
    # A killed training may have tried some rates already.
    about = [{"recipe": tried.as_written(), "students": STUDENTS} for tried in recipes]
    begun = [k for k in range(ATTEMPTS) if read_checkpoint(checkpoint, about[k])]
    for attempt in range(begun[0] if begun else 0, ATTEMPTS):
        rate = recipes[attempt].learning_rate
        try:
            weights = train_elastic(
                teacher, settings, recipes[attempt], checkpoint=checkpoint
            )
            weights = {name: w.cpu().contiguous() for name, w in weights.items()}
            trained = teacher.trained._replace(weights=weights)
            _check(_with(teacher, trained), teacher.score.accuracy, settings)
        except Diverged as error:
            what = f"the elastic {teacher.name} at the learning rate {rate:.2g}"
            if attempt == ATTEMPTS - 1:
                raise Diverged(f"{what}: {error}") from error
            logger.warning("%s: %s; it starts again at a third of it", what, error)
        else:
            return trained
    raise AssertionError


def _check(elastic: Teacher, accuracy: float, settings: Settings) -> None:
    """Raise Diverged if the elastic teacher's accuracy is below ``LEAST * accuracy``.

    Args:
        elastic: The teacher with elastic weights, which is scored uncut.
        accuracy: Accuracy of the original teacher, in [0, 1].
    """
    inherited = replace(settings, rung=INHERIT)
    uncut = measure(elastic.architecture, elastic, inherited, seed=0)
    if isinstance(uncut, Failure) or uncut.accuracy < LEAST * accuracy:
        found = uncut.reason if isinstance(uncut, Failure) else f"{uncut.accuracy:.1%}"
        raise Diverged(f"uncut, its accuracy is {found}, the teacher's {accuracy:.1%}")
