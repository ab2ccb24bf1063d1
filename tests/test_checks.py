import copy

import gymnasium as gym
import numpy as np
import pytest

from n2n_gym.envs import RemoveEnv, ShrinkEnv
from n2n_gym.envs.checks import check_compression_env
from n2n_gym.envs.observation import CURRENT


@pytest.mark.parametrize(
    "env",
    [
        RemoveEnv(evaluator="size"),
        RemoveEnv(evaluator="size", granularity="layer", illegal="end"),
        RemoveEnv("densenet121", evaluator="size", granularity="block", max_rows=200),
        ShrinkEnv(evaluator="size", variables=("width", "kernel", "padding")),
        ShrinkEnv(evaluator="size", action="continuous"),
    ],
    ids=["unit", "layer", "block", "shrink", "continuous"],
)
def test_our_environments_pass(env):
    check_compression_env(env, episodes=2)


def test_an_own_teacher_passes_and_so_does_a_wrapped_scoring_one(teacher):
    env = RemoveEnv(teacher, evaluator="inherit", store=False)
    check_compression_env(gym.wrappers.RecordEpisodeStatistics(env), episodes=2)


class Broken(gym.Wrapper):
    """An environment with one mistake."""

    def __init__(self, mistake: str) -> None:
        super().__init__(RemoveEnv(evaluator="size"))
        self.mistake = mistake
        self.steps = 0
        if mistake == "keep":
            self.metadata = {**self.env.metadata, "keep": 1}

    def reset(self, **arguments):
        self.steps = 0
        observation, info = self.env.reset(**arguments)
        if self.mistake == "mask":
            info["action_mask"] = info["action_mask"].astype(bool)
        if self.mistake == "current":
            observation[-1, CURRENT] = 1
        return observation, info

    def step(self, action):
        observation, reward, is_over, truncated, info = self.env.step(action)
        self.steps += 1
        if self.mistake == "early" and self.steps == 2:
            reward = 0.1
        if self.mistake == "noise" and is_over:
            reward += np.random.default_rng().random()
        if self.mistake == "size" and is_over:
            info["num_params"] += 1
        if self.mistake == "tensor" and is_over:
            info["student_score"] = np.float32(1)
        if self.mistake == "legal":
            info["illegal"] = False
        return observation, float(reward), is_over, truncated, info

    def __deepcopy__(self, memo):
        if self.mistake == "copy":
            return copy.copy(self)  # it shares the episode
        twin = copy.copy(self)
        twin.env = copy.deepcopy(self.env, memo)
        return twin


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("mask", "must be \\(2,\\) int8"),
        ("current", "one row must be the current one"),
        ("keep", "action 1 must always be legal"),
        ("early", "a reward before the end"),
        ("noise", "then"),
        ("size", "num_params is"),
        ("tensor", "is no plain value"),
        ("legal", "one was taken for legal"),
        ("copy", "decisions were made; with a copy's"),
    ],
)
def test_a_mistake_is_found(mistake, message):
    with pytest.raises(AssertionError, match=message):
        check_compression_env(Broken(mistake), episodes=2)
