"""How good a policy is on one teacher, after its training on another teacher.

    python -m benchmarks.transfer                    # three quarters of an hour
    python -m benchmarks.transfer --seeds 2 --pairs vgg11_bn:vgg16_bn

For each pair a policy is trained on the first teacher. On the second teacher, three
agents make the same number of updates: one starts from the trained policy, one plays
this policy without training, and one starts from scratch. They are compared by the mean
reward of the rollouts during and after these updates. The task is digits, with the
evaluator "inherit". The rewards of each stage, pair and seed are a line of
``results.jsonl``, and the same command resumes after a stop.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from benchmarks.results import Results
from n2n_agents import reinforce
from n2n_gym.comparison.statistics import as_table, estimate, improvement, iqm_of_all
from n2n_gym.envs import CompressionEnv, RemoveEnv, ShrinkEnv
from n2n_gym.teachers.loading import load_teacher

PAIRS = ("resnet18:resnet34", "vgg11_bn:vgg16_bn", "vgg11_bn:resnet18")
STAGES = {"remove": RemoveEnv, "shrink": ShrinkEnv}
BEFORE = 30  # updates on the first teacher
AFTER = 10  # on the second
STARTS = ("scratch", "transferred", "frozen")


def train(
    env: CompressionEnv,
    policy: reinforce.Policy,
    settings: reinforce.Hyperparameters,
    updates: int,
    seed: int,
) -> list[float]:
    """The mean reward of each update's rollouts."""
    done = reinforce.train(env, policy, settings, updates=updates, seed=seed)
    return [update.mean_reward for update in done]


def make_env(stage: str, name: str) -> CompressionEnv:
    teacher = load_teacher(name, "digits")
    return STAGES[stage](teacher, evaluator="inherit")


def measure(stage: str, pair: str, seed: int) -> dict[str, list[float]]:
    """Mean rewards before each update and after the last one, for each start."""
    first, second = pair.split(":")
    env = make_env(stage, first)
    policy = reinforce.make_policy(env, seed=seed)
    train(env, policy, reinforce.MODERN, BEFORE, seed)
    weights = {key: value.clone() for key, value in policy.state_dict().items()}
    env = make_env(stage, second)
    found = {}
    for start in STARTS:
        # A different seed, so that the transferred policy has not seen these episodes.
        policy = reinforce.make_policy(env, seed=seed)
        if start != "scratch":
            policy.load_state_dict(weights)
        settings = reinforce.FROZEN if start == "frozen" else reinforce.MODERN
        found[start] = train(env, policy, settings, AFTER + 1, 1_000 + seed)
    return found


def measure_all(results: Results, stage: str, pairs: list[str], seeds: int) -> None:
    """Measure what the file does not have yet."""
    done = results.read()
    wanted = [(stage, pair, seed) for seed in range(seeds) for pair in pairs]
    bar = tqdm([one for one in wanted if one not in done])
    for stage, pair, seed in bar:
        bar.set_description(f"{stage}, {pair}, seed {seed}")
        rewards = measure(stage, pair, seed)
        results.add(stage=stage, pair=pair, seed=seed, rewards=rewards)


def gather(results: Results, stage: str) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Rewards by pair and start, (seeds, updates)."""
    found: dict[str, dict[str, list[list[float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for line in results.read().values():
        if line["stage"] == stage:
            for start, rewards in line["rewards"].items():
                found[line["pair"]][start].append(rewards)
    return {
        pair: {start: np.array(rows) for start, rows in of.items()}
        for pair, of in found.items()
    }


def as_markdown(found: dict[str, dict[str, NDArray[np.float64]]]) -> str:
    """Interquartile means of rewards before and after all updates, with intervals."""
    head = ["pair", "start", "before any update", f"after {AFTER} updates"]
    head.append("better than from scratch")
    lines = []
    for pair, of in found.items():
        for start in STARTS:
            ends = [str(estimate(iqm_of_all, [of[start][:, k]])) for k in (0, -1)]
            groups = [of[start][:, -1], of["scratch"][:, -1]]
            better = "" if start == "scratch" else str(estimate(improvement, groups))
            lines.append([pair.replace(":", " to "), start, *ends, better])
    return as_table(head, lines)


def draw(found: dict[str, dict[str, NDArray[np.float64]]], path: Path) -> None:
    """Plot mean rewards over updates by pair; bands are the range over seeds."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1,
        len(found),
        figsize=(4 * len(found), 3.2),
        squeeze=False,
        layout="constrained",
    )
    for axis, (pair, of) in zip(axes[0], found.items(), strict=True):
        for start in STARTS:
            steps = np.arange(of[start].shape[1])
            (line,) = axis.plot(steps, of[start].mean(0), label=start)
            low, high = of[start].min(0), of[start].max(0)
            axis.fill_between(steps, low, high, alpha=0.15, color=line.get_color())
        axis.set_title(pair.replace(":", " to "), fontsize=10)
        axis.set_xlabel("updates")
    axes[0, 0].set_ylabel("mean reward of five students")
    axes[0, -1].legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=STAGES, default="remove")
    parser.add_argument("--pairs", nargs="+", default=PAIRS, metavar="FIRST:SECOND")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/transfer"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    results = Results(options.output, "stage", "pair", "seed")
    measure_all(results, options.stage, options.pairs, options.seeds)
    found = gather(results, options.stage)
    text = as_markdown(found)
    print(text)
    (options.output / f"{options.stage}.md").write_text(text)
    draw(found, options.output / f"{options.stage}.png")


if __name__ == "__main__":
    main()
