"""The training of teachers."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from n2n_gym.common.progress import progress
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import Network, build
from n2n_gym.pytorch.checkpoint import KEEP_EVERY, read_checkpoint, write_checkpoint
from n2n_gym.pytorch.determinism import seeded
from n2n_gym.pytorch.inference import compute_accuracy, compute_logits
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.recipe import Precision, Recipe
from n2n_gym.pytorch.training import Diverged, State, initialise, train
from n2n_gym.tasks.split import Split
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.answers import compute_answers
from n2n_gym.teachers.precision import pick_precision, training_step
from n2n_gym.teachers.teacher import Trained
from n2n_gym.teachers.watch import TakesTooLong, watch

logger = logging.getLogger(__name__)

LONG: Final = 60.0  # seconds; the end of a longer training is announced
DAY: Final = 86_400.0  # seconds
STEPS_TO_REFUSE: Final = 40  # most steps before a refusal; short trainings need fewer
STEPS_TO_JUDGE: Final = 6  # steps before the time is estimated; two are not timed
FEWEST_STEPS: Final = 300  # least number of training steps, for few images
ATTEMPTS: Final = 4  # attempts, with ever lower learning rates
LARGEST_GRADIENT: Final = 1.0  # for networks without normalisation and after divergence
PATIENCE: Final = 0.3  # share of a training without progress after which it fails
SHORTEST_MEMORY: Final = 0.1  # least momentum of batch-norm statistics
# Least number of training steps for which the precision is chosen. Shorter trainings
# take little time anyway, and in float32 they are the same on every machine.
WORTH_MEASURING: Final = 1_000


def teacher_recipe(task: Task, architecture: Architecture) -> Recipe:
    """The recipe for a teacher; smaller data sets get more epochs than larger ones."""
    count = len(task.splits["train"])
    size = min(64, max(8, count // 8))
    return Recipe(
        epochs=max(20 if count < 10_000 else 15, FEWEST_STEPS // max(1, count // size)),
        batch_size=size,
        learning_rate=0.1,
        label_smoothing=0.1,
        largest_gradient=None if architecture.is_normalised else LARGEST_GRADIENT,
    )


def _tried(recipe: Recipe, attempt: int) -> Recipe:
    """The recipe for the next attempt, after ``attempt`` attempts that diverged."""
    if attempt == 0:
        return recipe
    rate = recipe.learning_rate / 3**attempt
    return replace(recipe, learning_rate=rate, largest_gradient=LARGEST_GRADIENT)


def train_network(
    name: str,
    task: Task,
    architecture: Architecture,
    recipe: Recipe,
    device: torch.device,
    *,
    initial: Mapping[str, Tensor] | None = None,
    normalisation: Normalisation | None = None,
    checkpoint: Path | None = None,
    precision: Precision | None = None,
) -> Trained:
    """Train a teacher, with a progress bar.

    If training takes more than a minute, a message says when it is expected to end. If
    the loss diverges or the network learns nothing, training starts again with a third
    of the learning rate and with clipped gradients.

    Args:
        initial: Weights to start from; by default random ones.
        checkpoint: Path of the checkpoint, which is written after epochs. If the
            process is killed, the same call in a new process resumes from the
            checkpoint. The caller has to remove it.
        precision: Precision of the arithmetic; by default the faster one, or float32 if
            the training is short.

    Raises:
        Diverged: Training diverges, or the network learns nothing, even at the lowest
            learning rate.
    """
    split, title = task.split("train", device), f"{name} on {task.name}"
    normalise = normalisation or Normalisation(*task.normalisation)
    kept = _load_checkpoint(checkpoint, recipe)
    attempt = kept["attempt"] if kept else 0
    while True:
        tried = _tried(recipe, attempt)
        lesson = _Lesson(
            title=title,
            task=task,
            architecture=architecture,
            recipe=tried,
            normalise=normalise,
            checkpoint=checkpoint,
            attempt=attempt,
            kept=kept,
            precision=precision,
        )
        with seeded(0, device) as generator:
            network = build(architecture).to(device)
            network = network.to(memory_format=torch.channels_last)
            if initial is None:
                initialise(network)
            else:
                network.load_state_dict(initial)
            try:
                lesson.give(network, split, generator)
                accuracy = _accuracy_if_alive(network, task, device, normalise)
            except Diverged as error:
                attempt, kept = attempt + 1, None
                if attempt == ATTEMPTS:
                    raise
                what = (
                    f"{title}: {error} at the learning rate {tried.learning_rate:.2g}"
                )
                logger.warning("%s; it starts again at a third of it", what)
                continue
        break
    logger.info("teacher %s: %.4f on validation", title, accuracy)
    answers = compute_answers(
        name, network, architecture, task, ["train"], device, normalise, "float32"
    )
    weights = {k: v.cpu().contiguous() for k, v in network.state_dict().items()}
    return Trained(weights, accuracy, answers["train"])


def _accuracy_if_alive(
    network: Network, task: Task, device: torch.device, normalise: Normalisation
) -> float:
    """Validation accuracy; raises Diverged if all images are predicted as one class."""
    validation = task.split("validation", device)
    outputs = compute_logits(network, validation, normalise)
    found = outputs.argmax(1)
    if bool((found == found[0]).all()):
        raise Diverged("every image is predicted to be of the same class")
    return (found == validation.labels).cpu().double().mean().item()


def _check_learned(accuracy: float, labels: Tensor) -> None:
    """Raise Diverged if an accuracy is no better than that of a constant prediction."""
    chance = (labels.bincount().max() / len(labels)).item()
    error = math.sqrt(chance * (1 - chance) / len(labels))
    if accuracy <= chance + 2 * error:
        raise Diverged(
            f"a validation accuracy of {accuracy:.1%} is no better than chance"
        )


@dataclass
class _Lesson:
    """One attempt at a training: its progress bar, checkpoints and expected time."""

    title: str
    task: Task
    architecture: Architecture
    recipe: Recipe
    normalise: Normalisation
    checkpoint: Path | None
    attempt: int
    kept: Mapping[str, Any] | None  # a checkpoint to go on from
    precision: Precision | None
    num_steps: int = 0  # counted here, because a disabled progress bar does not count
    started: float = 0.0
    kept_at: float = field(default_factory=time.perf_counter)

    def give(self, network: Network, split: Split, generator: torch.Generator) -> None:
        """Train the network, from the checkpoint if there is one."""
        kept = self.kept
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                # Some networks average batch-norm statistics over 100,000s of steps.
                module.momentum = max(module.momentum or 0.0, SHORTEST_MEMORY)
        size = min(self.recipe.batch_size, len(split))
        steps = len(split) // size
        precision: Precision = (
            kept["precision"] if kept else self._precision(network, split, size, steps)
        )
        recipe = replace(self.recipe, precision=precision)
        total = round(recipe.epochs * steps)
        done = kept["training"]["epoch"] * steps if kept else 0
        title = f"Training teacher {self.title}"
        with progress(total, title, initial=done, is_long=True) as bar:

            def after_step() -> None:
                bar.update()
                self._judge(total - done)

            def after_epoch(state: Callable[[], State]) -> None:
                validation = self.task.split("validation", split.device)
                accuracy = compute_accuracy(network, validation, self.normalise)
                bar.set_postfix_str(f"validation {accuracy:.2%}")
                at = done + self.num_steps
                if at >= PATIENCE * total and self.attempt + 1 < ATTEMPTS:
                    _check_learned(accuracy, validation.labels)
                self._keep(precision, state, is_due=at >= total)

            train(
                network,
                split,
                self.normalise,
                recipe,
                generator,
                augment=self.task.augmentation,
                after_step=after_step,
                after_epoch=after_epoch,
                resume=kept["training"] if kept else None,
            )

    def _judge(self, total: int) -> None:
        """Announce the end of a long training, as soon as a few steps are timed.

        Args:
            total: Number of steps that this process will train.

        Raises:
            TakesTooLong: See `refused_after`.
        """
        self.num_steps += 1
        longest, on_step = watch()
        on_step()
        if self.num_steps == 2:
            self.started = time.perf_counter()
        # Before a refusal more steps are timed: the first ones may be slow.
        to_refuse = max(STEPS_TO_JUDGE, min(STEPS_TO_REFUSE, total // 20))
        if self.num_steps in (STEPS_TO_JUDGE, to_refuse):
            each = (time.perf_counter() - self.started) / (self.num_steps - 2)
            left = each * (total - self.num_steps)
            if self.num_steps == to_refuse and left > longest:
                raise TakesTooLong(f"training teacher {self.title}", left)
            if self.num_steps == STEPS_TO_JUDGE and left > LONG:
                end = datetime.now() + timedelta(seconds=left)
                logger.warning(
                    "training teacher %s takes about %d more minutes, until %s; it is "
                    "kept for later runs",
                    self.title,
                    math.ceil(left / 60),
                    f"{end:%H:%M}" if left < DAY else f"{end:%d %B, %H:%M}",
                )

    def _keep(
        self, precision: Precision, state: Callable[[], State], *, is_due: bool
    ) -> None:
        now = time.perf_counter()
        is_due |= now - self.kept_at >= KEEP_EVERY
        if self.checkpoint is None or not is_due:
            return
        self.kept_at = now
        content = {
            "recipe": replace(self.recipe, precision="float32").as_written(),
            "attempt": self.attempt,
            "precision": precision,
            "training": state(),
        }
        write_checkpoint(self.checkpoint, content)

    def _precision(
        self, network: Network, split: Split, size: int, steps: int
    ) -> Precision:
        """The given precision; by default the faster one, or float32 for few steps."""
        if self.precision is not None:
            return self.precision
        if steps * self.recipe.epochs < WORTH_MEASURING:
            return "float32"
        twin = copy.deepcopy(network).train()
        images, labels, _ = next(iter(split.batches(size)))
        step = training_step(twin, self.normalise(images), labels)
        of = f"{self.architecture.fingerprint} {size}"
        with seeded(0, split.device):  # dropout draws numbers
            return pick_precision(of, split.device, step)


def _load_checkpoint(path: Path | None, recipe: Recipe) -> dict[str, Any] | None:
    """The checkpoint of a training with this recipe; None if there is no such file."""
    kept = read_checkpoint(path, {}, "recipe", "attempt", "precision", "training")
    if kept is None or _tried(recipe, kept["attempt"]).as_written() != kept["recipe"]:
        return None
    logger.info("going on after epoch %d", kept["training"]["epoch"])
    return kept
