"""Devices and precisions."""

from __future__ import annotations

import platform

import torch


def pick_device(name: str | torch.device | None) -> torch.device:
    """The device of this name.

    Args:
        name: Name of a device. None stands for the accelerator or, on a machine without
            one, for the CPU.

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
    """The instruction set that torch uses on a device: "x86_64 AVX512", "sm_90"."""
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

    Torch's cache of cast weights is off. If this context is inside another autocast
    context, torch does not clear the cache at the end of this one. With the cache on,
    training would then go on with the weights of its first step.
    """
    return torch.autocast(
        device.type,
        torch.bfloat16,
        enabled=precision == "bfloat16",
        cache_enabled=False,
    )
