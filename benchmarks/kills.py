"""Does a search survive whatever kills its processes, and whatever cannot be written?

    python -m benchmarks.kills --kills 100 --output runs/kills

Random searches over N2NRemove on digits, a small network, two workers, the scores in a
file. Half of the kills (SIGKILL) hit the process, half one of its workers, at random
moments; some wait until a score is being written, or the process is closing. After a
kill of the process the same command is started again, after the end of a search comes
the next. In the end everything is compared with the same searches left alone, on a
store of their own. Then: eight processes at once on one store, disks that cannot be
written, students that diverge.

Prints what it counts, and exits with 1 where something does not hold. Takes about a
quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import gymnasium as gym
import psutil
import torch
from n2n_agents.search import random_search
from torch import nn

import n2n_gym
from benchmarks.subjects import Block
from n2n_gym.evaluators.distillation import Settings
from n2n_gym.evaluators.elastic import random_student
from n2n_gym.evaluators.loading import load_rung
from n2n_gym.evaluators.rungs import Rung
from n2n_gym.evaluators.runner import InProcess, Result, Runner, Trial
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.evaluators.workers import Workers
from n2n_gym.networks.decisions import removals
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.rewards import Failure
from n2n_gym.scores import ScoreStore
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import Teacher

ROOT: Final = Path(__file__).parent.parent
TOGETHER: Final = 8  # episodes of a vector
EPISODES: Final = 48  # of a search
WORKERS: Final = 2
LATEST: Final = 6.0  # seconds after a start, or after its workers' start
PATIENCE: Final = 30.0  # seconds for what was left alone to end by itself
# What a kill of the process waits for; the rest come at any moment.
WRITING: Final = 0.3
CLOSING: Final = 0.1
WILD: Final = Rung("wild", recipe=Recipe(1, 32, learning_rate=1e30))
ANY: Final = object()  # what is only told


class Finding(NamedTuple):
    """A line of the report."""

    what: str
    found: object
    expected: object = ANY

    @property
    def holds(self) -> bool:
        return self.expected is ANY or self.found == self.expected

    def __str__(self) -> str:
        but = "" if self.holds else f"  <- EXPECTED {self.expected}"
        return f"  {self.what:<58} {self.found}{but}"


class Search(NamedTuple):
    """What a child process is to do."""

    seeds: Sequence[int]
    store: str | bool
    log: str | None = None  # of what happens in it, as it happens
    episodes: int = EPISODES  # with each seed; few, or a multiple of TOGETHER
    workers: int | None = WORKERS
    rung: str = "short"
    largest_file: int | None = None  # bytes: a full disk


# What the child processes do.


def small_network(task: Task) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(task.input_shape[0], 8, 3, 1, 1), nn.ReLU()),
        *(Block(8, 8, 1), Block(8, 12, 2), Block(12, 12, 1), Block(12, 16, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, task.num_classes)),
    )


class Noted:
    """A runner that notes each result, and when its receiver has kept it."""

    def __init__(self, runner: Runner, log: str) -> None:
        self.runner = runner
        self.log = log

    def run(
        self, trials: Sequence[Trial], teacher: Teacher, settings: Settings
    ) -> Iterator[Result]:
        for result in self.runner.run(trials, teacher, settings):
            found = result.result
            if isinstance(found, Failure) and found.retryable:
                yield result  # its workers were hit twice: it is measured anew, later
                continue
            fingerprint = trials[result.number].student.fingerprint
            note(self.log, "measured", fingerprint)
            yield result
            note(self.log, "kept", fingerprint)

    def close(self) -> None:
        self.runner.close()


def note(log: str, event: str, fingerprint: str = "") -> None:
    """A line that a kill leaves whole."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{os.getpid()} {event} {fingerprint}\n".encode())
    os.close(file)


def search(chosen: Search) -> list[list[Any]]:
    """Random searches; gives each one's episodes: student, return, accuracy, error."""
    n2n_gym.register()
    torch.set_num_threads(1)
    if chosen.largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (chosen.largest_file,) * 2)
    scored: dict[str, Any] = {
        "evaluator": chosen.rung,
        "evaluator_workers": chosen.workers,
        "store": chosen.store,
    }
    if chosen.rung == WILD.name:
        runner = Workers(chosen.workers) if chosen.workers else InProcess()
        store = ScoreStore(str(chosen.store))
        own = DistillationEvaluator(WILD, device="cpu", runner=runner, store=store)
        scored = {"evaluator": own}
    envs = gym.make_vec(
        "N2NRemove-v0",
        num_envs=min(TOGETHER, chosen.episodes),
        teacher=small_network,
        task="digits",
        device="cpu",
        **scored,
    )
    if chosen.log is not None:
        note(chosen.log, "searching")
        evaluator = envs.unwrapped.get_attr("evaluator")[0]
        evaluator.runner = Noted(evaluator.runner, chosen.log)
    played: list[list[Any]] = []

    def on_episode(total: float, info: dict[str, Any]) -> None:
        result = info.get("accuracy"), info.get("error")
        played[-1].append([info["fingerprint"], total, *result])

    for seed in chosen.seeds:
        played.append([])
        random_search(envs, episodes=chosen.episodes, seed=seed, on_episode=on_episode)
    if chosen.log is not None:
        note(chosen.log, "closing")
    envs.close()
    return played


def share(store: str, number: int) -> dict[str, float]:
    """Score students that others score at the same moment; gives their accuracies."""
    torch.set_num_threads(1)
    teacher = load_teacher(small_network, "digits", device="cpu")
    offered, scores = removals(teacher.architecture), {}
    evaluator = load_rung("inherit", "cpu", store=ScoreStore(store))
    seeds = list(range(10 * number, 10 * number + 30))
    random.Random(number).shuffle(seeds)
    print("ready", flush=True)
    sys.stdin.readline()
    for seed in seeds:
        student = random_student(teacher.architecture, offered, random.Random(seed))
        (score,) = evaluator([student], teacher)
        scores[student.fingerprint] = score.accuracy
    return scores


def be_child(what: str, options: str) -> None:
    chosen = json.loads(options)
    answer: Any = search(Search(**chosen)) if what == "search" else share(**chosen)
    print(json.dumps(answer), flush=True)


def start(
    what: str, options: dict[str, Any], folder: Path, **more: Any
) -> subprocess.Popen[str]:
    """A child, with temporary files and a cache in the folder, a session of its own."""
    temporary = folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    folders = {"N2N_CACHE": str(folder / "cache"), "TMPDIR": str(temporary)}
    environment = folders | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.kills", "child", what, json.dumps(options)],
        cwd=ROOT,
        env=os.environ | environment | more.pop("env", {}),
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
        **more,
    )


# Kills.


class Killer:
    """Searches that are killed again and again, and what is counted meanwhile."""

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
        """One search after another, until there were so many kills."""
        for seed in count():
            self._finish(self.search([seed], self.store, str(self.log)))
            if self.num_kills >= self.kills or self.broken:
                return

    def search(self, seeds: Sequence[int], store: Path, log: str | None) -> Search:
        return Search(seeds, str(store), log, self.episodes, self.workers)

    def _finish(self, chosen: Search) -> None:
        """Start a search again until it has ended by itself."""
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
        """Kill the process, or workers until then; False if it ends before that."""
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
        """Kill one of its workers; False if it ends before that."""
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
        """What the process was at when it was last heard of."""
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
    """The same searches, left alone, on a store of their own."""
    seeds = list(range(len(killer.answers)))
    chosen = killer.search(seeds, folder / "alone.sqlite", None)
    output, _ = start("search", chosen._asdict(), folder).communicate()
    answers: list[list[Any]] = json.loads(output)
    return answers


def rows_of(store: Path) -> dict[str, tuple[Any, ...]]:
    """All that a score is, by its key; not when it was measured."""
    which = "key, fingerprint, accuracy, num_params, num_macs, cost, error"
    rows = _ask(store, f"SELECT {which} FROM scores")
    return {row[0]: row[1:] for row in rows}


def _ask(store: Path, question: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute(question).fetchall()


def survivors(sessions: Sequence[int]) -> int:
    """Processes of these sessions that do not end by themselves."""
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
    """Kill searches, and compare what is left with searches left alone."""
    killer = Killer(folder, kills, episodes, workers)
    killer.go()
    left = survivors(killer.sessions)
    temporary = len(list((folder / "tmp").iterdir()))
    parts = len(list((folder / "cache").rglob("*.part")))
    if killer.broken:
        return [Finding("searches that ended wrongly", killer.broken, [])]
    alone = undisturbed(folder, killer)
    rows, expected = rows_of(killer.store), rows_of(folder / "alone.sqlite")
    ((num_rows, num_keys),) = _ask(
        killer.store, "SELECT count(*), count(DISTINCT key) FROM scores"
    )
    ((soundness,),) = _ask(killer.store, "PRAGMA integrity_check")
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
    best, best_alone = (_best(each) for each in (killer.answers, alone))
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
        Finding("it is that of the searches left alone", best == best_alone, True),
        Finding("so are all episodes", killer.answers == alone, True),
        Finding("so is every row", rows == expected, True),
    ]


def _best(answers: Sequence[list[Any]]) -> list[Any]:
    episodes = [episode for answer in answers for episode in answer]
    return max(episodes, key=lambda episode: episode[1])


# Sharing, and what cannot be written.


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
    ((num_rows,),) = _ask(store, "SELECT count(*) FROM scores")
    return [
        Finding("processes at once on one store", processes),
        Finding("students that they scored", sum(map(len, answers))),
        Finding("  different ones", len(scores)),
        Finding("rows in the store", num_rows, len(scores)),
        Finding("every process has the score of the row", scores == stored, True),
    ]


class Trouble(NamedTuple):
    """A search that cannot write something, and what it is to end with."""

    what: str
    search: Search
    told: Sequence[str]  # one line of its errors each
    exit_code: int = 0
    cache: str | None = None


def troubles(folder: Path) -> list[Trouble]:
    blocked, unwritable = folder / "file", folder / "read-only.sqlite"
    blocked.touch()
    with ScoreStore(unwritable) as store:
        store.get([])
        store.count()
    few = {"episodes": 2, "rung": "inherit"}
    read_only = f"sqlite:///file:{unwritable}?mode=ro&uri=true"
    full = str(folder / "full")
    return [
        Trouble(
            "a full disk",
            Search([0], True, workers=None, largest_file=0, **few),
            told=(
                f"{full}/teachers/small_network-digits-",
                f"{full}/precision.json cannot be kept: ",
                f"{full}/scores.sqlite: ",
            ),
            cache=full,
        ),
        Trouble(
            "no folder for the cache",
            Search([0], True, **few),
            told=(
                f"{blocked}/cache/teachers/small_network-digits-",
                f"{blocked}/cache/precision.json cannot be kept: ",
                f"{blocked}/cache/scores.sqlite: ",
            ),
            cache=f"{blocked}/cache",
        ),
        Trouble(
            "a store that is read-only",
            Search([0], read_only, **few),
            told=(f"scores cannot be kept: {unwritable}: ",),
        ),
        Trouble(
            "no room for temporary files",
            Search([0], False, largest_file=100_000, **few),
            told=(f"OSError: {folder / 'tmp'}: the teacher cannot be written there",),
            exit_code=1,
        ),
    ]


def check_trouble(trouble: Trouble, folder: Path) -> list[Finding]:
    """Each trouble is told in one line, and the run goes on where it can."""
    environment = {} if trouble.cache is None else {"N2N_CACHE": trouble.cache}
    options = trouble.search._asdict()
    child = start("search", options, folder, env=environment, stderr=subprocess.PIPE)
    output, errors = child.communicate()
    lines = [line for line in errors.splitlines() if "cannot be" in line]
    told = all(sum(part in line for line in lines) == 1 for part in trouble.told)
    findings = [
        Finding(f"{trouble.what}: exit code", child.returncode, trouble.exit_code),
        Finding("  lines that tell it", len(lines), len(trouble.told)),
        Finding("  they name the path and the reason", told, True),
        *(Finding(f"    {line}", "") for line in lines),
    ]
    if trouble.exit_code == 0 and output:
        (episodes,) = json.loads(output)
        scored = [accuracy for _, _, accuracy, _ in episodes if accuracy is not None]
        findings.append(Finding("  students scored", len(scored), 2))
    return findings


def check_diverging(folder: Path) -> list[Finding]:
    """Students whose training diverges."""
    store = folder / "diverged.sqlite"
    chosen = Search([0], str(store), episodes=4, rung=WILD.name)
    output, _ = start("search", chosen._asdict(), folder).communicate()
    (episodes,) = json.loads(output)
    rewards = {reward for _, reward, _, _ in episodes}
    reasons = ["diverged" in error for *_, error in episodes]
    rows = rows_of(store)
    return [
        Finding("episodes with a student that diverges", len(episodes), 4),
        Finding("  their reward", rewards, {-1.0}),
        Finding("  their infos say so", all(reasons), True),
        Finding("  rows in the store", len(rows), len({e[0] for e in episodes})),
    ]


def report(title: str, findings: Sequence[Finding]) -> bool:
    """Print what was found; whether all of it holds."""
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
    if sys.argv[1:2] == ["child"]:
        be_child(*sys.argv[2:])
    else:
        main()
