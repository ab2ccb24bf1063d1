import gymnasium as gym
import numpy as np
import pytest
import torch

from n2n_agents import sb3
from n2n_agents.library import AGENTS
from n2n_gym.comparison.budget import Ledger, run
from n2n_gym.envs import RemoveEnv, ShrinkEnv


def env_for(algorithm: str, teacher, **arguments):
    if algorithm in sb3.CONTINUOUS:
        return ShrinkEnv(teacher, evaluator="size", action="continuous", **arguments)
    return RemoveEnv(teacher, evaluator="size", **arguments)


@pytest.mark.parametrize("algorithm", sb3.ALGORITHMS)
def test_it_trains_and_is_saved_and_loaded(algorithm, teacher, tmp_path):
    env = env_for(algorithm, teacher)
    rows = env.observation_space.shape[0]
    agent = sb3.make(algorithm, env, seed=1)
    before = [p.clone() for p in agent.policy.parameters()]
    agent.learn(12 * rows)
    pairs = zip(before, agent.policy.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)

    agent.save(tmp_path / "agent")
    again = type(agent).load(tmp_path / "agent", env=env)
    observation, _ = env.reset()
    one, two = (a.predict(observation, deterministic=True)[0] for a in (agent, again))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("name", ["ppo", "maskable-ppo", "dqn", "sac"])
def test_it_runs_by_name_until_its_budget_is_spent(name, teacher):
    algorithm = {"sac": "SAC"}.get(name, "PPO")
    ledger = Ledger(evaluations=6, patience=100)
    run(env_for(algorithm, teacher), AGENTS[name], ledger, seed=0)
    assert ledger.reason in ("budget", "nothing new")
    assert len(ledger.found) >= 2


def test_equal_seeds_find_the_same(teacher):
    found = []
    for _ in range(2):
        ledger = Ledger(evaluations=8, patience=100)
        run(env_for("MaskablePPO", teacher), AGENTS["maskable-ppo"], ledger, seed=2)
        found.append(list(ledger.found))
    assert found[0] == found[1]


def test_masked_agents_take_no_illegal_action(teacher):
    env = env_for("MaskablePPO", teacher)
    seen = []
    step = env.step
    env.step = lambda action: seen.append(result := step(action)) or result
    sb3.make("MaskablePPO", env).learn(200)
    assert len(seen) >= 200
    assert not any(info["illegal"] for *_, info in seen)


def test_one_policy_serves_teachers_of_one_height(tmp_path):
    small, other = (
        RemoveEnv(name, evaluator="size", max_rows=60)
        for name in ("resnet18", "vgg11_bn")
    )
    agent = sb3.make("PPO", small)
    agent.learn(300)
    agent.save(tmp_path / "agent")
    moved = type(agent).load(tmp_path / "agent", env=other)
    moved.learn(300)
    assert moved.predict(other.reset()[0])[0] in (0, 1)


def test_rows_that_fill_up_change_nothing():
    space = RemoveEnv("vgg11_bn", evaluator="size").observation_space
    torch.manual_seed(0)
    reader = sb3.LayerSequence(space).eval()
    rows = torch.rand(2, *space.shape)
    rows[..., -3] = 0
    rows[0, 3, -3] = rows[1, 0, -3] = 1
    higher = torch.cat([rows, torch.zeros(2, 5, space.shape[1])], 1)
    assert torch.allclose(reader(rows), reader(higher), atol=1e-6)
    # What is decided makes a difference.
    moved = rows.clone()
    moved[0, 3, -3], moved[0, 4, -3] = 0, 1
    assert not torch.allclose(reader(rows)[0], reader(moved)[0], atol=1e-3)


def test_a_sequence_of_nothing_gives_numbers():
    space = RemoveEnv("vgg11_bn", evaluator="size").observation_space
    assert sb3.LayerSequence(space)(torch.zeros(3, *space.shape)).isfinite().all()


def test_bad_names_and_spaces_are_refused(teacher):
    env = env_for("PPO", teacher)
    with pytest.raises(ValueError, match=r"unknown algorithm 'TRPO'; known: PPO, A2C"):
        sb3.make("TRPO", env)
    flat = gym.wrappers.FlattenObservation(env)
    with pytest.raises(ValueError, match=r"observations must be rows, \(T, F\)"):
        sb3.make("PPO", flat)
