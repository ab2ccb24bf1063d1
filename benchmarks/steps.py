"""How fast the environments step when scoring costs nothing.

    python benchmarks/steps.py

Plays random legal episodes with the size evaluator and prints steps per second, the
median of several repeats, with reset and the assembly of the last info counted in.
"""

from __future__ import annotations

import platform
import statistics
import time

import gymnasium as gym
import torch

import n2n_gym
from n2n_gym.resources.machine import processor

REPEATS = 5
SECONDS = 2.0  # of each repeat
CASES = [
    ("N2NRemove-v0", "resnet18"),
    ("N2NRemove-v0", "resnet34"),
    ("N2NRemove-v0", "vgg19_bn"),
    ("N2NRemove-v0", "mobilenet_v2"),
    ("N2NShrink-v0", "resnet18"),
    ("N2NCompress-v0", "resnet18"),
]


def steps_per_second(env: gym.Env) -> float:
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        _, info = env.reset()
        is_over = False
        while not is_over:
            action = env.action_space.sample(info["action_mask"])
            _, _, is_over, _, info = env.step(action)
            steps += 1
    return steps / (time.perf_counter() - started)


def main() -> None:
    torch.set_num_threads(1)
    print(f"n2n-gym {n2n_gym.__version__}, gymnasium {gym.__version__}, one thread of")
    print(f"{processor()}, Python {platform.python_version()}")
    print(f"{'environment':14}{'teacher':14}{'steps/s':>9}{'lowest':>9}{'highest':>9}")
    for name, teacher in CASES:
        env = gym.make(name, teacher=teacher, evaluator="size")
        env.action_space.seed(0)
        steps_per_second(env)  # fills the memo of layer costs
        rates = [steps_per_second(env) for _ in range(REPEATS)]
        middle = statistics.median(rates)
        row = "".join(f"{rate:9,.0f}" for rate in (middle, min(rates), max(rates)))
        print(f"{name:14}{teacher:14}{row}")


if __name__ == "__main__":
    main()
