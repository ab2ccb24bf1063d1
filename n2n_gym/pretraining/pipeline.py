"""From a suite to policies: samples, predictors, policies, corrections, cards.

The suite determines all results, and each finished step is stored in the folder. So a
pretraining that was stopped can be resumed and writes the same files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock, Timeout

from n2n_agents.kept import (
    load_policy,
    read_content,
    trained_path,
    write_trained,
)
from n2n_agents.policies import Policy
from n2n_gym.common.files import write_whole
from n2n_gym.common.progress import progress
from n2n_gym.envs.columns import RESOURCES
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.evaluators.loading import load_evaluator
from n2n_gym.pretraining import predictor
from n2n_gym.pretraining.card import make_card
from n2n_gym.pretraining.correction import (
    compare,
    first_number,
    how_good,
    score_fresh,
)
from n2n_gym.pretraining.encoding import Encoder
from n2n_gym.pretraining.judging import Judged, judge, summarise
from n2n_gym.pretraining.learning import (
    Arena,
    Source,
    Training,
    fresh_policy,
    learn,
)
from n2n_gym.pretraining.lines import add_lines, read_lines
from n2n_gym.pretraining.predictor import (
    Ensemble,
    EnsembleEvaluator,
    fit_member,
    load_member,
    save_member,
)
from n2n_gym.pretraining.samples import (
    Drawer,
    Sample,
    draw_samples,
    examples_of,
    read_samples,
    seed_of,
)
from n2n_gym.pretraining.stages import FITS
from n2n_gym.pretraining.suite import Subject, Suite, check_suite
from n2n_gym.teachers.teacher import Teacher

SUITE: Final = "suite.toml"  # files in the folder
SECONDS: Final = "seconds.jsonl"
SCORES: Final = "scores.jsonl"
POLICIES: Final = "policies"  # folder of finished policies, as the package ships them
RUNG: Final = "elastic"  # the evaluator that scores students


def pretrain(suite: Suite, folder: Path) -> list[Path]:
    """Train a policy for each of a suite's stages.

    Args:
        folder: Folder for all results; a stopped pretraining in it is resumed.

    Returns:
        The files of the policies, in the order of the stages.

    Raises:
        ValueError: The suite cannot be used, see ``check_suite``, or a file is damaged.
        FileExistsError: The folder has a pretraining with another suite.
        BlockingIOError: Another process is using the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"{folder} is in use by another process") from None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of a sum depends on the number of threads
    try:
        with lock:
            _check_same(suite, folder)
            teachers = check_suite(suite)
            write_whole(folder / SUITE, suite.text.encode())
            return _Pretraining(suite, folder, teachers).run()
    finally:
        torch.set_num_threads(threads)


def _check_same(suite: Suite, folder: Path) -> None:
    path = folder / SUITE
    if path.exists() and path.read_text() != suite.text:
        raise FileExistsError(
            f"{folder} holds a training of another suite: {path} differs from the "
            f"suite given; give another output folder"
        )


@dataclass
class _Pretraining:
    suite: Suite
    folder: Path
    teachers: Sequence[Teacher]  # the training teachers, then the test teachers

    @cached_property
    def evaluator(self) -> Evaluator:
        """The evaluator for real scores; it needs no store, as the folder has them."""
        return load_evaluator(RUNG, "cpu", store=False, precision="float32")

    @property
    def training(self) -> list[tuple[Subject, Teacher]]:
        return list(zip(self.suite.training, self.teachers, strict=False))

    @property
    def test(self) -> list[tuple[Subject, Teacher]]:
        count = len(self.suite.training)
        return list(zip(self.suite.test, self.teachers[count:], strict=True))

    def run(self) -> list[Path]:
        with self._spends("students"):
            self._draw()
        sources = self._sources(0)
        for correction in range(1, self.suite.corrections + 1):
            self._learn(correction - 1, sources)
            with self._spends(f"correction {correction}"):
                self._correct(correction, sources)
            sources = self._sources(correction)
        self._learn(self.suite.corrections, sources)
        return [self._finish(stage, sources) for stage in self.suite.stages]

    # Students.

    def _samples(self, subject: Subject) -> Path:
        return self.folder / "students" / f"{subject.key}.jsonl"

    def _draw(self) -> None:
        total = len(self.suite.training) * self.suite.students
        with progress(total, "Scoring students", is_long=True) as bar:
            for subject, teacher in self.training:
                bar.set_postfix_str(subject.key)
                drawer = Drawer(self.suite, subject, teacher)
                path = self._samples(subject)
                draw_samples(path, drawer, self.evaluator, bar.update)

    # Predictors.

    def _sources(self, correction: int) -> list[Source]:
        """The training teachers, with the predictors fitted after a correction.

        Args:
            correction: Number of the correction; 0 for the predictors before the first
                one.
        """
        # A resumed training may already have the students of later corrections.
        last = first_number(correction + 1, 0)
        samples = {
            subject: [
                each
                for each in read_samples(self._samples(subject))
                if each.number < last
            ]
            for subject in self.suite.training
        }
        encoders = {s: Encoder(t.architecture) for s, t in self.training}
        with self._spends(f"predictors {correction}"):
            ensemble = self._ensemble(correction, samples, encoders)
            path = self.folder / "predictors" / f"{correction}.json"
            if not path.exists():
                found = how_good(ensemble, samples, encoders)
                write_whole(path, json.dumps(found, indent=1).encode())
        return [
            Source(
                subject,
                teacher,
                EnsembleEvaluator(
                    ensemble, encoders[subject], samples[subject][0].teacher_accuracy
                ),
            )
            for subject, teacher in self.training
        ]

    def _ensemble(
        self,
        correction: int,
        samples: Mapping[Subject, Sequence[Sample]],
        encoders: Mapping[Subject, Encoder],
    ) -> Ensemble:
        place = self.folder / "predictors"
        place.mkdir(exist_ok=True)
        paths = [
            place / f"{correction}-{m}.safetensors" for m in range(predictor.MEMBERS)
        ]
        missing = [path for path in paths if not path.exists()]
        if missing:
            learned = [
                examples_of([x for x in some if not x.is_held_out], encoders[subject])
                for subject, some in samples.items()
            ]
            learned = [each for each in learned if len(each)]
            epochs = predictor.EPOCHS
            total = epochs * len(missing)
            with progress(total, "Fitting predictors", is_long=True) as bar:
                for path in missing:
                    seed = seed_of("predictor", path.stem)
                    member = fit_member(
                        learned, seed, epochs=epochs, on_epoch=bar.update
                    )
                    save_member(member, path)
        return Ensemble([load_member(path) for path in paths])

    # Policies.

    def _checkpoint(self, stage: str, seed: int, correction: int) -> Path:
        return self.folder / f"{stage}-{seed}-{correction}.policy.pt"

    def _policy(
        self, arena: Arena, sources: Sequence[Source], seed: int, correction: int
    ) -> Policy:
        """The policy that a training starts from; a fresh one before any correction."""
        if correction == 0:
            return fresh_policy(arena, sources[0], seed)
        return load_policy(self._checkpoint(arena.stage, seed, correction - 1))

    def _learn(self, correction: int, sources: Sequence[Source]) -> None:
        for stage in self.suite.stages:
            arena = Arena(self.suite, stage, self.suite.rollouts)
            for seed in self.suite.seeds:
                self._train(arena, sources, seed, correction)

    def _train(
        self, arena: Arena, sources: Sequence[Source], seed: int, correction: int
    ) -> Training:
        stage, path = arena.stage, self._checkpoint(arena.stage, seed, correction)
        title = f"Training to {stage}, seed {seed}, {correction}"
        updates = self.suite.updates[stage]
        bar = progress(updates, title, is_long=True)

        def show(reward: float) -> None:
            bar.update()
            bar.set_postfix_str(f"predicted reward {reward:.4f}")

        with bar, self._spends(title):
            return learn(
                arena,
                sources,
                self._policy(arena, sources, seed, correction),
                seed_of("policy", stage, seed, correction),
                path,
                {
                    "suite": self.suite.fingerprint,
                    "stage": stage,
                    "seed": seed,
                    "correction": correction,
                    "updates": updates,
                },
                updates=updates,
                on_update=show,
            )

    def _correct(self, correction: int, sources: Sequence[Source]) -> None:
        suite = self.suite
        pairs = [(stage, seed) for stage in suite.stages for seed in suite.seeds]
        said: dict[str, Any] = {}
        total = len(pairs) * len(sources) * suite.fresh
        with progress(total, f"Correction {correction}", is_long=True) as bar:
            for place, (stage, seed) in enumerate(pairs):
                arena = Arena(suite, stage, 1)
                policy = load_policy(self._checkpoint(stage, seed, correction - 1))
                found: list[Sample] = []
                for source in sources:
                    found += score_fresh(
                        self._samples(source.subject),
                        arena,
                        source,
                        policy,
                        first_number(correction, place),
                        self.evaluator,
                        bar.update,
                    )
                said[f"{stage} {seed}"] = compare(found)
        path = self._correction(correction)
        write_whole(path, json.dumps(said, indent=1).encode())

    def _correction(self, correction: int) -> Path:
        return self.folder / f"correction-{correction}.json"

    # The end.

    def _finish(self, stage: str, sources: Sequence[Source]) -> Path:
        """Judge a stage's policies; write the best of them, with its card."""
        suite, last = self.suite, self.suite.corrections
        least, most = suite.targets
        targets = [t for t in suite.test_targets if least <= t <= most] or [most]
        by_seed: dict[int, list[Judged]] = {}
        policies: dict[int, dict[str, Policy]] = {}
        arena = Arena(suite, stage, 1)
        with self._spends(f"judging {stage}"):
            for seed in suite.seeds:
                trained = load_policy(self._checkpoint(stage, seed, last))
                fresh = fresh_policy(arena, sources[0], seed)
                policies[seed] = {"trained": trained, "fresh": fresh}
                by_seed[seed] = self._judge(
                    stage, seed, policies[seed], self.training, targets
                )
            best = max(suite.seeds, key=lambda seed: _worth(by_seed[seed]))
            test = self._judge(
                stage, best, policies[best], self.test, suite.test_targets
            )
        path = trained_path(self.folder / POLICIES, stage)
        path.parent.mkdir(exist_ok=True)
        card = make_card(
            suite,
            stage,
            best,
            steps=sum(self._steps(stage, best)),
            hours=sum(self._seconds()) / 3600,
            predictors=_read(self.folder / "predictors" / f"{last}.json"),
            corrections=[
                _read(self._correction(k))[f"{stage} {best}"]
                for k in range(1, last + 1)
            ],
            training=by_seed[best],
            test=test,
        )
        policy = policies[best]["trained"]
        aims = [RESOURCES[name] for name in suite.resources]
        write_trained(path, policy, stage, fits=stage in FITS, aims=aims, card=card)
        return path

    def _judge(
        self,
        stage: str,
        seed: int,
        policies: dict[str, Policy],
        subjects: Sequence[tuple[Subject, Teacher]],
        targets: Sequence[float],
    ) -> list[Judged]:
        total = len(subjects) * len(targets) * len(policies)
        with progress(total, f"Judging {stage}", is_long=True) as bar:
            return judge(
                self.folder / SCORES,
                self.suite,
                stage,
                seed,
                policies,
                subjects,
                targets,
                self.evaluator,
                bar.update,
            )

    def _steps(self, stage: str, seed: int) -> Iterator[int]:
        for correction in range(self.suite.corrections + 1):
            content = read_content(self._checkpoint(stage, seed, correction))
            yield int(content["steps"])

    # The CPU time.

    @contextmanager
    def _spends(self, what: str) -> Iterator[None]:
        """Context whose CPU time is added to the file of CPU times."""
        began = time.process_time()
        try:
            yield
        finally:
            spent = time.process_time() - began
            line = {"what": what, "seconds": spent}
            add_lines(self.folder / SECONDS, [line])

    def _seconds(self) -> list[float]:
        lines = read_lines(self.folder / SECONDS)
        return [float(line["seconds"]) for line in lines]


def _worth(judged: Sequence[Judged]) -> float:
    return summarise(judged)["trained"]["best"]


def _read(path: Path) -> Any:
    return json.loads(path.read_text())
