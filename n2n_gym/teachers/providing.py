"""Getting a teacher: from the cache, by training, or by scoring given weights."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from n2n_gym.common.files import alone_with, kept_if_possible
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.inference import compute_accuracy, compute_logits
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.recipe import Precision
from n2n_gym.teachers import learning
from n2n_gym.teachers.network import UntrainedNetwork
from n2n_gym.teachers.store import load_trained, save_trained, teacher_path
from n2n_gym.teachers.teacher import Trained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provider:
    """Loads a teacher from the cache, or trains or scores it and keeps it there.

    Attributes:
        device: To train on.
        epochs: Of training, if it has to be trained; by default by the size of the
            data.
        again: Whether to train it even if it is in the cache.
        precision: Of the training; the faster one on the machine by default.
    """

    network: UntrainedNetwork
    device: torch.device
    epochs: int | None = None
    again: bool = False
    precision: Precision | None = None

    def __call__(self) -> Trained:
        """The trained teacher.

        Raises:
            Diverged: It learns nothing.
        """
        path = self._path
        # Whoever comes second waits, then finds what the first has made.
        with alone_with(path):
            trained = None if self.again else load_trained(path)
            if trained is None:
                trained, about = self._make(path.with_suffix(".checkpoint"))
                _warn_of_chance(self.network, trained.accuracy)
                with kept_if_possible(path):
                    save_trained(path, trained, about)
                    path.with_suffix(".checkpoint").unlink(missing_ok=True)
        return trained

    def kept(self) -> Trained | None:
        """What the cache has of it, without training."""
        return load_trained(self._path)

    @property
    def _path(self) -> Path:
        """Where it is kept, by all that it is made of."""
        network, task = self.network, self.network.task
        made_of = [
            network.architecture.fingerprint,
            task.fingerprint,
            repr(network.normalisation),
            repr(task.augmentation),
            digest_of(network.weights or network.initial or {}),
            "trained" if network.weights is None else "given",
        ]
        if self.precision is not None and network.weights is None:
            made_of.append(self.precision)
        key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
        return teacher_path(network.name, task.name, key)

    def _make(self, checkpoint: Path) -> tuple[Trained, dict[str, Any]]:
        """The teacher, trained or scored, and what is kept about it."""
        network, task = self.network, self.network.task
        about: dict[str, Any] = {
            "teacher": network.name,
            "task": task.name,
            "num_params": network.architecture.num_params,
            "torch": torch.__version__,
        }
        if network.weights is not None:
            return _score(network, network.weights, self.device), about
        recipe = learning.teacher_recipe(task, network.architecture)
        recipe = replace(recipe, epochs=self.epochs or recipe.epochs)
        trained = learning.train_network(
            network.name,
            task,
            network.architecture,
            recipe,
            self.device,
            initial=network.initial,
            normalisation=network.normalisation,
            checkpoint=checkpoint,
            precision=self.precision,
        )
        return trained, {**about, "recipe": asdict(recipe)}


def _warn_of_chance(network: UntrainedNetwork, accuracy: float) -> None:
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
    network: UntrainedNetwork, weights: Mapping[str, Tensor], device: torch.device
) -> Trained:
    module = build(network.architecture, "meta")
    module.load_state_dict(weights, assign=True)
    module = module.to(device).to(memory_format=torch.channels_last)
    task = network.task
    normalise = network.normalisation or Normalisation(*task.normalisation)
    accuracy = compute_accuracy(module, task.split("validation", device), normalise)
    logits = compute_logits(module, task.split("train", device), normalise).cpu()
    return Trained(weights, accuracy, logits)


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights under their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
