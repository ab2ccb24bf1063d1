"""The budget of an agent's run, and a record of the students that the run found."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium as gym


class BudgetSpent(Exception):
    """The budget is spent; the agent's run is over."""


class Evaluation(NamedTuple):
    """A distinct student that a run scored."""

    number: int  # from 1
    cost: float  # of the run so far, in nominal student-epochs
    episodes: int  # of the run so far
    reward: float
    actions: tuple[int | float, ...]  # legal actions that lead to it
    info: dict[str, Any]  # flat, plain values


@dataclass
class Ledger:
    """The cost and the students of one run of an agent.

    A student's nominal cost counts when the student first appears in the run, even if
    the store already had the score. A one-time cost for all students, such as that of
    an elastic teacher, is added to the first student's cost.

    Args:
        epochs: Budget in nominal student-epochs; None for no limit.
        evaluations: Budget in distinct students; None for no limit.
        patience: Number of successive episodes without a new student after which the
            run ends.
        on_evaluation: Callback for each new student.
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
            raise ValueError(
                "a budget must limit the epochs, the evaluations or both, got neither"
            )

    def add(
        self, reward: float, actions: tuple[int | float, ...], info: dict[str, Any]
    ) -> None:
        """Record a finished episode.

        Args:
            reward: Sum of the episode's rewards.
            actions: Legal actions that lead to the student.
            info: Last info of the episode.

        Raises:
            BudgetSpent: The run ends with this episode, or has already ended.
            ValueError: The budget has only epochs and a student costs none, or the
                first student costs more than the budget.
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
                "students of this evaluator cost no epochs, so a budget of epochs "
                "never ends; limit the evaluations"
            )
        if self.epochs is not None and self.cost + cost > self.epochs:
            if not self.found:
                raise ValueError(
                    f"a budget of {self.epochs:g} epochs is too small: the first "
                    f"student costs {cost:g}"
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
    """Records the episodes of an environment, and of its copies, in a ledger."""

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
    """A NumPy number as a Python number, so that JSON can hold it."""
    plain: int | float = action.item() if hasattr(action, "item") else action
    return plain


def run(env: gym.Env[Any, Any], agent: Any, ledger: Ledger, *, seed: int) -> None:
    """Let an agent play until the agent returns or the budget is spent.

    Args:
        agent: Function that takes an environment and ``seed=``, and plays episodes.
    """
    try:
        agent(Budgeted(env, ledger), seed=seed)
    except BudgetSpent:
        return
