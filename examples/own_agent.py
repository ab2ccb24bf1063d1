"""Your own agent compared with random search, with intervals and a report.

    python examples/own_agent.py                    # or with another teacher's name

An agent is a function of an environment and a seed. It plays until it is stopped.
"""

import sys

import gymnasium as gym
import numpy as np

from n2n_gym.cli import app


def search(env: gym.Env, *, seed: int) -> None:
    """Change one decision of the best student so far; `env.step` raises at the end."""
    rng = np.random.default_rng(seed)
    best, best_reward = None, -np.inf
    while True:
        _, info = env.reset()
        actions, is_over = [], False
        change = 0 if best is None else rng.integers(len(best))
        while not is_over:
            legal = np.flatnonzero(info["action_mask"])
            action = int(rng.choice(legal))
            if best is not None and len(actions) != change:
                known = best[len(actions)]
                action = known if known in legal else action
            _, reward, is_over, _, info = env.step(action)
            actions.append(action)
        if reward > best_reward:
            best, best_reward = actions, reward


if __name__ == "__main__":
    teacher = sys.argv[1] if len(sys.argv) > 1 else "resnet18"
    count = sys.argv[2] if len(sys.argv) > 2 else "100"
    output = sys.argv[3] if len(sys.argv) > 3 else "runs/own-agent"
    app(
        [
            *("compare", "--agents", "random,own_agent:search", "--teacher", teacher),
            *("--task", "digits", "--evaluations", count, "--seeds", "3"),
            *("--output", output),
        ]
    )
