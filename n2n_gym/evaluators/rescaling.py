"""Restores the scale of activations in students without normalisation.

A student's layer sums fewer terms than the same layer of the teacher, and the outputs
of removed layers are missing. Without normalisation, values therefore shrink from layer
to layer, until the logits hardly depend on the image and the student cannot learn. So
each layer's output is scaled to the magnitude that it has in the teacher, from the
first layer to the last (after Mishkin and Matas, 2016, and Jordan et al., 2023).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import PRODUCERS
from n2n_gym.pytorch.build import Network
from n2n_gym.teachers.teacher import Teacher

NUM_IMAGES: Final = 16  # few, as they pass through the whole teacher at once


@torch.no_grad()
def rescale(network: Network, student: Architecture, teacher: Teacher) -> None:
    """Multiply the weights and bias of each convolution and linear layer by a factor.

    Args:
        network: The student with inherited weights; it is changed in place.
    """
    device = next(network.parameters()).device
    squares = _squares_of(teacher, device)
    written = teacher.inheritance(device).written(student)

    def fit(name: str, layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        wanted = squares[name][torch.as_tensor(written[name], device=device)].mean()
        found = _mean_squares(output).mean()
        if not found > 0:  # there is nothing to multiply
            return output
        factor = (wanted / found).sqrt()
        for parameter in layer.parameters():
            parameter.mul_(factor)
        return output * factor

    hooks = [
        network.get_submodule(name).register_forward_hook(partial(fit, name))
        for name in written
    ]
    network.eval()(_images(teacher, device))
    for hook in hooks:
        hook.remove()


def _squares_of(teacher: Teacher, device: torch.device) -> dict[str, Tensor]:
    """Mean squares of the output channels of the teacher's layers, (C,) per layer."""
    if device not in teacher.squares:
        found: dict[str, Tensor] = {}

        def look(name: str, _: nn.Module, __: Any, output: Tensor) -> None:
            found[name] = _mean_squares(output)

        network = teacher.network(device)
        for layer in teacher.architecture.layers:
            if isinstance(layer, PRODUCERS):
                module = network.get_submodule(layer.name)
                module.register_forward_hook(partial(look, layer.name))
        network(_images(teacher, device))
        teacher.squares[device] = found
    return teacher.squares[device]


def _mean_squares(output: Tensor) -> Tensor:
    """Mean square of each channel: (N, C, ...) -> (C,)."""
    rest = [axis for axis in range(output.dim()) if axis != 1]
    # Unlike output.square(), this allocates no second tensor.
    norms: Tensor = torch.linalg.vector_norm(output, dim=rest)
    return norms.square() * (output.shape[1] / output.numel())


def _images(teacher: Teacher, device: torch.device) -> Tensor:
    """At most ``NUM_IMAGES`` normalised images, evenly spaced in the training split."""
    split = teacher.task.split("train", device)
    count = min(NUM_IMAGES, len(split))
    positions = torch.linspace(0, len(split) - 1, count).long()
    ((images, _, _),) = split.batches(NUM_IMAGES, positions)
    return teacher.normalise(images)
