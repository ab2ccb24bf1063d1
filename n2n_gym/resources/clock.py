"""How long things take, side by side."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

WARM_UP: Final = 5  # runs that are not counted
SHORTEST: Final = 2e-3  # seconds of one sample, and of warming up to it
FEWEST: Final = 20  # samples
LEAST: Final = 2.0  # seconds: what disturbs a machine often comes and goes in less
CHUNKS: Final = 10  # of samples that follow each other, for an interval
ROUNDS: Final = 60  # of many functions, each of so many samples in turns with the first
SAMPLES: Final = 2


class Timing(NamedTuple):
    """What a clock said of one of several functions that took turns.

    Attributes:
        seconds: The median of one run.
        ratio: The median of its samples, each divided by the first function's.
        low, high: The ratio's 98 % interval.
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
    """Time functions that take turns, so that a machine's drift cancels in ratios.

    At each turn a function first runs as long unmeasured: what ran before it has left
    the caches full of its own.

    Args:
        precision: Where every interval is this narrow (half of it, of its ratio), it
            is enough, though not before ``LEAST`` seconds.
        seconds: And it is, however wide they are, after so long, but for ``FEWEST``
            samples, which slow functions take longer for.
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
    """How long each takes, as a multiple of the first, (functions,).

    Each takes turns with the first for a moment, then comes the next, and all of it
    again, so that what a machine does beside meets all alike. Medians of the ratios
    of such pairs count.

    Args:
        seconds: No round begins after so long, but for the first.
        on_round: Told after each of ``ROUNDS``.
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
                alone = _time(first, count)
                found.append(_time(function, many) / alone)
        if on_round is not None:
            on_round()
    ratios: NDArray[np.float64] = np.median(np.array(taken), axis=1)
    return ratios


def _runs_a_sample(function: Callable[[], object]) -> int:
    for _ in range(WARM_UP):
        function()
    return max(1, math.ceil(SHORTEST / max(_time(function, 1), 1e-9)))


def _time(function: Callable[[], object], count: int) -> float:
    """Seconds of one of so many runs, with caches as it leaves them itself."""
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
    """98 % for the median: all but the outermost of the medians of ten stretches.

    Samples that follow each other are alike, as what else a machine does lasts. So
    they are no independent draws; stretches of them nearly are.
    """
    medians = sorted(np.median(part) for part in np.array_split(values, CHUNKS))
    return float(medians[1]), float(medians[-2])


def _relative_width(timing: Timing) -> float:
    return (timing.high - timing.low) / timing.ratio


def _width_of_median(samples: Sequence[float]) -> float:
    low, high = _interval(samples)
    return (high - low) / statistics.median(samples)
