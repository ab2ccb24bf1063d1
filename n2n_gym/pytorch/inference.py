"""Inference: logits, accuracy, and batch-norm statistics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from n2n_gym.pytorch.devices import autocast
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.recipe import Precision
from n2n_gym.tasks.split import Split

EVALUATION_BATCH: Final = 500
# Batch size for inference. On a CPU, the maps of larger batches do not fit in the
# cache.
BATCH: Final[Mapping[str, int]] = {"cpu": 125}


@torch.no_grad()
def recompute_statistics(
    network: nn.Module,
    split: Split,
    normalise: Normalisation,
    *,
    positions: Tensor | None = None,
    precision: Precision = "float32",
    batch_size: int = EVALUATION_BATCH,
) -> None:
    """Recompute batch-norm statistics as means over the batches of a split.

    Args:
        positions: Positions of the images to use, (M,) int64; by default all.
    """
    norms = [
        m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
        norm.train()
    # Batches of equal size: all have equal weight, so a small last one would count too
    # much.
    count = len(split) if positions is None else len(positions)
    size = math.ceil(count / math.ceil(count / batch_size))
    for images, _, _ in split.batches(size, positions) if norms else ():
        if len(images) > 1:
            with autocast(split.device, precision):
                network(normalise(images))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


@torch.no_grad()
def seconds_an_image(
    network: nn.Module, inputs: Tensor, precision: Precision = "float32"
) -> float:
    """Seconds of a forward pass per image, measured with one batch.

    Args:
        inputs: Normalised images, (N, C, H, W), at least one.
    """
    network.eval()
    with autocast(inputs.device, precision):
        network(inputs[:2])  # the first pass is slower
        started = time.perf_counter()
        network(inputs).float().sum().item()  # waits for an accelerator
    return (time.perf_counter() - started) / len(inputs)


@torch.no_grad()
def compute_logits(
    network: nn.Module,
    split: Split,
    normalise: Normalisation,
    *,
    precision: Precision = "float32",
    batch_size: int = EVALUATION_BATCH,
    on_batch: Callable[[int], object] = lambda _: None,
) -> Tensor:
    """Logits in eval mode, (N, classes) float32, on the split's device.

    Args:
        on_batch: Callback with the number of images of each batch, for progress bars.
    """
    network.eval()
    found = []
    for images, _, _ in split.batches(batch_size):
        with autocast(split.device, precision):
            found.append(network(normalise(images)).float())
        on_batch(len(images))
    return torch.cat(found)


def compute_accuracy(
    network: nn.Module,
    split: Split,
    normalise: Normalisation,
    *,
    precision: Precision = "float32",
    batch_size: int = EVALUATION_BATCH,
) -> float:
    """The fraction of images that are classified correctly, in [0, 1]."""
    answers = predict(
        network, split, normalise, precision=precision, batch_size=batch_size
    )
    return (answers == split.labels.cpu()).double().mean().item()


def predict(
    network: nn.Module,
    split: Split,
    normalise: Normalisation,
    *,
    precision: Precision = "float32",
    batch_size: int = EVALUATION_BATCH,
    on_batch: Callable[[int], object] = lambda _: None,
) -> Tensor:
    """The predicted class of each image, (N,) int64, on the CPU.

    Args:
        on_batch: Callback with the number of images of each batch.
    """
    outputs = compute_logits(
        network,
        split,
        normalise,
        precision=precision,
        batch_size=batch_size,
        on_batch=on_batch,
    )
    return outputs.argmax(1).cpu()
