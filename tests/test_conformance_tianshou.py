"""Tianshou: DQN, which reads masks, and PPO."""

from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import pytest
import torch
from tianshou.algorithm import DQN, PPO
from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams, OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

from n2n_agents.adapters import MaskedObservation, NumericInfo
from tests.journal import Journal, check_episodes, make

ADAM = AdamOptimizerFactory(lr=3e-3)
SILENT = {"max_epochs": 1, "verbose": False, "show_progress": False}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    np.random.seed(0)  # noqa: NPY002  it draws from NumPy's global generator
    torch.manual_seed(0)


def net(env: gym.Env, num_actions: int = 0) -> Net:
    shape = env.observation_space.shape
    return Net(state_shape=shape, action_shape=num_actions, hidden_sizes=[64])


def collector(
    algorithm: Algorithm, envs: Sequence[gym.Env], *, exploring: bool = False
) -> Collector:
    rows = DummyVectorEnv([lambda env=env: env for env in envs])
    buffer = VectorReplayBuffer(4000, len(envs))
    return Collector(algorithm, rows, buffer, exploration_noise=exploring)


@pytest.mark.slow
def test_dqn_takes_legal_actions_alone():
    journals = [Journal(make(teacher="resnet18")) for _ in range(4)]
    policy = DiscreteQLearningPolicy(
        model=net(journals[0], num_actions=2),
        action_space=journals[0].action_space,
        eps_training=0.2,
    )
    before = [p.clone() for p in policy.parameters()]
    algorithm = DQN(policy=policy, optim=ADAM, gamma=1.0, n_step_return_horizon=25)
    envs = [
        MaskedObservation(NumericInfo(journal), observations="obs", action_mask="mask")
        for journal in journals
    ]
    collected = collector(algorithm, envs, exploring=True)
    algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=collected,
            epoch_num_steps=1000,
            collection_step_num_env_steps=100,
            update_step_num_gradient_steps_per_sample=0.2,
            **SILENT,
        )
    )
    assert not any(map(torch.equal, before, policy.parameters()))
    for journal in journals:
        check_episodes(journal, at_least=10)
        assert not any(any(episode.was_illegal) for episode in journal.episodes)
    kept = collected.buffer
    assert kept.rew.sum() == pytest.approx(sum(sum(j.values) for j in journals))
    assert kept.info.num_params[kept.terminated].all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["N2NRemove-v0", "N2NShrink-v0"])
def test_ppo_learns(name):
    journals = [Journal(make(name, teacher="vgg11_bn")) for _ in range(4)]
    envs = [NumericInfo(journal) for journal in journals]
    actor = DiscreteActor(
        preprocess_net=net(envs[0]),
        action_shape=envs[0].action_space.n,
        softmax_output=False,
    )
    critic = DiscreteCritic(preprocess_net=net(envs[0]))
    policy = DiscreteActorPolicy(actor=actor, action_space=envs[0].action_space)
    algorithm = PPO(
        policy=policy, critic=critic, optim=ADAM, gamma=1.0, max_grad_norm=0.5
    )
    before = [p.clone() for p in algorithm.parameters()]
    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=collector(algorithm, envs),
            epoch_num_steps=1400,
            collection_step_num_env_steps=140,
            update_step_num_repetitions=8,
            **SILENT,
        )
    )
    assert not any(map(torch.equal, before, algorithm.parameters()))
    for journal in journals:
        check_episodes(journal, at_least=20)
        assert np.mean(journal.values[-10:]) > 0.92  # N2NRemove at random: 0.76
