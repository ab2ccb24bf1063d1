"""Saving and loading a network's weights, and the state of a training."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from n2n_gym.common.files import write_whole
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import Network, build
from n2n_gym.pytorch.training import State


def save_weights(network: Network, path: Path) -> None:
    """Write a network's state dict as safetensors, with the teacher's keys."""
    weights = {k: v.cpu().contiguous() for k, v in network.state_dict().items()}
    write_whole(path, save(weights))


def load_network(student: Architecture, path: Path) -> Network:
    """A student with saved weights, in eval mode, on the CPU.

    Raises:
        OSError, SafetensorError, RuntimeError: The file cannot be read, or has the
            weights of another network.
    """
    network = build(student)
    network.load_state_dict(load_file(path))
    return network.eval()


def resumable(path: Path | None) -> dict[str, Any]:
    """Arguments of `train` that write a checkpoint after each epoch.

    The training resumes from the checkpoint if the file exists. The caller removes it
    after the training, and never gives the path to another training.

    Args:
        path: Path of the checkpoint; None for no checkpoint.
    """
    if path is None:
        return {}

    def keep(state: Callable[[], State]) -> None:
        buffer = io.BytesIO()
        torch.save(state(), buffer)
        write_whole(path, buffer.getvalue())

    kept = torch.load(path, "cpu", weights_only=True) if path.exists() else None
    return {"after_epoch": keep, "resume": kept}
