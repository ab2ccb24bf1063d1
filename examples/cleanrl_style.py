"""REINFORCE in one file, without a library: four episodes at a time, masks and all.

    python examples/cleanrl_style.py                # or with another teacher's name

One file, one loop and no classes, as CleanRL writes its own.
"""

import sys

import gymnasium as gym
import torch
from torch import nn

import n2n_gym  # noqa: F401 - registers the environments

TEACHER = sys.argv[1] if len(sys.argv) > 1 else "resnet18"
UPDATES = int(sys.argv[2]) if len(sys.argv) > 2 else 20

envs = gym.make_vec("N2NShrink-v0", num_envs=4, teacher=TEACHER, task="digits")
rows, columns = envs.single_observation_space.shape
agent = nn.Sequential(
    nn.Flatten(),
    nn.Linear(rows * columns, 64),
    nn.Tanh(),
    nn.Linear(64, int(envs.single_action_space.n)),
)
optimiser = torch.optim.Adam(agent.parameters(), lr=3e-3)
baseline = None
observation, infos = envs.reset(seed=0)
for update in range(UPDATES):
    chosen, over = [], torch.zeros(4, dtype=torch.bool)
    while not over.all():  # all episodes end together
        legal = torch.as_tensor(infos["action_mask"]).bool()
        logits = agent(torch.as_tensor(observation)).masked_fill(~legal, -1e9)
        action = torch.distributions.Categorical(logits=logits)
        taken = action.sample()
        chosen.append(action.log_prob(taken))
        observation, reward, terminated, _, infos = envs.step(taken.numpy())
        over = torch.as_tensor(terminated)
    returns = torch.as_tensor(reward, dtype=torch.float32)  # 0 until the last step
    baseline = returns.mean() if baseline is None else baseline
    loss = -((returns - baseline) * torch.stack(chosen).sum(0)).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    baseline = 0.9 * baseline + 0.1 * returns.mean()
    print(f"update {update}: mean reward {returns.mean():.3f}")
    observation, infos = envs.reset()
