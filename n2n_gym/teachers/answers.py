"""A teacher's logits of its task's images, and the precision to compute them in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Final

import torch
from torch import Tensor, nn

from n2n_gym.common.progress import progress
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.devices import autocast
from n2n_gym.pytorch.inference import BATCH, EVALUATION_BATCH, compute_logits
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.recipe import Precision
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.precision import pick_precision
from n2n_gym.teachers.watch import watched_batches

# Least number of images for which the precision is chosen. Fewer take little time
# anyway, and in float32 their logits are the same on every machine.
WORTH_MEASURING: Final = 10_000
_MEASURED: Final[Mapping[str, int]] = {"cpu": 10}  # images of a step that is timed
LONG: Final = 1e11  # multiply-accumulates: a second or two of one core


def compute_answers(
    name: str,
    network: nn.Module,
    architecture: Architecture,
    task: Task,
    splits: Iterable[str],
    device: torch.device,
    normalise: Normalisation,
    precision: Precision,
) -> dict[str, Tensor]:
    """A teacher's logits of the given splits, (N, classes) float32 each, on the CPU.

    Args:
        network: The teacher's network, on the device.

    Raises:
        TakesTooLong: See ``refused_after``.
    """
    sizes = {split: len(task.splits[split]) for split in splits}
    total = sum(sizes.values())
    is_long = total * architecture.num_macs > LONG
    title = f"Logits of {name} on {task.name}"
    watched = watched_batches(f"computing the logits of {name}", total)
    with progress(total, title, is_long=is_long) as bar:

        def after_batch(count: int) -> None:
            bar.update(count)
            watched(count)

        return {
            split: compute_logits(
                network,
                task.split(split, device),
                normalise,
                precision=precision,
                batch_size=BATCH.get(device.type, EVALUATION_BATCH),
                on_batch=after_batch,
            ).cpu()
            for split in sizes
        }


def faster_answers(
    make: Callable[[], nn.Module],
    architecture: Architecture,
    task: Task,
    device: torch.device,
    normalise: Normalisation,
) -> Precision:
    """The precision in which the logits of a task are computed faster, measured once.

    For fewer than ``WORTH_MEASURING`` training images, the precision is float32.

    Args:
        make: Function that makes the network on the device; called only to measure.
    """
    if len(task.splits["train"]) < WORTH_MEASURING:
        return "float32"
    size = _MEASURED.get(device.type, EVALUATION_BATCH)

    @cache
    def prepared() -> tuple[nn.Module, Tensor]:
        images, _, _ = next(iter(task.split("train", device).batches(size)))
        return make().eval(), normalise(images)

    @torch.no_grad()
    def step(precision: Precision) -> None:
        network, inputs = prepared()
        with autocast(device, precision):
            outputs = network(inputs)
        outputs.float().sum().item()  # waits for an accelerator

    return pick_precision(f"logits of {architecture.fingerprint} {size}", device, step)
