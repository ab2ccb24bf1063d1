"""Getting a teacher: from the cache, by training, or by scoring given weights."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
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


def provide(
    network: UntrainedNetwork,
    device: torch.device,
    advice: str | None,
    epochs: int | None,
    precision: Precision | None,
    *,
    again: bool,
) -> Trained:
    """Load the teacher from the cache, or train or score it and keep it there.

    Raises:
        TimeoutError: Training it would take more than ten minutes, and there is advice.
        Diverged: It learns nothing.
    """
    task, architecture = network.task, network.architecture
    start = network.weights or network.initial or {}
    made_of = [
        architecture.fingerprint,
        task.fingerprint,
        repr(network.normalisation),
        repr(task.augmentation),
        _digest(start),
        "trained" if network.weights is None else "given",
    ]
    if precision is not None and network.weights is None:
        made_of.append(precision)
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    path = teacher_path(network.name, task.name, key)
    checkpoint = path.with_suffix(".checkpoint")
    # Whoever comes second waits, then finds what the first has made.
    with alone_with(path):
        trained = None if again else load_trained(path)
        if trained is None:
            about: dict[str, Any] = {
                "teacher": network.name,
                "task": task.name,
                "num_params": architecture.num_params,
                "torch": torch.__version__,
            }
            if network.weights is None:
                recipe = learning.teacher_recipe(task, architecture)
                recipe = replace(recipe, epochs=epochs or recipe.epochs)
                about["recipe"] = asdict(recipe)
                trained = learning.train_network(
                    network.name,
                    task,
                    architecture,
                    recipe,
                    device,
                    initial=network.initial,
                    normalisation=network.normalisation,
                    checkpoint=checkpoint,
                    advice=advice,
                    precision=precision,
                )
            else:
                trained = _score(network, network.weights, device)
            _warn_of_chance(network, trained.accuracy)
            with kept_if_possible(path):
                save_trained(path, trained, about)
                checkpoint.unlink(missing_ok=True)
    return trained


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


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
