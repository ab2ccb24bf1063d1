"""How a network is trained, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from n2n_gym.common.plugins import refuse_unknown

Precision: TypeAlias = Literal["float32", "bfloat16"]


def read_precision(name: str | None) -> Precision | None:
    """A precision by its name; None where it may depend on the machine.

    Raises:
        ValueError: There is no such precision.
    """
    refuse_unknown("precision", name, (None, *get_args(Precision)))
    return cast("Precision | None", name)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with Nesterov momentum and a one-cycle rate.

    Attributes:
        epochs: Passes over the images; the last may be a part of one.
        learning_rate: The highest of the cycle.
        weight_decay: Of weights; biases and normalisation have none.
        hard_weight: Of the labels' cross-entropy in the loss.
        logit_weight: Of the squared distance to the teacher's logits: the paper's
            lambda, in L = L_hard + lambda * (1/N) sum ||f(x_i) - z_i||^2.
        label_smoothing: Of the labels' cross-entropy.
        warmup_share: Of the steps, in which the rate rises; it falls after that.
        largest_gradient: Norm that all gradients together are clipped to: squared
            distances of logits are large at first, and would throw a student off.
        precision: Of the network's arithmetic; weights and losses stay float32.
        optimiser: ``"adam"`` has no momentum of its own to set, decays all parameters
            alike through the gradient (L2), and keeps one rate throughout.
    """

    epochs: float
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    hard_weight: float = 1.0
    logit_weight: float = 0.0
    label_smoothing: float = 0.0
    warmup_share: float = 0.25
    largest_gradient: float | None = None
    precision: Precision = "float32"
    optimiser: Literal["sgd", "adam"] = "sgd"
