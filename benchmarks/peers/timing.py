"""Latencies of all students of a target, timed in turns in one process.

A latency that was measured during a search is relative to one session of the teacher,
and sessions of the same network can differ by 15 %. After a stop, or in a second
process, the teacher's session is another one. So the table has latencies that were
measured together, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.peers.tuning import EPOCHS, KEY, LATENCY, Bench
from benchmarks.results import Results
from n2n_gym.networks.architecture import Architecture
from n2n_gym.resources.clock import time_in_turns
from n2n_gym.resources.measured import onnx_file, open_session, pixels_of

SESSIONS: Final = 3  # of each network; the slowest counts
SECONDS: Final = 120.0  # most seconds of one target's timing


def time_students(bench: Bench, target: str, results: Results) -> None:
    """Write the latencies of a target's students, unless all of them are written."""
    done = results.read()
    tuned = [
        (method, seed)
        for (method, of, column, seed), line in done.items()
        if (of, column) == (target, EPOCHS) and "error" not in line
    ]
    if all((method, target, LATENCY, seed) in done for method, seed in tuned):
        return
    print(f"latencies, {target}", flush=True)
    teacher = bench.subject.teacher.architecture
    students = [bench.student(method, target, seed) for method, seed in tuned]
    networks = list(dict.fromkeys((teacher, *students)))
    shares = dict(zip(networks, shares_of_first(networks), strict=True))
    whole = bench.subject.meter(teacher, teacher)["latency_ms"]
    for (method, seed), student in zip(tuned, students, strict=True):
        results.add(
            **dict(zip(KEY, (method, target, LATENCY, seed), strict=True)),
            latency_ms=whole * shares[student],
            fingerprint=student.fingerprint,
            **bench.made_with(),
        )


def shares_of_first(
    networks: Sequence[Architecture], seconds: float = SECONDS
) -> list[float]:
    """Each network's latency as a fraction of the first network's, all in turns.

    Each network is loaded several times, and its slowest session counts, as in a
    search. Here this holds for the first network, too.
    """
    runs = [_run(network) for network in networks for _ in range(SESSIONS)]
    ratios = [timing.ratio for timing in time_in_turns(runs, seconds=seconds)]
    slowest = [
        max(ratios[at : at + SESSIONS]) for at in range(0, len(ratios), SESSIONS)
    ]
    return [each / slowest[0] for each in slowest]


def _run(network: Architecture) -> Callable[[], object]:
    """A function that runs one image through a new session of the network."""
    session = open_session(onnx_file(network), threads=1)
    pixels = {"pixels": pixels_of(network, 1)}
    return lambda: session.run(None, pixels)
