"""Properties of every registered environment."""

import copy
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env

import n2n_gym  # noqa: F401  registers the ids
from envs_registry import ENVIRONMENTS, register

IDS = sorted(ENVIRONMENTS)


def make(name: str, **arguments) -> gym.Env:
    arguments = {"teacher": "resnet18", "evaluator": "size", **arguments}
    return gym.make(name, **arguments)


@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_checker_passes(name):
    check_env(make(name).unwrapped)


@pytest.mark.parametrize("illegal", ["keep", "end"])
@pytest.mark.parametrize("name", IDS)
def test_stable_baselines3s_checker_passes_on_the_flat_form(name, illegal):
    env = gym.wrappers.FlattenObservation(make(name, illegal=illegal))
    sb3_check_env(env, warn=True)


def test_both_checkers_pass_with_continuous_actions():
    env = make("N2NShrink-v0", action="continuous")
    check_env(env.unwrapped)
    sb3_check_env(gym.wrappers.FlattenObservation(env), warn=True)


@pytest.mark.parametrize("granularity", ["block", "layer"])
@pytest.mark.parametrize("teacher", ["resnet18", "convnext_tiny", "shufflenet_v2_x0_5"])
def test_both_checkers_pass_at_every_granularity(teacher, granularity):
    env = make("N2NRemove-v0", teacher=teacher, granularity=granularity)
    check_env(env.unwrapped)
    sb3_check_env(gym.wrappers.FlattenObservation(env), warn=True)


@pytest.mark.parametrize("name", IDS)
def test_specs_are_plain_data(name):
    spec = make(name).spec
    assert spec is not None
    assert gym.envs.registration.EnvSpec.from_json(spec.to_json()).id == name


def test_registering_again_changes_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register()


@pytest.mark.parametrize("name", IDS)
def test_an_id_can_name_its_module(name):
    program = (
        "import gymnasium as gym\n"
        f"env = gym.make('n2n_gym:{name}', teacher='resnet18', evaluator='size')\n"
        "print(env.reset(seed=0)[0].shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(")


@pytest.mark.parametrize("name", IDS)
def test_equal_actions_give_equal_episodes(name):
    first, second = make(name), make(name)
    for env in (first, second):
        env.reset(seed=5)
        env.action_space.seed(5)
    is_over = False
    while not is_over:
        action = first.action_space.sample()
        one, two = first.step(action), second.step(action)
        np.testing.assert_array_equal(one[0], two[0])
        for key in ("action_mask", "reward_vector"):
            np.testing.assert_array_equal(one[4].pop(key), two[4].pop(key))
        assert one[1:] == two[1:]
        is_over = one[2]


@pytest.mark.parametrize("name", IDS)
def test_copies_go_on_independently(name):
    env = make(name).unwrapped
    env.reset(seed=0)
    env.step(1)
    twin = copy.deepcopy(env)
    assert twin.teacher is env.teacher
    before = env.student.fingerprint
    while not twin.step(0)[2]:
        pass
    assert env.position == 1
    assert env.student.fingerprint == before
    assert not env.step(0)[2]
    env.action_space.seed(1)
    twin = copy.deepcopy(env)
    assert twin.action_space.sample() == env.action_space.sample()


@pytest.mark.parametrize("name", IDS)
def test_stable_baselines3_makes_vectors_of_it_by_name(name):
    arguments = {"teacher": "resnet18", "evaluator": "size"}
    vector = make_vec_env(name, n_envs=2, env_kwargs=arguments)
    assert vector.reset().shape[0] == 2
    picture = vector.render()
    assert picture is not None
    assert picture.dtype == np.uint8
    vector.close()


@pytest.mark.parametrize("mode", list(gym.vector.AutoresetMode))
@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_vectors_take_it(name, mode):
    env = gym.make_vec(
        name,
        num_envs=2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        teacher="resnet18",
        evaluator="size",
    )
    observations, infos = env.reset(seed=0)
    assert observations.shape[0] == 2
    assert infos["action_mask"].dtype == np.int8
    for _ in range(40):
        *_, terminated, _, infos = env.step(env.action_space.sample())
        if mode is gym.vector.AutoresetMode.DISABLED and terminated.all():
            env.reset(options={"reset_mask": terminated})
    env.close()
