"""CleanRL's way: PPO in plain torch, of flat observations, over Gymnasium's vectors."""

import multiprocessing

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector
from torch import nn
from torch.distributions import Categorical

NUM_ENVS, STEPS = 4, 28
EPOCHS, MINIBATCHES = 4, 4
GAE_LAMBDA, CLIP, ENTROPY, LEARNING_RATE = 0.95, 0.2, 0.01, 3e-3
SEED = 1


class Agent(nn.Module):
    def __init__(self, envs: gym.vector.VectorEnv) -> None:
        super().__init__()
        num_inputs = int(np.prod(envs.single_observation_space.shape))

        def network(num_outputs: int) -> nn.Module:
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(num_inputs, 64),
                nn.Tanh(),
                nn.Linear(64, num_outputs),
            )

        self.actor, self.critic = network(int(envs.single_action_space.n)), network(1)

    def choices(self, observations, masks) -> Categorical:
        return Categorical(logits=self.actor(observations).where(masks, -1e8))

    def values(self, observations):
        return self.critic(observations).squeeze(-1)


def first_agent(envs: gym.vector.VectorEnv) -> Agent:
    torch.manual_seed(SEED)
    return Agent(envs)


def train(envs: gym.vector.VectorEnv, updates: int) -> tuple[Agent, list[float]]:
    """The agent, and the returns of the episodes it played while it learned."""
    mode = envs.metadata["autoreset_mode"]
    agent = first_agent(envs)
    optimiser = torch.optim.Adam(agent.parameters(), LEARNING_RATE)
    returns: list[float] = []

    observations, infos = envs.reset(seed=SEED)
    masks = infos["action_mask"]
    is_resetting = np.zeros(NUM_ENVS, bool)  # such a step belongs to no episode
    for _ in range(updates):
        batch: dict[str, list[torch.Tensor]] = {}
        for _ in range(STEPS):
            seen, legal = torch.as_tensor(observations), torch.as_tensor(masks) > 0
            with torch.no_grad():
                chosen = agent.choices(seen, legal)
                actions = chosen.sample()
                step = {
                    "observations": seen,
                    "masks": legal,
                    "actions": actions,
                    "log_probs": chosen.log_prob(actions),
                    "values": agent.values(seen),
                }
            observations, rewards, ended, truncated, infos = envs.step(actions.numpy())
            assert not truncated.any()
            ends = infos.get("final_info", infos)  # there where rows reset at once
            assert is_resetting.all() or not ends["illegal"][~is_resetting].any()
            if ended.any():
                compression = ends["compression"][ended]
                np.testing.assert_allclose(
                    rewards[ended], compression * (2 - compression)
                )
                returns += rewards[ended].tolist()
            masks = infos["action_mask"]
            step |= {
                "rewards": torch.as_tensor(rewards, dtype=torch.float32),
                "ended": torch.as_tensor(ended),
                "counts": torch.as_tensor(~is_resetting),
            }
            for key, value in step.items():
                batch.setdefault(key, []).append(value)
            if mode is AutoresetMode.NEXT_STEP:
                is_resetting = ended
            elif mode is AutoresetMode.DISABLED and ended.any():
                observations, infos = envs.reset(options={"reset_mask": ended})
                masks = np.where(ended[:, None], infos["action_mask"], masks)
        with torch.no_grad():
            last_values = agent.values(torch.as_tensor(observations))
        learn(
            agent,
            optimiser,
            {key: torch.stack(values) for key, values in batch.items()},
            last_values,
        )
    return agent, returns


def learn(agent, optimiser, batch, last_values) -> None:
    """One update of PPO, (T, N) steps."""
    advantages = torch.zeros_like(batch["rewards"])
    following, advantage = last_values, torch.zeros_like(last_values)
    for t in reversed(range(STEPS)):
        goes_on = ~batch["ended"][t]
        error = batch["rewards"][t] + goes_on * following - batch["values"][t]
        advantage = error + GAE_LAMBDA * goes_on * advantage
        advantages[t], following = advantage, batch["values"][t]
    counts = batch["counts"]
    flat = {key: value[counts] for key, value in batch.items()}
    advantages = advantages[counts]
    targets = advantages + flat["values"]
    for _ in range(EPOCHS):
        for part in torch.randperm(len(targets)).chunk(MINIBATCHES):
            seen = flat["observations"][part]
            chosen = agent.choices(seen, flat["masks"][part])
            log_probs = chosen.log_prob(flat["actions"][part])
            ratio = (log_probs - flat["log_probs"][part]).exp()
            gain = advantages[part]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            loss = -torch.min(gain * ratio, gain * clipped).mean()
            loss += 0.5 * (agent.values(seen) - targets[part]).square().mean()
            loss -= ENTROPY * chosen.entropy().mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimiser.step()


ENV = {"id": "n2n_gym:N2NRemove-v0", "num_envs": NUM_ENVS, "evaluator": "size"}


def make_ours(mode: AutoresetMode, **arguments) -> gym.vector.VectorEnv:
    envs = gym.make_vec(**ENV, autoreset_mode=mode, **arguments)
    # Gymnasium's wrapper cannot go with this mode, where infos hold observations.
    is_same_step = mode is AutoresetMode.SAME_STEP
    return envs if is_same_step else vector.FlattenObservation(envs)


def make_gymnasiums(kind: str, mode: AutoresetMode, settings) -> gym.vector.VectorEnv:
    return gym.make_vec(
        **ENV,
        vectorization_mode=kind,
        vector_kwargs={"autoreset_mode": mode, **settings},
        wrappers=[gym.wrappers.FlattenObservation],
    )


@pytest.fixture(scope="module")
def context() -> str:
    """How processes start: without what this one has running, but imported once."""
    multiprocessing.set_forkserver_preload(["n2n_gym.envs"])
    return "forkserver"


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_it_learns_from_our_vector(mode):
    envs = make_ours(mode, teacher="vgg11_bn")
    agent, returns = train(envs, updates=12)
    assert np.mean(returns[:20]) < 0.95 < np.mean(returns[-20:])
    both = zip(agent.parameters(), first_agent(envs).parameters(), strict=True)
    assert not any(torch.equal(one, other) for one, other in both)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_it_learns_the_same_from_gymnasiums_vectors(mode, context):
    _, expected = train(make_ours(mode), updates=4)
    for kind, settings in (("sync", {}), ("async", {"context": context})):
        envs = make_gymnasiums(kind, mode, settings)
        _, returns = train(envs, updates=4)
        envs.close()
        assert returns == expected
