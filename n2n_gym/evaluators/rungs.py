"""The ladder of evaluators; its rungs differ in how long they train a student."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from n2n_gym.pytorch.recipe import Precision, Recipe

# Smaller students train longer: 1.7 times as long with a quarter of the teacher's work.
GROWTH: Final = 0.37
LONGEST: Final = 3.3
WRITTEN: Final = {"num_variants": "views"}  # fields with another name in keys


@dataclass(frozen=True)
class Rung:
    """One way to estimate how accurate a student can become.

    Attributes:
        start: Source of the student's first weights: ``"teacher"`` (inherited),
            ``"elastic"`` (inherited from an elastic teacher), ``"fresh"`` (torch's
            default initialisation), or ``"he"`` (the initialisation of He et al., 2015;
            networks without normalisation need it at the learning rate of the
            distillation).
        recipe: Recipe of the distillation; None for no training.
        fewest_images: Least number of images that a student trains on; an image counts
            each time that it is used. With 0, each student trains for the recipe's
            epochs. Above 0, smaller students train on more images than larger ones,
            because they start less accurate and cost less, but no student trains for
            more than two epochs.
        statistics: Number of training images that batch-norm statistics are computed
            from; 0 keeps the statistics from the student's training.
        is_fitted: Whether the classifier is fitted in closed form to the teacher's
            logits of the images that ``statistics`` counts.
        num_variants: Number of variants of each training image, the first unchanged and
            the rest augmented; the teacher's logits of all variants are stored.
        is_augmented: Whether each batch is augmented anew and the teacher computes its
            logits for each batch.
        precision: Precision of the arithmetic; None chooses the faster one on the
            device.
    """

    name: str
    start: Literal["teacher", "elastic", "fresh", "he"] = "teacher"
    recipe: Recipe | None = None
    fewest_images: int = 0
    statistics: int = 500
    is_fitted: bool = False
    num_variants: int = 1
    is_augmented: bool = False
    precision: Precision | None = None

    def as_written(self) -> dict[str, Any]:
        """The rung's fields, with the names that they have in the keys of scores.

        Names in keys never change, so keys still call `num_variants` by its first name,
        "views".
        """
        fields = asdict(self)
        fields["recipe"] = self.recipe and self.recipe.as_written()
        return {WRITTEN.get(name, name): value for name, value in fields.items()}

    def recipe_for(self, num_images: int, share: float = 1.0) -> Recipe | None:
        """The recipe for a student; None if the rung does not train.

        Args:
            num_images: Number of training images.
            share: The student's MACs as a fraction of the teacher's.
        """
        if self.recipe is None or not self.fewest_images:
            return self.recipe
        epochs = max(self.recipe.epochs, self.fewest_images / num_images)
        longer = min(LONGEST, share**-GROWTH)
        return replace(self.recipe, epochs=min(2.0, epochs * longer))

    def with_epochs(self, epochs: float) -> Rung:
        """This rung with another number of epochs, which is appended to its name."""
        assert self.recipe is not None, f"{self.name} does not train"
        if epochs == self.recipe.epochs:
            return self
        recipe = replace(self.recipe, epochs=epochs)
        return replace(self, name=f"{self.name}-{epochs}", recipe=recipe)

    def with_variants(self, num_variants: int) -> Rung:
        """This rung with at most ``num_variants`` variants of each image.

        If the rung had more variants, the new number is added to its name.
        """
        if num_variants >= self.num_variants:
            return self
        return replace(
            self, name=f"{self.name}-of-{num_variants}", num_variants=num_variants
        )

    def cost(self, num_images: int, num_validation: int, share: float = 1.0) -> float:
        """Cost of a score, in nominal student-epochs.

        One student-epoch is a training pass over all training images. A forward pass
        without training counts as a third of a training pass.

        Args:
            num_images, num_validation: Numbers of training and validation images.
            share: The student's MACs as a fraction of the teacher's.
        """
        recipe = self.recipe_for(num_images, share)
        epochs = 0.0 if recipe is None else recipe.epochs
        forward = min(self.statistics, num_images) + num_validation
        return epochs + forward / (3 * num_images)


_DISTILLATION: Final = Recipe(
    epochs=60, batch_size=64, learning_rate=0.1, logit_weight=0.1, largest_gradient=3.0
)
INHERIT: Final = Rung("inherit", statistics=1_000, is_fitted=True)
ELASTIC: Final = replace(INHERIT, name="elastic", start="elastic")
SHORT: Final = replace(
    ELASTIC,
    name="short",
    recipe=replace(_DISTILLATION, epochs=0.0, batch_size=32),
    fewest_images=1_250,  # a constant, so that a score costs the same on any data set
)
# For runs without the time to make a teacher elastic.
QUICK: Final = Rung(
    "quick",
    recipe=replace(_DISTILLATION, epochs=0.0, batch_size=32, learning_rate=0.03),
    fewest_images=1_250,
    statistics=1_000,
    is_fitted=True,
)
# Ashok et al. (2018): from scratch, only the logit loss, Adam. The batch size is ours.
PAPER: Final = Rung(
    "paper",
    start="fresh",
    recipe=Recipe(
        epochs=5,
        batch_size=128,
        learning_rate=5e-4,
        weight_decay=5e-4,
        hard_weight=0.0,
        logit_weight=1.0,
        optimiser="adam",
    ),
    statistics=0,
    is_augmented=True,
    precision="float32",
)
FULL: Final = Rung("full", recipe=_DISTILLATION, num_variants=8)
# N2N-Bench's evaluator. It never changes, because its tables depend on it.
BENCH_V1: Final = Rung(
    "bench-v1",
    recipe=Recipe(
        epochs=1 / 9,
        batch_size=128,
        learning_rate=0.03,
        logit_weight=0.1,
        largest_gradient=3.0,
    ),
    statistics=1_000,
    is_fitted=True,
    precision="float32",
)
