"""Agreement of cheap scores with full distillation, for `benchmarks.fidelity`."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from scipy.stats import kendalltau

from n2n_gym.evaluators.calibration import AccuracyMap
from n2n_gym.networks.architecture import Architecture
from n2n_gym.rewards import Score, n2n

CALIBRATED_BY = 24  # students, as many as the command uses
FEWEST_UNSEEN = 10  # least number of students that a calibration is judged on
CALIBRATIONS = 50  # random draws of the students that calibrate
SIMILAR = 1.5  # pairs with a smaller ratio of parameters are of similar size


class Measured(NamedTuple):
    """Accuracies of the students that all evaluators have scored, an array per seed."""

    students: list[Architecture]
    full: list[np.ndarray]
    cheap: dict[str, list[np.ndarray]]
    cpu_seconds: dict[str, float]  # medians, by rung


def agreements(
    found: Measured, sizes: np.ndarray, whole: Score
) -> dict[str, dict[str, float]]:
    """Agreement of each evaluator, and of the baselines, with full distillation.

    Args:
        sizes: Parameters and MACs of the students, (N, 2).
        whole: The teacher's score, with its parameters and MACs.
    """
    truths, mean_truth = found.full, np.mean(found.full, 0)

    def against_full(
        predict: Callable[[np.ndarray], np.ndarray],
    ) -> dict[str, float]:
        """A prediction's mean agreement, over the seeds of full distillation."""
        return mean_of([agreement(predict(y), y, sizes, whole) for y in truths])

    table: dict[str, dict[str, float]] = {}
    pairs = combinations(truths, 2)
    if ceiling := [agreement(a, b, sizes, whole) for a, b in pairs]:
        table["full, another seed"] = mean_of(ceiling)
    for name, seeds in found.cheap.items():
        both = list(product(seeds, truths))  # mean over the evaluator's seeds, too
        mean = np.mean(seeds, 0)
        table[name] = {
            **mean_of([agreement(a, y, sizes, whole) for a, y in both]),
            "bias": float((mean - mean_truth).mean()),
            "spread": float((mean - mean_truth).std(ddof=1)),
            "cpu_seconds": found.cpu_seconds[name],
        }
        if len(found.students) > CALIBRATED_BY + FEWEST_UNSEEN:
            maps = [calibrated(a, y, sizes, whole) for a, y in both]
            table[f"{name}, calibrated"] = mean_of(maps)
    logs = np.log(sizes)
    table["log params, log MACs"] = against_full(lambda y: left_one_out(logs, y))
    table["constant accuracy"] = against_full(np.ones_like)
    return table


def tau_of_similar(a: np.ndarray, b: np.ndarray, params: np.ndarray) -> float:
    """Kendall's tau over the pairs of students of similar size."""
    pairs = [
        (i, j)
        for i, j in combinations(range(len(a)), 2)
        if abs(math.log(params[i] / params[j])) < math.log(SIMILAR)
    ]
    signs = np.array([(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in pairs])
    untied = np.sqrt((signs != 0).sum(0).prod())  # tau-b, as scipy's
    return float(signs.prod(1).sum() / untied) if untied else float("nan")


def left_one_out(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Each value as predicted by linear least squares from all other values."""
    columns = np.column_stack([np.ones(len(values)), features])
    found = []
    for i in range(len(values)):
        others = np.arange(len(values)) != i
        weights = np.linalg.lstsq(columns[others], values[others], rcond=None)[0]
        found.append(columns[i] @ weights)
    return np.array(found)


def agreement(
    a: np.ndarray, b: np.ndarray, sizes: np.ndarray, whole: Score
) -> dict[str, float]:
    """Kendall's tau of accuracies, overall and at similar size, and of rewards.

    Args:
        sizes: Parameters and MACs of the students, (N, 2).
        whole: The teacher's score, with its parameters and MACs.
    """

    def rewards(accuracies: np.ndarray) -> list[float]:
        scores = scored(accuracies, sizes)
        return [n2n(score, whole) for score in scores]

    return {
        "overall": kendalltau(a, b).statistic,
        "similar": tau_of_similar(a, b, sizes[:, 0]),
        "reward": kendalltau(rewards(a), rewards(b)).statistic,
    }


def scored(accuracies: np.ndarray, sizes: np.ndarray) -> list[Score]:
    pairs = zip(accuracies, sizes, strict=True)
    return [Score(float(a), int(params), int(macs)) for a, (params, macs) in pairs]


def mean_of(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([each[key] for each in found])) for key in found[0]}


def calibrated(
    cheap: np.ndarray, full: np.ndarray, sizes: np.ndarray, whole: Score
) -> dict[str, float]:
    """Agreement after calibration, as a mean over random choices of students.

    Each calibration is fitted to as many students as ``n2n-gym scores calibrate`` uses,
    and judged on all remaining students.
    """
    found = []
    rng = np.random.default_rng(0)
    for _ in range(CALIBRATIONS):
        seen, unseen = np.split(rng.permutation(len(cheap)), [CALIBRATED_BY])
        scores = scored(cheap, sizes)
        fitted = AccuracyMap.fit([scores[i] for i in seen], full[seen].tolist())
        mapped = np.array([fitted(scores[i]) for i in unseen])
        found.append(agreement(mapped, full[unseen], sizes[unseen], whole))
    return mean_of(found)
