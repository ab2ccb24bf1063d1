"""Judges of a comparison's runs: each replays decisions and checks every figure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import gymnasium as gym
import numpy as np

from envs_registry import BENCH, DEFAULTS, ENVIRONMENTS, MODULE, PRESETS
from n2n_gym.bench.env import BenchEnv
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
NUMBER: Final = (int, float)

Line = Mapping[str, Any]


class Refused(ValueError):
    """The results are wrong; the message says what and where."""


class Rescored(NamedTuple):
    """One student that was scored again."""

    where: str
    claimed: float  # reward in the file
    found: float  # reward measured here
    tolerance: float


def judge_of(line: Line, device: str | None) -> Judge:
    """The judge of runs in the environment that a line names."""
    name = known_name("env", line["env"].removeprefix(MODULE), IDS)
    return TableJudge(name, line) if name in BENCH else Judge(name, line, device)


class Judge:
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
        known_name("teacher", given["teacher"], traceable_names())
        known_name("task", str(given["task"]).partition("@")[0], TASKS)
        rung = known_name("evaluator", given["evaluator"], {"size", *RUNGS})
        # A reward that needs measured resources cannot be computed from a file.
        computed = {name for name, reward in REWARDS.items() if not needed(reward)}
        reward = known_name("reward", given.get("reward", "n2n"), computed)
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
        where, cost, episodes = where_of(end), 0.0, 0
        seen: set[str] = set()
        for number, line in enumerate(evaluations, 1):
            here = where_of(line)
            require(line["number"] == number, here, f"it should be number {number}")
            require(line["episodes"] > episodes, here, "episodes do not go up")
            student = self._replay(line)
            require(student.fingerprint not in seen, here, "it is there twice")
            seen.add(student.fingerprint)
            cost += self._cost(student, line, is_first=number == 1)
            _same(line["cost"], cost, here, "the cost so far")
            self._check_reward(student, line)
            episodes = line["episodes"]
        require(end["students"] == len(evaluations), where, "students are missing")
        require(end["episodes"] >= episodes, where, "episodes are missing")
        _same(end["cost"], cost, where, "the cost")
        limits = ((end["epochs"], cost), (end["evaluations"], len(evaluations)))
        for limit, spent in limits:
            is_kept = limit is None or spent <= limit + CLOSE
            require(is_kept, where, f"{spent} was spent of {limit}")

    def _replay(self, line: Line) -> Architecture:
        """The student of a line's decisions; raise Refused if the info differs."""
        here, actions = where_of(line), line["actions"]
        self.env.reset()
        self.earned, is_over = 0.0, False
        info: dict[str, Any] = {}
        for action in actions:
            require(not is_over, here, f"there are decisions after the end: {actions}")
            try:
                _, self.earned, is_over, _, info = self.env.step(action)
            except ValueError as error:
                raise Refused(f"{here}: {error}") from error
            require(not info["illegal"], here, f"{action} is illegal: {actions}")
        require(is_over, here, f"{len(actions)} decisions do not end an episode")
        for name in self.found:
            claimed, found = line["info"].get(name), info.get(name)
            require(
                claimed == found,
                here,
                f"{name} is {found!r}, the file says {claimed!r}",
            )
        return self.env.student

    def _cost(self, student: Architecture, line: Line, *, is_first: bool) -> float:
        if "error" in line["info"] or self.evaluator is None:
            return 0.0
        cost = self.evaluator.cost(student, self.teacher)
        _same(line["info"].get("cost"), cost, where_of(line), "the student's cost")
        return cost + is_first * self.evaluator.cost_once(self.teacher)

    def _check_reward(self, student: Architecture, line: Line) -> None:
        """Check the reward against the claimed accuracy."""
        info, here = line["info"], where_of(line)
        if "error" in info:
            _same(line["reward"], -1.0, here, "the reward of a failure")
            return
        values = [info.get(name) for name in ("accuracy", "teacher_accuracy")]
        for value in values:
            is_share = isinstance(value, NUMBER) and 0 <= value <= 1
            require(is_share, here, f"an accuracy of {value!r}")
            # With the evaluator "size", nothing is measured: accuracies are 1.
            is_so = self.evaluator is not None or value == 1
            require(is_so, here, f"an accuracy of {value!r} that nothing measured")
        require(values[1] > 0, here, "a teacher that is never right")
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
            where, student = where_of(line), self._replay(line)
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


class TableJudge(Judge):
    """Checks the runs in a task of N2N-Bench, whose scores come from a table.

    All figures must be those of the table, so no student is scored again.
    """

    found = (
        *Judge.found,
        *("accuracy", "teacher_accuracy", "cost", "regret", "test_regret"),
    )

    def __init__(self, name: str, line: Line) -> None:
        require(
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
        _same(line["reward"], self.earned, where_of(line), "the table's reward")


def require(is_so: bool, where: str, message: str) -> None:
    """Raise Refused with a place and a message unless something is so."""
    if not is_so:
        raise Refused(f"{where}: {message}")


def _same(claimed: Any, found: float, where: str, what: str) -> None:
    is_number = isinstance(claimed, (int, float))
    require(
        is_number and math.isclose(claimed, found, rel_tol=CLOSE, abs_tol=CLOSE),
        where,
        f"{what} is {found:g}, the file says {claimed!r}",
    )


def where_of(line: Line) -> str:
    """Environment, agent, seed and student of a line, for errors."""
    student = f", student {line['number']}" if "number" in line else ""
    return f"{line['env']}, {line['agent']}, seed {line['seed']}{student}"


def known_name(what: str, value: Any, known: Collection[str]) -> str:
    """A value from a file; raise Refused unless it is one of the known names."""
    if not isinstance(value, str) or value not in known:
        raise Refused(
            f"{what} {value!r} is not validated; known: {', '.join(sorted(known))}"
        )
    return value
