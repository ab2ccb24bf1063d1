"""An elastic teacher: trained once so that any student cut from it works at once."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Final

import torch
from torch import Tensor
from torch.func import functional_call

from n2n_gym.common.files import alone_with, cache_folder, kept_if_possible
from n2n_gym.common.progress import progress
from n2n_gym.evaluators.distillation import Settings, measure, without_labels
from n2n_gym.evaluators.rungs import INHERIT
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import (
    RATES,
    Removal,
    legal_removal,
    removals,
    shrink,
    shrinkages,
)
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.determinism import alone, seeded
from n2n_gym.pytorch.devices import autocast
from n2n_gym.pytorch.inheritance import Inheritance
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.pytorch.training import Diverged, distillation_loss, one_cycle
from n2n_gym.rewards import Failure
from n2n_gym.teachers.store import load_trained, save_trained, teacher_path
from n2n_gym.teachers.teacher import Teacher, Trained

logger = logging.getLogger(__name__)

STEPS: Final = 3_000  # at least; few epochs are enough where there are many images
MOST_EPOCHS: Final = 60  # for so many steps: more see nothing new in few images
RECIPE: Final = Recipe(
    epochs=4,
    batch_size=64,
    learning_rate=0.1,
    weight_decay=1e-4,
    logit_weight=0.1,
    largest_gradient=3.0,
)
STUDENTS: Final = 2  # cut at each step
ATTEMPTS: Final = 4  # at ever lower learning rates
LEAST: Final = 0.8  # of the teacher's accuracy, that the uncut elastic one must have
CHECK_EVERY: Final = 50  # steps


def recipe_for(num_images: int) -> Recipe:
    """How an elastic teacher is trained on so many images."""
    size = min(RECIPE.batch_size, num_images)
    fewest = min(STEPS / (num_images // size), MOST_EPOCHS)
    return replace(RECIPE, epochs=max(RECIPE.epochs, fewest))


def elastic_cost(num_images: int) -> float:
    """Of an elastic teacher, in nominal student-epochs."""
    return recipe_for(num_images).epochs * STUDENTS


def random_student(
    teacher: Architecture, offered: Sequence[Removal], rng: random.Random
) -> Architecture:
    """A student of random decisions, from nothing changed to hardly anything left."""
    rate, left = rng.random(), teacher.rewire(frozenset(), frozenset())
    taken: tuple[Removal, ...] = ()
    for removal in offered:
        if rng.random() < rate:
            without = legal_removal(teacher, taken, left, removal)
            if without is not None:
                left, taken = without, (*taken, removal)
    student = teacher.keep(left)
    if rng.random() < 1 / 3:
        return student
    low = rng.choice(RATES)
    # An elastic teacher stays what it was, and with it the scores of its students.
    shrunk = shrinkages(student, kernels="floor")
    return shrink(
        student,
        {s: rng.choice([r for r in RATES if r >= low]) for s in shrunk},
    )


def stretch(
    teacher: Teacher, settings: Settings, recipe: Recipe, *, students: int = STUDENTS
) -> dict[str, Tensor]:
    """A teacher's weights after training random students cut from them, in place.

    Each step cuts some students, and their gradients flow back to the weights that they
    were cut from; they learn the labels and the teacher's kept logits.

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
    optimiser = torch.optim.SGD(
        trained,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
        foreach=False,
    )

    def loss_of_cut(inputs: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        student = random_student(whole, offered, rng)
        cut = inheritance.blank(student).train()
        with autocast(device, settings.precision):
            slices = inheritance.slices(student, cut)
            outputs = functional_call(cut, slices, (inputs,))
        return distillation_loss(outputs.float(), labels, targets, recipe)

    total = round(recipe.epochs * steps)
    bar = progress(total, f"Making {teacher.name} elastic", is_long=True)
    with alone(settings.threads), seeded(0, device) as generator, bar:
        for done in range(total):
            if done % steps == 0:
                order = torch.randperm(len(split), generator=generator)
                batches = split.batches(size, order[: steps * size])
            images, labels, positions = next(batches)
            inputs = teacher.normalise(images)
            rate = one_cycle(done / total, recipe.warmup_share)
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * rate
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
    return {name: tensor.detach() for name, tensor in weights.items()}


def elastic_teacher(teacher: Teacher, settings: Settings) -> Teacher:
    """The teacher with weights that its students can be cut from; made once and kept.

    It keeps the logits of the teacher that it was made from.

    Raises:
        Diverged: Its training fails at the lowest learning rate too.
    """
    recipe = recipe_for(len(teacher.task.splits["train"]))
    recipe = without_labels(recipe, teacher.task)
    about = {
        "teacher": teacher.fingerprint,
        "task": teacher.task.fingerprint,
        "recipe": asdict(recipe),
        "students": STUDENTS,
        "device": settings.device.type,
        "precision": settings.precision,
        "threads": settings.threads,
        "version": 1,
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    readable = teacher_path(teacher.name, teacher.task.name, key).name
    path = cache_folder() / "elastic" / readable
    with alone_with(path):
        trained = load_trained(path)
        if trained is None:
            trained = _make(teacher, settings, recipe)
            with kept_if_possible(path):
                save_trained(path, trained, about)
    return _with(teacher, trained)


def _with(teacher: Teacher, trained: Trained) -> Teacher:
    """The teacher with elastic weights."""
    return replace(
        teacher,
        provide=lambda: trained,
        ranked_by=teacher.weights,
        normalisation=teacher.normalise,
    )


def _make(teacher: Teacher, settings: Settings, recipe: Recipe) -> Trained:
    """Elastic weights that serve at least the whole teacher.

    Networks without normalisation need lower learning rates than others.
    """
    for attempt in range(ATTEMPTS):
        rate = recipe.learning_rate / 3**attempt
        try:
            weights = stretch(teacher, settings, replace(recipe, learning_rate=rate))
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
    """Diverged if the uncut elastic teacher is far worse than the teacher."""
    inherited = replace(settings, rung=INHERIT)
    uncut = measure(elastic.architecture, elastic, inherited, seed=0)
    if isinstance(uncut, Failure) or uncut.accuracy < LEAST * accuracy:
        found = uncut.reason if isinstance(uncut, Failure) else f"{uncut.accuracy:.1%}"
        raise Diverged(f"uncut, its accuracy is {found}, the teacher's {accuracy:.1%}")
