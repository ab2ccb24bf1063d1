"""Every environment with every setting: both checkers, and what any play keeps."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import n2n_gym  # noqa: F401  registers the ids
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.trace import trace
from tests.networks import SmallResNet

WHOLE = trace(SmallResNet(), (1, 8, 8))
STAGES = {
    "N2NRemove-v0": {"granularity": "block"},
    "N2NShrink-v0": {"granularity": "stage"},
    "N2NCompress-v0": {"shrink_granularity": "stage"},
}
BOUND, RANGE = {"num_params": 2e3}, {"num_params": (1e3, 4e3)}
SETTINGS = {
    "plain": {},
    "keep": {"keep": "block2"},
    "fit": {"constraints": BOUND, "fit": True},
    "sample": {"constraints": RANGE, "limits": "sample"},
    "sample and fit": {"constraints": RANGE, "limits": "sample", "fit": True},
    "all": {
        "keep": "block2",
        "constraints": RANGE,
        "limits": "sample",
        "fit": True,
        "strict": True,
    },
}


def arguments_of(name: str, setting: str, granularity: str = "coarse") -> dict:
    coarse = STAGES[name] if granularity == "coarse" else {}
    return {"teacher": WHOLE, "evaluator": "size", **coarse, **SETTINGS[setting]}


def make(name: str, setting: str, granularity: str) -> gym.Env:
    return gym.make(name, **arguments_of(name, setting, granularity))


every = pytest.mark.parametrize("granularity", ["fine", "coarse"])
setting_of = pytest.mark.parametrize("setting", SETTINGS)
stage_of = pytest.mark.parametrize("name", STAGES)


@every
@setting_of
@stage_of
def test_both_checkers_pass(name, setting, granularity):
    check_env(make(name, setting, granularity).unwrapped, skip_render_check=True)
    flat = gym.wrappers.FlattenObservation(make(name, setting, granularity))
    sb3_check_env(flat, warn=True, skip_render_check=True)


@every
@setting_of
@stage_of
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_legal_play_builds_replays_and_forks(name, setting, granularity, data):
    env = make(name, setting, granularity).unwrapped
    _, info = env.reset(seed=data.draw(st.integers(0, 2**31 - 1)))
    limits = {limit.name: limit.bound for limit in env.limits}
    fork_at = data.draw(st.integers(0, len(env.decisions) - 1))
    actions, twin, is_over = [], None, False
    while not is_over:
        if len(actions) == fork_at:
            twin = copy.deepcopy(env)
        offered = np.flatnonzero(info["action_mask"]).tolist()
        actions.append(data.draw(st.sampled_from(offered)))
        _, reward, is_over, _, info = env.step(actions[-1])
        assert not info["illegal"]

    student = Architecture.from_json(info["student"])
    assert student.fingerprint == info["fingerprint"]
    parameters = build(student, "meta").parameters()
    assert sum(p.numel() for p in parameters) == student.num_params
    assert student.num_params <= WHOLE.num_params

    for action in actions[fork_at:]:
        _, forked, _, _, last = twin.step(action)
    assert (forked, last["fingerprint"]) == (reward, info["fingerprint"])
    env.reset(options={"limits": limits, "decisions": actions[:-1]})
    _, replayed, _, _, last = env.step(actions[-1])
    assert (replayed, last["fingerprint"]) == (reward, info["fingerprint"])
