"""Every environment with every setting, played by each RL library with its masks."""

import gc

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from skrl.envs.wrappers.torch import wrap_env
from torchrl.envs import GymEnv
from torchrl.envs.utils import check_env_specs

from n2n_agents.adapters import MaskedObservation, NumericInfo
from tests.journal import Journal, check_legal
from tests.test_settings import SETTINGS, STAGES, WHOLE, arguments_of, make

pytestmark = [
    pytest.mark.slow,
    # Minari's collector removes its folder, but leaves the object to be collected.
    pytest.mark.filterwarnings(
        "ignore:Implicitly cleaning up <TemporaryDirectory:ResourceWarning"
    ),
    # TorchRL warns of its own old classes, at its import.
    pytest.mark.filterwarnings(
        "ignore:.* inherits from WeightUpdaterBase is deprecated:DeprecationWarning"
    ),
]
setting_of = pytest.mark.parametrize("setting", SETTINGS)
stage_of = pytest.mark.parametrize("name", STAGES)


@setting_of
@stage_of
def test_stable_baselines3_learns_with_masks(name, setting):
    journal = Journal(make(name, setting, "coarse"))
    env = gym.wrappers.FlattenObservation(journal)
    agent = MaskablePPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=0)
    agent.learn(128)
    check_legal([journal], at_least=8)


@setting_of
@stage_of
def test_torchrl_checks_and_plays_it(name, setting):
    env = GymEnv(f"n2n_gym:{name}", **arguments_of(name, setting))
    check_env_specs(env)
    torch.manual_seed(0)
    played = env.rollout(100)  # it stops at the end of the episode
    ended = played["next", "terminated"].flatten().tolist()
    assert ended == [False] * (len(ended) - 1) + [True]


@setting_of
@stage_of
def test_rows_of_our_vector_are_those_of_gymnasiums(name, setting):
    """CleanRL's scripts and skrl step through vectors."""
    arguments = arguments_of(name, setting)
    rows = [
        gym.make_vec(f"n2n_gym:{name}", num_envs=3, **more, **arguments)
        for more in ({}, {"vectorization_mode": "sync"})
    ]
    (first, info), (second, _) = (envs.reset(seed=7) for envs in rows)
    assert np.array_equal(first, second)
    rng = np.random.default_rng(0)
    for _ in range(40):
        actions = np.array(
            [rng.choice(np.flatnonzero(mask)) for mask in info["action_mask"]]
        )
        mine, theirs = (envs.step(actions) for envs in rows)
        for a, b in zip(mine[:4], theirs[:4], strict=True):
            assert np.array_equal(a, b)
        info = mine[4]
        assert np.array_equal(info["action_mask"], theirs[4]["action_mask"])
    for envs in rows:
        envs.close()


@setting_of
@stage_of
def test_skrl_steps_our_vector(name, setting):
    envs = gym.make_vec(
        f"n2n_gym:{name}",
        num_envs=2,
        autoreset_mode="SameStep",
        **arguments_of(name, setting),
    )
    wrapped = wrap_env(envs)
    wrapped.reset()
    ended = 0
    for _ in range(30):
        actions = torch.full((2, 1), int(envs.metadata["keep"]))
        observations, _, terminated, _, _ = wrapped.step(actions)
        assert observations.isfinite().all()
        ended += int(terminated.sum())
    assert ended
    wrapped.close()


@setting_of
@stage_of
def test_tianshou_collects_with_masks(name, setting):
    from tianshou.algorithm import DQN
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy

    from tests.test_conformance_tianshou import ADAM, collector, net

    journals = [Journal(make(name, setting, "coarse")) for _ in range(2)]
    policy = DiscreteQLearningPolicy(
        model=net(journals[0], num_actions=int(journals[0].action_space.n)),
        action_space=journals[0].action_space,
        eps_training=1.0,
    )
    envs = [
        MaskedObservation(NumericInfo(journal), observations="obs", action_mask="mask")
        for journal in journals
    ]
    algorithm = DQN(policy=policy, optim=ADAM, gamma=1.0)
    collected = collector(algorithm, envs, exploring=True)
    collected.collect(n_episode=8, reset_before_collect=True)
    check_legal(journals, at_least=8)


@setting_of
@stage_of
def test_minari_records_it(name, setting, tmp_path, monkeypatch):
    import minari

    from tests.test_conformance_minari import ABOUT

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    # What it keeps of an environment is JSON.
    arguments = {**arguments_of(name, setting), "teacher": WHOLE.to_json()}
    played = MaskedObservation(gym.make(name, **arguments))
    env = minari.DataCollector(played)
    env.action_space.seed(0)
    returns = []
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        is_over = False
        while not is_over:
            mask = observation["action_mask"].astype(np.int8)
            step = env.step(env.action_space.sample(mask))
            observation, reward, is_over, _, info = step
            assert not info["illegal"]
        returns.append(float(reward))
    made = env.create_dataset("n2n/settings/random-v0", eval_env=played.spec, **ABOUT)
    assert [float(episode.rewards.sum()) for episode in made] == returns
    env.close()
    gc.collect()
