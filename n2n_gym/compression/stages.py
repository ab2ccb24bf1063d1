"""The searches of a run: they score students and record them in the history."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

from gymnasium.vector import VectorEnv

from n2n_agents.library import FORESEEING
from n2n_gym.common.progress import Bar, progress
from n2n_gym.compression.choice import Scored
from n2n_gym.compression.controls import magnitude_student
from n2n_gym.compression.local_search import LocalSearch
from n2n_gym.compression.pacing import Pacing
from n2n_gym.compression.policies import FROZEN_UPDATES, begun_as, is_aimed
from n2n_gym.compression.timing import ROLLOUTS
from n2n_gym.envs import CompressionEnv, CompressionVectorEnv, RemoveEnv, ShrinkEnv
from n2n_gym.envs.wrappers import EPISODES, ProgressiveConstraintVector
from n2n_gym.evaluators.evaluator import Evaluator, evaluate
from n2n_gym.limits.fitting import aims_by, widest_uniform
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.scaling import OutOfReach, uniform_student
from n2n_gym.resources import Resource, ResourceError, load_meter, predicted
from n2n_gym.rewards import Toward
from n2n_gym.runs.folder import POLICY, Run
from n2n_gym.runs.history import History
from n2n_gym.runs.options import REINFORCE
from n2n_gym.teachers.teacher import Teacher

logger = logging.getLogger(__name__)

SIZES: Final = (8, 16, 32, 64)  # how many times smaller than the teacher
SEARCHED: Final = "searched.json"  # in the folder: a local search's measurements
NARROWEST: Final = "narrowest.json"  # and those that decide where shrinkage begins

# An agent plays the episodes of a number of updates in an environment. It reports the
# return and the last info of each episode.
OnStudent = Callable[[float, dict[str, Any]], None]
Agent = Callable[[VectorEnv[Any, Any, Any], int, int, OnStudent, Path], None]


@dataclass
class Search:
    """An agent's two stages, and the other searches of a run."""

    teacher: Teacher
    evaluator: Evaluator
    current: Run
    requirements: Requirements
    timing: Pacing

    def run(
        self, name: str, agent: Agent, removals: int, shrinkages: Callable[[], int]
    ) -> tuple[list[Scored], list[Scored]]:
        """Play both stages; return the students that each of them scored.

        The second list is empty if the run's options skip stage two.

        Args:
            removals: Number of updates in stage one.
            shrinkages: Function that returns the number of updates in stage two, called
                after stage one.
        """
        options = self.current.options
        # If shrinkage follows, removal moves toward the limits without having to keep
        # them.
        is_last = not options.shrinkage_updates
        # A policy that was trained with targets observes them; no penalty follows.
        is_shown = is_last or self._is_aimed(name)
        alike: dict[str, Any] = {"keep": options.keep, "evaluator": self.evaluator}
        alike |= {"reward": self.requirements.reward, "resources": self._resources}
        # Masks that look ahead are slow, and some agents look ahead themselves.
        is_strict = bool(self.requirements) and name not in FORESEEING
        remove = RemoveEnv(
            self.teacher,
            granularity=options.granularity,
            **alike,
            constraints=self.requirements.aims if is_shown else None,
            epsilon=0.0 if is_last else 1.0,
            strict=is_last and is_strict,
        )
        removed = self._stage(name, "remove", agent, remove, removals)
        if is_last:
            return removed, []
        by_reward = sorted(removed, key=lambda scored: -scored.reward)
        if self.requirements:
            remove.meter.keep_in(self.current.folder / NARROWEST)
        fitting = (
            scored
            for scored in by_reward
            if self.requirements.can_shrink_to(scored.student, remove.meter)
        )
        best = next(fitting, None)
        if best is None:
            best = by_reward[0]
            logger.warning(
                "%s: none of what removal left can be shrunk to the limits", name
            )
        shrink = ShrinkEnv(
            self.teacher,
            start=best.student,
            **alike,
            constraints=self.requirements.aims,
            strict=is_strict,
        )
        shrunk = self._stage(name, "shrink", agent, shrink, shrinkages())
        return removed, shrunk

    def hand_made(self) -> list[Scored]:
        """Students that need no search: uniform width and magnitude pruning.

        Without limits, both kinds are made in several sizes. With limits, only uniform
        width is made, as wide as the limits allow.
        """
        whole, keep = self.teacher.architecture, self.requirements.keep
        makes: list[Callable[[], Architecture]] = []
        if self.requirements:
            makes.append(partial(widest_uniform, self.requirements))
        else:
            for times in SIZES:
                size = whole.num_params // times
                makes.append(partial(uniform_student, whole, size, keep=keep))
                makes.append(partial(magnitude_student, self.teacher, size, keep=keep))
        students: dict[str, Architecture] = {}
        for make in makes:
            with suppress(OutOfReach, ResourceError):
                student = make()
                students[student.fingerprint] = student
        env = ShrinkEnv(
            self.teacher,
            keep=self.current.options.keep,
            evaluator=self.evaluator,
            reward=self.requirements.reward,
            resources=self._resources,
        )

        def play(watch: _Watch) -> None:
            made = list(students.values())
            results = evaluate(made, self.teacher, self.evaluator)
            for student, result in zip(made, results, strict=True):
                watch(*env.conclude(student, result))

        return self._watched("hand-made", "shrink", len(students) / ROLLOUTS, play)

    def around_uniform(self) -> list[Scored]:
        """Students that a local search from uniform width scores.

        There are none if the run has no limits, or if its options skip stage two.
        """
        options = self.current.options
        if not self.requirements or not options.shrinkage_updates:
            return []
        updates = self.timing.local_updates()
        meter = load_meter(self.requirements.bounds, self._resources)
        meter.keep_in(self.current.folder / SEARCHED)
        aims = aims_by(self.requirements, meter)
        env = ShrinkEnv(
            self.teacher,
            evaluator=self.evaluator,
            reward=Toward(aims),
            resources=self._resources,
            constraints=aims,
        )
        env.meter = meter
        local = LocalSearch(
            env,
            options.granularity,
            block=self.requirements.block,
            keep=self.requirements.keep,
            seed=options.seed,
        )
        return self._watched(
            *("local search", "shrink", updates),
            lambda watch: local.run(updates, ROLLOUTS, watch),
        )

    def _is_aimed(self, name: str) -> bool:
        """Whether an agent's removal starts from a policy trained with targets."""
        if name != REINFORCE or not self.requirements:
            return False
        current = self.current
        return is_aimed(begun_as(current.options, current.folder).get("remove"))

    @cached_property
    def _resources(self) -> dict[str, Resource]:
        """Predictors, by name, of the limited resources that are slow to measure."""
        whole = self.teacher.architecture
        taken = self.requirements.meter(whole, whole)
        return predicted(
            whole, {name: taken[name] for name in self.requirements.bounds}
        )

    def _stage(
        self,
        name: str,
        stage: str,
        agent: Agent,
        env: CompressionEnv,
        updates: int,
    ) -> list[Scored]:
        options = self.current.options
        path = self.current.folder / POLICY.format(agent=name, stage=stage)
        if options.frozen and name == REINFORCE:
            updates = min(updates, FROZEN_UPDATES)
        env.meter.remember(self.current.history.known.items())
        whole = self.teacher.architecture
        env.meter.remember([(whole.fingerprint, self.requirements.meter(whole, whole))])
        # One batch of students per update, shared among the workers.
        batch: VectorEnv[Any, Any, Any] = CompressionVectorEnv(env, ROLLOUTS)
        if env.limits and env.epsilon < 1:
            closing_in = min(EPISODES, updates // 2 * ROLLOUTS)
            batch = ProgressiveConstraintVector(batch, max(1, closing_in))
        seed = options.seed
        return self._watched(
            *(name, stage, updates),
            lambda watch: agent(batch, updates, seed, watch, path),
        )

    def _watched(
        self, name: str, stage: str, updates: float, play: Callable[[_Watch], None]
    ) -> list[Scored]:
        """Play a stage to its end or until its time is up; return scored students."""
        total = round(updates * ROLLOUTS)
        with progress(total, f"{name}: {stage}", is_long=True) as bar:
            whole = self.teacher.architecture.num_params
            is_enough = partial(self.timing.is_enough, f"{name}: {stage}")
            watch = _Watch(
                name, stage, self.current.history, whole, bar, is_enough=is_enough
            )
            with suppress(Enough):
                play(watch)
        return watch.found


class Enough(Exception):
    """A stage ends now: its time is up, or its last episode has been reported."""


@dataclass
class _Watch:
    """Callback that records a stage's students in the history and in ``found``.

    Raises:
        Enough: The stage's time is up.
    """

    name: str
    stage: str
    history: History
    num_params: int  # of the teacher
    bar: Bar
    is_enough: Callable[..., bool]  # of the number of students; see `Pacing`
    found: list[Scored] = field(default_factory=list)

    def __call__(self, reward: float, info: dict[str, Any]) -> None:
        self.history.add(self.name, self.stage, reward, info)
        student = Architecture.from_json(info["student"])
        # A student has no accuracy if its evaluation failed.
        self.found.append(Scored(reward, student, info.get("accuracy", 0.0)))
        best = max(self.found, key=lambda scored: scored.reward)
        times = self.num_params / best.student.num_params
        self.bar.set_postfix_str(f"best {best.reward:.4f}, {times:.0f}x smaller")
        self.bar.update()
        count, is_replay = len(self.found), self.history.has_scores_left
        if count < (self.bar.total or 0) and self.is_enough(count, is_replay=is_replay):
            raise Enough
