"""Recipes: how a network is trained, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from n2n_gym.common.plugins import refuse_unknown

Precision: TypeAlias = Literal["float32", "bfloat16"]
# Fields that older keys of scores do not have.
ADDED: Final = (
    "temperature",
    "fall_power",
    "average_share",
    "smallest_side",
    "cutout",
)


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
        temperature: Temperature T of the logits' loss (Hinton et al., 2015): instead of
            the squared distance, the loss is T^2 KL(softmax(z / T) || softmax(f / T)).
            None for the squared distance.
        fall_power: Exponent of the learning rate's fall, as a fraction of the highest
            rate. Above 1, the rate is low for a larger part of the training.
        average_share: Time constant of an exponential average of the weights, as a
            fraction of the training's steps (Polyak and Juditsky, 1992). The trained
            network has the average. 0 for no average.
        smallest_side: Side of the first steps' images as a fraction of their own side.
            The side grows to 1 in the course of the training; see `side_at`.
        cutout: Side of a square that is blanked at a random place of each image, as a
            fraction of the image's shorter side (DeVries and Taylor, 2017); 0 for none.
            Stored logits stay those of the whole images.
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
    temperature: float | None = None
    fall_power: float = 1.0
    average_share: float = 0.0
    smallest_side: float = 1.0
    cutout: float = 0.0

    def as_written(self) -> dict[str, Any]:
        """The fields as they stand in the keys of scores and of cached files.

        A field of ``ADDED`` is left out if it has its default, so that keys from before
        it existed stay valid.
        """
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in ADDED or value != getattr(Recipe, name)
        }
