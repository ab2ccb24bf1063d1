"""The history of a run: one line per scored student, from which the run is resumed."""

from __future__ import annotations

import json
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any, Final

from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.rewards import Failure, Score
from n2n_gym.teachers.teacher import Teacher

ARRAYS: Final = ("action_mask", "reward_vector")  # in an info, not in a line
FINAL: Final = "final"  # the stage of students that were distilled fully


class History:
    """One line of JSON per scored student, in the order of the episodes.

    A resumed run must first produce the existing lines again, in order. Then it adds
    new lines. Only lines about full distillation can differ, for example after a worker
    died. From the first difference on, the old lines are dropped and written anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_lines = 0
        self._left = deque(_whole_lines(path))  # lines that must come again
        lines = _parsed(path, self._left)
        with open(path, "a") as file:  # drop a line that was cut short
            file.truncate(sum(map(_num_bytes, self._left)))
        self._file: IO[str] = open(path, "a")  # noqa: SIM115 - closed by `close`
        self._coming: defaultdict[str, deque[Score | Failure]] = defaultdict(deque)
        # The known results of each student, by fingerprint.
        self.known: dict[str, dict[str, Any]] = {}
        for line in lines:
            if line["stage"] != FINAL:
                self._coming[line["fingerprint"]].append(_result(line))
                self.known[line["fingerprint"]] = line
        self._scores: dict[str, Score] = {}  # of students with a line so far

    @property
    def has_scores_left(self) -> bool:
        """Whether a search's lines must come again that have not come yet."""
        return any(json.loads(line)["stage"] != FINAL for line in self._left)

    def result(self, fingerprint: str) -> Score | Failure | None:
        """The known result of a student; None if the result is not known.

        The result is taken from the student's next existing line that the resumed run
        has not produced again. Without such a line, it is the latest score: scoring the
        same student can first fail, for example if a worker dies, and later succeed.
        """
        coming = self._coming[fingerprint]
        return coming[0] if coming else self._scores.get(fingerprint)

    def add(self, search: str, stage: str, reward: float, info: dict[str, Any]) -> None:
        """Record the end of an episode.

        Raises:
            ValueError: The existing line differs from the line of this episode.
        """
        plain = {key: value for key, value in info.items() if key not in ARRAYS}
        line = json.dumps({"search": search, "stage": stage, "reward": reward, **plain})
        if self._left and self._left[0] != line:
            if FINAL not in (stage, json.loads(self._left[0])["stage"]):
                raise ValueError(
                    f"{self.path}: line {self.num_lines + 1} differs from what this "
                    f"run computes now, so the run cannot be resumed. It was made with "
                    f"another version of a library, or changed by hand. Give another "
                    f"output folder"
                )
            self._cut()
        self.num_lines += 1
        if self._left:
            self._take(self._left.popleft())
        else:
            self._file.write(line + "\n")
            self._file.flush()

    def _take(self, line: str) -> None:
        """Accept an existing line that the resumed run has produced again."""
        content = json.loads(line)
        if content["stage"] != FINAL:
            result = self._coming[content["fingerprint"]].popleft()
            if isinstance(result, Score):
                self._scores[content["fingerprint"]] = result

    def _cut(self) -> None:
        """Drop the lines that have not been produced again; remember their scores."""
        left = sum(map(_num_bytes, self._left))
        os.truncate(self.path, self.path.stat().st_size - left)
        while self._left:
            self._take(self._left.popleft())

    def close(self) -> None:
        self._file.close()


def read_history(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a history; none if there is no file yet.

    Raises:
        ValueError: A line is damaged.
    """
    return _parsed(path, _whole_lines(path))


def _parsed(path: Path, lines: Iterable[str]) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(lines, 1):
        try:
            content: dict[str, Any] = json.loads(line)
            if content["stage"] != FINAL:
                _result(content)
            str(content["fingerprint"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is damaged: {error!r}") from error
        found.append(content)
    return found


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    *whole, _ = path.read_text().split("\n")
    return whole


def _num_bytes(line: str) -> int:
    return len(line.encode()) + 1


def _result(line: dict[str, Any]) -> Score | Failure:
    """The student's result that a line records."""
    if "error" in line:
        return Failure(line["error"], retryable=False)
    return Score(**{n: line[n] for n in Score._fields if n != "resources"})


class Remembering:
    """An evaluator that first looks results up in a history."""

    def __init__(
        self,
        evaluator: Evaluator,
        history: History,
        measured: Callable[[float], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """``measured(n)`` is a context around the evaluation of n students."""
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
