"""Saving and loading a network's weights."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save

from n2n_gym.common.files import write_whole
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import Network, build


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
