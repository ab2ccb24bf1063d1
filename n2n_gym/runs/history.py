"""What a run has scored, a line for each student: from there it can go on."""

from __future__ import annotations

import json
import os
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any, Final

from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.rewards import Failure, Score
from n2n_gym.teachers.teacher import Teacher

ARRAYS: Final = ("action_mask", "reward_vector")  # of an info, not in the history
FINAL: Final = "final"  # the stage of what was distilled fully, not scored in a search


class History:
    """A line of JSON for each student scored, in the order of their episodes.

    Where the run goes on, the lines that are there already must come again, one after
    another; then new ones are added. What was distilled fully may come out otherwise,
    if a worker died of it for one: from there on, lines are written anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_lines = 0
        self._left = deque(_whole_lines(path))  # of an earlier process, to come again
        with open(path, "a") as file:  # without what was cut short
            file.truncate(sum(map(_num_bytes, self._left)))
        self._file: IO[str] = open(path, "a")  # noqa: SIM115 - closed by `close`
        self._coming: defaultdict[str, deque[Score | Failure]] = defaultdict(deque)
        # What there is of each student, by fingerprint.
        self.known: dict[str, dict[str, Any]] = {}
        for line in map(json.loads, self._left):
            if line["stage"] != FINAL:
                self._coming[line["fingerprint"]].append(_result(line))
                self.known[line["fingerprint"]] = line
        self._scores: dict[str, Score] = {}  # of students whose lines have come

    def result(self, fingerprint: str) -> Score | Failure | None:
        """What the next line of a student will say, or the last one that had a score.

        A student may fail, if a worker dies of it, and have a score the next time.
        """
        coming = self._coming[fingerprint]
        return coming[0] if coming else self._scores.get(fingerprint)

    def add(self, search: str, stage: str, reward: float, info: dict[str, Any]) -> None:
        """Keep what an episode ended with.

        Raises:
            ValueError: Another line is there already.
        """
        plain = {key: value for key, value in info.items() if key not in ARRAYS}
        line = json.dumps({"search": search, "stage": stage, "reward": reward, **plain})
        if self._left and self._left[0] != line:
            if FINAL not in (stage, json.loads(self._left[0])["stage"]):
                raise ValueError(
                    f"{self.path}: line {self.num_lines + 1} would be another now, so "
                    f"this run cannot go on: was it made with another version of a "
                    f"library, or changed by hand? Give another output folder"
                )
            self._cut()
        self.num_lines += 1
        if self._left:
            self._take(self._left.popleft())
        else:
            self._file.write(line + "\n")
            self._file.flush()

    def _take(self, line: str) -> None:
        """A line has come again."""
        content = json.loads(line)
        if content["stage"] != FINAL:
            result = self._coming[content["fingerprint"]].popleft()
            if isinstance(result, Score):
                self._scores[content["fingerprint"]] = result

    def _cut(self) -> None:
        """Forget the lines that have not come again, but for their scores."""
        left = sum(map(_num_bytes, self._left))
        os.truncate(self.path, self.path.stat().st_size - left)
        while self._left:
            self._take(self._left.popleft())

    def close(self) -> None:
        self._file.close()


def read_history(path: Path) -> list[dict[str, Any]]:
    """A history's lines; one that was cut short is none, nor are there any yet."""
    return [json.loads(line) for line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    *whole, _ = path.read_text().split("\n")
    return whole


def _num_bytes(line: str) -> int:
    return len(line.encode()) + 1


def _result(line: dict[str, Any]) -> Score | Failure:
    """What a line says of its student."""
    if "error" in line:
        return Failure(line["error"], retryable=False)
    return Score(**{n: line[n] for n in Score._fields if n != "resources"})


class Remembering:
    """An evaluator that is not asked again for what a history has."""

    def __init__(
        self,
        evaluator: Evaluator,
        history: History,
        measured: Callable[[float], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """``measured`` goes around the evaluation of so many students."""
        self.evaluator = evaluator
        self.history = history
        self._measured = measured

    def __call__(
        self, students: Sequence[Architecture], teacher: Teacher
    ) -> list[Score | Failure]:
        known = [self.history.result(s.fingerprint) for s in students]
        missing = [s for s, k in zip(students, known, strict=True) if k is None]
        found: Sequence[Score | Failure] = ()
        if missing:
            with self._measured(len(missing)):
                found = self.evaluator(missing, teacher)
        new = iter(found)
        return [next(new) if result is None else result for result in known]

    def score_teacher(self, teacher: Teacher) -> Score:
        return self.evaluator.score_teacher(teacher)
