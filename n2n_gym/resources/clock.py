"""Times of functions that take turns on one machine."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

WARM_UP: Final = 5  # runs that are not counted
SHORTEST: Final = 2e-3  # seconds of a sample; the untimed runs before it take as long
FEWEST: Final = 20  # samples of each function
LEAST: Final = 2.0  # shortest measurement in seconds: disturbances are often shorter
CHUNKS: Final = 10  # groups of successive samples, for an interval
ROUNDS: Final = 60  # largest number of rounds in `ratios_in_rounds`
SAMPLES: Final = 2  # of each function in a round


class Timing(NamedTuple):
    """The measured time of one of several functions that took turns.

    Attributes:
        seconds: Median time of one run.
        ratio: Median, over turns, of the time divided by the first function's time.
        low, high: Ends of the ratio's 98 % interval.
    """

    seconds: float
    ratio: float
    low: float
    high: float


def time_in_turns(
    functions: Sequence[Callable[[], object]],
    *,
    precision: float = 0.02,
    seconds: float = 10.0,
) -> list[Timing]:
    """Time functions in turns, so that a machine's drift cancels in ratios.

    A sample is the mean time of several runs. Before these runs, as many untimed runs
    fill the caches, which still hold the data of the previous function.

    Args:
        functions: Functions to time; ratios are to the first of them.
        precision: Target for half the width of each ratio's interval, relative to the
            ratio. Measuring ends when all intervals are this narrow, but not before
            ``LEAST`` seconds. A single function has no ratio to another one; then the
            interval of its median time must be this narrow.
        seconds: Time after which measuring ends even with wider intervals, once there
            are ``FEWEST`` samples of each function.
    """
    counts = [_runs_a_sample(function) for function in functions]
    samples: list[list[float]] = [[] for _ in functions]
    now = time.perf_counter()
    begins, ends = now + min(LEAST, seconds), now + seconds
    while True:
        for function, count, found in zip(functions, counts, samples, strict=True):
            found.append(_time(function, count))
        if len(samples[0]) >= FEWEST and time.perf_counter() >= begins:
            timings = [_judge(found, samples[0]) for found in samples]
            wide = max(map(_relative_width, timings))
            if len(functions) == 1:
                wide = _width_of_median(samples[0])
            if wide <= 2 * precision or time.perf_counter() > ends:
                return timings


def ratios_in_rounds(
    first: Callable[[], object],
    functions: Sequence[Callable[[], object]],
    *,
    seconds: float,
    on_round: Callable[[], object] | None = None,
) -> NDArray[np.float64]:
    """Each function's time divided by the time of ``first``, (functions,).

    A round goes through the functions in order; each one alternates with ``first`` for
    a moment. Because every round times all functions, a disturbance of the machine
    affects all of them. Each function's result is the median of its ratios.

    Args:
        seconds: Time after which no further round begins; one round is always made.
        on_round: Callback after each round; there are at most ``ROUNDS`` rounds.
    """
    count = _runs_a_sample(first)
    counts = [_runs_a_sample(function) for function in functions]
    taken: list[list[float]] = [[] for _ in functions]
    ends = time.perf_counter() + seconds
    for turn in range(ROUNDS):
        if turn and time.perf_counter() > ends:
            break
        for function, many, found in zip(functions, counts, taken, strict=True):
            for _ in range(SAMPLES):
                reference = _time(first, count)
                found.append(_time(function, many) / reference)
        if on_round is not None:
            on_round()
    ratios: NDArray[np.float64] = np.median(np.array(taken), axis=1)
    return ratios


def _runs_a_sample(function: Callable[[], object]) -> int:
    for _ in range(WARM_UP):
        function()
    return max(1, math.ceil(SHORTEST / max(_time(function, 1), 1e-9)))


def _time(function: Callable[[], object], count: int) -> float:
    """Mean seconds of ``count`` runs, after ``count`` untimed runs fill the caches."""
    for _ in range(count):
        function()
    started = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - started) / count


def _judge(found: Sequence[float], first: Sequence[float]) -> Timing:
    ratios = [one / other for one, other in zip(found, first, strict=True)]
    low, high = _interval(ratios)
    return Timing(statistics.median(found), statistics.median(ratios), low, high)


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """98 % interval of the median, from the medians of ten groups of samples.

    The interval reaches from the second lowest to the second highest group median.
    Successive samples are correlated, because one disturbance affects several of them.
    Groups of successive samples are nearly independent.
    """
    medians = sorted(np.median(part) for part in np.array_split(values, CHUNKS))
    return float(medians[1]), float(medians[-2])


def _relative_width(timing: Timing) -> float:
    return (timing.high - timing.low) / timing.ratio


def _width_of_median(samples: Sequence[float]) -> float:
    low, high = _interval(samples)
    return (high - low) / statistics.median(samples)
