"""Contexts that make results independent of the caller's settings of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn


@contextmanager
def isolated(threads: int | None) -> Iterator[None]:
    """Context in which the caller's settings of torch have no effect on results.

    The exception is the precision of float32 products. Torch has two interfaces for it;
    after one interface was used, torch refuses to read the other.

    Args:
        threads: Number of threads on a CPU; None leaves it unchanged.
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
    """Context with torch's defaults for settings that have no context manager."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    # After a default device is set, even to the CPU, every call of torch is slower.
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
    """Context in which torch uses this many threads; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[torch.Generator]:
    """Context in which torch's generators are seeded; it restores their states.

    The context yields a separate CPU generator with the same seed.
    """
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        # Not torch.manual_seed: it would seed every accelerator permanently.
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.get_device_module(device).manual_seed(seed)
        yield torch.Generator().manual_seed(seed)
