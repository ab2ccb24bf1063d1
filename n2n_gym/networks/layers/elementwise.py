"""Elementwise layers."""

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
    "gelu_tanh",
    "selu",
    "softplus",
)


@final
@dataclass(frozen=True)
class Activation(Elementwise):
    """A nonlinearity from ``ACTIVATIONS``.

    Only leaky_relu uses ``slope``, and only elu uses ``alpha``.
    """

    function: str
    slope: float = 0.01
    alpha: float = 1.0

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


@final
@dataclass(frozen=True)
class Clamp(Elementwise):
    """Values limited to at least ``low`` and at most ``high``."""

    low: float
    high: float


@final
@dataclass(frozen=True)
class Affine(Elementwise):
    """Arithmetic with constants: x * factor / divisor + offset."""

    factor: float = 1.0
    offset: float = 0.0
    divisor: float = 1.0
