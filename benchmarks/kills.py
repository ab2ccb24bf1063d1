"""Does a search survive kills of its processes, and files that cannot be written?

    python -m benchmarks.kills --kills 100 --output runs/kills

The subjects are random searches over N2NRemove on digits, with a small network, two
workers, and scores in a file. Half of the kills (SIGKILL) hit the process, half one of
its workers, at random moments. Some kills wait until a score is being written, or until
the process is closing. After a kill of the process, the same command starts again;
after the end of a search, the next one starts. At the end everything is compared with
the same searches without kills, on a separate store. Further checks: eight processes
use one store at once, disks cannot be written, and students diverge.

Prints its counts, and exits with 1 if a check fails. Takes about a quarter of an hour
on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.searching import EPISODES, WORKERS, Search, start
from benchmarks.troubles import (
    Finding,
    ask,
    check_diverging,
    check_trouble,
    rows_of,
    troubles,
)

LATEST: Final = 6.0  # a kill's latest moment: seconds after a process starts
PATIENCE: Final = 30.0  # seconds for processes left over to end by themselves
# Fractions of the kills that wait for an event; other kills come at any moment.
WRITING: Final = 0.3
CLOSING: Final = 0.1


# Kills.


class Killer:
    """Runs searches, kills their processes again and again, and counts the kills."""

    def __init__(self, folder: Path, kills: int, episodes: int, workers: int) -> None:
        self.folder = folder
        self.kills = kills
        self.episodes = episodes
        self.workers = workers
        self.rng = random.Random(kills)
        self.targets = [("process", "worker")[i % 2] for i in range(kills)]
        self.rng.shuffle(self.targets)
        self.log = folder / "log.txt"
        self.store = folder / "killed.sqlite"
        self.sessions: list[int] = []
        self.hit: Counter[str] = Counter()  # "process" or "worker", and the moments
        self.answers: list[list[Any]] = []  # episodes of each search
        self.broken: list[str] = []  # searches that ended by themselves, and wrongly
        self.errors = folder / "errors.txt"
        self.log.touch()

    @property
    def num_kills(self) -> int:
        return self.hit["process"] + self.hit["worker"]

    def go(self) -> None:
        """Run one search after another, until the number of kills is reached."""
        for seed in count():
            self._finish(self.search([seed], self.store, str(self.log)))
            if self.num_kills >= self.kills or self.broken:
                return

    def search(self, seeds: Sequence[int], store: Path, log: str | None) -> Search:
        return Search(seeds, str(store), log, self.episodes, self.workers)

    def _finish(self, chosen: Search) -> None:
        """Start a search again until it ends normally."""
        while True:
            with open(self.errors, "a") as file:
                options = chosen._asdict()
                process = start("search", options, self.folder, stderr=file)
            self.sessions.append(process.pid)
            was_killed = self._disturb(process)
            output, _ = process.communicate()
            if not was_killed:
                break
        if process.returncode == 0:
            self.answers += json.loads(output)
        else:
            reason = f"exit code {process.returncode}, see {self.errors}"
            self.broken.append(f"search {chosen.seeds}: {reason}")

    def _disturb(self, process: subprocess.Popen[str]) -> bool:
        """Kill some workers, then the process; False if the process ends by itself."""
        while self.num_kills < self.kills:
            if self.targets[self.num_kills] == "process":
                return self._kill(process)
            if not self._kill_worker(process):
                return False
        return False

    def _kill(self, process: subprocess.Popen[str]) -> bool:
        aim = self.rng.random()
        if aim < WRITING:
            self._await(process, "measured")
            time.sleep(self.rng.uniform(0, 0.005))
        elif aim < WRITING + CLOSING:
            self._await(process, "closing")
            time.sleep(self.rng.uniform(0, 0.3))
        else:
            _wait(process, self.rng.uniform(0.2, LATEST))
        if process.poll() is not None:
            return False
        process.kill()
        process.wait()
        self.hit["process"] += process.returncode == -9
        self.hit[f"process, {self._moment(process)}"] += process.returncode == -9
        return process.returncode == -9

    def _kill_worker(self, process: subprocess.Popen[str]) -> bool:
        """Kill one of the workers; False if the process ends first."""
        parent = psutil.Process(process.pid)
        while process.poll() is None and not parent.children():
            time.sleep(0.02)
        _wait(process, self.rng.uniform(0, LATEST))
        if process.poll() is not None:
            return False
        with suppress(psutil.NoSuchProcess, IndexError):  # it has just ended
            self.rng.choice(parent.children()).kill()
            self.hit["worker"] += 1
            self.hit[f"worker, {self._moment(process)}"] += 1
        return True

    def _await(self, process: subprocess.Popen[str], event: str) -> None:
        """Wait for an event in the log, from now on."""
        with open(self.log) as file:
            file.seek(0, os.SEEK_END)
            while process.poll() is None:
                for line in file:
                    if line.split()[1] == event:
                        return
                time.sleep(0.001)

    def _moment(self, process: subprocess.Popen[str]) -> str:
        """The last event of the process."""
        events = [e for pid, e, _ in read(self.log) if pid == process.pid]
        last = events[-1] if events else ""
        names = {"": "starting", "measured": "writing", "closing": "closing"}
        return names.get(last, "measuring")


def read(log: Path) -> list[tuple[int, str, str]]:
    """Process, event and fingerprint of each line."""
    lines = (line.split(" ") for line in log.read_text().splitlines())
    return [(int(pid), event, fingerprint) for pid, event, fingerprint in lines]


def _wait(process: subprocess.Popen[str], seconds: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def undisturbed(folder: Path, killer: Killer) -> list[list[Any]]:
    """The same searches without kills, on a store of their own."""
    seeds = list(range(len(killer.answers)))
    chosen = killer.search(seeds, folder / "alone.sqlite", None)
    output, _ = start("search", chosen._asdict(), folder).communicate()
    answers: list[list[Any]] = json.loads(output)
    return answers


def survivors(sessions: Sequence[int]) -> int:
    """Number of processes of these sessions that do not end within ``PATIENCE``."""
    until = time.monotonic() + PATIENCE
    while found := [pid for pid in psutil.pids() if _session(pid) in sessions]:
        if time.monotonic() > until:
            break
        time.sleep(0.2)
    return len(found)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def check_kills(
    folder: Path, kills: int, *, episodes: int = EPISODES, workers: int = WORKERS
) -> list[Finding]:
    """Kill searches, and compare the results with searches without kills."""
    killer = Killer(folder, kills, episodes, workers)
    killer.go()
    left = survivors(killer.sessions)
    temporary = len(list((folder / "tmp").iterdir()))
    parts = len(list((folder / "cache").rglob("*.part")))
    if killer.broken:
        return [Finding("searches that ended wrongly", killer.broken, [])]
    expected_answers = undisturbed(folder, killer)
    rows, expected = rows_of(killer.store), rows_of(folder / "alone.sqlite")
    ((num_rows, num_keys),) = ask(
        killer.store, "SELECT count(*), count(DISTINCT key) FROM scores"
    )
    ((soundness,),) = ask(killer.store, "PRAGMA integrity_check")
    measured: Counter[str] = Counter()
    kept: set[str] = set()
    in_vain = 0
    for _, event, fingerprint in read(killer.log):
        if event == "measured":
            measured[fingerprint] += 1
            in_vain += fingerprint in kept
        elif event == "kept":
            kept.add(fingerprint)
    in_rows = {row[0] for row in rows.values()}
    moments = {k: v for k, v in sorted(killer.hit.items()) if "," in k}
    best, best_expected = (_best(each) for each in (killer.answers, expected_answers))
    again = sum(measured.values()) - len(measured)
    return [
        Finding("kills", killer.num_kills, kills),
        Finding("  of the process", killer.hit["process"]),
        Finding("  of one of its workers", killer.hit["worker"]),
        *(Finding(f"    {moment}", number) for moment, number in moments.items()),
        Finding("starts", len(killer.sessions)),
        Finding("searches finished", len(killer.answers)),
        Finding("students scored", len(measured)),
        Finding("rows in the store", num_rows, len(measured)),
        Finding("rows doubled", num_rows - num_keys, 0),
        Finding("rows lost", len(kept - in_rows), 0),
        Finding("PRAGMA integrity_check", soundness, "ok"),
        Finding("stores set aside", len(list(folder.glob("*damaged*"))), 0),
        Finding("measurements that ended", sum(measured.values())),
        Finding("  of a student measured before, hit while written", again - in_vain),
        Finding("  of a student in the store", in_vain, 0),
        Finding("worker processes left over", left, 0),
        Finding("temporary files left over", temporary, 0),
        Finding("half-written files left over in the cache", parts, 0),
        Finding("best student", f"{best[0][:12]}, reward {best[1]}"),
        Finding("it is that of the searches left alone", best == best_expected, True),
        Finding("so are all episodes", killer.answers == expected_answers, True),
        Finding("so is every row", rows == expected, True),
    ]


def _best(answers: Sequence[list[Any]]) -> list[Any]:
    episodes = [episode for answer in answers for episode in answer]
    return max(episodes, key=lambda episode: episode[1])


# Shared stores, and files that cannot be written.


def check_sharing(folder: Path, processes: int = 8) -> list[Finding]:
    """Processes that score overlapping students at once, on one store."""
    store = folder / "shared.sqlite"
    children = [
        start(
            "share",
            {"store": str(store), "number": number},
            folder,
            stdin=subprocess.PIPE,
        )
        for number in range(processes)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [json.loads(child.communicate()[0]) for child in children]
    scores: dict[str, set[float]] = {}
    for answer in answers:
        for fingerprint, accuracy in answer.items():
            scores.setdefault(fingerprint, set()).add(accuracy)
    rows = list(rows_of(store).values())
    stored = {row[0]: {row[1]} for row in rows}
    ((num_rows,),) = ask(store, "SELECT count(*) FROM scores")
    return [
        Finding("processes at once on one store", processes),
        Finding("students that they scored", sum(map(len, answers))),
        Finding("  different ones", len(scores)),
        Finding("rows in the store", num_rows, len(scores)),
        Finding("every process has the score of the row", scores == stored, True),
    ]


def report(title: str, findings: Sequence[Finding]) -> bool:
    """Print the findings; return whether all checks passed."""
    print(title, *findings, sep="\n", flush=True)
    return all(finding.holds for finding in findings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("runs/kills"))
    chosen = parser.parse_args()

    folder = chosen.output.absolute()
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    well = [report("Kills", check_kills(folder, chosen.kills))]
    well.append(report("Sharing", check_sharing(folder)))
    for trouble in troubles(folder):
        well.append(report("Disks", check_trouble(trouble, folder)))
    well.append(report("Divergence", check_diverging(folder)))
    print(f"{time.perf_counter() - started:.0f} s")
    if not all(well):
        sys.exit("something does not hold: see EXPECTED above")


if __name__ == "__main__":
    main()
