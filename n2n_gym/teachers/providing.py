"""Provides a teacher: from the cache, by training, or by scoring given weights."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from n2n_gym.common.files import kept_if_possible, locked
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.recipe import Precision
from n2n_gym.teachers import learning
from n2n_gym.teachers.answers import compute_answers, faster_answers
from n2n_gym.teachers.network import UntrainedNetwork, check_trainable
from n2n_gym.teachers.store import load_trained, save_trained, teacher_path
from n2n_gym.teachers.teacher import Trained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provider:
    """Loads a teacher from the cache; without a file there, trains or scores it.

    Attributes:
        device: Device for training and scoring.
        epochs: Number of training epochs; by default chosen by the size of the data.
        again: Whether to train or score the teacher even if the cache has it.
        precision: Precision of the training; with given weights, of computing the
            logits. By default the faster one on the machine.
    """

    network: UntrainedNetwork
    device: torch.device
    epochs: int | None = None
    again: bool = False
    precision: Precision | None = None

    def __call__(self) -> Trained:
        """The trained teacher.

        Raises:
            Diverged: The network learns nothing.
        """
        path = self._path
        # A second process waits, then finds the first one's result.
        with locked(path):
            trained = None if self.again else load_trained(path)
            if trained is None:
                trained, about = self._make(path.with_suffix(".checkpoint"))
                _warn_of_chance(self.network, trained.accuracy)
                with kept_if_possible(path):
                    save_trained(path, trained, about)
                    path.with_suffix(".checkpoint").unlink(missing_ok=True)
        return trained

    def kept(self) -> Trained | None:
        """The teacher in the cache, or None if it is not there; nothing is trained."""
        return load_trained(self._path)

    @cached_property
    def _precision_of_answers(self) -> Precision:
        """The given precision, or the faster one for the logits of this task."""
        network, device = self.network, self.device
        assert network.weights is not None
        if self.precision is not None:
            return self.precision
        return faster_answers(
            partial(_module, network, network.weights, device),
            network.architecture,
            network.task,
            device,
            _normalisation(network),
        )

    @property
    def _path(self) -> Path:
        """The path in the cache; it depends on all that the teacher is made from."""
        network, task = self.network, self.network.task
        made_of = [
            network.architecture.fingerprint,
            task.fingerprint,
            repr(network.normalisation),
            repr(task.augmentation),
            digest_of(network.weights or network.initial or {}),
            "trained" if network.weights is None else "given",
        ]
        if network.weights is not None:
            # Teachers from before this choice existed are in float32.
            if self._precision_of_answers != "float32":
                made_of.append(self._precision_of_answers)
        elif self.precision is not None:
            made_of.append(self.precision)
        key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
        return teacher_path(network.name, task.name, key)

    def _make(self, checkpoint: Path) -> tuple[Trained, dict[str, Any]]:
        """Train or score the teacher; return it with the facts for its JSON file."""
        network, task = self.network, self.network.task
        about: dict[str, Any] = {
            "teacher": network.name,
            "task": task.name,
            "num_params": network.architecture.num_params,
            "torch": torch.__version__,
        }
        if network.weights is not None:
            precision = self._precision_of_answers
            trained = _score(network, network.weights, self.device, precision)
            return trained, {**about, "precision": precision}
        check_trainable(network)
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
        return trained, {**about, "recipe": recipe.as_written()}


def _warn_of_chance(network: UntrainedNetwork, accuracy: float) -> None:
    task = network.task
    chance = 1 / network.architecture.num_outputs
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
    network: UntrainedNetwork,
    weights: Mapping[str, Tensor],
    device: torch.device,
    precision: Precision,
) -> Trained:
    """A teacher with given weights: its accuracy and logits, in this precision."""
    task = network.task
    splits = dict.fromkeys(("validation", "train", *task.unlabelled))
    logits = compute_answers(
        network.name,
        _module(network, weights, device),
        network.architecture,
        task,
        splits,
        device,
        _normalisation(network),
        precision,
    )
    answers = {name: logits[name].argmax(1) for name in task.unlabelled}
    accuracy = 1.0  # it agrees with itself
    if "validation" not in answers:
        labels = task.splits["validation"].labels.cpu()
        is_right = logits["validation"].argmax(1) == labels
        accuracy = is_right.double().mean().item()
    return Trained(weights, accuracy, logits["train"], answers or None)


def _module(
    network: UntrainedNetwork, weights: Mapping[str, Tensor], device: torch.device
) -> nn.Module:
    """The network with these weights on a device."""
    module = build(network.architecture, "meta")
    module.load_state_dict(weights, assign=True)
    return module.to(device).to(memory_format=torch.channels_last)


def _normalisation(network: UntrainedNetwork) -> Normalisation:
    return network.normalisation or Normalisation(*network.task.normalisation)


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
