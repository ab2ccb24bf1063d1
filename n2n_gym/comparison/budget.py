"""A limit on what an agent may spend, and a record of what it found for it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium as gym


class BudgetSpent(Exception):
    """An environment has no more to spend; the agent's run is over."""


class Evaluation(NamedTuple):
    """One distinct student that a run scored."""

    number: int  # from 1
    cost: float  # of the run so far, in nominal student-epochs
    episodes: int  # of the run so far
    reward: float
    actions: tuple[int | float, ...]  # that lead to it, all legal
    info: dict[str, Any]  # what is known of it: flat, plain values


@dataclass
class Ledger:
    """What one run of an agent has spent and found.

    A student's nominal cost counts when the run first scores it, whether or not it was
    known before; what was spent once for all students counts with the first.

    Args:
        epochs: Nominal student-epochs that may be spent; None for any.
        evaluations: Distinct students that may be scored; None for any.
        patience: Episodes in a row that may lead to no new student.
        on_evaluation: Called for each new student.
    """

    epochs: float | None = None
    evaluations: int | None = None
    patience: int = 1_000
    on_evaluation: Callable[[Evaluation], None] | None = None
    cost: float = 0.0
    episodes: int = 0
    reason: str = "finished"  # why the run ended
    found: dict[str, Evaluation] = field(default_factory=dict)  # by fingerprint
    _last_new: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "evaluations"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a positive number, got {value}")
        if self.epochs is None and self.evaluations is None:
            raise ValueError("a budget needs a number of epochs or of evaluations")

    def add(
        self, reward: float, actions: tuple[int | float, ...], info: dict[str, Any]
    ) -> None:
        """A finished episode.

        Raises:
            BudgetSpent: It is the last, or it was one too many.
            ValueError: A student costs nothing, and only cost is limited; or the first
                costs more than there is.
        """
        if self.reason != "finished":
            raise BudgetSpent
        self.episodes += 1
        name = info["fingerprint"]
        if name in self.found:
            if self.episodes - self._last_new >= self.patience:
                self._end("nothing new")
            return
        cost = info["cost"] + (0.0 if self.found else info["cost_once"])
        if self.evaluations is None and cost <= 0 and "error" not in info:
            raise ValueError(
                "students of this evaluator cost nothing, so that a budget of epochs "
                "is never spent; limit the evaluations"
            )
        if self.epochs is not None and self.cost + cost > self.epochs:
            if not self.found:
                raise ValueError(
                    f"a budget of {self.epochs:g} epochs does not pay for the first "
                    f"student, which takes {cost:g}"
                )
            self._end("budget")
        self.cost += cost
        self._last_new = self.episodes
        plain = {
            key: value
            for key, value in info.items()
            if isinstance(value, (str, int, float, bool)) and key != "student"
        }
        evaluation = Evaluation(
            len(self.found) + 1, self.cost, self.episodes, reward, actions, plain
        )
        self.found[name] = evaluation
        if self.on_evaluation is not None:
            self.on_evaluation(evaluation)
        if len(self.found) == self.evaluations:
            self._end("budget")

    def _end(self, reason: str) -> None:
        self.reason = reason
        raise BudgetSpent


class Budgeted(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose episodes, and those of its copies, go into a ledger."""

    def __init__(self, env: gym.Env[Any, Any], ledger: Ledger) -> None:
        super().__init__(env)
        self.ledger = ledger
        self._actions: tuple[int | float, ...] = ()
        self._earned = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._actions = tuple(map(_plain, (options or {}).get("decisions", ())))
        self._earned = 0.0
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        taken = self.metadata["keep"] if info["illegal"] else action
        self._actions = (*self._actions, _plain(taken))
        self._earned += float(reward)
        if terminated or truncated:
            self.ledger.add(self._earned, self._actions, info)
        return observation, float(reward), terminated, truncated, info

    def __deepcopy__(self, memo: dict[int, Any]) -> Budgeted:
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin.env = copy.deepcopy(self.env, memo)
        return twin


def _plain(action: Any) -> int | float:
    """One of NumPy's numbers as Python's, which JSON can hold."""
    plain: int | float = action.item() if hasattr(action, "item") else action
    return plain


def run(env: gym.Env[Any, Any], agent: Any, ledger: Ledger, *, seed: int) -> None:
    """Let an agent play until it ends or its budget does.

    Args:
        agent: Called with the environment and ``seed=``.
    """
    try:
        agent(Budgeted(env, ledger), seed=seed)
    except BudgetSpent:
        return
