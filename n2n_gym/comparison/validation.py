"""Validation of a comparison's results: decisions are replayed, students rescored.

A stranger's file is only read as data. The environments, networks, tasks, evaluators
and rewards that it names must be this package's. The file cannot make this code import
a module, open a path or contact an address.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np

from n2n_gym.common.progress import progress
from n2n_gym.comparison.judges import (
    NUMBER,
    Line,
    Refused,
    Rescored,
    judge_of,
    known_name,
    require,
    where_of,
)
from n2n_gym.comparison.runner import AgentRun, Results


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
    judges = {name: judge_of(runs[0][0], device) for name, runs in by_env.items()}
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
                f"{where_of(lines[0])}: a run must be evaluations followed by one end"
            )
    return list(runs.values())


_FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "evaluation": {
        "number": int,
        "cost": NUMBER,
        "episodes": int,
        "reward": NUMBER,
        "actions": list,
        "info": dict,
    },
    "end": {"cost": NUMBER, "episodes": int, "students": int},
}


def _check_types(line: Line) -> None:
    """Raise Refused if a field of the line is missing or has a wrong type."""
    kind = known_name("kind", line["kind"], _FIELDS)
    wanted = {"env": str, "agent": str, "arguments": dict, **_FIELDS[kind]}
    for name, types in wanted.items():
        value = line.get(name)
        require(
            isinstance(value, types) and not isinstance(value, bool),
            where_of(line),
            f"a line with {name} {value!r}",
        )
    require(
        kind == "end" or all(isinstance(each, NUMBER) for each in line["actions"]),
        where_of(line),
        f"decisions that are no numbers: {line.get('actions')!r}",
    )


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
