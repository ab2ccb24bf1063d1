"""Computing as if nobody had changed torch's settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn


@contextmanager
def alone(threads: int | None) -> Iterator[None]:
    """Nothing that the caller has set of torch changes what is computed inside.

    But for the precision of float32 products: torch refuses to read it through one of
    its two interfaces where the caller has used the other.

    Args:
        threads: To compute with on a CPU; None leaves their number as it is.
    """
    with (
        _defaults(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        thread_count(threads),
    ):
        yield


@contextmanager
def _defaults() -> Iterator[None]:
    """Torch's own, of what has no context manager."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    # Once a default device is set, even to the CPU, each call of torch's is slower.
    is_elsewhere = device.type != "cpu"
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_default_dtype(torch.float32)
    if is_elsewhere:
        torch.set_default_device(None)
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        if is_elsewhere:
            torch.set_default_device(device)
        torch.use_deterministic_algorithms(is_deterministic, warn_only=only_warns)


@contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """Torch computes with so many threads inside; None leaves it alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[torch.Generator]:
    """Torch's generators seeded inside, as they were before afterwards.

    Gives a CPU generator of its own for what takes one.
    """
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        # Not torch.manual_seed: that would seed every accelerator for good.
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.get_device_module(device).manual_seed(seed)
        yield torch.Generator().manual_seed(seed)
