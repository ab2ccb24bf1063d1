"""Arguments that all environments have, besides teacher and task: see RemoveEnv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from n2n_gym.envs.limits import Mode, Ranges
from n2n_gym.evaluators.evaluator import Evaluator
from n2n_gym.evaluators.loading import RunnerLike, Store
from n2n_gym.limits.constraints import Constraints
from n2n_gym.resources import Resource
from n2n_gym.rewards import Reward
from n2n_gym.tasks.arrays import Statistics
from n2n_gym.teachers.teacher import Weights


class Arguments(TypedDict, total=False):
    """Keyword arguments of all environments; ``CompressionEnv`` has their defaults."""

    weights: Weights | None
    normalisation: Statistics | None
    keep: str | Sequence[str] | None
    evaluator: str | Evaluator
    evaluator_workers: RunnerLike
    store: Store
    precision: str | None
    reward: str | Reward
    constraints: Constraints | Ranges | None
    limits: Mode
    fit: bool
    resources: Mapping[str, Resource] | None
    epsilon: float
    strict: bool
    illegal: Literal["keep", "end"]
    max_rows: int | None
    device: str | None
    train_teacher: bool
    render_mode: str | None
