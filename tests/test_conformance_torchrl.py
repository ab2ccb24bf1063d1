"""TorchRL: PPO with masks, environments by their ids, and our vector."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FlattenObservation
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import (
    ActionMask,
    Compose,
    GymEnv,
    GymWrapper,
    InitTracker,
    TransformedEnv,
)
from torchrl.envs.gym_like import default_info_dict_reader
from torchrl.envs.utils import check_env_specs
from torchrl.modules import MLP, MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from n2n_agents.adapters import MaskedObservation, NumericInfo
from tests.journal import Journal, check_episodes, make

STEPS, UPDATES, EPOCHS = 100, 8, 8


# TorchRL warns of its own old classes, at its import.
@pytest.mark.filterwarnings(
    "ignore:.* inherits from WeightUpdaterBase is deprecated:DeprecationWarning"
)
def test_ppo_learns_and_takes_legal_actions_alone():
    from torchrl.collectors import Collector

    torch.manual_seed(0)
    journal = Journal(make(teacher="resnet18"))
    plain = GymWrapper(
        MaskedObservation(FlattenObservation(journal)), categorical_action_encoding=True
    )
    env = TransformedEnv(plain, Compose(InitTracker(), ActionMask()))
    num_inputs = env.observation_spec["observations"].shape[-1]
    scores = TensorDictModule(
        MLP(num_inputs, 2, num_cells=[64]), ["observations"], ["logits"]
    )
    actor = ProbabilisticActor(
        scores,
        in_keys={"logits": "logits", "mask": "action_mask"},
        distribution_class=MaskedCategorical,
        return_log_prob=True,
    )
    critic = ValueOperator(MLP(num_inputs, 1, num_cells=[64]), ["observations"])
    before = [p.clone() for p in (*actor.parameters(), *critic.parameters())]
    advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic)
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01, normalize_advantage=True)
    optimiser = torch.optim.Adam(loss.parameters(), 3e-3)
    collected = Collector(
        env, actor, frames_per_batch=STEPS, total_frames=UPDATES * STEPS
    )
    for batch in collected:
        earned = batch["next", "reward"][batch["next", "terminated"]]
        ended = len(earned)
        np.testing.assert_allclose(earned, journal.values[-ended:], rtol=1e-6)
        for _ in range(EPOCHS):
            advantage(batch)
            parts = loss(batch).select("loss_objective", "loss_critic", "loss_entropy")
            total = sum(parts.values())
            optimiser.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
            optimiser.step()
    collected.shutdown()
    after = (*actor.parameters(), *critic.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    check_episodes(journal, at_least=30)
    assert not any(any(episode.was_illegal) for episode in journal.episodes)
    assert np.mean(journal.values[-8:]) > 0.98


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("N2NRemove-v0", {}),
        ("N2NShrink-v0", {}),
        ("N2NShrink-v0", {"action": "continuous"}),
    ],
)
def test_an_id_is_enough_for_its_checks_and_episodes(name, settings):
    settings = {"teacher": "vgg11_bn", "evaluator": "size", **settings}
    env = GymEnv(f"n2n_gym:{name}", **settings)
    check_env_specs(env)
    torch.manual_seed(0)
    played = env.rollout(100)  # it stops at the end of the episode
    length = len(make(name, **settings).unwrapped.decisions)
    ended = played["next", "terminated"].flatten().tolist()
    assert ended == [False] * (length - 1) + [True]
    assert played["next", "reward"].flatten().count_nonzero() == 1


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])  # it takes no other
def test_rows_of_our_vector_are_the_environment_itself(mode):
    settings = {"teacher": "vgg11_bn", "evaluator": "size"}
    rows = gym.make_vec(
        "n2n_gym:N2NRemove-v0", num_envs=3, autoreset_mode=mode, **settings
    )
    env = GymWrapper(rows, categorical_action_encoding=True)
    check_env_specs(env)
    torch.manual_seed(0)
    played = env.rollout(14, break_when_any_done=False)  # two episodes in each
    assert played["next", "terminated"].sum() == 6
    one = make(**settings)
    for row in played:
        one.reset()
        for step in row:
            observation, reward, terminated, _, _ = one.step(step["action"].item())
            seen = step["next"]
            np.testing.assert_array_equal(observation, seen["observation"])
            assert seen["reward"].item() == np.float32(reward)
            assert seen["terminated"].item() is terminated
            if terminated:
                one.reset()


ALWAYS = ["illegal"]
LAST = ["num_params", "compression", "accuracy", "is_success", "cost"]
READERS = {
    "all that a step has": None,
    "what every step has": ALWAYS,
    "what the last step has": LAST,
    "both": ALWAYS + LAST,
}


@pytest.mark.parametrize("keys", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("N2NRemove-v0", {}),
        ("N2NRemove-v0", {"constraints": {"num_params": 1e6}, "strict": True}),
        ("N2NShrink-v0", {"action": "continuous"}),
        ("N2NCompress-v0", {}),
    ],
)
def test_its_reader_takes_the_numbers_of_infos(name, settings, keys):
    settings = {"teacher": "vgg11_bn", "evaluator": "size", **settings}
    journal = Journal(make(name, **settings))
    env = GymWrapper(NumericInfo(journal, dtype="float32"))
    reader = None if keys is None else default_info_dict_reader(keys)
    env = env.auto_register_info_dict(info_dict_reader=reader)
    check_env_specs(env)
    torch.manual_seed(0)
    played = env.rollout(1_000)["next"]  # it stops at the end of the episode
    info = journal.episodes[-1].info
    if keys is None:
        reward = torch.tensor(info["reward_vector"])
        assert torch.equal(played["reward_vector"][-1], reward)
    for key in keys or ALWAYS:
        assert played[key].dtype == torch.float32
        assert played[key][-1].item() == np.float32(info[key])
        if key in LAST:  # nothing is known before
            assert played[key][:-1].count_nonzero() == 0
