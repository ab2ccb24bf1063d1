"""How agents play the stages of a run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray

from n2n_agents import reinforce
from n2n_agents.library import BATCHED, CONTINUOUS, find_agent
from n2n_agents.logs import check_formats, log_updates
from n2n_agents.policies import Policy
from n2n_agents.rollouts import info_of
from n2n_agents.search import random_search
from n2n_gym.compression.policies import NONE, STAGES, begun_as, load
from n2n_gym.compression.stages import Agent, Enough, OnStudent
from n2n_gym.compression.timing import ROLLOUTS
from n2n_gym.envs import CompressionVectorEnv
from n2n_gym.envs.render import draw_student
from n2n_gym.envs.wrappers import ProgressiveConstraint, ProgressiveConstraintVector
from n2n_gym.networks.architecture import Architecture
from n2n_gym.runs.folder import POLICY, fresh_folder
from n2n_gym.runs.options import REINFORCE, Options

FIRST: Final = POLICY.format(agent=REINFORCE, stage="remove")


def check_agent(options: Options) -> None:
    """Refuse an agent that cannot play both stages.

    Raises:
        ValueError: The agent is unknown or cannot play both stages, or an option needs
            the agent ``REINFORCE``.
    """
    name = options.agent
    if name == REINFORCE:
        return
    if "@" in name:
        raise ValueError(
            f"agent {name!r} plays from a file, which a run does not take; to start "
            f"from policies, give a folder with both policies as --init-policy"
        )
    if name in CONTINUOUS:
        raise ValueError(
            f"agent {name!r} needs continuous actions, and a run has discrete ones"
        )
    find_agent(name)
    for option in ("init_policy", "logs"):
        if (value := getattr(options, option)) and value != NONE:
            raise ValueError(
                f"{option}={str(value)!r} needs the agent {REINFORCE!r}, got "
                f"agent={name!r}"
            )


def agent_of(options: Options) -> Agent:
    """The agent that plays the stages of a run."""
    if options.agent == REINFORCE:
        return partial(_reinforce, options=options)
    return partial(_by_name, name=options.agent)


def _by_name(
    env: VectorEnv[Any, Any, Any],
    updates: int,
    seed: int,
    report: OnStudent,
    path: Path,
    *,
    name: str,
) -> None:
    """Play with an agent of the library: a batched one in all rows, others in row 0."""
    count = Countdown(updates * ROLLOUTS, report)
    played = ReportedVector(env, count) if name in BATCHED else _single(env, count)
    find_agent(name)(played, seed=seed)


@dataclass
class Countdown:
    """Callback that reports each episode and raises ``Enough`` after the last one.

    Attributes:
        left: Number of episodes still to report.
        report: Callback with the reward and the info of each episode.
    """

    left: int
    report: OnStudent

    def __call__(self, reward: float, info: dict[str, Any]) -> None:
        self.report(reward, info)
        self.left -= 1
        if not self.left:
            raise Enough


def _single(env: VectorEnv[Any, Any, Any], count: Countdown) -> gym.Env[Any, Any]:
    """The environment of the first row, with the progressive limits of all rows."""
    assert isinstance(env.unwrapped, CompressionVectorEnv)
    row: gym.Env[Any, Any] = env.unwrapped.envs[0]
    if isinstance(env, ProgressiveConstraintVector):
        row = ProgressiveConstraint(row, env.episodes)
    return Reported(row, count)


class Reported(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that calls ``count`` after each episode; so do its copies."""

    def __init__(self, env: gym.Env[Any, Any], count: Countdown) -> None:
        super().__init__(env)
        self.count = count

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if terminated:  # rewards before the last are 0
            self.count(float(reward), info)
        return observation, reward, terminated, truncated, info

    def __deepcopy__(self, memo: dict[int, Any]) -> Reported:
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin.env = copy.deepcopy(self.env, memo)
        return twin


class ReportedVector(VectorWrapper):
    """A vector environment that calls ``count`` after each episode of a row."""

    def __init__(self, env: VectorEnv[Any, Any, Any], count: Countdown) -> None:
        super().__init__(env)
        self.count = count

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        result = self.env.step(actions)
        _, rewards, terminated, _, infos = result
        for row in np.flatnonzero(terminated):
            self.count(float(rewards[row]), info_of(infos, int(row)))
        return result


def _reinforce(
    env: VectorEnv[Any, Any, Any],
    updates: int,
    seed: int,
    report: OnStudent,
    path: Path,
    *,
    options: Options,
) -> None:
    policy = _first_policy(env, seed, path, options)
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
    finally:  # after ``Enough`` too
        reinforce.save_policy(policy, path)


def _first_policy(
    env: VectorEnv[Any, Any, Any], seed: int, path: Path, options: Options
) -> Policy:
    """The policy that a stage starts from: read from a file, or new.

    Args:
        path: File to write the stage's policy to later; its name tells the stage.
    """
    stage = STAGES[path.name != FIRST]
    before = begun_as(options, path.parent).get(stage)
    if before is not None:
        is_asked_for = options.init_policy is not None
        found = load(before, env, is_asked_for=is_asked_for)
        if found is not None:
            return found
    # If a search within limits follows, removal starts with the whole network.
    level = 1.0 if path.name == FIRST and options.constraints() else None
    return reinforce.make_policy(
        env, uniformity=reinforce.MODERN.uniformity, level=level, seed=seed
    )


def play_at_random(
    env: VectorEnv[Any, Any, Any],
    updates: int,
    seed: int,
    report: OnStudent,
    path: Path,
) -> None:
    """Play by random search; nothing is written to ``path``."""
    random_search(env, episodes=updates * ROLLOUTS, seed=seed, on_episode=report)
