"""skrl: PPO on our vector, and with the masks out of the observation."""

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from skrl.utils.spaces.torch import unflatten_tensorized_space
from torch import nn

from n2n_agents.adapters import MaskedObservation
from tests.journal import Journal, check_episodes, make

torch.distributions.Distribution.set_default_validate_args(
    True
)  # skrl's import ends it

ROLLOUT, UPDATES, EPISODES = 28, 12, 4  # of 7 decisions each, those of vgg11_bn


class Network(Model):
    """An MLP of the observation, which skrl makes flat by itself."""

    def __init__(self, env, num_outputs: int) -> None:
        super().__init__(
            observation_space=env.observation_space,
            action_space=env.action_space,
            device=env.device,
        )
        self.net = nn.Sequential(
            nn.Linear(self.num_observations, 64), nn.Tanh(), nn.Linear(64, num_outputs)
        )

    def compute(self, inputs, role):
        return self.net(inputs["observations"]), {}


class Actor(CategoricalMixin, Network):
    def __init__(self, env) -> None:
        Network.__init__(self, env, env.action_space.n)
        CategoricalMixin.__init__(self)


class MaskedActor(Actor):
    def compute(self, inputs, role):
        logits, outputs = super().compute(inputs, role)
        space = self.observation_space
        seen = unflatten_tensorized_space(space, inputs["observations"])
        return logits.where(seen["action_mask"] > 0, -1e8), outputs


class Critic(DeterministicMixin, Network):
    def __init__(self, env) -> None:
        Network.__init__(self, env, 1)
        DeterministicMixin.__init__(self)


def train(envs: gym.vector.VectorEnv, actor: type[Actor], folder) -> RandomMemory:
    """Train on a vector; its memory then holds the last rollout, (T, N, 1) each."""
    set_seed(0)
    env = wrap_env(envs)
    memory = RandomMemory(memory_size=ROLLOUT, num_envs=env.num_envs, device=env.device)
    models = {"policy": actor(env), "value": Critic(env)}
    before = [p.clone() for model in models.values() for p in model.parameters()]
    settings = PPO_CFG(
        rollouts=ROLLOUT,
        learning_epochs=4,
        mini_batches=4,
        discount_factor=1.0,
        learning_rate=3e-3,
        entropy_loss_scale=0.01,
        experiment={"directory": str(folder), "write_interval": 0},
    )
    agent = PPO(
        models=models,
        memory=memory,
        cfg=settings,
        observation_space=env.observation_space,
        action_space=env.action_space,
        device=env.device,
    )
    run = {
        "timesteps": UPDATES * ROLLOUT,
        "disable_progressbar": True,
        "close_environment_at_exit": False,
    }
    SequentialTrainer(env=env, agents=agent, cfg=run).train()
    env.close()
    after = [p for model in models.values() for p in model.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return memory


def test_ppo_learns_from_our_vector(tmp_path):
    envs = gym.make_vec(
        "n2n_gym:N2NRemove-v0",
        num_envs=4,
        autoreset_mode="SameStep",  # it knows no steps that only reset
        teacher="vgg11_bn",
        evaluator="size",
    )
    memory = train(envs, Actor, tmp_path)
    rewards = memory.get_tensor_by_name("rewards")[..., 0]
    ended = memory.get_tensor_by_name("terminated")[..., 0]
    assert ended.sum() == 16  # a rollout is four episodes
    assert not rewards[~ended].any()
    assert rewards[ended].mean() > 0.95  # 0.76 at random


def test_a_masked_actor_takes_legal_actions_alone(tmp_path):
    journals = [Journal(make(teacher="resnet18")) for _ in range(4)]
    envs = SyncVectorEnv(
        [lambda journal=journal: MaskedObservation(journal) for journal in journals],
        autoreset_mode="SameStep",
    )
    memory = train(envs, MaskedActor, tmp_path)
    rewards = memory.get_tensor_by_name("rewards")[..., 0].T
    for row, journal in zip(rewards, journals, strict=True):
        check_episodes(journal, at_least=13)
        assert not any(any(episode.was_illegal) for episode in journal.episodes)
        earned = row[row != 0]
        np.testing.assert_allclose(earned, journal.values[-len(earned) :], rtol=1e-6)
