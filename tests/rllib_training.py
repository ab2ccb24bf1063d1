"""Trains with RLlib's new API stack and prints what came of it as JSON.

``test_conformance_rllib.py`` runs it: RLlib asks for an older Gymnasium than the rest.
"""

import itertools
import json
import sys

import gymnasium as gym
import numpy as np
import ray
from gymnasium.wrappers import FlattenObservation
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.rl_modules.classes.action_masking_rlm import (
    ActionMaskingTorchRLModule,
)
from ray.tune import register_env

from n2n_agents.adapters import MaskedObservation
from tests.journal import Journal, check_episodes, check_legal
from tests.test_settings import SETTINGS, STAGES, arguments_of

UPDATES = 10
NET = {"fcnet_hiddens": [64], "head_fcnet_hiddens": []}


def ppo() -> PPOConfig:
    return (
        PPOConfig()
        .training(
            train_batch_size_per_learner=200,
            minibatch_size=100,
            num_epochs=8,
            lr=1e-3,
            gamma=1.0,
            grad_clip=0.5,
        )
        .debugging(seed=0)
    )


def train(config: PPOConfig) -> dict[str, object]:
    """What changed, and the mean return of each update's episodes."""
    algorithm = config.build_algo()

    def weights() -> dict[str, np.ndarray]:
        state = algorithm.get_module().get_state()
        return {name: np.array(values) for name, values in state.items()}

    before = weights()
    returns = [
        float(algorithm.train()["env_runners"]["episode_return_mean"])
        for _ in range(UPDATES)
    ]
    after = weights()
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    found = {"changed": changed, "returns": returns}
    if algorithm.config.num_env_runners == 0:
        found |= read(journal_of(algorithm))
    algorithm.stop()
    return found


def journal_of(algorithm: Algorithm) -> Journal:
    env = algorithm.env_runner.env.unwrapped.envs[0]
    while not isinstance(env, Journal):
        env = env.env
    return env


def read(env: Journal) -> dict[str, object]:
    """The environment's own episodes: their infos."""
    check_episodes(env, at_least=UPDATES * 7)
    was_illegal = any(any(episode.was_illegal) for episode in env.episodes)
    return {"was_illegal": was_illegal, "values": env.values}


def make_masked(settings) -> gym.Env:
    settings = dict(settings)
    env = Journal(gym.make(f"n2n_gym:{settings.pop('id')}", **settings))
    return MaskedObservation(FlattenObservation(env))


def masked(name: str, arguments: dict[str, object]) -> PPOConfig:
    """In this process, so that the environment can be asked afterwards."""
    return (
        ppo()
        .environment("masked", env_config={"id": name, **arguments})
        .env_runners(num_env_runners=0)
        .rl_module(
            rl_module_spec=RLModuleSpec(
                module_class=ActionMaskingTorchRLModule, model_config=NET
            )
        )
    )


def train_with_masks() -> dict[str, object]:
    return train(masked("N2NRemove-v0", {"teacher": "resnet18", "evaluator": "size"}))


def play_every_setting() -> dict[str, int]:
    """One update each; the episodes played, by environment and setting."""
    played = {}
    for name, setting in itertools.product(STAGES, SETTINGS):
        algorithm = masked(name, arguments_of(name, setting)).build_algo()
        algorithm.train()
        journal = journal_of(algorithm)
        check_legal([journal], at_least=8)
        played[f"{name} {setting}"] = len(journal.episodes)
        algorithm.stop()
    return played


def train_by_id() -> dict[str, object]:
    """In a process of the environment's own."""
    settings = {"teacher": "vgg11_bn", "evaluator": "size"}
    config = (
        ppo()
        .environment("n2n_gym:N2NRemove-v0", env_config=settings)
        .env_runners(
            num_env_runners=1,
            num_envs_per_env_runner=2,
            env_to_module_connector=lambda env, spaces, device: FlattenObservations(),
        )
        .rl_module(model_config=NET)
    )
    return train(config)


if __name__ == "__main__":
    ray.init("local", num_cpus=2, include_dashboard=False)
    register_env("masked", make_masked)
    done = {
        "gymnasium": gym.__version__,
        "masked": train_with_masks(),
        "by_id": train_by_id(),
        "settings": play_every_setting(),
    }
    ray.shutdown()
    sys.stdout.write(f"\n{json.dumps(done)}\n")
