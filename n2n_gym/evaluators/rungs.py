"""The fidelity ladder: how much is spent on a student's score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from n2n_gym.pytorch.recipe import Precision, Recipe

# How much longer a smaller student is trained: a quarter of the work, 1.7 times.
GROWTH: Final = 0.37
LONGEST: Final = 3.3


@dataclass(frozen=True)
class Rung:
    """One way to find out how accurate a student can become.

    Attributes:
        start: Where its weights come from: ``"teacher"``, ``"elastic"`` (a teacher that
            was trained to be cut), ``"fresh"`` (drawn, torch's defaults), or ``"he"``
            (drawn as teachers' are, by He et al., 2015, which networks that do not
            normalise need to learn at this rate).
        recipe: How it is trained then, if at all.
        fewest_images: That it is trained on, up to two epochs, where the recipe's
            epochs are fewer. Smaller students see more of them, as they have further to
            go and cost less (``share`` below: of the teacher's multiply-accumulates).
        statistics: Training images that its batch-norm statistics are renewed with;
            with 0 they are those of the training.
        is_fitted: Whether its classifier is fitted to the teacher's logits of the same
            images, in closed form.
        views: In how many augmented forms it sees each training image; the teacher's
            logits of all of them are kept.
        is_augmented: Whether training images are augmented anew each time, and the
            teacher is asked about each batch.
        precision: Of the arithmetic, where it does not depend on the device.
    """

    name: str
    start: Literal["teacher", "elastic", "fresh", "he"] = "teacher"
    recipe: Recipe | None = None
    fewest_images: int = 0
    statistics: int = 500
    is_fitted: bool = False
    views: int = 1
    is_augmented: bool = False
    precision: Precision | None = None

    def recipe_for(self, num_images: int, share: float = 1.0) -> Recipe | None:
        """The recipe for a student of such a share, on so many training images."""
        if self.recipe is None or not self.fewest_images:
            return self.recipe
        epochs = max(self.recipe.epochs, self.fewest_images / num_images)
        longer = min(LONGEST, share**-GROWTH)
        return replace(self.recipe, epochs=min(2.0, epochs * longer))

    def with_epochs(self, epochs: int) -> Rung:
        """The same for so many epochs of training, under a name that says so."""
        assert self.recipe is not None, f"{self.name} does not train"
        if epochs == self.recipe.epochs:
            return self
        recipe = replace(self.recipe, epochs=epochs)
        return replace(self, name=f"{self.name}-{epochs}", recipe=recipe)

    def with_views(self, views: int) -> Rung:
        """The same with images in fewer forms, under a name that says so."""
        if views >= self.views:
            return self
        return replace(self, name=f"{self.name}-of-{views}", views=views)

    def cost(self, num_images: int, num_validation: int, share: float = 1.0) -> float:
        """Nominal student-epochs: passes over so many training images.

        An image that is not trained on passes forward only, a third of the work.
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
    fewest_images=1_250,  # however many there are: a score costs what it costs
)
# Where there is no time to make a teacher elastic.
QUICK: Final = Rung(
    "quick",
    recipe=replace(_DISTILLATION, epochs=0.0, batch_size=32, learning_rate=0.03),
    fewest_images=1_250,
    statistics=1_000,
    is_fitted=True,
)
# Ashok et al. (2018): from scratch, the logit term alone, Adam; a batch of 128 is ours.
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
FULL: Final = Rung("full", recipe=_DISTILLATION, views=8)
# N2N-Bench's: what its tables hold stands by this, so it never changes.
BENCH_V1: Final = Rung(
    "bench-v1",
    recipe=Recipe(
        epochs=1 / 18,
        batch_size=32,
        learning_rate=0.03,
        logit_weight=0.1,
        largest_gradient=3.0,
    ),
    statistics=1_000,
    is_fitted=True,
    precision="float32",
)
