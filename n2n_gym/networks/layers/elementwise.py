"""Layers that work on every value by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from n2n_gym.networks.layers.layer import Elementwise

ACTIVATIONS: Final = (
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "gelu",
    "silu",
    "mish",
    "sigmoid",
    "tanh",
    "hardswish",
    "hardsigmoid",
)


@final
@dataclass(frozen=True)
class Activation(Elementwise):
    """A nonlinearity from ``ACTIVATIONS``; ``slope`` is leaky_relu's alone."""

    function: str
    slope: float = 0.01

    def __post_init__(self) -> None:
        if self.function not in ACTIVATIONS:
            raise ValueError(
                f"unknown activation {self.function!r}; known: {', '.join(ACTIVATIONS)}"
            )


@final
@dataclass(frozen=True)
class Dropout(Elementwise):
    """Dropout of single values, or of whole channels."""

    rate: float = 0.5
    channelwise: bool = False


@final
@dataclass(frozen=True)
class StochasticDepth(Elementwise):
    """Dropout of a whole branch, image by image (Huang et al., 2016)."""

    rate: float = 0.5
