"""How fast the environments step when scoring costs nothing.

    python benchmarks/steps.py

Plays random legal episodes with the size evaluator. Prints steps per second of CPU
time, as medians of several repeats, including resets and last infos. Other work of the
machine changes CPU time little, and wall time much.
"""

from __future__ import annotations

import os
import platform
import statistics
import time

import gymnasium as gym
import torch

import n2n_gym
from n2n_gym.resources.machine import processor

REPEATS = 5
SECONDS = 2.0  # of each repeat
# With limits that are counted at every step, and with limits that need the built
# student.
COUNTED, BUILT = {"num_params": 1e6}, {"peak_bytes": 1e5}
CASES = [
    ("N2NRemove-v0", "resnet18", None),
    ("N2NRemove-v0", "resnet34", None),
    ("N2NRemove-v0", "vgg19_bn", None),
    ("N2NRemove-v0", "mobilenet_v2", None),
    ("N2NShrink-v0", "resnet18", None),
    ("N2NCompress-v0", "resnet18", None),
    ("N2NRemove-v0", "resnet18", COUNTED),
    ("N2NShrink-v0", "resnet18", COUNTED),
    ("N2NCompress-v0", "resnet18", COUNTED),
    ("N2NRemove-v0", "resnet18", BUILT),
    ("N2NShrink-v0", "resnet18", BUILT),
    ("N2NCompress-v0", "resnet18", BUILT),
]


def steps_per_second(env: gym.Env) -> float:
    steps, started = 0, time.process_time()
    while time.process_time() - started < SECONDS:
        _, info = env.reset()
        is_over = False
        while not is_over:
            action = env.action_space.sample(info["action_mask"])
            _, _, is_over, _, info = env.step(action)
            steps += 1
    return steps / (time.process_time() - started)


def main() -> None:
    torch.set_num_threads(1)
    print(f"n2n-gym {n2n_gym.__version__}, gymnasium {gym.__version__}, one thread of")
    print(f"{processor()}, Python {platform.python_version()}")
    busy = os.getloadavg()[0]
    print(f"load average {busy:.1f} on {os.cpu_count()} cores")
    head = f"{'environment':16}{'teacher':14}{'limit on':12}"
    print(f"{head}{'steps/s':>9}{'lowest':>9}{'highest':>9}")
    for name, teacher, limits in CASES:
        env = gym.make(name, teacher=teacher, evaluator="size", constraints=limits)
        env.action_space.seed(0)
        steps_per_second(env)  # fills the memo of layer costs
        rates = [steps_per_second(env) for _ in range(REPEATS)]
        middle = statistics.median(rates)
        row = "".join(f"{rate:9,.0f}" for rate in (middle, min(rates), max(rates)))
        print(f"{name:16}{teacher:14}{', '.join(limits or ()):12}{row}", flush=True)


if __name__ == "__main__":
    main()
