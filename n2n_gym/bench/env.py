"""The environments of N2N-Bench, which take their scores from a table."""

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
        fidelity: Name of one of the table's fidelities; None for the table's first.
        seed: Number of the seed, from 0; None for the mean over all seeds.
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
    """The table's environment, with the task's reward and limit and this evaluator."""
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
    """A sequence of decisions, and the results of the actions tried after it."""

    env: CompressionEnv  # after these decisions; only its copies take steps
    observation: NDArray[np.float32]
    info: dict[str, Any]  # info of reset
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
    A task of N2N-Bench. Every student that legal actions can lead to was distilled in
    advance, and its score comes from a table. Spaces, masks, infos and rewards are
    those of the environment that the table was made with.

    ## Action Space, Observation Space, Starting State, Rewards, Episode End
    As in N2NRemove, N2NShrink or N2NCompress, with the table's teacher.
    `reset(options={"decisions": [...]})` restores a sequence of decisions;
    `copy.deepcopy` copies a running episode.

    ## Information
    As in those environments. At the end there are three more numbers. `regret` is the
    table's best mean reward on validation images minus this student's mean reward.
    `test_regret` is the regret on test images. Both are for reports, not for agents.
    `seconds` is the mean CPU time of scoring this student with one seed, measured when
    the table was made.

    ## Arguments
    ```python
    gym.make("N2NBench/Remove-Residual-CIFAR10x16-Params2-v0")
    ```

    Args:
        task: Id of the task.
        noise: With "mean", a score is the mean over the table's seeds. With "seed", it
            is the score of one seed, which the environment's generator draws at the end
            of each episode.
        fidelity: How students were scored: "bench-v1", or "inherit" (cheaper). Regrets
            always use "bench-v1".
        shows_regret: Whether the last info has the two regrets. They tell how good the
            best student is, so `n2n-gym compare --suite` hides them.
        render_mode: "ansi" (text) or "rgb_array" (a picture).

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
        shows_regret: bool = True,
        render_mode: str | None = None,
    ) -> None:
        refuse_unknown("noise", noise, NOISES)
        refuse_unknown("render_mode", render_mode, (None, "ansi", "rgb_array"))
        self.task, self.noise, self.render_mode = find_task(task), noise, render_mode
        self.shows_regret = shows_regret
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
        self._env = real  # the environment after the last step

    # Properties of the episode.

    @property
    def start(self) -> Architecture:
        """The teacher."""
        return self.table.start

    @property
    def student(self) -> Architecture:
        """The student after the decisions so far."""
        return self._env.student

    @property
    def decisions(self) -> Sequence[Any]:
        """All decisions of an episode, in order."""
        return self._env.decisions

    @property
    def position(self) -> int:
        """The number of decisions made so far."""
        return self._env.position

    def action_masks(self) -> NDArray[np.bool_]:
        """``info["action_mask"]`` under the name that sb3-contrib looks for."""
        return self._env.action_masks()

    # The Gymnasium interface.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode, or restore one: see ``CompressionEnv.reset``."""
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
        """Make the next decision; after the last one, look up the student's score.

        Raises:
            RuntimeError: The episode has ended, or none was started.
        """
        node = self._node
        if node is None:
            raise RuntimeError("there is no episode to step in; call reset() first")
        seed = None
        if self.noise == "seed" and node.env.position + 1 == len(node.env.decisions):
            seeds = self.table.num_seeds(self._evaluator.fidelity)
            seed = int(self.np_random.integers(seeds))
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
        which = self.table.which(self._evaluator.fidelity)
        scored = self.table.status[row, :, which] == SCORED
        info["seconds"] = float(self.table.seconds[row, scored, which].mean())
        if self.shows_regret:
            info["regret"] = regrets(self.task, "validation")[row].item()
            info["test_regret"] = regrets(self.task, "test")[row].item()
        return _Edge(None, twin, observation, reward, info)

    def render(self) -> Any:
        """The network as text or as a picture; None without a render mode."""
        return self._env.render()

    def __deepcopy__(self, memo: dict[int, Any]) -> BenchEnv:
        """A copy with its own episode; both environments use the same table."""
        twin = copy.copy(self)
        twin.action_space = copy.deepcopy(self.action_space)
        twin._np_random = copy.deepcopy(self._np_random)
        memo[id(self)] = twin
        return twin


@lru_cache
def regrets(task: BenchTask, split: str) -> NDArray[np.float64]:
    """The table's best reward minus each student's reward, (N,)."""
    table = load_table(task.table)
    values = table.values(task, split)
    found: NDArray[np.float64] = values.max() - values
    return found


def _fresh(info: dict[str, Any]) -> dict[str, Any]:
    """A copy of an info, with a copy of its mask."""
    if "action_mask" not in info:
        return dict(info)
    return {**info, "action_mask": info["action_mask"].copy()}


def _plain(action: Any) -> Any:
    return action.item() if isinstance(action, (np.ndarray, np.generic)) else action
