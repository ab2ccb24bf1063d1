"""Do fitted students keep their limits, and leave no room for one more channel?

    python -m benchmarks.fitted --output fitted.jsonl

Plays random episodes of all three environments with ``fit=True``, on six teachers. Each
episode draws its limits: on parameters, on MACs, or on both. Each episode is replayed
from its limits and actions, and must give a student with the same fingerprint. Results
are kept by teacher, environment and kind of limits, so the same command resumes after a
stop.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from tqdm.auto import tqdm

from n2n_gym.envs import CompressEnv, CompressionEnv, RemoveEnv, ShrinkEnv
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import shrink
from n2n_gym.networks.scaling import widest_in_proportion

TEACHERS: Final = (
    *("resnet18", "vgg11_bn", "mobilenet_v2"),
    *("densenet121", "regnet_y_400mf", "googlenet"),
)
ENVIRONMENTS: Final = (RemoveEnv, ShrinkEnv, CompressEnv)
RANGE: Final = (1 / 50, 1.0)  # fractions of the teacher's amount


def make(env: type[CompressionEnv], teacher: Architecture, which: int):
    """An environment with one of three kinds of limits.

    Args:
        which: 0 for limits on parameters, 1 on MACs, 2 on both.
    """
    whole = {"num_params": teacher.num_params, "num_macs": teacher.num_macs}
    names = [("num_params",), ("num_macs",), tuple(whole)][which]
    ranges = {name: tuple(share * whole[name] for share in RANGE) for name in names}
    return env(teacher, evaluator="size", constraints=ranges, limits="sample", fit=True)


def play(env: CompressionEnv, rng: np.random.Generator) -> tuple[list[int], dict]:
    _, info = env.reset()
    actions, is_over = [], False
    while not is_over:
        actions.append(int(rng.choice(np.flatnonzero(info["action_mask"]))))
        _, _, is_over, _, info = env.step(actions[-1])
    return actions, info


def judge(env: CompressionEnv, student: Architecture, bounds: Mapping[str, float]):
    """The verdict on a fitted student: "on the surface", "narrowest", or a fault."""
    start, rates = env.episode.rates_of_widths()
    narrow = {d: 0.0 if d.variable == "width" else rate for d, rate in rates.items()}
    is_within = {name: getattr(student, name) <= bounds[name] for name in bounds}
    if not all(is_within.values()):
        return "narrowest" if student == shrink(start, narrow) else "BREAKS A LIMIT"
    wider: list[tuple[int, bool]] = []

    def keeps(other: Architecture) -> bool:
        found = all(getattr(other, name) <= bounds[name] for name in bounds)
        wider.append((other.num_params, found))
        return found

    if widest_in_proportion(start, rates, keeps) != student:
        return "NOT THE WIDEST"
    if any(found and size > student.num_params for size, found in wider):
        return "LEAVES ROOM"
    return "on the surface"


def judged(
    teacher: str, kind: type[CompressionEnv], which: int, count: int
) -> Counter[str]:
    """Counts of verdicts on this many students, each played and then replayed."""
    found: Counter[str] = Counter()
    whole = RemoveEnv(teacher, evaluator="size").teacher.architecture
    env, again = make(kind, whole, which), make(kind, whole, which)
    rng = np.random.default_rng(which)
    for _ in range(count):
        actions, info = play(env, rng)
        bounds = {limit.name: limit.bound for limit in env.limits}
        student = Architecture.from_json(info["student"])
        found[judge(env, student, bounds)] += 1
        again.reset(options={"limits": bounds, "decisions": actions[:-1]})
        *_, replayed = again.step(actions[-1])
        found["REPLAYS TO ANOTHER"] += replayed["fingerprint"] != info["fingerprint"]
    return +found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--students", type=int, default=10_000)
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args()
    # Teachers change fastest, so that a stopped run has results of all six.
    cells = [(t, e, w) for w in range(3) for e in ENVIRONMENTS for t in TEACHERS]
    each = -(-chosen.students // len(cells))
    kept: dict[str, dict[str, int]] = {}
    if chosen.output.exists():
        kept = dict(map(json.loads, chosen.output.read_text().splitlines()))
    for teacher, kind, which in tqdm(cells):
        cell = f"{teacher} {kind.__name__} {which} {each}"
        if cell not in kept:
            kept[cell] = judged(teacher, kind, which, each)
            with chosen.output.open("a") as file:
                file.write(json.dumps([cell, kept[cell]]) + "\n")
    found: Counter[str] = Counter()
    for counts in kept.values():
        found.update(counts)
    for what, count in found.most_common():
        print(f"{what:20} {count:6,}")
    if any(what.isupper() for what in found):
        sys.exit("something does not hold")


if __name__ == "__main__":
    main()
