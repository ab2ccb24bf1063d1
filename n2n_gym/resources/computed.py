"""Resources that can be computed from the layers."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Final, TypeVar

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import IMAGE, Elementwise

BYTES: Final = 4  # of a float32
F = TypeVar("F", bound=Callable[..., float])


def computed(function: F) -> F:
    """Mark a resource as computed, not measured."""
    function.is_computed = True  # type: ignore[attr-defined]
    return function


@computed
def num_params(student: Architecture, teacher: Architecture) -> float:
    """Number of trainable parameters."""
    return student.num_params


@computed
def num_macs(student: Architecture, teacher: Architecture) -> float:
    """Multiply-accumulates for one image."""
    return student.num_macs


@computed
def peak_bytes(student: Architecture, teacher: Architecture) -> float:
    """Peak memory of pixels and activations in bytes, for one image in float32.

    The layers run in order. A layer's output takes memory until the last layer that
    reads it has run. An elementwise layer works in place if no later layer reads the
    same input.
    """
    last_reader = {IMAGE: 0}
    for position, layer in enumerate(student.layers):
        last_reader[position] = position  # read by nobody: the logits
        for read in layer.inputs:
            last_reader[read] = position
    alive = {IMAGE: prod(student.input_shape)}
    peak = 0
    for position, layer in enumerate(student.layers):
        ended = [read for read in alive if last_reader[read] <= position]
        alive[position] = prod(student.shape_of(position))
        is_in_place = isinstance(layer, Elementwise) and layer.inputs[0] in ended
        saved = alive[position] if is_in_place else 0
        peak = max(peak, sum(alive.values()) - saved)
        for read in ended:
            del alive[read]
    return BYTES * peak
