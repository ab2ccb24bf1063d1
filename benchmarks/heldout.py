"""What trained policies are worth on teachers and images that they have not seen.

    python -m benchmarks.heldout --policies runs/pretrained/policies
    python -m benchmarks.heldout --profile profile.json --rule rule.json
    python -m benchmarks.heldout --distil       # the best students, to a test accuracy
    python -m benchmarks.heldout --show

The test teachers and the targets are those of a suite, which is written before the
first training. At each target, every agent plays N2NCompress-v0 with ``fit=True``: all
its students are scaled to the target, which is a fraction of the teacher's parameters.
An agent scores at most 200 distinct students, with the weights of an elastic teacher;
the policy alone at most 20, and REINFORCE from it at most 100.

The trained policy plays in three ways: without further training; in a local search,
whose first student and changes come from it; and as the start of REINFORCE. All other
agents start without a policy. Two of them play files that ``benchmarks.knowledge``
wrote: mean rates by depth, and a rule of three lines. --policies takes a folder for
each training seed. --show prints three tables:

    test accuracy      of the best students at each budget, distilled by ``short``
    score              of the same students, by the elastic teacher's weights
    students to match  the number of students that an agent scores until one is at least
                       as good as the best of the policy's first five; if none is, at
                       least the most that the agent scores

The first two tables compare each agent with local search: the difference is taken for
each teacher and target, and averaged. Intervals are bootstrapped over training seeds
and over runs, not over teachers: they hold for the test teachers of the suite, and say
nothing about others.

Every run is a line of ``results.jsonl`` in the output folder, and every distilled
student a line of ``distilled/results.jsonl``. The same command resumes after a stop.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tqdm.auto import tqdm

from benchmarks import heldout_tables as tables
from benchmarks.controls import accuracies
from benchmarks.heldout_tables import chosen, most_of
from benchmarks.results import Results
from n2n_agents.kept import trained_path
from n2n_agents.library import WRITTEN, find_agent
from n2n_gym.comparison.budget import Ledger, run
from n2n_gym.envs import CompressEnv
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.evaluators.loading import load_evaluator
from n2n_gym.evaluators.rungs import SHORT
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pretraining.suite import Subject, Suite, read_suite
from n2n_gym.pytorch.training import Diverged
from n2n_gym.teachers.teacher import Teacher

STAGE: Final = "compress"
TRAINED: Final = ("frozen", "local", "reinforce")  # ways to play a policy's file
SCRATCH: Final = ("random", "evolution", "local", "bayesian", "reinforce@none")
PATIENCE: Final = 100  # episodes without a new student after which a run ends
PRECISION: Final = "float32"  # as in the training of policies
RUN: Final = ("teacher", "task", "share", "agent", "seed", "policy")
STUDENT: Final = ("teacher", "task", "fingerprint")


def agents_of(
    policies: list[Path], files: dict[str, Path] | None = None
) -> Iterator[tuple[str, str, str]]:
    """Each agent's name in the tables, its name in the library, and its file.

    The file is given by its SHA-256; it is empty for agents without one.

    Args:
        policies: Files of policies.
        files: Files of other agents, by the agent's name.
    """
    for name in SCRATCH:
        yield name, name, ""
    for name, path in (files or {}).items():
        yield name, f"{name}@{path}", hash_of(path)
    for path in policies:
        sha256 = hash_of(path)
        for way in TRAINED:
            yield f"{way}@trained", f"{way}@{path}", sha256


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def environment(teacher: Teacher, share: float, evaluator: Evaluator) -> CompressEnv:
    """The environment of a teacher at a target.

    Args:
        share: The target, as a fraction of the teacher's parameters.
    """
    limits = {"num_params": share * teacher.architecture.num_params}
    return CompressEnv(
        teacher, evaluator=evaluator, reward="accuracy", fit=True, constraints=limits
    )


def student_of(env: CompressEnv, actions: list[int]) -> Architecture:
    """The student of a sequence of decisions."""
    env.reset(options={"decisions": actions[:-1]})
    env.advance(actions[-1])
    return env.student


def play(env: CompressEnv, agent: str, most: int, seed: int) -> dict[str, Any]:
    """Scores in order, and the best student within each budget."""
    ledger = Ledger(evaluations=most, patience=PATIENCE)
    run(env, find_agent(agent), ledger, seed=seed)
    found = list(ledger.found.items())
    scores = [one.reward for _, one in found]
    best = {}
    for budget in (each for each in tables.BUDGETS if each <= most):
        name, one = found[int(np.argmax(scores[:budget]))]
        best[budget] = {"fingerprint": name, "actions": one.actions}
    return {"scores": scores, "best": best}


def play_all(
    results: Results,
    suite: Suite,
    agents: list[tuple[str, str, str]],
    seeds: int,
    store: Path,
) -> None:
    """Play all runs of agents of ``agents_of`` that the folder does not have yet."""
    done = results.read()
    wanted = [
        (subject, share, agent, seed)
        for subject in suite.test
        for share in suite.test_targets
        for seed in range(seeds)
        for agent in agents
    ]
    bar = tqdm(wanted)
    for subject, share, (shown, agent, sha256), seed in bar:
        bar.set_description(f"{subject.teacher}, {share:.3f}, {shown}")
        key = (subject.teacher, subject.task, share, shown, seed, sha256)
        if key in done:
            continue
        evaluator = load_evaluator(
            "elastic", device="cpu", store=store, precision=PRECISION
        )
        env = environment(_teacher(subject.teacher, subject.task), share, evaluator)
        played = play(env, agent, most_of(shown), seed)
        results.add(**dict(zip(RUN, key, strict=True)), **played)


def distil_all(lines: Iterable[dict[str, Any]], distilled: Results) -> None:
    """Distil every run's best students, each once."""
    wanted: dict[tuple[Any, ...], tuple[float, list[int]]] = {}
    for line in lines:
        for best in line["best"].values():
            key = (line["teacher"], line["task"], best["fingerprint"])
            wanted[key] = line["share"], best["actions"]
    done = distilled.read()
    short = DistillationEvaluator(SHORT, device="cpu", precision=PRECISION)
    size = load_evaluator("size")
    for key, (share, actions) in tqdm(wanted.items()):
        if key in done:
            continue
        teacher = _teacher(*key[:2])
        student = student_of(environment(teacher, share, size), actions)
        assert student.fingerprint == key[-1]
        try:
            found = accuracies(short.network(student, teacher), teacher, short.device)
        except Diverged as error:
            found = {"error": str(error)}
        distilled.add(**dict(zip(STUDENT, key, strict=True)), **found)


@cache
def _teacher(name: str, task: str) -> Teacher:
    return Subject(name, task, family="").load()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="standard")
    parser.add_argument(
        "--policies",
        nargs="*",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="folders of trained policies, one per training seed",
    )
    for name in WRITTEN:
        parser.add_argument(
            f"--{name.split('-')[-1]}", type=Path, dest=name, help=f"JSON, for {name}"
        )
    parser.add_argument("--seeds", type=int, default=5, help="of each agent")
    parser.add_argument("--distil", action="store_true")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/heldout"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.output, *RUN)
    distilled = Results(options.output / "distilled", *STUDENT)
    for each in (results, distilled):
        each.path.parent.mkdir(parents=True, exist_ok=True)
    policies = [trained_path(folder, STAGE) for folder in options.policies]
    given = {name: getattr(options, name) for name in WRITTEN}
    files = {name: path for name, path in given.items() if path is not None}
    hashes = [hash_of(path) for path in (*policies, *files.values())]
    if options.distil:
        distil_all(chosen(results.read().values(), hashes), distilled)
    elif not options.show:
        agents = list(agents_of(policies, files))
        for _, agent, _ in agents:
            find_agent(agent)  # its file is refused before anything is played
        suite, store = read_suite(options.suite), options.output / "scores.sqlite"
        play_all(results, suite, agents, options.seeds, store)
    lines = chosen(results.read().values(), hashes)
    if lines:
        tables.show(lines, distilled.read())
    else:
        print(f"{results.path} has no runs yet")


if __name__ == "__main__":
    main()
