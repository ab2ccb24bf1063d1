"""The wrappers for other libraries, step by step."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from n2n_agents.adapters import MaskedObservation, NumericInfo
from tests.journal import make


def test_the_mask_lies_beside_the_observation():
    plain, masked = (
        make(teacher="resnet18"),
        MaskedObservation(make(teacher="resnet18")),
    )
    observation, info = plain.reset()
    seen, _ = masked.reset()
    masks, is_over = [], False
    while not is_over:
        assert masked.observation_space.contains(seen)
        np.testing.assert_array_equal(seen["observations"], observation)
        assert seen["action_mask"].dtype == bool
        assert seen["action_mask"].tolist() == plain.unwrapped.action_masks().tolist()
        masks.append(seen["action_mask"].tolist())
        action = info["action_mask"][1]  # remove whatever can be removed
        observation, *expected, _, info = plain.step(action)
        seen, *earned, _, _ = masked.step(action)
        is_over = expected[1]
        assert earned == expected
    assert [True, False] in masks
    assert seen["action_mask"].tolist() == [True, True]  # at the end, anything


def test_names_are_the_librarys_own():
    env = MaskedObservation(make(), observations="obs", action_mask="mask")
    assert set(env.reset()[0]) == set(env.observation_space) == {"obs", "mask"}


def test_continuous_actions_have_no_mask():
    env = make("N2NShrink-v0", action="continuous")
    with pytest.raises(ValueError, match=r"only discrete actions have a mask, got Box"):
        MaskedObservation(env)


def test_infos_keep_their_numbers_and_lose_their_strings():
    plain, numeric = make(), NumericInfo(make())
    _, info = plain.reset()
    _, found = numeric.reset()
    assert found.keys() == info.keys() == {"action_mask"}
    is_over = False
    while not is_over:
        *_, is_over, _, info = plain.step(1)
        *_, found = numeric.step(1)
    lost = {"fingerprint", "student", "violated", "reward_vector"}
    assert info.keys() - found.keys() == lost
    assert all(np.array_equal(info[key], found[key]) for key in found)


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version:UserWarning")
@pytest.mark.parametrize("adapt", [MaskedObservation, NumericInfo])
def test_checkers_pass_and_specs_make_the_same_again(adapt):
    env = adapt(make())
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    again = gym.make(spec)
    assert isinstance(again, adapt)
    assert again.observation_space == env.observation_space
    check_env(env, skip_render_check=True)
    sb3_check_env(gym.wrappers.FlattenObservation(env), warn=True)
