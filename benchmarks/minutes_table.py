"""What ``benchmarks.minutes`` shows of its results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, Final

import numpy as np

from benchmarks.answers import unpacked
from benchmarks.results import Results

KEY: Final = ("task", "teacher", "weights", "minutes", "seed", "is_busy", "has_rival")
# What all lines of a folder have in common; old lines have none of it.
ALIKE: Final = ("commit", "versions", "processor", "threads")
NETWORKS: Final = ("teacher", "student", "uniform", "magnitude", "random")
SAMPLES: Final = 4000  # of the bootstrap


def right_of(result: dict[str, Any], network: str) -> np.ndarray:
    return unpacked(result["networks"][network]["right"], result["num_images"])


def interval(gaps: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval of differences, in percentage points.

    Args:
        gaps: (seeds, images): difference of two networks' answers, 1 for right, else 0.
    """
    rng, (seeds, images) = np.random.default_rng(0), gaps.shape
    found = [
        gaps[rng.integers(seeds, size=seeds)][
            :, rng.integers(images, size=images)
        ].mean()
        for _ in range(SAMPLES)
    ]
    low, high = np.quantile(found, (0.025, 0.975))
    return 100 * gaps.mean(), 100 * low, 100 * high


def lines_of(found: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each network of these results: sizes, accuracy, difference."""
    lines = []
    for network in NETWORKS:
        having = [each for each in found if network in each["networks"]]
        if not having:
            continue
        rows = [each["networks"][network] for each in having]
        times = mean(
            each["networks"]["teacher"]["num_params"] / r["num_params"]
            for each, r in zip(having, rows, strict=True)
        )
        macs = mean(r["num_macs"] for r in rows)
        accuracy = mean(r["accuracy"] for r in rows)
        line = (
            f"{network:10} n={len(having)} {times:7.1f}x {macs / 1e6:9.2f} M MACs "
            f"{accuracy:8.2%}"
        )
        if network != "student":  # of the same seeds alone
            gaps = [right_of(x, "student") - right_of(x, network) for x in having]
            theirs = mean(x["networks"]["student"]["accuracy"] for x in having)
            difference, low, high = interval(np.stack(gaps))
            line += (
                f"   student {theirs:.2%}, {difference:+.2f} ({low:+.2f} to "
                f"{high:+.2f})"
            )
        lines.append(line)
    return lines


def show(results: Results) -> None:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for result in results.read().values():
        key = tuple(result[name] for name in KEY if name != "seed")
        groups.setdefault(key, []).append(result)
    for key, every in sorted(groups.items(), key=str):
        task, teacher, _, minutes, is_busy, has_rival = key
        for failed in (each for each in every if "failure" in each):
            print(f"\n{minutes:g} minutes, seed {failed['seed']}: {failed['failure']}")
        found = [each for each in every if "failure" not in each]
        if not found:
            continue
        seconds = [each["seconds"] for each in found]
        share = max(seconds) / 60 / minutes
        firsts = [each["first_score"] for each in found if each["first_score"]]
        busy = ", one core busy" if is_busy else ""
        busy += ", with a random search" if has_rival else ""
        print(
            f"\n{teacher} on {task}, {minutes:g} minutes{busy}, {len(found)} seeds: "
            f"took {', '.join(f'{each / 60:.2f}' for each in seconds)} (at most "
            f"{share:.0%}); first score after {', '.join(f'{x:.0f}' for x in firsts)} "
            f"s; scored {', '.join(str(each['num_scored']) for each in found)}"
        )
        print(told_of(found))
        print(*lines_of(found), sep="\n")


def told_of(found: Sequence[dict[str, Any]]) -> str:
    """Where results come from, each kind of commit and machine once."""
    kinds = dict.fromkeys(json.dumps(origin(each)) for each in found)
    if list(kinds) == ["{}"]:
        return "measured before commit, versions and processor were recorded"
    loads = [f"{each['load'][0]:.1f}" for each in found if "load" in each]
    return f"{'; '.join(kinds)}; load at the end {', '.join(loads)}"


def origin(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ALIKE if name in result}
