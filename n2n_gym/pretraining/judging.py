"""Compares trained policies with others, and with uniform width, by real scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from n2n_agents.batched import play_batch
from n2n_agents.policies import Policy
from n2n_gym.envs import CompressionEnv, CompressionVectorEnv
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.pretraining.lines import add_lines, read_lines
from n2n_gym.pretraining.samples import keep_action, seed_of
from n2n_gym.pretraining.stages import Target, aim, make_env
from n2n_gym.pretraining.suite import Subject, Suite
from n2n_gym.teachers.teacher import Teacher

# Episodes per target, as many as in one update of a frozen policy. As there, the first
# one takes the most probable actions.
EPISODES: Final = 5


class Judged(NamedTuple):
    """A policy's rewards for one teacher at one target.

    Attributes:
        policy: "trained"; "fresh", see ``learning.fresh_policy``; or "uniform", for
            the student of uniform width, without removals.
        share: Target for the suite's first resource, as a fraction of the teacher's
            value.
        rewards: Rewards of the policy's episodes, from real scores.
    """

    stage: str
    seed: int
    policy: str
    teacher: str
    task: str
    share: float
    rewards: list[float]

    @property
    def key(self) -> tuple[Any, ...]:
        return self[:6]


def judge(
    path: Path,
    suite: Suite,
    stage: str,
    seed: int,
    policies: Mapping[str, Policy | None],
    subjects: Sequence[tuple[Subject, Teacher]],
    targets: Sequence[float],
    evaluator: Evaluator,
    on_target: Callable[[], object] = lambda: None,
) -> list[Judged]:
    """Find the rewards of each policy for each teacher at each target.

    Results that the file has are reused; new ones are added to it.

    Args:
        path: File of results, one JSON object per line.
        policies: Policies by name: "trained" or "fresh". None plays the student of
            uniform width, in a stage that scales students.
        targets: Targets for the suite's first resource, as fractions of the teacher's
            value.
        on_target: Callback after each policy at each target.
    """
    done = {each.key: each for each in read_judged(path)}
    found = []
    for subject, teacher in subjects:
        vector = None
        for share in targets:
            for name, policy in policies.items():
                key = (stage, seed, name, subject.teacher, subject.task, share)
                if key not in done:
                    if vector is None:
                        env = make_env(stage, teacher, evaluator, suite.resources)
                        vector = CompressionVectorEnv(env, EPISODES)
                    target = Target(suite.resources[0], share)
                    rewards = _rewards(vector, policy, target, suite, seed_of(*key))
                    done[key] = Judged(*key, rewards)
                    add_lines(path, [done[key]._asdict()])
                found.append(done[key])
                on_target()
    return found


def _rewards(
    vector: CompressionVectorEnv,
    policy: Policy | None,
    target: Target,
    suite: Suite,
    seed: int,
) -> list[float]:
    options = aim(vector.envs, target, suite.resources)
    if policy is None:
        return [_reward_of_uniform(vector.envs[0], options)]
    generator = torch.Generator().manual_seed(seed)
    (likeliest, *_) = play_batch(vector, policy, None, options)
    (_, *drawn) = play_batch(vector, policy, generator, options)
    return [likeliest.reward, *(episode.reward for episode in drawn)]


def _reward_of_uniform(env: CompressionEnv, options: dict[str, Any]) -> float:
    """The reward of the student that keeps everything and is scaled to its limits."""
    _, info = env.reset(options=options)
    reward, is_over = 0.0, False
    while not is_over:
        action = keep_action(env.current, np.flatnonzero(info["action_mask"]))
        _, reward, is_over, _, info = env.step(action)
    return reward


def read_judged(path: Path) -> list[Judged]:
    """All results in a file of `judge`."""
    return [Judged(**line) for line in read_lines(path)]


def summarise(judged: Sequence[Judged]) -> dict[str, dict[str, float]]:
    """Summarise the rewards of each policy.

    Returns:
        For each policy: ``mean``, the mean of all its rewards, and ``best``, the mean
        over teachers and targets of its best reward.
    """
    found = {}
    for name in dict.fromkeys(each.policy for each in judged):
        groups = [each.rewards for each in judged if each.policy == name]
        every = [reward for group in groups for reward in group]
        found[name] = {
            "mean": sum(every) / len(every),
            "best": sum(map(max, groups)) / len(groups),
        }
    return found
