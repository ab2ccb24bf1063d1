"""The evaluator that distils: it knows what it has measured, and measures the rest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError

from n2n_gym.common.files import kept_if_possible
from n2n_gym.evaluators.distillation import (
    Settings,
    distil,
    measure,
    nominal_cost,
    prepare,
)
from n2n_gym.evaluators.elastic import elastic_cost, elastic_teacher
from n2n_gym.evaluators.rungs import SHORT, Rung
from n2n_gym.evaluators.runner import InProcess, Runner, Trial
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import Network
from n2n_gym.pytorch.determinism import alone, seeded
from n2n_gym.pytorch.devices import pick_device
from n2n_gym.pytorch.recipe import Precision
from n2n_gym.pytorch.saving import load_network, save_weights
from n2n_gym.rewards import Failure, Score
from n2n_gym.scores import UNKNOWN, Key, ScoreStore, canonical
from n2n_gym.teachers.precision import pick_precision, training_step
from n2n_gym.teachers.teacher import Teacher

logger = logging.getLogger(__name__)

# Goes up whenever the same settings would give other scores than before.
VERSION: Final = 3
SPLIT: Final = "validation"


class DistillationEvaluator:
    """Scores students by distilling them, each of them once.

    A score depends on the student, the teacher, the task and this evaluator's resolved
    settings alone; the seed of the training derives from all but the first. So it is
    kept, in memory and in the store, and is the same for any number of workers.

    Args:
        rung: How much is spent on a student.
        precision: Of the networks' arithmetic: by default bfloat16 where a step of the
            teacher is faster with it on this device (measured once, remembered).
        threads: That a student is trained with on a CPU.
        runner: Where students are measured: here by default.
        store: Where scores are kept beyond this process, if anywhere.
        weights: A folder where the weights of what is measured are kept, if anywhere.
        repeat: Which of several seeds, for scores of the same students that are to
            differ by chance alone.
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
        self.on_result: Callable[[], object] = lambda: None  # for a progress bar
        self._known: dict[str, Score | Failure] = {}
        self._settings: dict[str, Settings] = {}  # by the teacher's identity
        self._elastic: dict[str, Teacher] = {}  # likewise

    @torch.inference_mode(False)
    def settings(self, teacher: Teacher) -> Settings:
        """What this teacher's students are scored with."""
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
        """All that the student's score depends on."""
        settings = self.settings(teacher)
        rung: dict[str, Any] = asdict(settings.rung)
        resolved = {
            **rung,
            "device": settings.device.type,
            "precision": settings.precision,
            "threads": settings.threads,
            "batch_size": settings.batch_size,
        }
        if settings.rung.is_augmented or settings.rung.views > 1:
            resolved["augmentation"] = asdict(teacher.task.augmentation)
        if teacher.task.unlabelled:
            resolved["unlabelled"] = list(teacher.task.unlabelled)
        if not student.is_normalised:
            resolved["is_plain"] = True  # those are distilled in another way
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
        """What a score costs, in nominal student-epochs; ``info["cost"]``."""
        return nominal_cost(student, teacher, self.rung)

    def cost_once(self, teacher: Teacher) -> float:
        """What all scores of a teacher's students cost once, likewise."""
        cost = 0.0
        if self.rung.start == "elastic":
            cost += elastic_cost(len(teacher.task.splits["train"]))
        if self.rung.views > 1 and not teacher.task.augmentation.is_none:
            cost += (self.rung.views - 1) / 3  # they pass forward, a third of the work
        return cost

    @torch.inference_mode(False)
    def again(
        self, student: Architecture, teacher: Teacher, seed: int
    ) -> Score | Failure:
        """A score from another seed than that of all scores; it is not kept."""
        start, settings = self._start(teacher), self.settings(teacher)
        return self._complete(measure(student, start, settings, seed=seed), teacher)

    @torch.inference_mode(False)
    def network(self, student: Architecture, teacher: Teacher) -> Network:
        """The student as it was when it was scored.

        Distilled again, here, where its weights were not kept.
        """
        key = self.key(student, teacher)
        settings, path = self.settings(teacher), self._kept(key)
        if path is not None and path.exists():
            try:
                network = load_network(student, path).to(settings.device)
                return network.to(memory_format=torch.channels_last)
            except (OSError, SafetensorError, RuntimeError) as error:
                logger.warning("%s is damaged (%s) and is made anew", path, error)
        network = distil(student, self._start(teacher), settings, seed=_seed(key))
        if path is not None:
            with kept_if_possible(path):
                save_weights(network, path)
        return network

    def close(self) -> None:
        """End the workers and close the store; a later use takes them again."""
        self.runner.close()
        if self.store is not None:
            self.store.close()

    def _complete(self, result: Score | Failure, teacher: Teacher) -> Score | Failure:
        """With what this rung costs once, whoever found the score."""
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
            key, result = missing[done.number][0], done.result
            self.on_result()
            found[key.digest] = result
            if isinstance(result, Failure) and result.retryable:
                continue
            self._known[key.digest] = result
            if self.store is not None:  # at once: a kill loses what is under way alone
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
        """Where the weights of a student of this key are kept."""
        return self.weights and self.weights / f"{key.digest[:32]}.safetensors"

    def _start(self, teacher: Teacher) -> Teacher:
        """Whose weights the students are cut from."""
        if self.rung.start != "elastic":
            return teacher
        if teacher.identity not in self._elastic:
            settings = self.settings(teacher)
            self._elastic[teacher.identity] = elastic_teacher(teacher, settings)
        return self._elastic[teacher.identity]

    def __deepcopy__(self, memo: dict[int, Any]) -> DistillationEvaluator:
        return self


def _seed(key: Key) -> int:
    """Of the training: the same for all students that are compared with each other.

    They learn from the same images in the same order, and so differ in less.
    """
    return int(replace(key, fingerprint="").digest[:15], 16)


def faster_precision(
    teacher: Teacher, device: torch.device, size: int, threads: int
) -> Precision:
    """The one that a training step of the teacher is faster in."""
    network = teacher.network(device).train().to(memory_format=torch.channels_last)
    images, labels, _ = next(iter(teacher.task.split("train", device).batches(size)))
    step = training_step(network, teacher.normalise(images), labels)
    of = f"students of {teacher.architecture.fingerprint} {size}"
    with alone(threads), seeded(0, device):  # dropout draws numbers
        return pick_precision(of, device, step)
