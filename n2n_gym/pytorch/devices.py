"""Where a network computes, and how precisely."""

from __future__ import annotations

import platform

import torch


def pick_device(name: str | torch.device | None) -> torch.device:
    """The device of this name; the accelerator if there is one, else the CPU, for None.

    Raises:
        ValueError: There is no such device.
    """
    available = ["cpu"]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        available.append(accelerator.type)
    if name is None:
        return torch.device(available[-1])
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in available:
        raise ValueError(
            f"unknown device {str(name)!r}; available: {', '.join(available)}"
        )
    return device


def instruction_set(device: torch.device) -> str:
    """The instructions that torch computes with there: "x86_64 AVX512", "sm_90"."""
    if device.type == "cuda":
        if torch.version.hip:
            return torch.cuda.get_device_properties(device).gcnArchName
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm_{major}{minor}"
    if device.type == "cpu":
        return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{platform.machine()} {device.type}"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a network computes with this precision.

    Without torch's cache of weights: inside another such context it is not cleared at
    the end of this one, and a training would go on with the weights of its first step.
    """
    return torch.autocast(
        device.type,
        torch.bfloat16,
        enabled=precision == "bfloat16",
        cache_enabled=False,
    )
