"""An agent of your own on N2N-Bench: exact regrets, in seconds, without torch.

    python examples/n2n_bench.py                    # or with the ids of other tasks

Its students come from a table, so that a search of 100 students takes no time.
"""

import sys

import gymnasium as gym
import numpy as np

import n2n_gym  # noqa: F401  registers the ids

STUDENTS = 100


def climb(env: gym.Env, *, seed: int) -> float:
    """Change one decision of the best student so far.

    Returns the test regret of the best student, which the search itself never uses.
    """
    rng = np.random.default_rng(seed)
    best, best_reward, regret = None, -np.inf, np.inf
    for _ in range(STUDENTS):
        _, info = env.reset()
        actions, is_over = [], False
        change = rng.integers(len(best)) if best else -1
        while not is_over:
            legal = np.flatnonzero(info["action_mask"])
            action = int(rng.choice(legal))
            if best and len(actions) != change and best[len(actions)] in legal:
                action = best[len(actions)]
            _, reward, is_over, _, info = env.step(action)
            actions.append(action)
        if reward > best_reward:
            best, best_reward, regret = actions, reward, info["test_regret"]
    return regret


if __name__ == "__main__":
    for task in sys.argv[1:] or ["N2NBench/Remove-Residual-CIFAR10x16-Params2-v0"]:
        regrets = [climb(gym.make(task), seed=seed) for seed in range(10)]
        print(f"{task}: mean test regret {np.mean(regrets):.4f} of {STUDENTS} students")
