"""Baselines that know without learning: mean rates by depth, and a rule of three lines.

Both read a JSON file with the share that each decision keeps. A removal keeps its
layers with this probability. For a width or a kernel, the share is the mean rate. A
profile has shares for equal intervals of the column ``depth``, by kind of decision::

    {"profile": {"removal": [0.9, 0.5], "width": [0.4, 0.7], "kernel": [1.0, 0.8]}}

A rule has a line for each kind of decision, which compares one column with a
threshold::

    {"rule": {
        "width": {"column": "depth", "threshold": 0.5, "below": 0.4, "above": 0.7}
    }}

A kind of decision that a file leaves out keeps everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from n2n_agents import rollouts
from n2n_agents.local import fill
from n2n_agents.policies import DECIDES, NEAR
from n2n_agents.proposals import SIZES, NothingNew, Proposal, Proposer, nearest

REMOVAL: Final = "removal"
KINDS: Final = (REMOVAL, "width", "kernel")  # of decisions
DEPTH: Final = "depth"  # the column that profiles read
TRIES: Final = 30  # draws until a search gives up
# Bounds on probabilities, so that a search always finds new students.
RAREST: Final = 0.02

Row: TypeAlias = Mapping[str, float]  # a decision's values by column


@dataclass(frozen=True)
class Profile:
    """Shares kept, by kind of decision, in equal intervals of depth."""

    shares: Mapping[str, tuple[float, ...]]

    @property
    def columns(self) -> set[str]:
        """Names of the columns that are read."""
        return {DEPTH}

    def share(self, kind: str, row: Row) -> float:
        """The share that a decision keeps, in [0, 1]."""
        shares = self.shares.get(kind, (1.0,))
        return shares[min(int(row[DEPTH] * len(shares)), len(shares) - 1)]


class Line(NamedTuple):
    """A line of a rule: shares of rows at most, and above, a column's threshold."""

    column: str
    threshold: float
    below: float
    above: float


@dataclass(frozen=True)
class Rule:
    """A line for each kind of decision."""

    lines: Mapping[str, Line]

    @property
    def columns(self) -> set[str]:
        """Names of the columns that are read."""
        return {line.column for line in self.lines.values()}

    def share(self, kind: str, row: Row) -> float:
        """The share that a decision keeps, in [0, 1]."""
        if kind not in self.lines:
            return 1.0
        column, threshold, below, above = self.lines[kind]
        return below if row[column] <= threshold else above


Known: TypeAlias = Profile | Rule


# Files.


def read_profile(path: str | Path) -> Profile:
    """A profile from a JSON file.

    Raises:
        ValueError: The file has no profile.
        OSError: There is no such file.
    """
    return Profile(
        _read(path, "profile", lambda shares: tuple(map(_checked_share, shares)))
    )


def read_rule(path: str | Path) -> Rule:
    """A rule from a JSON file.

    Raises:
        ValueError: The file has no rule.
        OSError: There is no such file.
    """

    def read_line(given: Mapping[str, Any]) -> Line:
        line = Line(**given)
        if not isinstance(line.column, str):
            raise ValueError(f"a column is given by its name, got {line.column!r}")
        shares = map(_checked_share, line[2:])
        return Line(line.column, float(line.threshold), *shares)

    return Rule(_read(path, "rule", read_line))


def _read(path: str | Path, what: str, read: Callable[[Any], Any]) -> dict[str, Any]:
    """What a file has for each kind of decision."""
    text = Path(path).read_bytes()
    try:
        given = json.loads(text)[what]
        if not given or not given.keys() <= set(KINDS):
            raise ValueError(f"accepted are {', '.join(KINDS)}, got {[*given]}")
        found = {kind: read(each) for kind, each in given.items()}
        if not all(found.values()):
            raise ValueError("a kind of decision has no shares")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold a {what}: {error}") from error
    return found


def _checked_share(value: Any) -> float:
    share = float(value)
    if not 0 <= share <= 1:
        raise ValueError(f"a share must be in [0, 1], got {value}")
    return share


def write_known(path: Path, known: Known) -> None:
    """Write a file that ``read_profile`` or ``read_rule`` reads."""
    if isinstance(known, Profile):
        content: dict[str, Any] = {"profile": dict(known.shares)}
    else:
        lines = {kind: line._asdict() for kind, line in known.lines.items()}
        content = {"rule": lines}
    path.write_text(json.dumps(content, indent=1) + "\n")


# The agents.


def choose(
    share: float,
    legal: NDArray[np.int64],
    *,
    kind: str,
    keep: int,
    num_actions: int,
    rng: np.random.Generator | None,
) -> int:
    """An action that keeps about this share.

    Of two legal actions, the one that keeps more is drawn with the probability that
    makes ``share`` the mean. Otherwise the rate is drawn from a log-normal
    distribution around ``share``, and the nearest legal action is taken.

    Args:
        legal: The legal actions, ascending, (L,).
        keep: The action that keeps everything; with a rate, action i has the rate
            (i + 1) / ``num_actions``.
        rng: Generator of the draws; None for the likelier action or the share itself.
    """
    more = nearest(legal, keep)
    if len(legal) == 2:
        (less,) = legal[legal != more].tolist()
        low, high = 0.0, 1.0
        if kind != REMOVAL:
            low, high = (less + 1) / num_actions, (more + 1) / num_actions
        chance = (share - low) / (high - low)
        if rng is None:
            return more if chance >= 0.5 else less
        return more if rng.random() < np.clip(chance, RAREST, 1 - RAREST) else less
    if kind == REMOVAL:  # only one action is legal
        return more
    spread = 1.0 if rng is None else np.exp(NEAR * rng.standard_normal())
    return nearest(legal, share * spread * num_actions - 1)


def kind_of(row: Row) -> str:
    """The kind of a row's decision: ``"removal"``, ``"width"``, ``"kernel"``..."""
    column = next(name for name in row if name.startswith(DECIDES) and row[name])
    return column.removeprefix(DECIDES) if column in SIZES else REMOVAL


def actor(
    proposer: Proposer, known: Known, rng: np.random.Generator | None
) -> rollouts.Act:
    """An actor that keeps the known share in each decision.

    Args:
        rng: Generator of the draws; None for the likeliest student.

    Raises:
        ValueError: The environment does not show a column that is read.
    """
    columns = list(proposer.env.metadata["columns"])
    if missing := known.columns - set(columns):
        raise ValueError(
            f"the file reads the columns {', '.join(sorted(missing))}, which the "
            f"environment does not show"
        )
    current = columns.index("current")

    def act(observation: rollouts.Observation, mask: NDArray[np.int8] | None) -> int:
        assert mask is not None, "discrete actions come with a mask"
        values = observation[observation[:, current].argmax()].tolist()
        row = dict(zip(columns, values, strict=True))
        kind = kind_of(row)
        return choose(
            known.share(kind, row),
            np.flatnonzero(mask),
            kind=kind,
            keep=proposer.keep,
            num_actions=proposer.num_actions,
            rng=rng,
        )

    return act


def search_around(env: rollouts.Environment, known: Known, *, seed: int) -> None:
    """Score the likeliest student, then new students drawn around it.

    With limits, each student is changed until it just keeps the limits. The search ends
    when the environment raises an exception, or when no new student is drawn.
    """
    proposer = Proposer(env, seed=seed)
    seen: set[tuple[int, ...]] = set()
    with suppress(NothingNew):
        while True:
            batch: list[Proposal] = []
            make = partial(_drawn, proposer, known, seen)
            fill(batch, proposer.num_rows, make)
            proposer.score(batch)


def _drawn(proposer: Proposer, known: Known, seen: set[tuple[int, ...]]) -> Proposal:
    """A new student; the first one is the likeliest, even if it breaks a limit.

    Raises:
        NothingNew: No student that was drawn is new and keeps the limits.
    """
    for _ in range(TRIES):
        act = actor(proposer, known, proposer.rng if seen else None)
        one = proposer.fit(proposer.propose(act))
        if one.actions not in seen and not (seen and one.excess):
            seen.add(one.actions)
            return one
    raise NothingNew


def play_profile(env: rollouts.Environment, path: str, *, seed: int) -> None:
    """``search_around`` with the profile in a file."""
    search_around(env, read_profile(path), seed=seed)


def play_rule(env: rollouts.Environment, path: str, *, seed: int) -> None:
    """``search_around`` with the rule in a file."""
    search_around(env, read_rule(path), seed=seed)
