"""From a suite to policies: samples, predictors, policies, corrections, cards.

The suite determines all results, and each finished step is stored in the folder. So a
pretraining that was stopped can be resumed and writes the same files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from n2n_gym.pretraining.card import make_card
from n2n_gym.pretraining.correction import (
    compare,
    first_number,
    fit_ensemble,
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
from n2n_gym.pretraining.predictor import EnsembleEvaluator
from n2n_gym.pretraining.samples import (
    Drawer,
    draw_samples,
    read_samples,
    seed_of,
)
from n2n_gym.pretraining.spent import Spent
from n2n_gym.pretraining.stages import FITS
from n2n_gym.pretraining.suite import Subject, Suite, check_suite
from n2n_gym.teachers.teacher import Teacher

SUITE: Final = "suite.toml"  # files in the folder
SECONDS: Final = "seconds.jsonl"
SCORES: Final = "scores.jsonl"
POLICIES: Final = "policies"  # folder of the best policies, as the package ships them
SEEDS: Final = "seeds"  # folder of all policies: a folder like that for each seed
RUNG: Final = "elastic"  # the evaluator that scores students


def pretrain(suite: Suite, folder: Path) -> list[Path]:
    """Train a policy for each of a suite's stages.

    Args:
        folder: Folder for all results; a stopped pretraining in it is resumed.

    Returns:
        The files of the best policies, in the order of the stages.

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
    def spent(self) -> Spent:
        return Spent(self.folder / SECONDS)

    @property
    def training(self) -> list[tuple[Subject, Teacher]]:
        return list(zip(self.suite.training, self.teachers, strict=False))

    @property
    def test(self) -> list[tuple[Subject, Teacher]]:
        count = len(self.suite.training)
        return list(zip(self.suite.test, self.teachers[count:], strict=True))

    def run(self) -> list[Path]:
        with self.spent.on("students") as tick:
            self._draw(tick)
        sources = self._sources(0)
        for correction in range(1, self.suite.corrections + 1):
            self._learn(correction - 1, sources)
            with self.spent.on(f"correction {correction}") as tick:
                self._correct(correction, sources, tick)
            sources = self._sources(correction)
        self._learn(self.suite.corrections, sources)
        return [self._finish(stage, sources) for stage in self.suite.stages]

    # Students.

    def _samples(self, subject: Subject) -> Path:
        return self.folder / "students" / f"{subject.key}.jsonl"

    def _draw(self, tick: Callable[[], None]) -> None:
        total = len(self.suite.training) * self.suite.students
        with progress(total, "Scoring students", is_long=True) as bar:
            for subject, teacher in self.training:
                bar.set_postfix_str(subject.key)
                drawer = Drawer(self.suite, subject, teacher)
                path = self._samples(subject)
                draw_samples(path, drawer, self.evaluator, _all(bar.update, tick))

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
        with self.spent.on(f"predictors {correction}") as tick:
            path = self.folder / "predictors" / f"{correction}.json"
            path.parent.mkdir(exist_ok=True)
            ensemble = fit_ensemble(path.with_suffix(""), samples, encoders, tick)
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
            for seed in self.suite.seeds[stage]:
                self._train(arena, sources, seed, correction)

    def _train(
        self, arena: Arena, sources: Sequence[Source], seed: int, correction: int
    ) -> Training:
        stage, path = arena.stage, self._checkpoint(arena.stage, seed, correction)
        title = f"Training to {stage}, seed {seed}, {correction}"
        updates = self.suite.updates[stage]
        bar = progress(updates, title, is_long=True)

        def show(reward: float, entropy: float) -> None:
            bar.update()
            bar.set_postfix_str(f"predicted reward {reward:.4f}, entropy {entropy:.3f}")
            tick()

        with bar, self.spent.on(title) as tick:
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

    def _correct(
        self, correction: int, sources: Sequence[Source], tick: Callable[[], None]
    ) -> None:
        suite = self.suite
        pairs = [(stage, seed) for stage in suite.stages for seed in suite.seeds[stage]]
        said: dict[str, Any] = {}
        total = len(pairs) * len(sources) * suite.fresh
        with progress(total, f"Correction {correction}", is_long=True) as bar:
            for place, (stage, seed) in enumerate(pairs):
                arena = Arena(suite, stage, 1)
                policy = load_policy(self._checkpoint(stage, seed, correction - 1))
                found = [
                    score_fresh(
                        self._samples(source.subject),
                        arena,
                        source,
                        policy,
                        first_number(correction, place),
                        self.evaluator,
                        _all(bar.update, tick),
                    )
                    for source in sources
                ]
                said[f"{stage} {seed}"] = compare(found)
        path = self._correction(correction)
        write_whole(path, json.dumps(said, indent=1).encode())

    def _correction(self, correction: int) -> Path:
        return self.folder / f"correction-{correction}.json"

    # The end.

    def _finish(self, stage: str, sources: Sequence[Source]) -> Path:
        """Judge a stage's policies; write all of them, and the best one again."""
        suite, last = self.suite, self.suite.corrections
        least, most = suite.targets
        targets = [t for t in suite.test_targets if least <= t <= most] or [most]
        seeds = suite.seeds[stage]
        trained = {s: load_policy(self._checkpoint(stage, s, last)) for s in seeds}
        others: dict[str, Policy | None]
        others = {"fresh": fresh_policy(Arena(suite, stage, 1), sources[0], seeds[0])}
        if stage in FITS:
            others["uniform"] = None
        with self.spent.on(f"judging {stage}") as tick:

            def judge_both(
                seed: int, policies: Mapping[str, Policy | None]
            ) -> tuple[list[Judged], list[Judged]]:
                """The results on the training teachers, and on the test teachers."""
                given = stage, seed, policies
                return (
                    self._judge(*given, self.training, targets, tick),
                    self._judge(*given, self.test, suite.test_targets, tick),
                )

            basis = judge_both(seeds[0], others)
            judged = {s: judge_both(s, {"trained": trained[s]}) for s in seeds}

        def write(seed: int, folder: Path) -> Path:
            training, test = map(list.__add__, judged[seed], basis)
            return self._write(folder, stage, seed, trained[seed], training, test)

        for seed in seeds:
            write(seed, self.folder / SEEDS / str(seed))
        best = max(seeds, key=lambda seed: _worth(judged[seed][0]))
        return write(best, self.folder / POLICIES)

    def _write(
        self,
        folder: Path,
        stage: str,
        seed: int,
        policy: Policy,
        training: Sequence[Judged],
        test: Sequence[Judged],
    ) -> Path:
        """Write a finished policy and its card; return the policy's file."""
        suite, last = self.suite, self.suite.corrections
        card = make_card(
            suite,
            stage,
            seed,
            steps=sum(self._steps(stage, seed)),
            hours=self.spent.hours,
            entropy=self._entropy(stage, seed),
            predictors=_read(self.folder / "predictors" / f"{last}.json"),
            corrections=[
                _read(self._correction(k))[f"{stage} {seed}"]
                for k in range(1, last + 1)
            ],
            training=training,
            test=test,
        )
        path = trained_path(folder, stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        aims = [RESOURCES[name] for name in suite.resources]
        write_trained(path, policy, stage, fits=stage in FITS, aims=aims, card=card)
        return path

    def _judge(
        self,
        stage: str,
        seed: int,
        policies: Mapping[str, Policy | None],
        subjects: Sequence[tuple[Subject, Teacher]],
        targets: Sequence[float],
        tick: Callable[[], None],
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
                _all(bar.update, tick),
            )

    def _steps(self, stage: str, seed: int) -> Iterator[int]:
        for correction in range(self.suite.corrections + 1):
            content = read_content(self._checkpoint(stage, seed, correction))
            yield int(content["steps"])

    def _entropy(self, stage: str, seed: int) -> float:
        """Mean entropy of a decision in the last update, in nats."""
        path = self._checkpoint(stage, seed, self.suite.corrections)
        return float(read_content(path)["entropies"][-1])


def _all(*functions: Callable[[], object]) -> Callable[[], None]:
    """A function that calls these functions."""

    def call() -> None:
        for function in functions:
            function()

    return call


def _worth(judged: Sequence[Judged]) -> float:
    return summarise(judged)["trained"]["best"]


def _read(path: Path) -> Any:
    return json.loads(path.read_text())
