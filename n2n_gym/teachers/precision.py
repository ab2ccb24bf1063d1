"""The precision that is fastest for a network on a device, measured and remembered."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from n2n_gym.common.files import (
    cache_folder,
    kept_if_possible,
    locked,
    read_kept,
    write_whole,
)
from n2n_gym.common.progress import progress
from n2n_gym.pytorch.devices import autocast
from n2n_gym.pytorch.recipe import Precision
from n2n_gym.resources.machine import processor

FASTER: Final = 1.2  # least speed-up for which bfloat16 is chosen
_REPEATS: Final = 4  # steps timed in each precision; the first is not counted


def training_step(
    network: nn.Module, inputs: Tensor, labels: Tensor
) -> Callable[[Precision], None]:
    """A function that computes one training step, which `pick_precision` can time."""

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
    """bfloat16 if it makes a step over ``FASTER`` times as fast, otherwise float32.

    The choice depends on the network. With bfloat16, depthwise convolutions are slower
    on many CPUs, and other convolutions are nearly twice as fast. The cache keeps the
    result, so a repeated training uses the same precision.

    Args:
        of: Text that identifies the network and the batch size.
        step: Function that computes one step and waits for its end.
    """
    path = cache_folder() / "precision.json"
    key = hashlib.sha256(json.dumps([of, *_machine(device)]).encode()).hexdigest()[:16]
    with locked(path):
        known = read_kept(path, _read) or {}
        if key not in known:
            seconds = _measure(step)
            known[key] = {"device": _machine(device), "seconds": seconds}
            with kept_if_possible(path):
                write_whole(path, json.dumps(known, indent=1).encode())
    seconds = known[key]["seconds"]
    is_faster = seconds["float32"] > FASTER * seconds["bfloat16"]
    return "bfloat16" if is_faster else "float32"


def _read(path: Path) -> dict[str, Any]:
    """Earlier measurements, by key."""
    return dict(json.loads(path.read_text()))


def _measure(step: Callable[[Precision], None]) -> dict[str, float]:
    """Median time of a step in each precision; steps alternate between the two."""
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
