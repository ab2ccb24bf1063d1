"""Does a run that is killed again and again end like an undisturbed one?

    python -m benchmarks.resumes --kills 50 --output runs/resumes
    python -m benchmarks.resumes --minutes 5 --kills 10 --output runs/resumed-minutes
    python -m benchmarks.resumes --show --output runs/resumes

The runs are of `n2n-gym compress` on digits. They are small, but complete: the
teacher's training, both stages, the final distillation, the controls, the report. Each
process gets a SIGKILL at a random moment of a random phase. Then the run is resumed,
until it ends and is compared with an undisturbed run. Every run has its own cache, so
nothing is known beforehand. Only the choice of the faster precision is copied, because
a busy machine could choose another precision.

With --minutes, the killed runs have a time limit. Each of them ends with other counts
than an undisturbed one. So its plan is repeated with --plan, in a folder and with a
cache of its own, and both runs are compared.

Prints the phase that each kill hit, and exits with 1 if a check fails. Each run is a
line of ``results.jsonl`` in the output folder, which --show prints. Takes about ten
minutes on two cores; with --minutes, the given minutes and about as long again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.results import Results
from n2n_gym.common.commit import commit_of_code
from n2n_gym.compression.plan import PLAN
from n2n_gym.runs.folder import (
    HISTORY,
    ONNX,
    REPORT,
    STUDENT,
    SUMMARY,
    TEACHER,
    is_finished,
)
from n2n_gym.runs.history import FINAL

ROOT = Path(__file__).parent.parent
ALIKE = ["--teacher", "tests.networks:make_small", "--workers", "2"]
UPDATES = {"remove": 4, "shrink": 4}
ROLLOUTS = 5
NUM_CONTROLS = 2  # control students: uniform width, magnitude
# Files that must be equal byte for byte.
SAME = (
    HISTORY,
    STUDENT,
    TEACHER,
    ONNX,
    "student.safetensors",
    "reinforce-remove.policy.pt",
    "reinforce-shrink.policy.pt",
)
PHASES = (
    "start, teacher",
    "remove",
    "shrink",
    "final distillation",
    "controls",
    "random search",
    "end",
)
STARTS = 4.0  # seconds: a process of a run with --minutes is not killed earlier
LATEST = 2.0  # a kill's latest moment, in seconds after its phase has begun
AGAIN = 8.0  # seconds added for a process that starts within the phase


def counted() -> list[str]:
    """Options of a run whose numbers of students and epochs are given."""
    return [
        *("--evaluator", "inherit", "--final-epochs", "4", "--controls", "all"),
        *("--removal-updates", str(UPDATES["remove"])),
        *("--shrinkage-updates", str(UPDATES["shrink"])),
    ]


def start(folder: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start or resume a run in a folder, with a cache beside it."""
    program = "from n2n_gym.cli import app; app()"
    arguments = [*ALIKE, *options, "--output", str(folder)]
    if (folder / "options.toml").exists():
        arguments = ["--resume", str(folder)]
    cache = folder.with_name(f"{folder.name}.cache")
    with open(folder.with_name(f"{folder.name}.log"), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", program, "compress", *arguments],
            cwd=ROOT,
            env={**os.environ, "N2N_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )


def phase(folder: Path) -> str:
    """The current phase of a run; with --minutes, its last decision so far."""
    if (folder / PLAN).exists():
        decided = json.loads((folder / PLAN).read_text())["decisions"]
        return f"after: {decided[-1][0]}" if decided else "start, teacher"
    history = folder / HISTORY
    lines = history.read_bytes().splitlines() if history.exists() else []
    if not lines:
        return "start, teacher"
    if len(lines) < ROLLOUTS * UPDATES["remove"]:
        return "remove"
    if len(lines) < ROLLOUTS * sum(UPDATES.values()):
        return "shrink"
    if not (folder / ONNX).exists():
        return "final distillation"
    if len(lines) < ROLLOUTS * sum(UPDATES.values()) + NUM_CONTROLS:
        return "controls"
    everything = 2 * ROLLOUTS * sum(UPDATES.values()) + NUM_CONTROLS
    return "random search" if len(lines) < everything else "end"


def untimed(folder: Path) -> dict[str, Any]:
    """The summary without measured times."""
    summary = json.loads((folder / SUMMARY).read_text())
    del summary["seconds"]
    for name in ("teacher", "student"):
        del summary["test"][name]["latency_ms"]
    for place in summary["shelf"]:  # one role is that of the fastest
        del place["latency_ms"], place["roles"], place["file"]
    summary["shelf"].sort(key=lambda place: place["fingerprint"])
    return summary


def differences(
    folder: Path, undisturbed: Path, *, wanted: int | None = None
) -> list[str]:
    """Files that differ from the undisturbed run's, and other faults, as text.

    Args:
        wanted: Number of students that the searches score, if it is known.
    """
    found = [
        n for n in SAME if (folder / n).read_bytes() != (undisturbed / n).read_bytes()
    ]
    ours, theirs = untimed(folder), untimed(undisturbed)
    if wanted is None:  # the fastest student is on the shelf, too
        del ours["shelf"], theirs["shelf"]
    if ours != theirs:
        found.append(SUMMARY)
    if not (folder / REPORT).is_file():
        found.append(REPORT)
    if left := list(folder.glob("*.part")):
        found.append(f"left over: {left}")
    lines = (folder / HISTORY).read_text().splitlines()
    searched = [line for line in lines if json.loads(line)["stage"] != FINAL]
    if wanted is not None and len(searched) != wanted:
        found.append(f"{len(searched)} lines instead of {wanted}")
    return found


def run_to_the_end(
    folder: Path,
    options: Sequence[str],
    kills: int,
    hit: Counter[str],
    wait: Callable[[Path, subprocess.Popen[bytes]], None],
) -> int:
    """Make one run with up to this many kills; return their number.

    Args:
        wait: Function that waits for the moment of a kill, or for the process's end.
    """
    done = 0
    while True:
        process = start(folder, options)
        if done < kills:
            wait(folder, process)
        else:
            process.wait()
        if process.poll() is None:
            hit[phase(folder)] += 1
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
        elif process.returncode or not is_finished(folder):
            raise SystemExit(f"{folder} ended with {process.returncode}; see its log")
        else:
            return done


def copy_precision(one: Path, other: Path) -> None:
    """Copy the measured precision from one run's cache to another's."""
    caches = [folder.with_name(f"{folder.name}.cache") for folder in (one, other)]
    caches[1].mkdir()
    shutil.copy(caches[0] / "precision.json", caches[1])


def wait_for_a_moment(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait for a random moment of a random later phase, or the end."""
    before = PHASES.index(phase(folder))
    aim = random.randint(before, len(PHASES))  # the last value lets the process end
    if aim == len(PHASES):
        process.wait()
    while process.poll() is None and PHASES.index(phase(folder)) < aim:
        time.sleep(0.02)
    latest = LATEST + AGAIN * (aim == before)
    until = time.monotonic() + random.uniform(0.0, latest)
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


def wait_a_while(mean: float, _: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait for a random number of seconds, or for the process's end."""
    until = time.monotonic() + random.uniform(STARTS, max(STARTS, 2 * mean - STARTS))
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


def check_counted(folder: Path, kills: int, results: Results) -> None:
    """Kill runs with given counts, and compare each with an undisturbed one."""
    undisturbed, options = folder / "alone", counted()
    run_to_the_end(undisturbed, options, 0, Counter(), wait_for_a_moment)
    total = 0
    wanted = 2 * ROLLOUTS * sum(UPDATES.values())
    while total < kills:
        name = f"run{len(results.read()) + 1}"
        copy_precision(undisturbed, folder / name)
        hit: Counter[str] = Counter()
        # If a run ends before its last kill, the next run gets the rest.
        left = kills - total
        total += run_to_the_end(folder / name, options, left, hit, wait_for_a_moment)
        found = differences(folder / name, undisturbed, wanted=wanted)
        results.add(run=name, hit=hit, different=found, commit=commit_of_code())


def check_minutes(folder: Path, minutes: float, kills: int, results: Results) -> None:
    """Kill runs with a time limit, and repeat their plans."""
    total = 0
    wait = partial(wait_a_while, 60 * minutes / (kills + 1))
    while total < kills:
        name = f"run{len(results.read()) + 1}"
        killed, repeated = folder / name, folder / f"{name}-repeated"
        hit: Counter[str] = Counter()
        options = ["--minutes", f"{minutes:g}"]
        total += run_to_the_end(killed, options, kills - total, hit, wait)
        plan = ["--plan", str(killed / PLAN)]
        run_to_the_end(repeated, plan, 0, Counter(), wait)
        found = differences(killed, repeated)
        results.add(run=name, hit=hit, different=found, commit=commit_of_code())


def show(results: Results) -> bool:
    """Print all results; return whether nothing differs."""
    runs = results.read().values()
    hit = sum((Counter(each["hit"]) for each in runs), Counter[str]())
    print(f"{hit.total()} kills in {len(runs)} runs:")
    for what, count in hit.most_common():
        print(f"  {count:3} in: {what}")
    different = [
        f"{each['run']}: {what}" for each in runs for what in each["different"]
    ]
    print(f"different from the same run left alone: {different or 'nothing'}")
    print(f"commit {', '.join(sorted({each['commit'] for each in runs}))}")
    return not different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, help="time limit of the killed runs")
    parser.add_argument("--output", type=Path, default=Path("runs/resumes"))
    parser.add_argument("--show", action="store_true", help="measure nothing")
    options = parser.parse_args()
    folder = options.output.absolute()
    results = Results(folder, "run")
    if not options.show:
        folder.mkdir(parents=True)
        random.seed(0)
        started = time.perf_counter()
        if options.minutes is None:
            check_counted(folder, options.kills, results)
        else:
            check_minutes(folder, options.minutes, options.kills, results)
        print(f"{time.perf_counter() - started:.0f} s")
    if not show(results):
        sys.exit(1)


if __name__ == "__main__":
    main()
