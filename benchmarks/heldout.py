"""What trained policies are worth on teachers and images that they have not seen.

    python -m benchmarks.heldout --policies runs/pretrained/policies
    python -m benchmarks.heldout --profile profile.json --rule rule.json
    python -m benchmarks.heldout --distil       # the best students, to a test accuracy
    python -m benchmarks.heldout --show

The test teachers and the targets are those of a suite, which is written before the
first training. At each target, every agent plays N2NCompress-v0 with ``fit=True``: all
its students are scaled to the target, which is a fraction of the teacher's parameters.
An agent scores at most 200 distinct students, with the weights of an elastic teacher.

The trained policy plays in three ways: without further training; in a local search,
whose first student and changes come from it; and as the start of REINFORCE. All other
agents start without a policy. Two of them play files that ``benchmarks.knowledge``
wrote: mean rates by depth, and a rule of three lines. --show prints three tables:

    test accuracy      of the best students at each budget, distilled by ``short``
    score              of the same students, by the elastic teacher's weights
    students to match  the number of students that an agent scores until one is at least
                       as good as the best of the policy's first five; at most 200

Every run is a line of ``results.jsonl`` in the output folder, and every distilled
student a line of ``distilled/results.jsonl``. The same command resumes after a stop.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from benchmarks.controls import accuracies
from benchmarks.results import Results
from n2n_agents.kept import trained_path
from n2n_agents.library import WRITTEN, find_agent
from n2n_gym.comparison.budget import Ledger, run
from n2n_gym.comparison.statistics import as_table, estimate, iqm_of_all
from n2n_gym.envs import CompressEnv
from n2n_gym.evaluators.distillation import distil
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.evaluators.loading import load_evaluator, load_rung
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pretraining.suite import Subject, Suite, read_suite
from n2n_gym.pytorch.training import Diverged
from n2n_gym.teachers.teacher import Teacher

BUDGETS: Final = (5, 20, 100, 200)
MOST: Final = BUDGETS[-1]
FIRST: Final = BUDGETS[0]  # of the policy, which others have to match
STAGE: Final = "compress"
TRAINED: Final = ("frozen", "local", "reinforce")  # ways to play a policy's file
SCRATCH: Final = ("random", "evolution", "local", "bayesian", "reinforce@none")
RUN: Final = ("teacher", "task", "share", "agent", "seed", "policy")
STUDENT: Final = ("teacher", "task", "fingerprint")

Values = NDArray[np.float64]


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
        yield name, f"{name}@{path}", hashlib.sha256(path.read_bytes()).hexdigest()
    for path in policies:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        for way in TRAINED:
            yield f"{way}@trained", f"{way}@{path}", sha256


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


def play(env: CompressEnv, agent: str, seed: int) -> dict[str, Any]:
    """Scores in order, and the best student within each budget."""
    ledger = Ledger(evaluations=MOST)
    run(env, find_agent(agent), ledger, seed=seed)
    found = list(ledger.found.items())
    scores = [one.reward for _, one in found]
    best = {}
    for budget in BUDGETS:
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
        evaluator = load_evaluator("elastic", device="cpu", store=store)
        env = environment(_teacher(subject.teacher, subject.task), share, evaluator)
        results.add(**dict(zip(RUN, key, strict=True)), **play(env, agent, seed))


def distil_all(results: Results, distilled: Results) -> None:
    """Distil every run's best students, each once."""
    wanted: dict[tuple[Any, ...], tuple[float, list[int]]] = {}
    for line in results.read().values():
        for best in line["best"].values():
            key = (line["teacher"], line["task"], best["fingerprint"])
            wanted[key] = line["share"], best["actions"]
    done = distilled.read()
    rung, size = load_rung("short", "cpu"), load_evaluator("size")
    for key, (share, actions) in tqdm(wanted.items()):
        if key in done:
            continue
        teacher = _teacher(*key[:2])
        student = student_of(environment(teacher, share, size), actions)
        assert student.fingerprint == key[-1]
        settings = rung.settings(teacher)
        try:
            network = distil(student, teacher, settings, seed=0)
            found = accuracies(network, teacher, settings.device)
        except Diverged as error:
            found = {"error": str(error)}
        distilled.add(**dict(zip(STUDENT, key, strict=True)), **found)


@cache
def _teacher(name: str, task: str) -> Teacher:
    return Subject(name, task, family="").load()


# What the runs say.


def first_match(scores: list[float], least: float) -> int:
    """Number of students scored until one has at least the score ``least``.

    If no score is that high, it is ``MOST``.
    """
    reaching = np.flatnonzero(np.array(scores) >= least)
    return int(reaching[0]) + 1 if len(reaching) else MOST


def by_pair(lines: list[dict[str, Any]]) -> dict[str, dict[Any, list[dict[str, Any]]]]:
    """The runs of each agent, by teacher, task and target."""
    found: dict[str, dict[Any, list[dict[str, Any]]]]
    found = defaultdict(lambda: defaultdict(list))
    for line in lines:
        pair = line["teacher"], line["task"], line["share"]
        found[line["agent"]][pair].append(line)
    return found


def to_match(lines: list[dict[str, Any]], agent: str) -> list[Values]:
    """Numbers of students that an agent needs to match the policy's first five.

    There is an array for each teacher and target, with a value for each combination of
    a run of the agent and a run of the policy.
    """
    runs = by_pair(lines)
    groups = []
    for pair, played in runs["frozen@trained"].items():
        wanted = [max(one["scores"][:FIRST]) for one in played]
        needed = [
            first_match(other["scores"], least)
            for other in runs[agent][pair]
            for least in wanted
        ]
        groups.append(np.array(needed, float))
    return groups


def mean_of_all(groups: list[Values]) -> float:
    """The mean over groups, each with the same weight."""
    return float(np.mean([group.mean() for group in groups]))


def table(
    lines: list[dict[str, Any]], known: dict[tuple[Any, ...], dict[str, Any]] | None
) -> str:
    """Interquartile means of each agent at each budget, over pairs and seeds.

    Args:
        known: Distilled students, for test accuracies; None for elastic scores.
    """
    rows = []
    every = {pair for pairs in by_pair(lines).values() for pair in pairs}
    for agent, pairs in by_pair(lines).items():
        cells = [agent]
        for budget in BUDGETS:
            groups = []
            for runs in pairs.values():
                values = [_value(one, budget, known) for one in runs]
                groups.append(np.array([v for v in values if v is not None]))
            done = all(map(len, groups)) and pairs.keys() == every
            is_whole = done and sum(map(len, groups)) == sum(map(len, pairs.values()))
            cells.append(str(estimate(iqm_of_all, groups)) if is_whole else "")
        rows.append(cells)
    return as_table(["agent", *map(str, BUDGETS)], rows)


def _value(
    line: dict[str, Any],
    budget: int,
    known: dict[tuple[Any, ...], dict[str, Any]] | None,
) -> float | None:
    if known is None:
        return float(max(line["scores"][:budget]))
    best = line["best"][str(budget)]["fingerprint"]
    found = known.get((line["teacher"], line["task"], best), {})
    # A student whose distillation diverged counts as one that is always wrong.
    return found.get("test", 0.0 if "error" in found else None)


def show(results: Results, distilled: Results) -> None:
    lines = list(results.read().values())
    if not lines:
        print(f"{results.path} has no runs yet")
        return
    agents = list(by_pair(lines))
    print(f"{len(lines)} runs of {len(agents)} agents\n\nTest accuracy, distilled\n")
    print(table(lines, distilled.read()))
    print("Score, by the elastic teacher's weights\n")
    print(table(lines, None))
    if "frozen@trained" in agents:
        print(f"Students to match the policy's first {FIRST}, at most {MOST}\n")
        rows = [
            [agent, str(estimate(mean_of_all, to_match(lines, agent)))]
            for agent in agents
            if agent != "frozen@trained" and all(map(len, to_match(lines, agent)))
        ]
        print(as_table(["agent", "students"], rows))


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
    if options.distil:
        distil_all(results, distilled)
    elif not options.show:
        policies = [trained_path(folder, STAGE) for folder in options.policies]
        given = {name: getattr(options, name) for name in WRITTEN}
        files = {name: path for name, path in given.items() if path is not None}
        agents = list(agents_of(policies, files))
        for _, agent, _ in agents:
            find_agent(agent)  # its file is refused before anything is played
        suite, store = read_suite(options.suite), options.output / "scores.sqlite"
        play_all(results, suite, agents, options.seeds, store)
    show(results, distilled)


if __name__ == "__main__":
    main()
