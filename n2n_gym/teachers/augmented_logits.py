"""A teacher's logits of augmented training images: computed once, and kept."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import replace
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from n2n_gym.common.files import (
    alone_with,
    cache_folder,
    kept_if_possible,
    write_whole,
)
from n2n_gym.common.progress import progress
from n2n_gym.pytorch.devices import autocast
from n2n_gym.pytorch.inference import EVALUATION_BATCH
from n2n_gym.pytorch.inputs import Views
from n2n_gym.pytorch.recipe import Precision
from n2n_gym.teachers.teacher import Teacher

logger = logging.getLogger(__name__)

TIMED_IMAGES: Final = 250
MOST_LOGITS: Final = 200_000_000  # of all views together: 800 MB


def teacher_views(
    teacher: Teacher, count: int, device: torch.device, precision: Precision
) -> Views | None:
    """So many forms of each training image, the first as it is; None if only that one.

    Fewer where their logits would take too much memory, and one where the task has no
    augmentation.
    """
    key = count, device.type, precision
    if key not in teacher.views:
        teacher.views[key] = _make_views(teacher, count, device, precision)
    views = teacher.views[key]
    if views is not None and views.logits.device != device:  # moved there once
        changes, logits = views.changes.to(device), views.logits.to(device)
        views = replace(views, changes=changes, logits=logits)
        teacher.views[key] = views
    return views


@torch.no_grad()
def seconds_a_view(teacher: Teacher, device: torch.device) -> float:
    """How long another form of all training images takes; 0 where there is none."""
    if teacher.task.augmentation.is_none:
        return 0.0
    network = teacher.network(device).to(memory_format=torch.channels_last)
    split = teacher.task.split("train", device)
    images, _, _ = next(iter(split.batches(min(TIMED_IMAGES, len(split)))))
    inputs = teacher.normalise(images)
    network(inputs[:2])
    started = time.perf_counter()
    network(inputs).sum().item()
    return (time.perf_counter() - started) * len(split) / len(images)


def _make_views(
    teacher: Teacher, count: int, device: torch.device, precision: Precision
) -> Views | None:
    augmentation, originals = teacher.task.augmentation, teacher.trained.logits
    count = min(count, MOST_LOGITS // originals.numel())
    if augmentation.is_none or count <= 1:
        return None
    num_images = len(originals)
    generator = torch.Generator().manual_seed(0)
    changes = [augmentation.unchanged(num_images)]
    changes += [augmentation.draw(num_images, generator) for _ in range(count - 1)]
    drawn = torch.stack(changes)  # (V, 3, N)
    others = _kept_logits(teacher, drawn[1:], device, precision)
    return Views(augmentation, drawn, torch.cat([originals[None], others]))


def _kept_logits(
    teacher: Teacher, changes: Tensor, device: torch.device, precision: Precision
) -> Tensor:
    """Of the changed images, (V - 1, N, classes)."""
    about = [teacher.fingerprint, teacher.task.fingerprint, len(changes)]
    about += [repr(teacher.task.augmentation), device.type, precision]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    path = cache_folder() / "views" / f"{key}.safetensors"
    with alone_with(path):
        if path.exists():
            try:
                return load_file(path)["logits"]
            except (OSError, SafetensorError, KeyError) as error:
                logger.warning("%s is damaged (%s) and is made anew", path, error)
        logits = _compute_logits(teacher, changes, device, precision).cpu()
        with kept_if_possible(path):
            write_whole(path, save({"logits": logits}))
    return logits


@torch.no_grad()
def _compute_logits(
    teacher: Teacher, changes: Tensor, device: torch.device, precision: Precision
) -> Tensor:
    network = teacher.network(device).to(memory_format=torch.channels_last)
    split, augmentation = teacher.task.split("train", device), teacher.task.augmentation
    title = f"Logits of {teacher.name} on augmented images"
    found = []
    with progress(len(changes) * len(split), title, is_long=True) as bar:
        for change in changes.to(device):
            for images, _, positions in split.batches(EVALUATION_BATCH):
                seen = augmentation.apply(images, change[:, positions])
                with autocast(device, precision):
                    found.append(network(teacher.normalise(seen)).float())
                bar.update(len(images))
    return torch.cat(found).view(len(changes), len(split), -1)
