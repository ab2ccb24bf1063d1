"""The distilling evaluator: it looks scores up, and measures students without score."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError

from n2n_gym.evaluators.distillation import (
    Settings,
    checkpoint_of,
    distil_and_keep,
    measure,
    nominal_cost,
    prepare,
)
from n2n_gym.evaluators.elastic import elastic_cost, elastic_teacher
from n2n_gym.evaluators.rungs import SHORT, Rung
from n2n_gym.evaluators.runner import InProcess, Result, Runner, Trial
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import Network
from n2n_gym.pytorch.determinism import isolated, seeded
from n2n_gym.pytorch.devices import pick_device
from n2n_gym.pytorch.recipe import Precision
from n2n_gym.pytorch.saving import load_network
from n2n_gym.rewards import Failure, Score
from n2n_gym.scores import UNKNOWN, Key, ScoreStore, canonical
from n2n_gym.teachers.precision import pick_precision, training_step
from n2n_gym.teachers.teacher import Teacher

logger = logging.getLogger(__name__)

# Raised whenever the same settings give other scores than before.
VERSION: Final = 3
SPLIT: Final = "validation"


class DistillationEvaluator:
    """Scores students by distilling them; each student is distilled once.

    A score depends only on the student, the teacher, the task and this evaluator's
    resolved settings. The training seed is derived from the teacher, the task and the
    settings. So a score is the same for any number of workers. The evaluator keeps
    scores in memory and, with a ``store``, beyond this process.

    Args:
        rung: Rung of the ladder: how a student is trained and scored.
        precision: Precision of the networks' arithmetic. By default the rung's
            precision. For rungs without one, bfloat16 if a training step of the teacher
            is faster with it on this device, which is measured once and remembered.
        threads: Number of threads used to train one student on a CPU.
        runner: Runner that measures students; by default in this process.
        store: Store for the scores, which later processes can read; None for no store.
        weights: Folder for the weights of measured students; None saves no weights.
        repeat: Number that the training seed depends on. Different numbers give
            independent scores of the same students.
    """

    def __init__(
        self,
        rung: Rung = SHORT,
        *,
        device: str | torch.device | None = None,
        precision: Precision | None = None,
        threads: int = 1,
        runner: Runner | None = None,
        store: ScoreStore | None = None,
        weights: Path | None = None,
        repeat: int = 0,
    ) -> None:
        self.rung = rung
        self.repeat = repeat
        self.device = pick_device(device)
        self.precision = precision
        self.threads = threads
        self.runner = runner or InProcess()
        self.store = store
        self.weights = weights
        # Callback for each student that is measured, with the runner's result.
        self.on_result: Callable[[Architecture, Result], object] = lambda *_: None
        self._known: dict[str, Score | Failure] = {}
        self._settings: dict[str, Settings] = {}  # by the teacher's identity
        self._elastic: dict[str, Teacher] = {}  # by the original teacher's identity

    @torch.inference_mode(False)
    def settings(self, teacher: Teacher) -> Settings:
        """The resolved settings for this teacher's students."""
        if teacher.identity not in self._settings:
            recipe = self.rung.recipe
            precision = self.precision or self.rung.precision
            if precision is None:
                size = recipe.batch_size if recipe else 64
                precision = faster_precision(teacher, self.device, size, self.threads)
            threads = self.threads if self.device.type == "cpu" else None
            self._settings[teacher.identity] = Settings(
                self.rung, self.device, precision, threads
            )
        return self._settings[teacher.identity]

    @torch.inference_mode(False)
    def key(self, student: Architecture, teacher: Teacher) -> Key:
        """Everything that the student's score depends on."""
        settings = self.settings(teacher)
        resolved = {
            **settings.rung.as_written(),
            "device": settings.device.type,
            "precision": settings.precision,
            "threads": settings.threads,
            "batch_size": settings.batch_size,
        }
        if settings.rung.is_augmented or settings.rung.num_variants > 1:
            resolved["augmentation"] = asdict(teacher.task.augmentation)
        if teacher.task.unlabelled:
            resolved["unlabelled"] = list(teacher.task.unlabelled)
        if not student.is_normalised:
            resolved["is_plain"] = True  # these are distilled differently
        if self.repeat:
            resolved["repeat"] = self.repeat
        if self.rung.start == "elastic":
            resolved["elastic"] = self._start(teacher).fingerprint
        return Key(
            fingerprint=student.fingerprint,
            teacher=teacher.fingerprint,
            task=teacher.task.fingerprint,
            split=SPLIT,
            rung=self.rung.name,
            settings=canonical(resolved),
            version=VERSION,
        )

    @torch.inference_mode(False)
    def __call__(
        self, students: Sequence[Architecture], teacher: Teacher
    ) -> list[Score | Failure]:
        keys = [self.key(student, teacher) for student in students]
        wanted = {key.digest: (key, s) for key, s in zip(keys, students, strict=True)}
        found = self._look_up(key for key, _ in wanted.values())
        missing = [pair for digest, pair in wanted.items() if digest not in found]
        if missing:
            found |= self._measure(missing, teacher)
        return [self._complete(found[key.digest], teacher) for key in keys]

    @torch.inference_mode(False)
    def score_teacher(self, teacher: Teacher) -> Score:
        return teacher.score

    def cost(self, student: Architecture, teacher: Teacher) -> float:
        """Cost of scoring a student, in nominal student-epochs (``info["cost"]``)."""
        return nominal_cost(student, teacher, self.rung)

    def cost_once(self, teacher: Teacher) -> float:
        """Cost paid once for all students of a teacher, in nominal student-epochs."""
        cost = 0.0
        if self.rung.start == "elastic":
            cost += elastic_cost(len(teacher.task.splits["train"]))
        if self.rung.num_variants > 1 and not teacher.task.augmentation.is_none:
            cost += (
                self.rung.num_variants - 1
            ) / 3  # a forward pass is a third of a training pass
        return cost

    @torch.inference_mode(False)
    def again(
        self, student: Architecture, teacher: Teacher, seed: int
    ) -> Score | Failure:
        """Measure a student with another training seed; the result is not stored."""
        start, settings = self._start(teacher), self.settings(teacher)
        return self._complete(measure(student, start, settings, seed=seed), teacher)

    @torch.inference_mode(False)
    def network(self, student: Architecture, teacher: Teacher) -> Network:
        """The trained network of a student.

        If the student's weights were not saved, the student is distilled again in this
        process.
        """
        key = self.key(student, teacher)
        settings, path = self.settings(teacher), self._kept(key)
        if path is not None and path.exists():
            try:
                network = load_network(student, path).to(settings.device)
                return network.to(memory_format=torch.channels_last)
            except (OSError, SafetensorError, RuntimeError) as error:
                logger.warning("%s is damaged (%s) and is made anew", path, error)
        start, seed = self._start(teacher), _seed(key)
        return distil_and_keep(student, start, settings, seed=seed, keep=path)

    def is_begun(self, student: Architecture, teacher: Teacher) -> bool:
        """Whether a killed process has trained the student in part.

        This needs a folder for weights, where the checkpoints are too.
        """
        path = self._kept(self.key(student, teacher))
        return path is not None and checkpoint_of(path).exists()

    @torch.inference_mode(False)
    def prepare(self, teacher: Teacher) -> None:
        """Compute now what all of a teacher's students learn from."""
        prepare(self._start(teacher), self.settings(teacher))

    def close(self) -> None:
        """End the workers and close the store; the next use opens both again."""
        self.runner.close()
        if self.store is not None:
            self.store.close()

    def _complete(self, result: Score | Failure, teacher: Teacher) -> Score | Failure:
        """The result, with the cost that is paid once for a teacher's students."""
        if isinstance(result, Failure):
            return result
        return result._replace(cost_once=self.cost_once(teacher))

    def _look_up(self, keys: Iterable[Key]) -> dict[str, Score | Failure]:
        found: dict[str, Score | Failure] = {}
        unknown = []
        for key in keys:
            if key.digest in self._known:
                found[key.digest] = self._known[key.digest]
            else:
                unknown.append(key)
        if unknown and self.store is not None:
            stored = self.store.get(unknown)
            self._known |= stored
            found |= stored
        return found

    def _measure(
        self, missing: Sequence[tuple[Key, Architecture]], teacher: Teacher
    ) -> Mapping[str, Score | Failure]:
        found: dict[str, Score | Failure] = {}
        trials = [
            Trial(student, _seed(key), self._kept(key)) for key, student in missing
        ]
        settings, start = self.settings(teacher), self._start(teacher)
        prepare(start, settings)  # before it is sent to workers
        for done in self.runner.run(trials, start, settings):
            (key, student), result = missing[done.number], done.result
            self.on_result(student, done)
            found[key.digest] = result
            if isinstance(result, Failure) and result.retryable:
                continue
            self._known[key.digest] = result
            if self.store is not None:  # at once: a kill loses only unfinished students
                self.store.put(
                    key,
                    result,
                    teacher_name=teacher.name,
                    task_name=teacher.task.name,
                    seconds=done.seconds,
                    provenance=done.provenance or UNKNOWN,
                )
        return found

    def _kept(self, key: Key) -> Path | None:
        """The file for the weights of a student; None without a folder for weights."""
        return self.weights and self.weights / f"{key.digest[:32]}.safetensors"

    def _start(self, teacher: Teacher) -> Teacher:
        """The teacher that students inherit from; elastic if the rung requires it."""
        if self.rung.start != "elastic":
            return teacher
        if teacher.identity not in self._elastic:
            settings = self.settings(teacher)
            self._elastic[teacher.identity] = elastic_teacher(teacher, settings)
        return self._elastic[teacher.identity]

    def __deepcopy__(self, memo: dict[int, Any]) -> DistillationEvaluator:
        return self


def _seed(key: Key) -> int:
    """Seed of the training: the same for all students of one teacher and evaluator.

    All these students learn from the same images in the same order, which makes their
    scores less noisy to compare.
    """
    return int(replace(key, fingerprint="").digest[:15], 16)


def faster_precision(
    teacher: Teacher, device: torch.device, size: int, threads: int
) -> Precision:
    """The precision in which a training step of the teacher is faster.

    Args:
        size: Number of images in the step.
        threads: Number of threads on a CPU.
    """
    network = teacher.network(device).train().to(memory_format=torch.channels_last)
    images, labels, _ = next(iter(teacher.task.split("train", device).batches(size)))
    step = training_step(network, teacher.normalise(images), labels)
    of = f"students of {teacher.architecture.fingerprint} {size}"
    with isolated(threads), seeded(0, device):  # dropout draws numbers
        return pick_precision(of, device, step)
