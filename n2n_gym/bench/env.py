"""The environments of N2N-Bench: the real ones, with scores from a table."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs_registry.bench import BenchTask
from n2n_gym.bench.table import SCORED, Table, find_task, load_table
from n2n_gym.common.plugins import refuse_unknown
from n2n_gym.envs.both import CompressEnv
from n2n_gym.envs.compression import CompressionEnv
from n2n_gym.envs.remove import RemoveEnv
from n2n_gym.envs.shrink import ShrinkEnv
from n2n_gym.networks.architecture import Architecture
from n2n_gym.rewards import Failure, Score
from n2n_gym.teachers.teacher import Teacher

NOISES: Final = ("mean", "seed")
_STAGES: Final = {"remove": RemoveEnv, "shrink": ShrinkEnv, "compress": CompressEnv}


@dataclass
class TableEvaluator:
    """Scores from a table.

    Attributes:
        fidelity: Which of the table's; None for its first.
        seed: Which seed's score; None for the mean of all.
    """

    table: Table
    fidelity: str | None = None
    seed: int | None = None

    def __call__(
        self, students: Sequence[Architecture], teacher: Teacher
    ) -> list[Score | Failure]:
        return [self._score(student) for student in students]

    def _score(self, student: Architecture) -> Score | Failure:
        row = self.table.row_of[student.fingerprint]
        found = self.table.score(row, fidelity=self.fidelity, seed=self.seed)
        return found or Failure("a distillation failed", retryable=False)

    def score_teacher(self, teacher: Teacher) -> Score:
        return self.table.teacher_score


def real_env(
    table: Table, task: BenchTask, evaluator: Any, **arguments: Any
) -> CompressionEnv:
    """The environment that a table is about, with any evaluator."""
    limits = None if task.limit is None else dict([table.bound(task)])
    make: Callable[..., CompressionEnv] = _STAGES[table.header["env"]]
    return make(
        table.start,
        reward=task.reward,
        constraints=limits,
        evaluator=evaluator,
        **table.header["arguments"],
        **arguments,
    )


@dataclass
class _Node:
    """A prefix of decisions, and what came of each action that was tried there."""

    env: CompressionEnv  # stands there, and is never stepped itself
    observation: NDArray[np.float32]
    info: dict[str, Any]  # of reset
    after: dict[tuple[int, int | None], _Edge] = field(default_factory=dict)


@dataclass(frozen=True)
class _Edge:
    node: _Node | None  # None once the episode is over
    env: CompressionEnv
    observation: NDArray[np.float32]
    reward: float
    info: dict[str, Any]


class BenchEnv(gym.Env[NDArray[np.float32], int]):
    """
    ## Description
    A task of N2N-Bench: every student that legal play can reach has been distilled
    before, and its score comes from a table. Otherwise it is the environment that the
    table was made with: spaces, masks, infos and rewards are the same.

    ## Action Space, Observation Space, Starting State, Rewards, Episode End
    Those of N2NRemove, N2NShrink or N2NCompress with the table's teacher.
    `reset(options={"decisions": [...]})` restores a prefix; `copy.deepcopy` forks.

    ## Information
    As there. At the end also `regret`: the best reward of the table less this one, by
    the mean over seeds on validation images; `test_regret`: likewise on test images,
    for reports alone; `seconds`: the CPU time that scoring would have taken.

    ## Arguments
    ```python
    gym.make("N2NBench/Remove-Residual-CIFAR10x16-v0")
    ```

    Args:
        task: The id.
        noise: "mean": a score is the mean over the table's seeds. "seed": it is one
            seed's, drawn by the environment's generator at the end of each episode.
        fidelity: How students were scored: "bench-v1", or "inherit" (cheaper). The
            regrets are by "bench-v1" always.
        render_mode: "ansi" or "rgb_array".

    ## References
    Ashok, Rhinehart, Beainy, Kitani: N2N Learning: Network to Network Compression via
    Policy Gradient Reinforcement Learning, ICLR 2018, arXiv 1709.06030.

    ## Version History
    * v0: first version.
    """

    metadata: dict[str, Any] = CompressionEnv.metadata

    def __init__(
        self,
        task: str,
        *,
        noise: str = "mean",
        fidelity: str = "bench-v1",
        render_mode: str | None = None,
    ) -> None:
        refuse_unknown("noise", noise, NOISES)
        refuse_unknown("render_mode", render_mode, (None, "ansi", "rgb_array"))
        self.task, self.noise, self.render_mode = find_task(task), noise, render_mode
        self.table = load_table(task)
        if not self.table.is_complete:
            raise ValueError(f"the table {self.table.name} is not complete yet")
        refuse_unknown("fidelity", fidelity, self.table.fidelities)
        self._evaluator = TableEvaluator(self.table, fidelity)
        real = real_env(self.table, self.task, self._evaluator, render_mode=render_mode)
        self.metadata = real.metadata | {
            "render_modes": ["ansi", "rgb_array"],
        }
        self.observation_space = real.observation_space
        self.action_space = real.action_space
        self.objectives = real.objectives
        self._root = _Node(real, *real.reset())
        self._node: _Node | None = None
        self._env = real  # as it is after the last step

    # What the episode says.

    @property
    def start(self) -> Architecture:
        """The teacher."""
        return self.table.start

    @property
    def student(self) -> Architecture:
        """What the decisions so far leave."""
        return self._env.student

    @property
    def decisions(self) -> Sequence[Any]:
        """In their order."""
        return self._env.decisions

    @property
    def position(self) -> int:
        """How many decisions have been made."""
        return self._env.position

    def action_masks(self) -> NDArray[np.bool_]:
        """``info["action_mask"]`` as sb3-contrib asks for it."""
        return self._env.action_masks()

    # The Gymnasium interface.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode, or restore one: see the real environment's ``reset``."""
        super().reset(seed=seed)
        self._node, self._env = self._root, self._root.env
        if options:
            env = copy.deepcopy(self._root.env)
            observation, info = env.reset(options=options)
            self._node, self._env = _Node(env, observation, info), env
        return self._node.observation.copy(), _fresh(self._node.info)

    def step(
        self, action: Any
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Make the decision at hand; after the last, look the student up.

        Raises:
            RuntimeError: There is no episode to step in.
        """
        node = self._node
        if node is None:
            raise RuntimeError("there is no episode to step in; call reset() first")
        seed = None
        if self.noise == "seed" and node.env.position + 1 == len(node.env.decisions):
            seed = int(self.np_random.integers(self.table.num_seeds))
        key = (action if type(action) is int else _plain(action), seed)
        edge = node.after.get(key)
        if edge is None:
            edge = node.after[key] = self._try(node.env, *key)
        self._node, self._env = edge.node, edge.env
        observation, info = edge.observation.copy(), _fresh(edge.info)
        return observation, edge.reward, edge.node is None, False, info

    def _try(self, env: CompressionEnv, action: Any, seed: int | None) -> _Edge:
        twin = copy.deepcopy(env)
        self._evaluator.seed = seed
        observation, reward, is_over, _, info = twin.step(action)
        if not is_over:
            return _Edge(_Node(twin, observation, {}), twin, observation, reward, info)
        row = self.table.row_of[info["fingerprint"]]
        which = self.table.fidelities.index(
            self._evaluator.fidelity or self.table.fidelities[0]
        )
        scored = self.table.status[row, :, which] == SCORED
        info |= {
            "regret": regrets(self.task, "validation")[row].item(),
            "test_regret": regrets(self.task, "test")[row].item(),
            "seconds": float(self.table.seconds[row, scored, which].mean()),
        }
        return _Edge(None, twin, observation, reward, info)

    def render(self) -> Any:
        """The network as text or as a picture; None without a render mode."""
        return self._env.render()

    def __deepcopy__(self, memo: dict[int, Any]) -> BenchEnv:
        """An independent copy of the running episode; what is known is shared."""
        twin = copy.copy(self)
        twin.action_space = copy.deepcopy(self.action_space)
        twin._np_random = copy.deepcopy(self._np_random)
        memo[id(self)] = twin
        return twin


@lru_cache
def regrets(task: BenchTask, split: str) -> NDArray[np.float64]:
    """The table's best reward less that of each student, (N,)."""
    table = load_table(task.table)
    values = table.values(task, split)
    found: NDArray[np.float64] = values.max() - values
    return found


def _fresh(info: dict[str, Any]) -> dict[str, Any]:
    """The same, with a mask of its own."""
    if "action_mask" not in info:
        return dict(info)
    return {**info, "action_mask": info["action_mask"].copy()}


def _plain(action: Any) -> Any:
    return action.item() if isinstance(action, (np.ndarray, np.generic)) else action
