"""Preparation of a run: teacher, limits, folder, plan."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch

from n2n_agents.logs import check_formats
from n2n_gym.compression.agents import check_agent
from n2n_gym.compression.costs import Costs
from n2n_gym.compression.finalists import Finalists
from n2n_gym.compression.pacing import ROUNDS, SEEDS, Fixed, Pacing
from n2n_gym.compression.plan import PLAN, Plan, TooShort
from n2n_gym.compression.policies import begun_as, policy_files
from n2n_gym.compression.stages import Search
from n2n_gym.compression.student_files import metadata_of
from n2n_gym.compression.timing import Timed
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.evaluators.loading import default_runner, load_evaluator
from n2n_gym.evaluators.rungs import QUICK, SHORT
from n2n_gym.evaluators.runner import Result, Runner
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.evaluators.workers import Workers
from n2n_gym.limits.constraints import ACCURACY
from n2n_gym.limits.feasibility import refuse_if_out_of_reach
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import GRANULARITIES, kept_names, removals
from n2n_gym.networks.scaling import uniform_student
from n2n_gym.pytorch.devices import pick_device
from n2n_gym.pytorch.recipe import read_precision
from n2n_gym.resources import load_meter
from n2n_gym.rewards import Score
from n2n_gym.runs.folder import (
    FINALISTS,
    OPTIONS,
    Run,
    check_machine,
    is_finished,
    open_run,
)
from n2n_gym.runs.history import Remembering
from n2n_gym.runs.identity import IDENTITY, check_unchanged, keep_identity
from n2n_gym.runs.options import Options
from n2n_gym.scores import ScoreStore
from n2n_gym.teachers.teacher import Teacher
from n2n_gym.teachers.watch import TakesTooLong, refused_after

TEACHER_LEAVES: Final = 0.25  # least share of the minutes after training
LEAST_SECONDS: Final = 20.0  # least seconds for search and finalists


@dataclass(frozen=True)
class Work:
    """Everything that a run works with.

    Attributes:
        evaluator: Evaluator of the search.
        final: The finalists, which are distilled to the end.
    """

    options: Options
    run: Run
    plan: Plan
    evaluator: Evaluator
    search: Search
    final: Finalists

    @property
    def teacher(self) -> Teacher:
        return self.search.teacher


@contextmanager
def prepared(options: Options, began: float) -> Iterator[Work]:
    """Context of a run whose folder is open and whose teacher is trained.

    Raises:
        ValueError, FileExistsError, TooShort: See ``compress``.
    """
    _check_learning(options)
    device = pick_device(options.device)
    store = options.open_store()
    most, _ = ROUNDS[0]
    runner = Workers(options.workers) if options.workers else default_runner(most)
    evaluator = _evaluator(options, device, runner, store)
    teacher, requirements = _required(options, device)
    with closing(runner), open_run(options, began) as run:
        if is_finished(run.folder):
            raise FileExistsError(f"{run.folder} holds a finished run")
        if requirements.is_of_machine:
            check_machine(run.folder)
        if (run.folder / IDENTITY).exists():  # before a teacher is trained in vain
            check_unchanged(options, teacher)
        requirements.keep_in(run.folder)
        plan = Plan(run.folder / PLAN, options.seconds(), began, options.plan)
        with _kept_if_stopped(plan):
            _train(teacher, plan)  # now, not under a search's progress bar
            keep_identity(options, teacher)
            begun_as(options, run.folder)
            (run.folder / FINALISTS).mkdir(exist_ok=True)
            timing = _timing(options, plan, runner, teacher, requirements)
        remembering = _remembering(evaluator, teacher, run, plan, timing)
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
        yield Work(options, run, plan, evaluator, search, final)


def _required(options: Options, device: torch.device) -> tuple[Teacher, Requirements]:
    """The teacher before its training, and the requirements on its student.

    Raises:
        ValueError: A resource is unknown, nothing can be removed from the teacher, or
            no student can keep a limit.
    """
    constraints = options.constraints()
    load_meter(constraints.keys() - {ACCURACY})  # unknown names are refused now
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
    if not (options.output / OPTIONS).exists():  # refuse before it has a folder
        refuse_if_out_of_reach(requirements, options.granularity)
    return teacher, requirements


def _evaluator(
    options: Options, device: torch.device, runner: Runner, store: ScoreStore | None
) -> Evaluator:
    """The evaluator of the search."""
    name = options.evaluator or (QUICK if options.is_timed else SHORT).name
    if ":" in name:
        return load_evaluator(name, device, precision=options.precision)
    return load_evaluator(
        name, device, workers=runner, store=store, precision=options.precision
    )


@contextmanager
def _kept_if_stopped(plan: Plan) -> Iterator[None]:
    """Context that keeps the plan's seconds, unless the run is refused."""
    try:
        yield
    except KeyboardInterrupt:
        plan.keep()
        raise
    except TooShort:
        plan.path.unlink(missing_ok=True)
        raise


def _train(teacher: Teacher, plan: Plan) -> None:
    """Train or score the teacher if necessary; the plan keeps the seconds.

    Raises:
        TooShort: Too little of the run's time would remain afterwards.
    """
    needed, given = LEAST_SECONDS, plan.seconds or 0.0
    longest = plan.left - max(needed, TEACHER_LEAVES * given)
    if plan.is_begun:  # what is decided is carried out
        longest = math.inf
    plan.keep()
    try:
        with refused_after(longest, plan.keep_time):
            _ = teacher.score
    except TakesTooLong as error:
        needed = (plan.used + error.seconds) / (1 - TEACHER_LEAVES) + needed
        raise TooShort(
            f"{error}, which leaves too little of {given / 60:.3g}; at least "
            f"{math.ceil(needed / 60)} minutes make sense here"
        ) from error
    plan.keep()


def _check_time(plan: Plan, needed: float) -> None:
    """Raise TooShort if less than these seconds are left before the first decision."""
    if plan.is_begun or plan.left >= needed:
        return
    needed += plan.used
    raise TooShort(
        f"{(plan.seconds or 0.0) / 60:.3g} minutes are too few: {plan.used:.0f} "
        f"seconds went by before the first student; at least "
        f"{math.ceil(needed / 60)} minutes make sense here"
    )


def _remembering(
    evaluator: Evaluator, teacher: Teacher, run: Run, plan: Plan, timing: Pacing
) -> Remembering:
    """The evaluator of the search; a timed run records what its scores cost."""
    if not isinstance(timing, Timed):
        return Remembering(evaluator, run.history)
    costs = timing.costs
    if not isinstance(evaluator, DistillationEvaluator):
        by_count = partial(_timed_scores, costs, timing.workers)
        return Remembering(evaluator, run.history, by_count)
    if evaluator.precision is None:
        decided = plan.decide(
            "precision of scores",
            lambda: str(evaluator.settings(teacher).precision),
            "float32",
        )
        evaluator.precision = read_precision(decided)

    def is_scored(student: Architecture, done: Result) -> None:
        if isinstance(done.result, Score):
            costs.scored(student.num_macs, done.result.cost, done.seconds)

    evaluator.on_result = is_scored
    return Remembering(evaluator, run.history)


@contextmanager
def _timed_scores(costs: Costs, workers: int, count: int) -> Iterator[None]:
    """Context of scores by an evaluator that does not say what each of them took."""
    started = time.monotonic()
    yield
    costs.scored_in(workers * (time.monotonic() - started), count)


def _timing(
    options: Options,
    plan: Plan,
    runner: Runner,
    teacher: Teacher,
    requirements: Requirements,
) -> Pacing:
    """The numbers of a run; for a timed run, the cost of an image is measured.

    Raises:
        TooShort: Too little of the run's time is left.
    """
    if not options.is_timed:
        return Fixed(
            options.final_epochs, options.removal_updates, options.shrinkage_updates
        )
    workers = runner.count if isinstance(runner, Workers) else 1
    whole = teacher.architecture
    small = uniform_student(
        whole, max(whole.num_params // 16, 1), keep=requirements.keep
    )
    sizes = {name: len(split) for name, split in teacher.task.splits.items()}
    costs = Costs(plan.costs, sizes["train"])
    timing = Timed(
        plan,
        costs,
        workers,
        sizes["validation"],
        sizes["test"],
        whole.num_macs,
        options.controls != "none",
        bool(requirements),
        # A minimum accuracy applies to the written student, so one seed is compared.
        SEEDS if requirements.least_accuracy is None else 1,
        options.agent,
    )
    if plan.has_clock:
        costs.time_images(teacher, small, pick_device(options.device))
        _check_time(plan, LEAST_SECONDS + timing.evaluation)
    return timing


def _check_learning(options: Options) -> None:
    """Raise a ValueError for wrong options of the agent before the first stage."""
    check_agent(options)
    check_formats(options.logs)
    policy_files(options)


def _numbers_of_removals(teacher: Teacher, kept: frozenset[str]) -> str:
    start = teacher.architecture
    counts = {g: len(removals(start, g, keep=kept)) for g in GRANULARITIES}
    return ", ".join(f"{g!r} has {count}" for g, count in counts.items())
