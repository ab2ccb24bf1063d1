"""A teacher's logits of augmented training images, computed once and kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Final

import torch
from safetensors.torch import save
from torch import Tensor

from n2n_gym.common.files import cache_folder, cached, write_whole
from n2n_gym.common.progress import progress
from n2n_gym.pytorch.determinism import isolated
from n2n_gym.pytorch.devices import autocast
from n2n_gym.pytorch.inference import EVALUATION_BATCH, seconds_an_image
from n2n_gym.pytorch.inputs import Variants
from n2n_gym.pytorch.recipe import Precision
from n2n_gym.teachers.store import read_tensors
from n2n_gym.teachers.teacher import Teacher

TIMED_IMAGES: Final = 250
MOST_LOGITS: Final = 200_000_000  # numbers in the logits of all variants: 800 MB


def teacher_variants(
    teacher: Teacher, count: int, device: torch.device, precision: Precision
) -> Variants | None:
    """Variants of each training image, the first unchanged, with the teacher's logits.

    There are fewer than ``count`` variants if the logits of all would need too much
    memory. The result is None if that leaves only the unchanged images, or if the task
    has no augmentation.
    """
    key = count, device.type, precision
    if key not in teacher.variants:
        teacher.variants[key] = _make_variants(teacher, count, device, precision)
    variants = teacher.variants[key]
    if variants is not None and variants.logits.device != device:  # moved there once
        changes, logits = variants.changes.to(device), variants.logits.to(device)
        variants = replace(variants, changes=changes, logits=logits)
        teacher.variants[key] = variants
    return variants


def seconds_a_variant(
    teacher: Teacher, device: torch.device, precision: Precision, threads: int | None
) -> float:
    """Estimated seconds for the logits of one more variant; 0 without augmentation.

    Args:
        precision, threads: Precision and number of threads that compute the logits.
    """
    if teacher.task.augmentation.is_none:
        return 0.0
    network = teacher.network(device).to(memory_format=torch.channels_last)
    split = teacher.task.split("train", device)
    images, _, _ = next(iter(split.batches(min(TIMED_IMAGES, len(split)))))
    with isolated(threads):
        each = seconds_an_image(network, teacher.normalise(images), precision)
    return each * len(split)


def _make_variants(
    teacher: Teacher, count: int, device: torch.device, precision: Precision
) -> Variants | None:
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
    return Variants(augmentation, drawn, torch.cat([originals[None], others]))


def _kept_logits(
    teacher: Teacher, changes: Tensor, device: torch.device, precision: Precision
) -> Tensor:
    """Logits of the changed images, (V - 1, N, classes), kept in the cache.

    Args:
        changes: Changes of all V variants but the first, (V - 1, 3, N).
    """
    about = [teacher.fingerprint, teacher.task.fingerprint, len(changes)]
    about += [repr(teacher.task.augmentation), device.type, precision]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    # The folder keeps its first name, so that older files are found.
    path = cache_folder() / "views" / f"{key}.safetensors"
    return cached(
        path,
        lambda path: read_tensors(path)["logits"],
        lambda: _compute_logits(teacher, changes, device, precision).cpu(),
        lambda path, logits: write_whole(path, save({"logits": logits})),
    )


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
