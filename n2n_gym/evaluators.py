"""How a student gets its score: the one seam between an environment and torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final, Protocol

import torch

from n2n_gym.architecture import Architecture
from n2n_gym.lookup import lookup
from n2n_gym.rewards import Failure, Score
from n2n_gym.teachers import Teacher
from n2n_gym.torch_layers import Network
from n2n_gym.training import (
    Diverged,
    Recipe,
    compute_accuracy,
    pick_device,
    recompute_statistics,
    seeded,
    train,
)

STATISTICS_IMAGES: Final = 2_000  # as many training images renew batch-norm statistics

SHORT: Final = Recipe(
    epochs=2,
    batch_size=32,
    learning_rate=0.1,
    logit_weight=0.1,
    largest_gradient=3.0,
)
FULL: Final = replace(SHORT, epochs=60, batch_size=64)


class Evaluator(Protocol):
    """Scores students, each one by itself: never by what else is in the batch."""

    def __call__(
        self, students: Sequence[Architecture], teacher: Teacher
    ) -> list[Score | Failure]:
        """One result a student, in their order; raises for none of them."""

    def score_teacher(self, teacher: Teacher) -> Score:
        """What its students' scores are compared with."""


class SizeEvaluator:
    """Scores by size alone: every student is taken to be as accurate as its teacher.

    It is exact, needs no trained teacher and costs nothing: for tests of environments
    and agents.
    """

    def __call__(
        self, students: Sequence[Architecture], teacher: Teacher
    ) -> list[Score | Failure]:
        return [Score(1.0, s.num_params, s.num_macs) for s in students]

    def score_teacher(self, teacher: Teacher) -> Score:
        whole = teacher.architecture
        return Score(1.0, whole.num_params, whole.num_macs)


# An agent may step its environment in inference mode; training must not notice.
@torch.inference_mode(False)
def distil(
    student: Architecture,
    teacher: Teacher,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
) -> Network:
    """A student trained from what it inherits, on the labels and the teacher's logits.

    With 0 epochs it is what it inherits, with batch-norm statistics of its own.

    Raises:
        Diverged: The loss became infinite or not a number.
    """
    split = teacher.task.split("train", device)
    with seeded(seed, device) as generator:
        network = teacher.inheritance(device).build(student)
        network = network.to(memory_format=torch.channels_last)
        if recipe.epochs:
            train(
                network,
                split,
                teacher.normalise,
                recipe,
                generator,
                logits=teacher.trained.logits.to(device),
            )
        chosen = torch.randperm(len(split), generator=generator)[:STATISTICS_IMAGES]
        recompute_statistics(network, split, teacher.normalise, positions=chosen)
    return network.eval()


class DistillationEvaluator:
    """Scores by distilling, with an in-process cache.

    A score depends on the student, the teacher, the task and this evaluator's resolved
    settings alone; the seed of the training derives from the same.
    """

    def __init__(
        self, recipe: Recipe = SHORT, *, device: str | torch.device | None = None
    ) -> None:
        self.recipe = recipe
        self.device = pick_device(device)
        self._known: dict[str, Score | Failure] = {}

    def key(self, student: Architecture, teacher: Teacher) -> str:
        """SHA-256 of all that the student's score depends on."""
        settings: dict[str, Any] = {
            "student": student.fingerprint,
            "teacher": teacher.fingerprint,
            "task": teacher.task.fingerprint,
            "recipe": asdict(self.recipe),
            "device": self.device.type,
            "threads": torch.get_num_threads() if self.device.type == "cpu" else None,
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    @torch.inference_mode(False)
    def __call__(
        self, students: Sequence[Architecture], teacher: Teacher
    ) -> list[Score | Failure]:
        return [self._score(student, teacher) for student in students]

    @torch.inference_mode(False)
    def score_teacher(self, teacher: Teacher) -> Score:
        return teacher.score

    def _score(self, student: Architecture, teacher: Teacher) -> Score | Failure:
        key = self.key(student, teacher)
        if key not in self._known:
            result = self._measure(student, teacher, int(key[:15], 16))
            if isinstance(result, Failure) and result.retryable:
                return result
            self._known[key] = result
        return self._known[key]

    def _measure(
        self, student: Architecture, teacher: Teacher, seed: int
    ) -> Score | Failure:
        try:
            network = distil(
                student, teacher, self.recipe, seed=seed, device=self.device
            )
            validation = teacher.task.split("validation", self.device)
            accuracy = compute_accuracy(network, validation, teacher.normalise)
        except Diverged as error:
            return Failure(f"the distillation diverged: {error}", retryable=False)
        except (MemoryError, RuntimeError) as error:
            # On a CPU, torch has no type of its own for this.
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            return Failure(f"out of memory: {error}", retryable=True)
        epochs = float(self.recipe.epochs)
        return Score(accuracy, student.num_params, student.num_macs, epochs)


EVALUATORS: Final[Mapping[str, Callable[..., Evaluator]]] = {
    "size": lambda device=None: SizeEvaluator(),
    "inherit": partial(DistillationEvaluator, Recipe(epochs=0)),
    "short": partial(DistillationEvaluator, SHORT),
    "full": partial(DistillationEvaluator, FULL),
}


def load_evaluator(
    evaluator: str | Evaluator, device: str | torch.device | None = None
) -> Evaluator:
    """An evaluator from its name, or from ``"module:attribute"``: called with a device.

    Raises:
        ValueError: There is no such evaluator or device.
    """
    if isinstance(evaluator, str):
        return lookup("evaluator", evaluator, EVALUATORS)(device=device)
    return evaluator
