"""Computing as if nobody had changed torch's settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn


@contextmanager
def alone(threads: int | None) -> Iterator[None]:
    """Nothing that the caller has set of torch changes what is computed inside.

    Args:
        threads: To compute with on a CPU; None leaves their number as it is.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        thread_count(threads),
    ):
        yield


@contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """Torch computes with so many threads inside; None leaves it alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
