"""The whole path: from a teacher to a small student on disk."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from n2n_agents import reinforce
from n2n_agents.logs import check_formats, log_updates
from n2n_agents.search import random_search
from n2n_gym.common.files import write_whole
from n2n_gym.compression.assessment import compare_networks
from n2n_gym.compression.best_so_far import write_best
from n2n_gym.compression.controls import magnitude_student
from n2n_gym.compression.finalists import Finalists, Scored
from n2n_gym.compression.plan import LEAST_SECONDS, PLAN, Pace, Plan, TooShort
from n2n_gym.compression.shelf import write_shelf
from n2n_gym.compression.stages import Report, Search
from n2n_gym.compression.student_files import Finished, metadata_of, write_student
from n2n_gym.compression.summary import Summary
from n2n_gym.compression.timing import ROLLOUTS, ROUNDS, Fixed, Timed, Timing
from n2n_gym.envs import CompressionVectorEnv
from n2n_gym.envs.render import draw_student
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.evaluators.loading import default_runner, load_evaluator
from n2n_gym.evaluators.rungs import QUICK, SHORT
from n2n_gym.evaluators.runner import Runner
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.evaluators.workers import Workers
from n2n_gym.limits.constraints import ACCURACY
from n2n_gym.limits.feasibility import refuse_if_out_of_reach
from n2n_gym.limits.fitting import widest_uniform
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import GRANULARITIES, kept_names, removals
from n2n_gym.networks.scaling import uniform_student
from n2n_gym.pytorch.devices import pick_device
from n2n_gym.report import write_report
from n2n_gym.resources import load_meter
from n2n_gym.runs.folder import (
    FINALISTS,
    ONNX,
    OPTIONS,
    POLICY,
    SUMMARY,
    check_machine,
    fresh_folder,
    is_finished,
    open_run,
)
from n2n_gym.runs.history import Remembering
from n2n_gym.runs.identity import IDENTITY, check_unchanged, keep_identity
from n2n_gym.runs.options import Options
from n2n_gym.scores import ScoreStore
from n2n_gym.teachers.augmented_logits import seconds_a_view
from n2n_gym.teachers.learning import TakesTooLong, refused_after
from n2n_gym.teachers.teacher import Teacher

STAGES: Final = ("remove", "shrink")
TEACHER_LEAVES: Final = 0.25  # of the minutes, at least


def compress(options: Options, began: float | None = None) -> Summary:
    """Find a small student of a teacher and write it to the output folder.

    Args:
        began: By ``time.monotonic``, where minutes count from earlier than this call.

    Raises:
        ValueError: An option is not what is accepted, every finalist diverged, or the
            run began with another teacher or other images.
        FileExistsError: The output folder holds another run.
        TooShort: The minutes are too few.
    """
    began = time.monotonic() if began is None else began
    _check_learning(options)
    device = pick_device(options.device)
    store = options.open_store()
    most, _ = ROUNDS[0]
    runner = Workers(options.workers) if options.workers else default_runner(most)
    evaluator = _evaluator(options, device, runner, store)
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
        plan = Plan(run.folder / PLAN, options.seconds(), began, options.plan)
        _train(teacher, plan)  # now: the searches' bars are theirs
        keep_identity(options, teacher)
        (run.folder / FINALISTS).mkdir(exist_ok=True)
        pace = Pace()
        remembering = Remembering(evaluator, run.history, pace.measured)
        timing = _timing(options, plan, pace, runner, evaluator, teacher, requirements)
        search = Search(teacher, remembering, run, requirements, timing)
        final = Finalists(
            teacher,
            timing,
            device,
            runner,
            store,
            requirements,
            run.history.add,
            options.precision,
            run.folder / FINALISTS,
        )
        try:
            found = _search(search, options)
            num_scored = run.history.num_lines
            found += final.uniform()
            last = final.smallest(options.granularity)
            student = final.choose(found, "the best students", last)
            onnx_difference = write_student(student, teacher, run.folder)
            rivals = _rivals(student, search, final, options, kept)
        except KeyboardInterrupt:  # a second one ends the process
            write_best(final, evaluator, run)
            raise
        others = [*final.runners_up(), *filter(None, rivals.values())]
        shelf = write_shelf(student, others, teacher, run.folder)
        compared = compare_networks(teacher, student.network, run.folder / ONNX, device)
        summary = Summary(
            teacher.score,
            compared.teacher.accuracy,
            teacher.normalise,
            student,
            rivals.get("uniform"),
            rivals.get("magnitude"),
            rivals.get("random"),
            num_scored,
            onnx_difference,
            requirements.rows(
                student.student, student.score.accuracy, run.folder / ONNX
            ),
            compared,
            time.monotonic() - began,
            shelf,
            teacher.task.counts_without_labels(),
        )
        content = json.dumps(summary.to_dict(), indent=1)
        write_report(run.folder, json.loads(content))
        shutil.rmtree(run.folder / FINALISTS, ignore_errors=True)
        plan.keep()
        # The summary is what ends a run: it comes last.
        write_whole(run.folder / SUMMARY, content.encode())
    return summary


def _evaluator(
    options: Options, device: torch.device, runner: Runner, store: ScoreStore | None
) -> Evaluator:
    """What the search scores students with."""
    name = options.evaluator or (QUICK if options.is_timed else SHORT).name
    if ":" in name:
        return load_evaluator(name, device, precision=options.precision)
    return load_evaluator(
        name, device, workers=runner, store=store, precision=options.precision
    )


def _train(teacher: Teacher, plan: Plan) -> None:
    """Train the teacher if it has to be.

    Raises:
        TooShort: That would leave too little of the minutes.
    """
    if not plan.has_clock:
        _ = teacher.score
        return
    needed, given = LEAST_SECONDS, plan.seconds or 0.0
    try:
        with refused_after(plan.left - max(needed, TEACHER_LEAVES * given)):
            _ = teacher.score
    except TakesTooLong as error:
        needed = (plan.used + error.seconds) / (1 - TEACHER_LEAVES) + needed
        raise TooShort(
            f"{error}, which leaves too little of {given / 60:.3g}; at least "
            f"{math.ceil(needed / 60)} minutes make sense here"
        ) from error
    if plan.left < needed:
        needed += plan.used
        raise TooShort(
            f"{given / 60:.3g} minutes are too few: {plan.used:.0f} seconds went by "
            f"before the first student; at least {math.ceil(needed / 60)} minutes make "
            f"sense here"
        )


def _timing(
    options: Options,
    plan: Plan,
    pace: Pace,
    runner: Runner,
    evaluator: Evaluator,
    teacher: Teacher,
    requirements: Requirements,
) -> Timing:
    if not options.is_timed:
        return Fixed(
            options.final_epochs, options.removal_updates, options.shrinkage_updates
        )
    workers = runner.count if isinstance(runner, Workers) else 1
    whole = teacher.architecture
    small = uniform_student(
        whole, max(whole.num_params // 16, 1), keep=requirements.keep
    )
    worth = 1.0
    if isinstance(evaluator, DistillationEvaluator):
        worth = evaluator.cost(small, teacher)
    return Timed(
        plan,
        pace,
        workers,
        worth,
        partial(seconds_a_view, teacher, pick_device(options.device)),
        options.controls != "none",
        bool(requirements),
    )


def _search(search: Search, options: Options) -> list[Scored]:
    """All students that were scored."""
    timing, found = search.timing, []
    if isinstance(timing, Timed):
        found = search.hand_made()
        timing.start_search()
    agent = partial(_reinforce, options=options)
    removals = timing.removal_updates()
    removed, shrunk = search.run("reinforce", agent, removals, timing.shrinkage_updates)
    # Where shrinkage has hardly been learned, what removal left may be the best.
    return found + removed + shrunk + search.around_uniform()


def _rivals(
    student: Finished,
    search: Search,
    final: Finalists,
    options: Options,
    keep: frozenset[str],
) -> dict[str, Finished | None]:
    """What the student is compared with."""
    if options.controls == "none" or not search.timing.allows_controls():
        return {}
    teacher, requirements = search.teacher, search.requirements
    num_params = student.student.num_params
    thin = partial(uniform_student, teacher.architecture, num_params, keep=keep)
    alike = partial(widest_uniform, requirements) if requirements else thin
    weakest = partial(magnitude_student, teacher, num_params, keep=keep)
    found = final.compare_sizes({"uniform width": alike, "magnitude": weakest})
    rivals = {
        "uniform": found["uniform width"],
        "magnitude": found["magnitude"],
    }
    if options.controls == "all":
        # As many as the policies and the local search have scored.
        updates = options.shrinkage_updates * (2 if requirements else 1)
        removed, shrunk = search.run(
            "random", _random, options.removal_updates, lambda: updates
        )
        rivals["random"] = final.compare(removed + shrunk, "random search")
    return rivals


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

    try:
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
    finally:  # it may have had enough
        reinforce.save_policy(policy, path)


def _random(
    env: VectorEnv[Any, Any, Any], updates: int, seed: int, report: Report, path: Path
) -> None:
    random_search(env, episodes=updates * ROLLOUTS, seed=seed, on_episode=report)
