"""Stage two: how far to shrink what remains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import gymnasium as gym
import numpy as np

from n2n_gym.envs.compression import CompressionEnv, Mask
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.evaluators.loading import Place, Store
from n2n_gym.limits.bounds import Least, least_shrunk
from n2n_gym.limits.constraints import Constraints
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import RATES, Shrinkage, shrink, shrinkages
from n2n_gym.networks.descent import refuse_stranger
from n2n_gym.networks.layers import ShapeError
from n2n_gym.networks.reading import read_architecture
from n2n_gym.resources import Resource
from n2n_gym.rewards import Reward
from n2n_gym.tasks.arrays import Statistics
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.teacher import TeacherLike, Weights

LOWEST, HIGHEST = RATES[0], RATES[-1]
ACTIONS: Final = ("discrete", "continuous")


class ShrinkEnv(CompressionEnv[Shrinkage]):
    """
    ## Description
    What is left of a teacher network after removal shrinks further. The agent goes
    through its width groups (layers whose output widths are tied, by an addition for
    one) and its kernels, and decides for each what share of it remains. Of the
    channels, those whose weights have the largest L1 norm stay. After the last decision
    the student inherits the teacher's weights, is distilled from the teacher for a
    short while, and is scored on validation images. Distillation, compression and
    accuracy are against the original teacher, whatever the start.

    ## Action Space
    `Discrete(10)`: action i is the rate (i + 1) / 10. With `action="continuous"`,
    `Box(-1, 1, (1,), float32)`, mapped linearly to the rates 0.1 to 1. A width becomes
    the nearest positive multiple of what its convolutions' groups ask for; a kernel
    becomes the largest odd number up to its rate, padding following. Every such action
    is legal; paddings, if they are among the variables, have illegal ones, which
    `info["action_mask"]` and `action_masks()` tell.

    ## Observation Space
    `Box(0, 1, (T, F), float32)`, one row for each decision, in order, and between them
    one for each unit that no decision is about. The columns are those of N2NRemove;
    the last three tell whether the row is being decided now, whether it has been, and
    at what rate.

    ## Starting State
    The start network with nothing decided. `reset(options={"decisions": [...]})`
    starts after a legal prefix of decisions instead.

    ## Rewards
    As in N2NRemove: 0 until the last decision, then
    R = C(2 - C) * accuracy_student / accuracy_teacher, or the reward given.

    ## Episode End
    Terminates after the last decision, or, with `illegal="end"`, at an illegal one.
    It is never truncated.

    ## Information
    As in N2NRemove. With continuous actions there is no `action_mask`.

    ## Arguments
    ```python
    gym.make("N2NShrink-v0", teacher="resnet18", task="digits", start="student.json")
    ```

    Args:
        start: What removal has left of the teacher: an `Architecture`, its JSON, or the
            path of a file with it. The teacher itself by default.
        variables: What to shrink, of "width", "kernel" and "padding".
        action: "discrete" or "continuous".
        teacher, task, weights, normalisation, evaluator, evaluator_workers, store,
            reward, constraints, resources, epsilon, strict, illegal, max_rows, device,
            train_teacher, render_mode: As in N2NRemove.

    ## References
    Ashok, Rhinehart, Beainy, Kitani: N2N Learning: Network to Network Compression via
    Policy Gradient Reinforcement Learning, ICLR 2018, arXiv 1709.06030.

    ## Version History
    * v0: first version.
    """

    # The action that leaves a decision's layers as they are.
    metadata = CompressionEnv.metadata | {"keep": len(RATES) - 1}

    def __init__(
        self,
        teacher: TeacherLike = "resnet18",
        task: str | Task | None = None,
        *,
        weights: Weights | None = None,
        normalisation: Statistics | None = None,
        start: Architecture | str | Path | None = None,
        variables: Sequence[str] = ("width", "kernel"),
        action: Literal["discrete", "continuous"] = "discrete",
        evaluator: str | Evaluator = "inherit",
        evaluator_workers: Place = None,
        store: Store = True,
        reward: str | Reward = "n2n",
        constraints: Constraints | None = None,
        resources: Mapping[str, Resource] | None = None,
        epsilon: float = 0.0,
        strict: bool = False,
        illegal: Literal["keep", "end"] = "keep",
        max_rows: int | None = None,
        device: str | None = None,
        train_teacher: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if action not in ACTIONS:
            raise ValueError(f"unknown action={action!r}; known: {', '.join(ACTIONS)}")
        if strict and action == "continuous":
            raise ValueError(
                "strict=True masks actions, and action='continuous' has no mask"
            )
        super().__init__(
            teacher,
            task,
            weights=weights,
            normalisation=normalisation,
            evaluator=evaluator,
            evaluator_workers=evaluator_workers,
            store=store,
            reward=reward,
            constraints=constraints,
            resources=resources,
            epsilon=epsilon,
            strict=strict,
            illegal=illegal,
            device=device,
            train_teacher=train_teacher,
            render_mode=render_mode,
        )
        begin = load_start(start, self.teacher.architecture)
        self._lay_out(begin, shrinkages(begin, variables), max_rows)
        self.action_space = (
            gym.spaces.Discrete(len(RATES))
            if action == "discrete"
            else gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        )
        self._is_discrete = action == "discrete"

    @property
    def student(self) -> Architecture:
        return self._shrunk(self._choices)

    def _shrunk(self, rates: Sequence[float]) -> Architecture:
        made = zip(self.decisions[: len(rates)], rates, strict=True)
        return shrink(self.start, dict(made))

    def _rate(self, action: Any) -> float:
        if self._is_discrete:
            return float(RATES[action])
        return float(np.interp(action, (-1, 1), (LOWEST, HIGHEST)))

    def _mask(self) -> Mask:
        if self._is_over or self.current.variable != "padding":
            return np.ones(len(RATES), np.int8)
        return np.array([self._is_legal(a) for a in range(len(RATES))], np.int8)

    def _is_legal(self, action: Any) -> bool:
        if self.current.variable != "padding":
            return True
        try:
            self._shrunk((*self._choices, self._rate(action)))
        except ShapeError:
            return False
        return True

    def _least(self, action: Any) -> Least:
        rates = (*self._choices, self._rate(action))
        made = zip(self.decisions[: len(rates)], rates, strict=True)
        return least_shrunk(self.start, dict(made), self.decisions[len(rates) :])

    def _keep(self) -> Any:
        return len(RATES) - 1 if self._is_discrete else 1.0

    def _decide(self, action: Any) -> float:
        return self._rate(action)

    def _checked(self, action: Any) -> Any:
        if self._is_discrete:
            return super()._checked(action)
        value = np.asarray(action)
        is_number = np.issubdtype(value.dtype, np.number) and value.size == 1
        if not is_number or not -1 <= value.item() <= 1:
            raise ValueError(f"action {action!r} is not in {self.action_space}")
        return value.item()


def load_start(
    start: Architecture | str | Path | None, teacher: Architecture
) -> Architecture:
    """The start of a shrinkage, which must descend from the teacher.

    Raises:
        ValueError: It cannot be read, or is no descendant: it has other layers than the
            teacher, in another order, or wider ones.
    """
    if start is None:
        return teacher
    found = read_architecture("start", start)
    refuse_stranger(found, teacher)
    return found
