"""The searches of a run: what they score, and where that is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from gymnasium.vector import VectorEnv
from tqdm.auto import tqdm

from n2n_agents import reinforce
from n2n_gym.compression.finalists import Scored
from n2n_gym.compression.local_search import LocalSearch
from n2n_gym.envs import CompressionEnv, CompressionVectorEnv, RemoveEnv, ShrinkEnv
from n2n_gym.envs.wrappers import EPISODES, ProgressiveConstraintVector
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.limits.fitting import aims_by
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.resources import Resource, load_meter, predicted
from n2n_gym.rewards import Toward
from n2n_gym.runs.folder import POLICY, Run
from n2n_gym.runs.history import History
from n2n_gym.teachers.teacher import Teacher

logger = logging.getLogger(__name__)

ROLLOUTS: Final = reinforce.MODERN.rollouts  # episodes an update
SEARCHED: Final = "searched.json"  # in the folder: what a local search went by
NARROWEST: Final = "narrowest.json"  # and what says where shrinkage can begin

# An agent plays episodes in an environment, as many as there are updates ask for, and
# tells of the return and the last info of each.
Report = Callable[[float, dict[str, Any]], None]
Agent = Callable[[VectorEnv[Any, Any, Any], int, int, Report, Path], None]


@dataclass
class Search:
    """Both stages of a search by some agent."""

    teacher: Teacher
    evaluator: Evaluator
    current: Run
    requirements: Requirements

    def run(
        self, name: str, agent: Agent, shrinkage_updates: int
    ) -> tuple[list[Scored], list[Scored]]:
        """Every student it scored in stage one, and in stage two if there is one."""
        options = self.current.options
        # Where shrinkage follows, removal goes toward the limits, without keeping them.
        is_last = not shrinkage_updates
        remove = RemoveEnv(
            self.teacher,
            granularity=options.granularity,
            keep=options.keep,
            evaluator=self.evaluator,
            reward=self.requirements.reward,
            resources=self._resources,
            constraints=self.requirements.aims if is_last else None,
            strict=is_last and bool(self.requirements),
        )
        removed = self._stage(name, "remove", agent, remove, options.removal_updates)
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
            keep=options.keep,
            evaluator=self.evaluator,
            reward=self.requirements.reward,
            resources=self._resources,
            constraints=self.requirements.aims,
            strict=bool(self.requirements),
        )
        shrunk = self._stage(name, "shrink", agent, shrink, shrinkage_updates)
        return removed, shrunk

    def around_uniform(self) -> list[Scored]:
        """What a local search from uniform width scores; nothing without limits."""
        options = self.current.options
        updates = options.shrinkage_updates
        if not self.requirements or not updates:
            return []
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
        with self._watch("local search", "shrink", updates * ROLLOUTS) as watch:
            local.run(updates, ROLLOUTS, watch)
        return watch.found

    @cached_property
    def _resources(self) -> dict[str, Resource]:
        """What the searches go by."""
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
        with self._watch(name, stage, updates * ROLLOUTS) as watch:
            path = self.current.folder / POLICY.format(agent=name, stage=stage)
            env.meter.remember(self.current.history.known.items())
            whole = self.teacher.architecture
            env.meter.remember(
                [(whole.fingerprint, self.requirements.meter(whole, whole))]
            )
            # One batch of students an update, for the workers to share.
            batch: VectorEnv[Any, Any, Any] = CompressionVectorEnv(env, ROLLOUTS)
            if env.limits:
                closing_in = min(EPISODES, updates // 2 * ROLLOUTS)
                batch = ProgressiveConstraintVector(batch, max(1, closing_in))
            agent(batch, updates, self.current.options.seed, watch, path)
        return watch.found

    @contextmanager
    def _watch(self, name: str, stage: str, total: int) -> Iterator[_Watch]:
        with tqdm(total=total, desc=f"{name}: {stage}") as bar:
            whole = self.teacher.architecture
            yield _Watch(name, stage, self.current.history, whole.num_params, bar)


@dataclass
class _Watch:
    """Told of a stage's students, it keeps them in the history and in ``found``."""

    name: str
    stage: str
    history: History
    num_params: int  # of the teacher
    bar: tqdm[Any]
    found: list[Scored] = field(default_factory=list)

    def __call__(self, reward: float, info: dict[str, Any]) -> None:
        self.history.add(self.name, self.stage, reward, info)
        student = Architecture.from_json(info["student"])
        # A student whose evaluation failed has no accuracy.
        self.found.append(Scored(reward, student, info.get("accuracy", 0.0)))
        best = max(self.found, key=lambda scored: scored.reward)
        times = self.num_params / best.student.num_params
        self.bar.set_postfix_str(f"best {best.reward:.4f}, {times:.0f}x smaller")
        self.bar.update()
