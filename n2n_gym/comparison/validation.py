"""Validation of a comparison's results: decisions are replayed, students rescored.

A stranger's file is only read as data. The environments, networks, tasks, evaluators
and rewards that it names must be this package's. The file cannot make this code import
a module, open a path or contact an address.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Final, NamedTuple

import gymnasium as gym
import numpy as np

from envs_registry import BENCH, DEFAULTS, ENVIRONMENTS, MODULE, PRESETS
from n2n_gym.bench.env import BenchEnv
from n2n_gym.common.progress import progress
from n2n_gym.comparison.runner import AgentRun, Results
from n2n_gym.envs import CompressionEnv
from n2n_gym.evaluators.loading import RUNGS
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.rewards import REWARDS, Failure, Reward, Score, needed
from n2n_gym.tasks.loading import TASKS
from n2n_gym.teachers.zoo import traceable_names

IDS: Final = (*ENVIRONMENTS, *PRESETS, *BENCH)
PLAIN: Final = (
    *("granularity", "shrink_granularity", "variables", "kernels", "rates", "keep"),
    *("action", "illegal", "max_rows"),
)
IGNORED: Final = ("device", "store", "evaluator_workers", "train_teacher")  # arguments
SEEDS: Final = 4  # seeds that measure the noise
STUDENTS: Final = 4  # students that measure the noise
DEVIATIONS: Final = 4.0  # allowed difference, in standard deviations
ANOTHER_TEACHER: Final = 0.02  # difference in accuracy that shows another teacher
CLOSE: Final = 1e-9  # tolerance of figures that are not measured

Line = Mapping[str, Any]


class Refused(ValueError):
    """The results are wrong; the message says what and where."""


class Rescored(NamedTuple):
    """One student that was scored again."""

    where: str
    claimed: float  # reward in the file
    found: float  # reward measured here
    tolerance: float


@dataclass(frozen=True)
class Validation:
    """The checks that were made and passed."""

    runs: int
    students: int  # students that were replayed
    rescored: Sequence[Rescored]

    @property
    def worst(self) -> Rescored | None:
        """The rescored student whose rewards differ most, relative to the tolerance."""
        return max(
            self.rescored,
            key=lambda r: abs(r.claimed - r.found) / r.tolerance,
            default=None,
        )


def validate(
    path: Path, *, rescore: int = 20, device: str | None = None, seed: int = 0
) -> Validation:
    """Check a file of ``n2n-gym compare``.

    Every run's costs are counted again, and every student is rebuilt from its
    decisions. Some students are scored again: the best of each environment first, then
    in turns a random student and the best of a random run. The tolerance of a reward is
    four standard deviations of the difference between two seeds' rewards, measured
    here, plus one image and the difference between the teachers' accuracies.

    Args:
        rescore: Largest number of students to score again, over all environments.
        device: Device to score students on.
        seed: Random seed of the choice of students to score again.

    Raises:
        Refused: A check failed, or the file names something outside this package.
        ValueError: The file is missing, or is not a file of results.
    """
    by_env: dict[str, list[list[Line]]] = defaultdict(list)
    for lines in _read(path):
        first = lines[0]
        name = json.dumps([first["env"], first["arguments"]], sort_keys=True)
        by_env[name].append(lines)
    total = sum(len(lines) - 1 for runs in by_env.values() for lines in runs)
    judges = {name: _judge(runs[0][0], device) for name, runs in by_env.items()}
    with progress(total, "Replaying", " students", is_long=True) as bar:
        for name, runs in by_env.items():
            for lines in runs:
                judges[name].check(lines)
                bar.update(len(lines) - 1)
    rng = np.random.default_rng(seed)
    chosen = {name: _choose(runs, rng) for name, runs in by_env.items()}
    share, more = divmod(rescore, len(by_env))
    for number, (name, lines) in enumerate(chosen.items()):
        chosen[name] = lines[: share + (number < more)]
    found: list[Rescored] = []
    number = sum(map(len, chosen.values()))
    with progress(number, "Scoring anew", is_long=True) as bar:
        for name, lines in chosen.items():
            for rescored in judges[name].rescore(lines):
                found.append(rescored)
                bar.update()
    return Validation(sum(map(len, by_env.values())), total, found)


def _read(path: Path) -> list[list[Line]]:
    """The lines of each run: its evaluations, then its end."""
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    runs: dict[str, list[Line]] = defaultdict(list)
    for line in Results(path).lines():
        try:
            fields = {name: line[name] for name in AgentRun.__dataclass_fields__}
            key = AgentRun(**fields).key
        except (KeyError, TypeError) as error:
            raise Refused(f"{path}: a line lacks {error}") from error
        _check_types(line)
        if line["run"] != key:
            raise Refused(
                f"{path}: a line of run {line['run']} has the fields of run {key}"
            )
        runs[key].append(line)
    if not runs:
        raise ValueError(f"{path} holds no runs")
    for lines in runs.values():
        kinds = [line["kind"] for line in lines]
        if kinds != ["evaluation"] * (len(lines) - 1) + ["end"]:
            raise Refused(
                f"{_where(lines[0])}: a run must be evaluations followed by one end"
            )
    return list(runs.values())


_NUMBER: Final = (int, float)
_FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "evaluation": {
        "number": int,
        "cost": _NUMBER,
        "episodes": int,
        "reward": _NUMBER,
        "actions": list,
        "info": dict,
    },
    "end": {"cost": _NUMBER, "episodes": int, "students": int},
}


def _check_types(line: Line) -> None:
    """Raise Refused if a field of the line is missing or has a wrong type."""
    kind = _known("kind", line["kind"], _FIELDS)
    wanted = {"env": str, "agent": str, "arguments": dict, **_FIELDS[kind]}
    for name, types in wanted.items():
        value = line.get(name)
        _require(
            isinstance(value, types) and not isinstance(value, bool),
            _where(line),
            f"a line with {name} {value!r}",
        )
    _require(
        kind == "end" or all(isinstance(each, _NUMBER) for each in line["actions"]),
        _where(line),
        f"decisions that are no numbers: {line.get('actions')!r}",
    )


def _where(line: Line) -> str:
    student = f", student {line['number']}" if "number" in line else ""
    return f"{line['env']}, {line['agent']}, seed {line['seed']}{student}"


def _choose(runs: Sequence[Sequence[Line]], rng: np.random.Generator) -> list[Line]:
    """All scored students: the best, then in turns random ones and runs' best ones."""
    scored = [
        [line for line in lines[:-1] if "error" not in line["info"]] for lines in runs
    ]
    best = [max(lines, key=lambda line: line["reward"]) for lines in scored if lines]
    others = [line for lines in scored for line in lines if line not in best]
    if not best:
        return []
    first = max(best, key=lambda line: line["reward"])
    mixed = [
        [lines[i] for i in rng.permutation(len(lines))]
        for lines in (others, [line for line in best if line is not first])
    ]
    turns = chain.from_iterable(zip_longest(*mixed))
    return [first, *(line for line in turns if line is not None)]


def _known(what: str, value: Any, known: Collection[str]) -> str:
    """A value from a file; raise Refused unless it is one of the known names."""
    if not isinstance(value, str) or value not in known:
        raise Refused(
            f"{what} {value!r} is not validated; known: {', '.join(sorted(known))}"
        )
    return value


def _judge(line: Line, device: str | None) -> _Judge:
    """The judge of runs in the environment that a line names."""
    name = _known("env", line["env"].removeprefix(MODULE), IDS)
    return _TableJudge(name, line) if name in BENCH else _Judge(name, line, device)


class _Judge:
    """Checks the runs in one environment, and scores their students again."""

    # Figures of the last info that replaying finds again.
    found: tuple[str, ...] = ("fingerprint", "num_params", "num_macs", "compression")
    env: CompressionEnv | BenchEnv

    def __init__(self, name: str, line: Line, device: str | None) -> None:
        own = line["arguments"].keys() - set(IGNORED)
        if name in PRESETS and own:
            raise Refused(
                f"{name} determines its arguments; the file must not set "
                f"{', '.join(sorted(own))}"
            )
        given = {**DEFAULTS, **gym.spec(name).kwargs, **line["arguments"]}
        _known("teacher", given["teacher"], traceable_names())
        _known("task", str(given["task"]).partition("@")[0], TASKS)
        rung = _known("evaluator", given["evaluator"], {"size", *RUNGS})
        # A reward that needs measured resources cannot be computed from a file.
        computed = {name for name, reward in REWARDS.items() if not needed(reward)}
        reward = _known("reward", given.get("reward", "n2n"), computed)
        allowed = {"teacher", "task", "evaluator", "reward", *PLAIN}
        for argument in given.keys() - {*allowed, *IGNORED}:
            raise Refused(
                f"the argument {argument!r} is not validated; known: "
                f"{', '.join(sorted(allowed))}"
            )
        arguments = {key: given[key] for key in allowed & given.keys()}
        # The decisions are replayed without scores.
        made = gym.make(name, **{**arguments, "evaluator": "size"}).unwrapped
        assert isinstance(made, CompressionEnv)
        self.env = made
        self.teacher = made.teacher
        self.reward: Reward = REWARDS[reward]
        self.evaluator: DistillationEvaluator | None = None
        if rung != "size":
            self.evaluator = DistillationEvaluator(RUNGS[rung], device=device)

    def check(self, lines: Sequence[Line]) -> None:
        """Check all figures of a run that need no measurement."""
        *evaluations, end = lines
        where, cost, episodes = _where(end), 0.0, 0
        seen: set[str] = set()
        for number, line in enumerate(evaluations, 1):
            here = _where(line)
            _require(line["number"] == number, here, f"it should be number {number}")
            _require(line["episodes"] > episodes, here, "episodes do not go up")
            student = self._replay(line)
            _require(student.fingerprint not in seen, here, "it is there twice")
            seen.add(student.fingerprint)
            cost += self._cost(student, line, is_first=number == 1)
            _same(line["cost"], cost, here, "the cost so far")
            self._check_reward(student, line)
            episodes = line["episodes"]
        _require(end["students"] == len(evaluations), where, "students are missing")
        _require(end["episodes"] >= episodes, where, "episodes are missing")
        _same(end["cost"], cost, where, "the cost")
        limits = ((end["epochs"], cost), (end["evaluations"], len(evaluations)))
        for limit, spent in limits:
            is_kept = limit is None or spent <= limit + CLOSE
            _require(is_kept, where, f"{spent} was spent of {limit}")

    def _replay(self, line: Line) -> Architecture:
        """The student of a line's decisions; raise Refused if the info differs."""
        here, actions = _where(line), line["actions"]
        self.env.reset()
        self.earned, is_over = 0.0, False
        info: dict[str, Any] = {}
        for action in actions:
            _require(not is_over, here, f"there are decisions after the end: {actions}")
            try:
                _, self.earned, is_over, _, info = self.env.step(action)
            except ValueError as error:
                raise Refused(f"{here}: {error}") from error
            _require(not info["illegal"], here, f"{action} is illegal: {actions}")
        _require(is_over, here, f"{len(actions)} decisions do not end an episode")
        for name in self.found:
            claimed, found = line["info"].get(name), info.get(name)
            _require(
                claimed == found,
                here,
                f"{name} is {found!r}, the file says {claimed!r}",
            )
        return self.env.student

    def _cost(self, student: Architecture, line: Line, *, is_first: bool) -> float:
        if "error" in line["info"] or self.evaluator is None:
            return 0.0
        cost = self.evaluator.cost(student, self.teacher)
        _same(line["info"].get("cost"), cost, _where(line), "the student's cost")
        return cost + is_first * self.evaluator.cost_once(self.teacher)

    def _check_reward(self, student: Architecture, line: Line) -> None:
        """Check the reward against the claimed accuracy."""
        info, here = line["info"], _where(line)
        if "error" in info:
            _same(line["reward"], -1.0, here, "the reward of a failure")
            return
        values = [info.get(name) for name in ("accuracy", "teacher_accuracy")]
        for value in values:
            is_share = isinstance(value, _NUMBER) and 0 <= value <= 1
            _require(is_share, here, f"an accuracy of {value!r}")
            # With the evaluator "size", nothing is measured: accuracies are 1.
            is_so = self.evaluator is not None or value == 1
            _require(is_so, here, f"an accuracy of {value!r} that nothing measured")
        _require(values[1] > 0, here, "a teacher that is never right")
        whole = self.teacher.architecture
        mine, teachers = (
            Score(value, network.num_params, network.num_macs)
            for value, network in zip(values, (student, whole), strict=True)
        )
        expected = self.reward(mine, teachers)
        _same(line["reward"], expected, here, "the reward of its accuracy")

    # Checks that need measurements.

    def rescore(self, lines: Sequence[Line]) -> list[Rescored]:
        """Score the lines' students again; return new and claimed rewards.

        Raises:
            Refused: Rewards or teachers differ too much, or scoring fails.
        """
        if self.evaluator is None or not lines:
            return []
        noise = self._noise(lines[:STUDENTS])
        here = self.teacher.score
        rescored = []
        for line in lines:
            where, student = _where(line), self._replay(line)
            theirs = line["info"]["teacher_accuracy"]
            if abs(theirs - here.accuracy) > ANOTHER_TEACHER:
                raise Refused(
                    f"{where}: its teacher has a validation accuracy of {theirs:.2%}, "
                    f"the teacher trained here {here.accuracy:.2%}; scores with "
                    f"teachers that differ this much cannot be compared"
                )
            (result,) = self.evaluator([student], self.teacher)
            if isinstance(result, Failure):
                raise Refused(f"{where}: scoring it again failed: {result.reason}")
            # A difference of one image is allowed, and the teachers' own difference.
            image = 1 / len(self.teacher.task.splits["validation"])
            close = (image + abs(theirs - here.accuracy)) / here.accuracy
            tolerance = DEVIATIONS * noise + close
            found = Rescored(
                where, line["reward"], self.reward(result, here), tolerance
            )
            if abs(found.claimed - found.found) > tolerance:
                raise Refused(
                    f"{where}: its reward is {found.claimed:.4f}, but scoring again "
                    f"gives {found.found:.4f}; they may differ by {tolerance:.4f}"
                )
            rescored.append(found)
        return rescored

    def _noise(self, lines: Sequence[Line]) -> float:
        """Standard deviation of the difference between rewards from two seeds."""
        assert self.evaluator is not None
        variances = []
        for line in lines:
            student = self._replay(line)
            results = [
                self.evaluator.again(student, self.teacher, seed)
                for seed in range(SEEDS)
            ]
            rewards = [
                self.reward(result, self.teacher.score)
                for result in results
                if isinstance(result, Score)
            ]
            if len(rewards) > 1:
                variances.append(np.var(rewards, ddof=1))
        return math.sqrt(2 * float(np.mean(variances))) if variances else 0.0


class _TableJudge(_Judge):
    """Checks the runs in a task of N2N-Bench, whose scores come from a table.

    All figures must be those of the table, so no student is scored again.
    """

    found = (
        *_Judge.found,
        *("accuracy", "teacher_accuracy", "cost", "regret", "test_regret"),
    )

    def __init__(self, name: str, line: Line) -> None:
        _require(
            not line["arguments"],
            name,
            f"the task determines its arguments, the file sets {line['arguments']}",
        )
        made = gym.make(name).unwrapped
        assert isinstance(made, BenchEnv)
        self.env, self.evaluator = made, None

    def _cost(self, student: Architecture, line: Line, *, is_first: bool) -> float:
        cost: float = line["info"].get("cost", 0.0)
        return cost

    def _check_reward(self, student: Architecture, line: Line) -> None:
        _same(line["reward"], self.earned, _where(line), "the table's reward")


def _require(is_so: bool, where: str, message: str) -> None:
    if not is_so:
        raise Refused(f"{where}: {message}")


def _same(claimed: Any, found: float, where: str, what: str) -> None:
    is_number = isinstance(claimed, (int, float))
    _require(
        is_number and math.isclose(claimed, found, rel_tol=CLOSE, abs_tol=CLOSE),
        where,
        f"{what} is {found:g}, the file says {claimed!r}",
    )
