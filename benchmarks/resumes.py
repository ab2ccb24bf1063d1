"""Does a run that is killed again and again end like an undisturbed one?

    python -m benchmarks.resumes --kills 50 --output runs/resumes

The runs are of `n2n-gym compress` on digits. They are small, but complete: the
teacher's training, both stages, the final distillation, the controls, the report. Each
process gets a SIGKILL at a random moment of a random phase. Then the run is resumed,
until it ends and is compared with an undisturbed run. Every run has its own cache, so
nothing is known beforehand. Only the choice of the faster precision is copied, because
a busy machine could choose another precision.

Prints the phase that each kill hit, and exits with 1 if a check fails. Takes about ten
minutes on two cores.
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
from pathlib import Path
from typing import Any

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
LATEST = 2.0  # a kill's latest moment, in seconds after its phase has begun
AGAIN = 8.0  # seconds added for a process that starts within the phase


def start(folder: Path, *, resume: bool) -> subprocess.Popen[bytes]:
    """Start the command in a folder, with a cache beside it."""
    program = "from n2n_gym.cli import app; app()"
    if resume:
        arguments = ["--resume", str(folder)]
    else:
        arguments = ["--teacher", "tests.networks:make_small", "--workers", "2"]
        arguments += ["--evaluator", "inherit", "--final-epochs", "4"]
        arguments += ["--controls", "all"]
        arguments += ["--removal-updates", str(UPDATES["remove"])]
        arguments += ["--shrinkage-updates", str(UPDATES["shrink"])]
        arguments += ["--output", str(folder)]
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
    """The current phase of a run."""
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
    return summary


def differences(folder: Path, undisturbed: Path) -> list[str]:
    """Files that differ from the undisturbed run's, and other faults, as text."""
    found = [
        n for n in SAME if (folder / n).read_bytes() != (undisturbed / n).read_bytes()
    ]
    if untimed(folder) != untimed(undisturbed):
        found.append(SUMMARY)
    if not (folder / REPORT).is_file():
        found.append(REPORT)
    if left := list(folder.glob("*.part")):
        found.append(f"left over: {left}")
    lines = (folder / HISTORY).read_text().splitlines()
    searched = [line for line in lines if json.loads(line)["stage"] != FINAL]
    wanted = 2 * ROLLOUTS * sum(UPDATES.values())
    if len(searched) != wanted:
        found.append(f"{len(searched)} lines instead of {wanted}")
    return found


def run_to_the_end(folder: Path, kills: int, hit: Counter[str]) -> int:
    """Make one run with up to this many kills; return their number."""
    done = 0
    while True:
        process = start(folder, resume=(folder / "options.toml").exists())
        if done < kills:
            wait_for_a_moment(folder, process)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--output", type=Path, default=Path("runs/resumes"))
    options = parser.parse_args()
    folder = options.output.absolute()
    folder.mkdir(parents=True)
    random.seed(0)
    started = time.perf_counter()
    undisturbed = folder / "alone"
    run_to_the_end(undisturbed, 0, Counter())
    print(f"left alone: {time.perf_counter() - started:.0f} s", flush=True)
    hit: Counter[str] = Counter()
    different: list[str] = []
    runs = 0
    while hit.total() < options.kills:
        runs += 1
        name = folder / f"run{runs}"
        copy_precision(undisturbed, name)
        # If a run ends before its last kill, the next run gets the rest.
        run_to_the_end(name, options.kills - hit.total(), hit)
        different += [f"{name.name}: {what}" for what in differences(name, undisturbed)]
    print(f"{hit.total()} kills in {runs} runs:")
    for what, count in hit.most_common():
        print(f"  {count:3} in: {what}")
    print(f"different from the run left alone: {different or 'nothing'}")
    print(f"{time.perf_counter() - started:.0f} s")
    if different:
        sys.exit(1)


if __name__ == "__main__":
    main()
