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
in points, with 95 % bootstrap intervals over seeds and images. A network is compared
with the students of the same seeds. A run that fails is a line too; the same command
repeats it.

Each line names the commit, the versions, the processor, the threads and the load. A
folder with lines of another commit or machine is not continued.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psutil
import torch

from benchmarks.answers import packed, right_answers
from benchmarks.minutes_table import ALIKE, KEY, origin, show
from benchmarks.results import Results, made_here
from n2n_agents.search import random_search
from n2n_gym.common.files import cache_folder
from n2n_gym.compression.finalists import Finalists
from n2n_gym.compression.pacing import ROUNDS, SEEDS, Fixed
from n2n_gym.compression.pipeline import compress
from n2n_gym.compression.plan import EPOCHS, PLAN, final_epochs
from n2n_gym.compression.stages import Search
from n2n_gym.compression.student_files import Finished
from n2n_gym.compression.timing import ROLLOUTS, SHORTER
from n2n_gym.evaluators.loading import default_runner, load_evaluator
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.devices import pick_device
from n2n_gym.runs.folder import HISTORY, open_run
from n2n_gym.runs.history import Remembering
from n2n_gym.runs.options import Options
from n2n_gym.teachers.teacher import Teacher

PACKAGES: Final = ("n2n-gym", "torch", "numpy", "onnxruntime")
POLL: Final = 0.2  # seconds
RESULTS: Final = Path(__file__).parent / "data" / "minutes"
# Torch and its libraries read these; a run must not inherit them.
THREADS: Final = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_THREAD_LIMIT"),
)
ENDED: Final = "done in seconds:"  # before a run's seconds in its output


def surroundings() -> dict[str, Any]:
    """The code and the machine that a result comes from."""
    return {
        **made_here(PACKAGES),
        "threads": torch.get_num_threads(),
        "load": list(os.getloadavg()),
    }


def row(network: torch.nn.Module, teacher: Teacher, **known: Any) -> dict[str, Any]:
    """A network's line: known facts, accuracy, and whether each test image is right."""
    right = right_answers(network, teacher, "test")
    return {**known, "accuracy": float(right.mean()), "right": packed(right)}


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
        self._planned = [
            known.get(f"{EPOCHS} {n + 1}", self.final_epochs)
            for n in range(len(self._rounds))
        ]
        self._num_variants = known.get("forms of each image", 1)
        self._seeds = SEEDS if known.get("second seed", 0) else 1

    def rounds(self, students: Sequence[Architecture]) -> Sequence[int]:
        return [count for count, _ in self._rounds]

    def _epochs(self, number: int) -> float:
        return self._planned[number]

    def seeds(self) -> int:
        return self._seeds

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
    began = time.monotonic() - (time.time() - psutil.Process().create_time())
    summary = compress(options, began)
    print(ENDED, time.monotonic() - began, flush=True)
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
        **surroundings(),
        "plan": json.loads((options.output / PLAN).read_text())["decisions"],
        "networks": networks,
    }
    print(json.dumps(found), flush=True)


def measure(options: dict[str, Any], *, has_rival: bool, is_busy: bool) -> Any:
    """One run's line of the results, measured in a process of its own."""
    spin = [sys.executable, "-c", "while True: pass"]
    busy = subprocess.Popen(spin) if is_busy else None
    try:
        first, written = _run_by_itself(options, has_rival=has_rival)
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()
    done, line = written.splitlines()[-2:]
    seconds = float(done.removeprefix(ENDED))
    return {"seconds": seconds, "first_score": first, **json.loads(line)}


def environment(cache: str) -> dict[str, str]:
    """The environment of a run: a cache of its own, and the machine's own threads."""
    kept = {name: text for name, text in os.environ.items() if name not in THREADS}
    return {**kept, "N2N_CACHE": cache}


class RunFailed(Exception):
    """A run ended with an error; its argument is the last line that it wrote."""


def _run_by_itself(
    options: dict[str, Any], *, has_rival: bool
) -> tuple[float | None, str]:
    """Seconds until a run's first score, and the run's output."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        given = json.dumps({**options, "output": str(output)})
        arguments = ["--one", given, *["--rival"] * has_rival]
        started, first = time.monotonic(), None
        errors = Path(folder) / "errors"
        with open(errors, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.minutes", *arguments],
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=environment(f"{folder}/cache"),
            )
        while first is None and process.poll() is None:
            time.sleep(POLL)
            history = output / HISTORY
            if history.exists() and history.stat().st_size:
                first = time.monotonic() - started
        written, _ = process.communicate()
        said = errors.read_text(errors="replace")
    sys.stderr.write(said)
    if process.returncode:
        raise RunFailed((said.strip().splitlines() or ["no reason given"])[-1])
    return first, written


def refuse_a_mix(results: Results, here: Mapping[str, Any]) -> None:
    """Exit if the folder has results of another commit or of another machine."""
    for result in results.read().values():
        there, mine = origin(result), origin(here)
        differs = [name for name in ALIKE if there.get(name) != mine[name]]
        if "failure" not in result and differs:
            told = (
                f"{name} was {there.get(name, 'not recorded')}, is {mine[name]}"
                for name in differs
            )
            raise SystemExit(
                f"{results.path} has results from elsewhere: {'; '.join(told)}. Give "
                f"another --output"
            )


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
    parser.add_argument("--origin", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.origin:
        print(json.dumps(surroundings()))
        return
    if chosen.one:
        given = json.loads(chosen.one)
        given["output"] = Path(given["output"])
        make_one(Options(**given), has_rival=chosen.rival)
        return
    chosen.output.mkdir(parents=True, exist_ok=True)
    results = Results(chosen.output, *KEY)
    if not chosen.show:
        measure_all(chosen, results)
    show(results)


def measure_all(chosen: argparse.Namespace, results: Results) -> None:
    """Measure what the folder does not have yet."""
    asked = [sys.executable, "-m", "benchmarks.minutes", "--origin"]
    cache = str(cache_folder())
    said = subprocess.run(
        asked, capture_output=True, text=True, check=True, env=environment(cache)
    )
    refuse_a_mix(results, json.loads(said.stdout))
    done = results.read()
    for minutes in chosen.minutes:
        for seed in chosen.seeds:
            key = (
                *(chosen.task, chosen.teacher, chosen.weights, minutes, seed),
                *(chosen.busy, chosen.rival),
            )
            if key in done and "failure" not in done[key]:
                continue
            options = {
                "teacher": chosen.teacher,
                "task": chosen.task,
                "minutes": f"{minutes:g}",
                "seed": seed,
            }
            if chosen.weights:
                options["weights"] = chosen.weights
            try:
                found = measure(options, has_rival=chosen.rival, is_busy=chosen.busy)
            except RunFailed as error:
                found = {**surroundings(), "failure": str(error)}
            results.add(**dict(zip(KEY, key, strict=True)), **found)


if __name__ == "__main__":
    main()
