"""The whole path: from a teacher to a small student on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from n2n_agents import reinforce
from n2n_agents.logs import check_formats, log_updates
from n2n_agents.search import random_search
from n2n_gym.common.files import write_whole
from n2n_gym.compression.assessment import Comparison, compare_networks
from n2n_gym.compression.controls import magnitude_student
from n2n_gym.compression.finalists import ROUNDS, Finalists
from n2n_gym.compression.stages import ROLLOUTS, Report, Search
from n2n_gym.compression.student_files import Finished, metadata_of, write_student
from n2n_gym.envs import CompressionVectorEnv
from n2n_gym.envs.render import draw_student
from n2n_gym.evaluators.loading import default_runner, load_evaluator
from n2n_gym.evaluators.workers import Workers
from n2n_gym.limits.constraints import ACCURACY
from n2n_gym.limits.feasibility import refuse_if_out_of_reach
from n2n_gym.limits.fitting import widest_uniform
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import GRANULARITIES, kept_names, removals
from n2n_gym.networks.scaling import uniform_student
from n2n_gym.pytorch.devices import pick_device
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.report import write_report
from n2n_gym.resources import load_meter
from n2n_gym.rewards import Score
from n2n_gym.runs.folder import (
    ONNX,
    OPTIONS,
    POLICY,
    SUMMARY,
    Options,
    check_machine,
    fresh_folder,
    is_finished,
    open_run,
)
from n2n_gym.runs.history import Remembering
from n2n_gym.runs.identity import IDENTITY, check_unchanged, keep_identity
from n2n_gym.teachers.teacher import Teacher

STAGES: Final = ("remove", "shrink")


@dataclass
class Summary:
    """What a run found: the teacher, the student, and what to compare it with."""

    teacher: Score
    teacher_test_accuracy: float
    normalise: Normalisation  # what goes before the networks
    student: Finished
    uniform: Finished | None
    magnitude: Finished | None
    random: Finished | None
    num_scored: int
    onnx_difference: float
    limits: list[dict[str, Any]]  # what each allows, and what the networks take
    test: Comparison  # of teacher and student
    seconds: float  # since this process took up the run
    unlabelled: dict[str, int]  # images without labels, by split

    def to_dict(self) -> dict[str, Any]:
        """As ``summary.json`` has it."""

        def row(score: Score, test_accuracy: float) -> dict[str, Any]:
            return {**score.to_dict(), "test_accuracy": test_accuracy}

        rows = {"teacher": row(self.teacher, self.teacher_test_accuracy)}
        for name in ("student", "uniform", "magnitude", "random"):
            finished: Finished | None = getattr(self, name)
            if finished is not None:
                rows[name] = row(finished.score, finished.test_accuracy)
        return {
            **rows,
            "normalisation": asdict(self.normalise),
            "num_scored": self.num_scored,
            "onnx_difference": self.onnx_difference,
            "limits": self.limits,
            "test": self.test.to_dict(),
            "seconds": self.seconds,
            "unlabelled": self.unlabelled,
        }


def compress(options: Options) -> Summary:
    """Find a small student of a teacher and write it to the output folder.

    Raises:
        ValueError: An option is not what is accepted, every finalist diverged, or the
            run began with another teacher or other images.
        FileExistsError: The output folder holds another run.
    """
    started = time.perf_counter()
    _check_learning(options)
    device = pick_device(options.device)
    store = options.open_store()
    most, _ = ROUNDS[0]
    runner = Workers(options.workers) if options.workers else default_runner(most)
    evaluator = (
        load_evaluator(options.evaluator, device, precision=options.precision)
        if ":" in options.evaluator
        else load_evaluator(
            options.evaluator,
            device,
            workers=runner,
            store=store,
            precision=options.precision,
        )
    )
    constraints = options.constraints()
    load_meter(constraints.keys() - {ACCURACY})  # what is unknown is said now
    teacher = options.load_teacher(device)
    kept = kept_names(teacher.architecture, options.keep)
    requirements = Requirements.read(
        teacher.architecture, constraints, metadata_of(teacher), kept
    )
    if not removals(teacher.architecture, options.granularity, keep=kept):
        raise ValueError(
            f"there is nothing to remove from {teacher.name} at the granularity "
            f"{options.granularity!r}; {_numbers_of_removals(teacher, kept)}"
        )
    if not (options.output / OPTIONS).exists():  # a folder for what can be done alone
        refuse_if_out_of_reach(requirements, options.granularity)
    with closing(runner), open_run(options) as run:
        if is_finished(run.folder):
            raise FileExistsError(f"{run.folder} holds a finished run")
        if requirements.is_of_machine:
            check_machine(run.folder)
        if (run.folder / IDENTITY).exists():  # before a teacher is trained in vain
            check_unchanged(options, teacher)
        requirements.keep_in(run.folder)
        teacher_score = teacher.score  # trained now: the searches' bars are theirs
        keep_identity(options, teacher)
        report = run.history.add
        final = Finalists(
            teacher,
            options.final_epochs,
            device,
            runner,
            store,
            requirements,
            report,
            options.precision,
        )
        remembering = Remembering(evaluator, run.history)
        search = Search(teacher, remembering, run, requirements)
        agent = partial(_reinforce, options=options)
        removed, shrunk = search.run("reinforce", agent, options.shrinkage_updates)
        # Where shrinkage has hardly been learned, what removal left may be the best.
        found = removed + shrunk + search.around_uniform()
        num_scored = run.history.num_lines
        found += final.uniform()
        last = final.smallest(options.granularity)
        student = final.choose(found, "the best students", last)
        onnx_difference = write_student(student, teacher, run.folder)
        uniform = magnitude = random = None
        if options.controls:
            num_params = student.student.num_params
            whole = teacher.architecture
            thin = partial(uniform_student, whole, num_params, keep=kept)
            alike = partial(widest_uniform, requirements) if requirements else thin
            uniform = final.compare_size(alike, "uniform width")
            thin = partial(magnitude_student, teacher, num_params, keep=kept)
            magnitude = final.compare_size(thin, "magnitude")
            # As many as the policies and the local search have scored.
            updates = options.shrinkage_updates * (2 if requirements else 1)
            removed, shrunk = search.run("random", _random, updates)
            random = final.compare(removed + shrunk, "random search")
        compared = compare_networks(teacher, student.network, run.folder / ONNX, device)
        summary = Summary(
            teacher_score,
            compared.teacher.accuracy,
            teacher.normalise,
            student,
            uniform,
            magnitude,
            random,
            num_scored,
            onnx_difference,
            requirements.rows(
                student.student, student.score.accuracy, run.folder / ONNX
            ),
            compared,
            time.perf_counter() - started,
            teacher.task.counts_without_labels(),
        )
        content = json.dumps(summary.to_dict(), indent=1)
        # The summary is what ends a run: it comes last.
        write_report(run.folder, json.loads(content))
        write_whole(run.folder / SUMMARY, content.encode())
    return summary


def _check_learning(options: Options) -> None:
    """Raise a ValueError now, not after the first stage."""
    check_formats(options.logs)
    if options.frozen and options.init_policy is None:
        raise ValueError("frozen policies must come from somewhere: give init_policy")
    if options.init_policy is not None:
        for stage in STAGES if options.shrinkage_updates else STAGES[:1]:
            path = options.init_policy / POLICY.format(agent="reinforce", stage=stage)
            if not path.is_file():
                raise ValueError(f"there is no policy {path}")
            reinforce.load_policy(path)


def _numbers_of_removals(teacher: Teacher, kept: frozenset[str]) -> str:
    start = teacher.architecture
    counts = {g: len(removals(start, g, keep=kept)) for g in GRANULARITIES}
    return ", ".join(f"{g!r} has {count}" for g, count in counts.items())


def _reinforce(
    env: VectorEnv[Any, Any, Any],
    updates: int,
    seed: int,
    report: Report,
    path: Path,
    *,
    options: Options,
) -> None:
    if options.init_policy is None:
        policy = reinforce.make_policy(env, seed=seed)
    else:
        policy = reinforce.load_policy(options.init_policy / path.name)
    folder = path.with_name(path.name.replace(".policy.pt", ".log"))
    assert isinstance(env.unwrapped, CompressionVectorEnv)
    whole = env.unwrapped.envs[0].teacher.architecture

    def picture(info: Mapping[str, Any]) -> NDArray[np.uint8]:
        return draw_student(whole, Architecture.from_json(info["student"]))

    formats = check_formats(options.logs)
    logs = (
        log_updates(fresh_folder(folder), formats, picture=picture)
        if formats
        else nullcontext()
    )

    def tell(episode: reinforce.Episode) -> None:
        report(episode.reward, episode.info)
        if log is not None:
            log.episode(episode)

    with logs as log:
        reinforce.train(
            env,
            policy,
            reinforce.FROZEN if options.frozen else reinforce.MODERN,
            updates=updates,
            seed=seed,
            on_episode=tell,
            on_update=log,
        )
    reinforce.save_policy(policy, path)


def _random(
    env: VectorEnv[Any, Any, Any], updates: int, seed: int, report: Report, path: Path
) -> None:
    random_search(env, episodes=updates * ROLLOUTS, seed=seed, on_episode=report)
