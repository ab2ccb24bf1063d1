"""How good students are after `compress --minutes`.

    python -m benchmarks.minutes --minutes 4 --seeds 0 1 2 3 4 --rival
    python -m benchmarks.minutes --minutes 2 5 15 --seeds 0 1 2
    python -m benchmarks.minutes --task cifar10 --weights W --minutes 10 30 60
    python -m benchmarks.minutes --show

Each run has its own process and an empty cache. Its time is that from the start of the
process to the last file. With --rival a random search follows, whose time does not
count. This search scores as many students as the run, in the same way, and distils as
many finalists for as many epochs. With --busy another process keeps a core busy.

Each result is a line of ``results.jsonl`` in the output folder, with each network's
predictions on the test images. So --show compares networks image by image: differences
in points, with 95 % bootstrap intervals over seeds and images.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
import psutil
import torch

from benchmarks.results import Results
from n2n_agents.search import random_search
from n2n_gym.compression.finalists import Finalists
from n2n_gym.compression.pipeline import compress
from n2n_gym.compression.plan import EPOCHS, PLAN, final_epochs
from n2n_gym.compression.stages import Search
from n2n_gym.compression.student_files import Finished
from n2n_gym.compression.timing import ROLLOUTS, ROUNDS, SHORTER, Fixed, seeds_in
from n2n_gym.evaluators.loading import default_runner, load_evaluator
from n2n_gym.limits.requirements import Requirements
from n2n_gym.pytorch.devices import pick_device
from n2n_gym.pytorch.inference import predict
from n2n_gym.runs.folder import HISTORY, open_run
from n2n_gym.runs.history import Remembering
from n2n_gym.runs.options import Options
from n2n_gym.teachers.teacher import Teacher

KEY: Final = ("task", "teacher", "weights", "minutes", "seed", "is_busy", "has_rival")
NETWORKS: Final = ("teacher", "student", "uniform", "magnitude", "random")
SAMPLES: Final = 4000  # of the bootstrap
POLL: Final = 0.2  # seconds
RESULTS: Final = Path(__file__).parent / "data" / "minutes"


def row(network: torch.nn.Module, teacher: Teacher, **known: Any) -> dict[str, Any]:
    """A network's line: known facts, accuracy, and whether each test image is right."""
    split = teacher.task.splits["test"]
    answers = predict(network.cpu(), split, teacher.normalise)
    right = (answers == split.labels.cpu()).numpy()
    bits = np.packbits(right).tobytes().hex()
    return {**known, "accuracy": float(right.mean()), "right": bits}


def of_finished(finished: Finished, teacher: Teacher) -> dict[str, Any]:
    student = finished.student
    size = {"num_params": student.num_params, "num_macs": student.num_macs}
    return row(finished.network, teacher, **size)


class AsPlanned(Fixed):
    """A random search's numbers of updates and epochs, taken from the plan of a run."""

    def __init__(self, plan: Path, removals: int, shrinkages: int) -> None:
        super().__init__(final_epochs(plan), removals, shrinkages)
        decided = json.loads(plan.read_text())["decisions"]
        known = {what: value for what, value, _ in decided}
        self._rounds = SHORTER[known["rounds of finalists"]]
        self._epochs = [
            known.get(f"{EPOCHS} {n + 1}", self.final_epochs)
            for n in range(len(self._rounds))
        ]
        self._num_variants = known.get("forms of each image", 1)

    def rounds(self) -> Sequence[int]:
        return [count for count, _ in self._rounds]

    def epochs(self, number: int) -> int:
        return self._epochs[number]

    def seeds(self) -> int:
        return seeds_in(self._rounds)

    def num_variants(self) -> int:
        return self._num_variants


def random_rival(options: Options, num_scored: int, folder: Path) -> Finished | None:
    """The best student of a random search that scores as many students as a run."""
    updates = [-(-num_scored // 2 // ROLLOUTS), num_scored // 2 // ROLLOUTS]
    teacher = options.load_teacher()
    timing = AsPlanned(options.output / PLAN, *updates)
    requirements = Requirements.read(teacher.architecture, options.constraints())
    alike = Options(
        teacher=options.teacher,
        task=options.task,
        weights=options.weights,
        seed=options.seed,
        output=folder,
        evaluator="quick",
        removal_updates=updates[0],
        shrinkage_updates=updates[1],
        final_epochs=timing.final_epochs,
        controls="none",
    )
    runner = default_runner(ROUNDS[0][0])
    with closing(runner), open_run(alike) as run:
        evaluator = load_evaluator("quick", workers=runner)
        remembering = Remembering(evaluator, run.history)
        search = Search(teacher, remembering, run, requirements, timing)

        def play(env: Any, count: int, seed: int, report: Any, path: Path) -> None:
            episodes = count * ROLLOUTS
            random_search(env, episodes=episodes, seed=seed, on_episode=report)

        removed, shrunk = search.run("random", play, updates[0], lambda: updates[1])
        final = Finalists(
            teacher,
            timing,
            pick_device(None),
            runner,
            None,
            requirements,
            weights=folder,
        )
        return final.compare(removed + shrunk, "random search")


def make_one(options: Options, *, has_rival: bool) -> None:
    """Make a run in this process; print the time of its end and its result as JSON."""
    age = time.time() - psutil.Process().create_time()
    summary = compress(options, time.monotonic() - age)
    print(f"done {time.time()}", flush=True)
    teacher = options.load_teacher()
    whole, score = teacher.network(torch.device("cpu")), teacher.score
    size = {"num_params": score.num_params, "num_macs": score.num_macs}
    networks = {"teacher": row(whole, teacher, **size)}
    for name in ("student", "uniform", "magnitude"):
        if (finished := getattr(summary, name)) is not None:
            networks[name] = of_finished(finished, teacher)
    if has_rival:
        folder = options.output.with_name("rival")
        rival = random_rival(options, summary.num_scored, folder)
        if rival is not None:
            networks["random"] = of_finished(rival, teacher)
    found = {
        "num_scored": summary.num_scored,
        "num_images": len(teacher.task.splits["test"]),
        "latency_ms": summary.test.student.latency_ms,
        "plan": json.loads((options.output / PLAN).read_text())["decisions"],
        "networks": networks,
    }
    print(json.dumps(found), flush=True)


def measure(options: dict[str, Any], *, has_rival: bool, is_busy: bool) -> Any:
    """One run's line of the results, measured in a process of its own."""
    spin = [sys.executable, "-c", "while True: pass"]
    busy = subprocess.Popen(spin) if is_busy else None
    try:
        started, first, written = _run_by_itself(options, has_rival=has_rival)
    finally:
        if busy is not None:
            busy.kill()
    done, line = written.splitlines()[-2:]
    seconds = float(done.split()[1]) - started
    return {"seconds": seconds, "first_score": first, **json.loads(line)}


def _run_by_itself(
    options: dict[str, Any], *, has_rival: bool
) -> tuple[float, float | None, str]:
    """Start time of a run, seconds until its first score, and its output."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        given = json.dumps({**options, "output": str(output)})
        arguments = ["--one", given, *["--rival"] * has_rival]
        started, first = time.time(), None
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.minutes", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "N2N_CACHE": f"{folder}/cache"},
        )
        while first is None and process.poll() is None:
            time.sleep(POLL)
            history = output / HISTORY
            if history.exists() and history.stat().st_size:
                first = time.time() - started
        written, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run of {options} failed")
    return started, first, written


# Statistics.


def right_of(result: dict[str, Any], network: str) -> np.ndarray:
    bits = np.frombuffer(bytes.fromhex(result["networks"][network]["right"]), np.uint8)
    return np.unpackbits(bits)[: result["num_images"]]


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


def show(results: Results) -> None:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for result in results.read().values():
        key = tuple(result[name] for name in KEY if name != "seed")
        groups.setdefault(key, []).append(result)
    for key, found in sorted(groups.items(), key=str):
        task, teacher, _, minutes, is_busy, has_rival = key
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
                f"{network:10} {times:7.1f}x {macs / 1e6:9.2f} M MACs {accuracy:8.2%}"
            )
            if network != "student":
                gaps = [
                    right_of(x, "student") - right_of(x, network).astype(float)
                    for x in having
                ]
                difference, low, high = interval(np.stack(gaps))
                line += f"   student {difference:+.2f} ({low:+.2f} to {high:+.2f})"
            print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="resnet18")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--weights")
    parser.add_argument("--minutes", type=float, nargs="+", default=[4.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rival", action="store_true", help="a random search, too")
    parser.add_argument("--busy", action="store_true", help="one core at other work")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        given = json.loads(chosen.one)
        given["output"] = Path(given["output"])
        make_one(Options(**given), has_rival=chosen.rival)
        return
    chosen.output.mkdir(parents=True, exist_ok=True)
    results = Results(chosen.output, *KEY)
    done = {} if chosen.show else results.read()
    for minutes in [] if chosen.show else chosen.minutes:
        for seed in chosen.seeds:
            key = (
                *(chosen.task, chosen.teacher, chosen.weights, minutes, seed),
                *(chosen.busy, chosen.rival),
            )
            if key in done:
                continue
            options = {
                "teacher": chosen.teacher,
                "task": chosen.task,
                "minutes": f"{minutes:g}",
                "seed": seed,
            }
            if chosen.weights:
                options["weights"] = chosen.weights
            found = measure(options, has_rival=chosen.rival, is_busy=chosen.busy)
            results.add(**dict(zip(KEY, key, strict=True)), **found)
    show(results)


if __name__ == "__main__":
    main()
