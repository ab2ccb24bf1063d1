"""Parameters and multiply-accumulates as torch counts them."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import build


def miscounted(student: Architecture) -> str:
    """How torch's counts differ from the architecture's; empty if they are equal."""
    module = build(student, "meta").eval()
    num_params = sum(p.numel() for p in module.parameters())
    with FlopCounterMode(display=False) as counter:
        logits = module(torch.empty(1, *student.input_shape, device="meta"))
    num_macs = counter.get_total_flops() // 2
    if tuple(logits.shape) != (1, student.num_outputs):
        return f"wrong logits: {tuple(logits.shape)}"
    if (num_params, num_macs) != (student.num_params, student.num_macs):
        return (
            f"wrong count: torch has {num_params} parameters and {num_macs} MACs, "
            f"expected {student.num_params} and {student.num_macs}"
        )
    return ""
