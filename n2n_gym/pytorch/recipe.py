"""Recipes: how a network is trained, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from n2n_gym.common.plugins import refuse_unknown

Precision: TypeAlias = Literal["float32", "bfloat16"]


def read_precision(name: str | None) -> Precision | None:
    """The precision of this name; None leaves the choice to the machine.

    Raises:
        ValueError: There is no such precision.
    """
    refuse_unknown("precision", name, (None, *get_args(Precision)))
    return cast("Precision | None", name)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD, Nesterov momentum, a one-cycle learning rate.

    Attributes:
        epochs: Number of passes over the images; need not be an integer.
        learning_rate: Highest learning rate of the cycle.
        weight_decay: Weight decay of weights; biases and normalisation have none.
        hard_weight: Weight of the labels' cross-entropy in the loss.
        logit_weight: Weight of the squared distance to the teacher's logits: the
            paper's lambda, in L = L_hard + lambda * (1/N) sum ||f(x_i) - z_i||^2.
        label_smoothing: Label smoothing of the cross-entropy.
        warmup_share: Fraction of the steps in which the learning rate rises; in later
            steps it falls.
        largest_gradient: Norm to which all gradients together are clipped; None for no
            clipping. Squared distances of logits are large at first. Without clipping,
            they would make training diverge.
        precision: Precision of the network's arithmetic; weights and losses stay
            float32.
        optimiser: ``"sgd"`` or ``"adam"``. Adam ignores ``momentum``, decays all
            parameters (L2) and keeps the learning rate constant.
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
