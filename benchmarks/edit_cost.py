"""The time of a step as networks grow, without evaluation.

    pip install -e ".[bench]"
    python benchmarks/edit_cost.py --plot benchmarks/edit_cost.png

Plays random legal episodes on residual networks of 20 to 1,000 layers and on some of
torchvision's networks. Prints the time of a step and of ``action_masks()``, as medians
over episodes, on one thread. The exponent is the slope of log time over log layers,
fitted to the residual networks with 100 layers or more; 1 is linear.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from n2n_gym.envs import CompressionEnv, RemoveEnv, ShrinkEnv
from n2n_gym.pytorch.trace import trace
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import Teacher
from n2n_gym.teachers.zoo import teacher_architecture

BLOCKS = (2, 4, 8, 16, 32, 64, 96, 141)  # 20 to 993 layers
TEACHERS = ("resnet18", "mobilenet_v2", "resnet50", "densenet121", "efficientnet_v2_l")
SECONDS = 3.0  # of play for each network and environment
MASKS = 1000
TASK = Task("none", (3, 32, 32), 10, dict)


class Cost(NamedTuple):
    """Times for a network with this number of layers, in microseconds."""

    name: str
    num_layers: int
    num_decisions: int
    step: float
    mask: float


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(16, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + x)


class ResNet(nn.Module):
    """A residual network like CIFAR's, with 7 layers per block and 6 others."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.blocks = nn.Sequential(*[Block() for _ in range(blocks)])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def measure(name: str, env: CompressionEnv) -> Cost:
    """Median times over episodes, without resets and the last steps."""
    generator = np.random.default_rng(0)
    steps, started = [], time.perf_counter()
    while time.perf_counter() - started < SECONDS or len(steps) < 3:
        _, info = env.reset()
        spent = 0.0
        for _ in env.decisions[:-1]:
            action = generator.choice(np.flatnonzero(info["action_mask"]))
            begun = time.perf_counter()
            *_, info = env.step(int(action))
            spent += time.perf_counter() - begun
        steps.append(spent / max(1, len(env.decisions) - 1))
    begun = time.perf_counter()
    for _ in range(MASKS):
        env.action_masks()
    mask = (time.perf_counter() - begun) / MASKS
    layers = len(env.start.layers)
    step = statistics.median(steps)
    return Cost(name, layers, len(env.decisions), 1e6 * step, 1e6 * mask)


def environments(name: str) -> dict[str, CompressionEnv]:
    if name.isdecimal():
        with torch.device("meta"):
            architecture = trace(ResNet(int(name)), TASK.input_shape)
    else:
        architecture = teacher_architecture(name, TASK)
    teacher = Teacher(name, TASK, architecture, provide=lambda: None)
    return {
        "N2NRemove": RemoveEnv(teacher, evaluator="size"),
        "N2NShrink": ShrinkEnv(teacher, evaluator="size"),
    }


def exponent(costs: list[Cost]) -> float:
    large = [cost for cost in costs if cost.num_layers >= 100]
    layers, steps = [c.num_layers for c in large], [c.step for c in large]
    return float(np.polyfit(np.log(layers), np.log(steps), 1)[0])


def plot(found: dict[str, list[Cost]], others: dict[str, list[Cost]], to: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for (env, costs), colour in zip(
        found.items(), ("tab:blue", "tab:green"), strict=True
    ):
        layers = [cost.num_layers for cost in costs]
        slope = exponent(costs)
        label = f"{env}: a step, residual networks (layers^{slope:.2f})"
        axes.loglog(layers, [c.step for c in costs], "o-", color=colour, label=label)
        label = f"{env}: action_masks()"
        axes.loglog(layers, [c.mask for c in costs], ":", color=colour, label=label)
        label = f"{env}: a step, torchvision's"
        x, y = [c.num_layers for c in others[env]], [c.step for c in others[env]]
        axes.loglog(x, y, "x", color=colour, label=label)
    for cost in others["N2NRemove"]:
        is_above = cost.name in ("densenet121", "efficientnet_v2_l")
        axes.annotate(
            cost.name,
            (cost.num_layers, cost.step),
            (-4, 6) if is_above else (6, -9),
            textcoords="offset points",
            horizontalalignment="right" if is_above else "left",
            size=7,
        )
    layers = np.array([cost.num_layers for cost in found["N2NRemove"]])
    largest = found["N2NRemove"][-1]
    linear = largest.step * layers / largest.num_layers
    axes.loglog(layers, linear, "--", color="grey", lw=1, label="linear in layers")
    axes.set(xlabel="layers", ylabel="microseconds")
    axes.set_title("The cost of a decision, without evaluation, one thread")
    axes.grid(which="both", alpha=0.2)
    figure.legend(fontsize=7, loc="outside lower center", ncols=2)
    figure.savefig(to, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, help="where to draw it, a PNG")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    machine = platform.processor() or platform.machine()
    print(f"Python {platform.python_version()}, {machine}, one thread")
    print("| environment | network | layers | decisions | step, us | mask, us |")
    print("|---|---|---:|---:|---:|---:|")
    found: dict[str, list[Cost]] = {"N2NRemove": [], "N2NShrink": []}
    others: dict[str, list[Cost]] = {"N2NRemove": [], "N2NShrink": []}
    for name in (*map(str, BLOCKS), *TEACHERS):
        for env_name, env in environments(name).items():
            shown = f"residual, {name} blocks" if name.isdecimal() else name
            cost = measure(shown, env)
            (found if name.isdecimal() else others)[env_name].append(cost)
            print(
                f"| {env_name} | {shown} | {cost.num_layers} | {cost.num_decisions} | "
                f"{cost.step:.1f} | {cost.mask:.1f} |"
            )
    for env_name, costs in found.items():
        print(f"{env_name}: time of a step grows as layers^{exponent(costs):.2f}")
    if chosen.plot:
        plot(found, others, chosen.plot)


if __name__ == "__main__":
    main()
