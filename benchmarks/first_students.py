"""How good random students are, under different rules for actions.

    python -m benchmarks.first_students --weights resnet18_cifar10.safetensors

Students of a ResNet-18 for CIFAR-10 with at most a tenth of its parameters are scored
with ``inherit``, on 5,000 training and 500 validation images. Each rule plays 60
students. By the old rule for a kernel's rate, nine draws in ten make a 3x3 kernel 1x1.
Takes ten minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.subjects import some_of_cifar10
from n2n_gym import load_teacher
from n2n_gym.envs import ShrinkEnv

STUDENTS: Final = 60
FIRST: Final = 20
SHARE: Final = 1 / 10
UNCHANGED: Final = 9
# Normalisation of the shared teacher's inputs.
STATISTICS: Final = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
# Function that returns an action, from the decision, the mask and the mean rate of
# widths.
Choose: TypeAlias = Callable[[np.random.Generator, Any, NDArray[np.int8], float], int]


def alike(
    rng: np.random.Generator, decision: Any, mask: NDArray[np.int8], _: float
) -> int:
    """An offered action, drawn with equal probabilities."""
    return int(rng.choice(np.flatnonzero(mask)))


def around_one_rate(
    rng: np.random.Generator, decision: Any, mask: NDArray[np.int8], rate: float
) -> int:
    """An action that sets widths near one rate and leaves most kernels unchanged."""
    if decision.variable == "kernel":
        stays = rng.random() < 0.9
        return UNCHANGED if stays else int(np.flatnonzero(mask)[0])
    wanted = rate * np.exp(0.25 * rng.standard_normal())
    return round(10 * float(np.clip(wanted, 0.1, 1.0))) - 1


def accuracies(env: ShrinkEnv, choose: Choose) -> list[float]:
    found = []
    for number in range(STUDENTS):
        rng = np.random.default_rng(number)
        rate, is_over = rng.uniform(0.3, 1.0), False
        _, info = env.reset()
        while not is_over:
            action = choose(rng, env.current, info["action_mask"], rate)
            _, _, is_over, _, info = env.step(action)
        found.append(info.get("accuracy", 0.0))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    teacher = load_teacher(
        "resnet18",
        some_of_cifar10(5_000, 500),
        weights=chosen.weights,
        normalisation=STATISTICS if chosen.weights else None,
        device="cpu",
    )
    bound = {"num_params": SHARE * teacher.architecture.num_params}

    def make(**arguments: Any) -> ShrinkEnv:
        return ShrinkEnv(
            teacher, constraints=bound, precision="float32", device="cpu", **arguments
        )

    print(f"{'':32}{'best of 20':>11}{'best':>7}{'10 %':>7}{'median':>8}{'90 %':>7}")
    for what, env, choose in (
        ("old kernels, strict limits", make(kernels="floor", strict=True), alike),
        ("nearest kernels, strict limits", make(strict=True), alike),
        ("nearest kernels, fitted", make(fit=True), alike),
        ("fitted, around one rate", make(fit=True), around_one_rate),
    ):
        found = accuracies(env, choose)
        low, middle, high = np.quantile(found, [0.1, 0.5, 0.9])
        row = f"{max(found[:FIRST]):11.3f}{max(found):7.3f}{low:7.3f}{middle:8.3f}"
        print(f"{what:32}{row}{high:7.3f}", flush=True)


if __name__ == "__main__":
    main()
