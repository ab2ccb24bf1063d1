"""Which precision a network trains fastest in on a device: measured, and remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from n2n_gym.common.files import alone_with, cache_folder, kept_if_possible, write_whole
from n2n_gym.common.progress import progress
from n2n_gym.pytorch.devices import autocast
from n2n_gym.pytorch.recipe import Precision
from n2n_gym.resources.machine import processor

logger = logging.getLogger(__name__)

FASTER: Final = 1.2  # how much bfloat16 must gain to be chosen
_REPEATS: Final = 4  # of each; the first is not counted


def training_step(
    network: nn.Module, inputs: Tensor, labels: Tensor
) -> Callable[[Precision], None]:
    """What `pick_precision` measures of a network in training."""

    def step(precision: Precision) -> None:
        with autocast(inputs.device, precision):
            outputs = network(inputs)
        loss = F.cross_entropy(outputs.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        loss.item()  # waits for an accelerator

    return step


def pick_precision(
    of: str, device: torch.device, step: Callable[[Precision], None]
) -> Precision:
    """bfloat16 where a step is faster with it on this device, else float32.

    It depends on the network: depthwise convolutions are slower in bfloat16 on many
    CPUs, others nearly twice as fast. What was measured is kept in the cache, so that
    the same training is the same the next time.

    Args:
        of: What is measured: the network and the size of a batch.
        step: Computes one step, and waits for it.
    """
    path = cache_folder() / "precision.json"
    key = hashlib.sha256(json.dumps([of, *_machine(device)]).encode()).hexdigest()[:16]
    with alone_with(path):
        known = _known(path)
        if key not in known:
            seconds = _measure(step)
            known[key] = {"device": _machine(device), "seconds": seconds}
            with kept_if_possible(path):
                write_whole(path, json.dumps(known, indent=1).encode())
    seconds = known[key]["seconds"]
    is_faster = seconds["float32"] > FASTER * seconds["bfloat16"]
    return "bfloat16" if is_faster else "float32"


def _known(path: Path) -> dict[str, Any]:
    """What was measured before, by key."""
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        logger.warning("%s is damaged (%s) and is measured anew", path, error)
        return {}


def _measure(step: Callable[[Precision], None]) -> dict[str, float]:
    """Medians of a step in each precision, taken in turn."""
    measured: dict[Precision, list[float]] = {"float32": [], "bfloat16": []}
    with progress(_REPEATS * len(measured), "Timing both precisions", "step") as bar:
        for _ in range(_REPEATS):
            for precision, seconds in measured.items():
                started = time.perf_counter()
                step(precision)
                seconds.append(time.perf_counter() - started)
                bar.update()
    return {name: statistics.median(each[1:]) for name, each in measured.items()}


def _machine(device: torch.device) -> list[str]:
    name = processor()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return [device.type, name, torch.__version__, str(torch.get_num_threads())]
