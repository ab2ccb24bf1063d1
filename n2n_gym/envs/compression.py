"""The base of all environments: an episode of decisions about one network."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from n2n_gym.common.plugins import checked_share, refuse_unknown
from n2n_gym.envs.columns import COLUMNS
from n2n_gym.envs.episode import Decision, Episode, Mask, read_action
from n2n_gym.envs.limits import (
    LimitSettings,
    Mode,
    Ranges,
    check_fits,
    feasible,
    fitted,
)
from n2n_gym.envs.observation import CHOICE, CURRENT, DECIDED, Layout
from n2n_gym.envs.outcome import Worth, conclude, describe_student, failed
from n2n_gym.envs.render import Scene, draw_ansi, draw_rgb
from n2n_gym.envs.shares import Amount, shares, tables, targets, told
from n2n_gym.envs.window import Window
from n2n_gym.evaluators.evaluator import Evaluator, evaluate
from n2n_gym.evaluators.loading import (
    RunnerLike,
    Store,
    load_evaluator,
    refuse_without_images,
)
from n2n_gym.evaluators.runner import Runner
from n2n_gym.limits.constraints import ACCURACY, Constraints, Limit
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import kept_names
from n2n_gym.networks.tally import Costs
from n2n_gym.resources import Resource, load_meter
from n2n_gym.rewards import DEGENERATE, Failure, Reward, Score, load_reward, needed
from n2n_gym.tasks.arrays import Statistics
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import TeacherLike, Weights

Observation = NDArray[np.float32]


class CompressionEnv(gym.Env[Observation, Any]):
    """An episode goes through the decisions about a start network, one per step.

    The last step scores the student. A subclass's ``episode`` defines the decisions.
    """

    RENDER_MODES: Final = ("ansi", "rgb_array", "human")
    metadata: dict[str, Any] = {
        "render_modes": [*RENDER_MODES],
        "render_fps": 4,
        "columns": COLUMNS,  # the observation's columns
    }
    reward_space: gym.spaces.Box  # set by the wrapper MultiObjective
    _window: Window | None = None  # with "human", once there is a frame

    def __init__(
        self,
        teacher: TeacherLike = "resnet18",
        task: str | Task | None = None,
        *,
        weights: Weights | None = None,
        normalisation: Statistics | None = None,
        keep: str | Sequence[str] | None = None,
        evaluator: str | Evaluator = "inherit",
        evaluator_workers: RunnerLike = None,
        store: Store = True,
        precision: str | None = None,
        reward: str | Reward = "n2n",
        constraints: Constraints | Ranges | None = None,
        limits: Mode = "fixed",
        fit: bool = False,
        resources: Mapping[str, Resource] | None = None,
        epsilon: float = 0.0,
        strict: bool = False,
        illegal: Literal["keep", "end"] = "keep",
        max_rows: int | None = None,
        device: str | None = None,
        train_teacher: bool = False,
        render_mode: str | None = None,
    ) -> None:
        refuse_unknown("illegal", illegal, ("keep", "end"))
        refuse_unknown("render_mode", render_mode, (None, *self.RENDER_MODES))
        self.illegal, self.render_mode = illegal, render_mode
        self.teacher = load_teacher(
            teacher,
            task,
            weights=weights,
            normalisation=normalisation,
            device=device,
            train_teacher=train_teacher,
            precision=precision,
        )
        self.kept = kept_names(self.teacher.architecture, keep)
        refuse_without_images(evaluator, self.teacher)
        self.evaluator = load_evaluator(
            evaluator,
            device,
            workers=evaluator_workers,
            store=store,
            precision=precision,
        )
        # The caller closes an evaluator or a runner that it passed in.
        is_named = isinstance(evaluator, (str, Path))
        self._owns_evaluator = is_named and not isinstance(evaluator_workers, Runner)
        self.reward = load_reward(reward)
        self._settings = LimitSettings.read(constraints, limits)
        self.limits: tuple[Limit, ...] = self._settings.fixed  # this episode's limits
        names = self._settings.names
        self.meter = load_meter((*needed(self.reward), *names), resources)
        self._tables = tables(self.meter, names)
        self.fit, self._max_rows = fit, max_rows
        if fit:
            check_fits(self.limits, self.meter, names)
            self.metadata = self.metadata | {"fits": True}
        self.epsilon, self.strict = checked_share("epsilon", epsilon), strict

    def _begin(self, episode: Episode) -> None:
        """Set the spaces, and the episode object that every reset restarts."""
        if not episode.decisions:
            raise ValueError(
                f"{self.teacher.name} has nothing to decide with these arguments; "
                f"change granularity, variables or keep"
            )
        self.episode = episode
        name = self.teacher.name
        self._layout = Layout(name, episode.start, episode.decisions, self._max_rows)
        self.observation = self._layout.static.copy()
        shape = self.observation.shape
        self.observation_space = gym.spaces.Box(0.0, 1.0, shape, np.float32)
        self.action_space = episode.make_space()
        self.is_over = True
        self._feasible: tuple[Mask, bool] | None = None  # of the next decision
        self._student: Architecture | None = None  # once all is decided
        self._costs: Costs = {}

    # Properties of the episode.

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the entries of ``info["reward_vector"]``, all to be maximised."""
        return (ACCURACY, *self.meter.names)

    @property
    def start(self) -> Architecture:
        """The network that the decisions apply to."""
        return self.episode.start

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """All decisions of an episode, in order."""
        return self.episode.decisions

    @property
    def position(self) -> int:
        """The number of decisions made so far."""
        return self.episode.position

    @property
    def is_complete(self) -> bool:
        """Whether all decisions have been made, so that the student can be scored."""
        return self.episode.is_complete

    @property
    def current(self) -> Decision:
        """The next decision."""
        return self.episode.current

    @property
    def student(self) -> Architecture:
        """The student after the decisions so far; ``fit`` scales it after the last."""
        if not self.is_complete:
            return self.episode.student
        if self._student is None:
            self._student = self._fitted() if self.fit else self.episode.student
        return self._student

    def _fitted(self) -> Architecture:
        start, rates = self.episode.rates_of_widths()
        whole = self.teacher.architecture
        return fitted(start, rates, self.limits, self.meter, whole, self._costs)

    def checked(self, action: Any) -> Any:
        """The action as a Python number; a ValueError if it is not in the space."""
        return read_action(self.action_space, action)

    # The Gymnasium interface.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode, or restore one.

        Args:
            options: ``{"decisions": [...]}`` replays an episode's first actions, but
                not all. ``{"limits": {...}}`` sets this episode's limits by name.

        Raises:
            ValueError: An option is unknown, or has a wrong value.
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := options.keys() - {"decisions", "limits"}:
            raise ValueError(
                f"unknown options {sorted(unknown)}; known: decisions, limits"
            )
        prefix = options.get("decisions", [])
        if not isinstance(prefix, (list, tuple)):
            raise ValueError(f"decisions must be a list of actions, got {prefix!r}")
        if len(prefix) >= len(self.decisions):
            raise ValueError(
                f"decisions must be a proper prefix of {len(self.decisions)}, got "
                f"{len(prefix)}"
            )
        self.limits = self._settings.draw(self.np_random, options.get("limits"))
        self.is_over, self._feasible, self._student = False, None, None
        self.episode.restart()
        whole = self.teacher.architecture
        takes = self.meter(whole, whole) if self.limits else {}
        self._told: tuple[Amount, ...] = told(self.limits, self.meter, takes)
        self.observation = self._layout.fresh(targets(self.limits, takes))
        self.observation[self._layout.row_of[0], CURRENT] = 1
        for action in map(self.checked, prefix):
            if not self.episode.is_legal(action):
                raise ValueError(
                    f"action {action} is not legal at decision {self.position} "
                    f"({self.current.name})"
                )
            self._record(action)
        self._show()
        if self.render_mode == "human":
            self.render()
        return self.observation.copy(), self.mask_info() | self._limits_info()

    def step(
        self, action: Any
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Make the next decision.

        Raises:
            ValueError: The action is not in the action space.
            RuntimeError: The episode has ended, or none was started.
        """
        if self.is_over:
            raise RuntimeError("there is no episode to step in; call reset() first")
        reward, info = self.advance(self.checked(action))
        if self.is_complete:
            student = self.student
            (result,) = evaluate([student], self.teacher, self.evaluator)
            reward, last = self.conclude(student, result)
            info |= last
        if self.render_mode == "human":
            self.render()
        return self.observation.copy(), reward, self.is_over, False, info

    def advance(self, action: Any) -> tuple[float, dict[str, Any]]:
        """Make the next decision, without scoring; return the reward and the info."""
        is_illegal = not self.episode.is_legal(action)
        reward, info = 0.0, {"reward_vector": (0.0,) * len(self.objectives)}
        if is_illegal and self.illegal == "end":
            row = self._layout.row_of[self.position]
            self.observation[row, CURRENT] = 0
            self.is_over = True
            reward = DEGENERATE
            info |= describe_student(self.teacher, self.student)
            info |= failed("illegal action") | self._limits_info()
        else:
            self._record(self.episode.keep() if is_illegal else action)
            self._show()
        return reward, info | {"illegal": is_illegal} | self.mask_info()

    def _record(self, action: Any) -> None:
        """Make the next decision and move to the one after it."""
        rows = self._layout.row_of
        here = self.observation[rows[self.position]]
        self.episode.decide(action)
        here[CURRENT], here[DECIDED], here[CHOICE] = 0, 1, self.episode.choices[-1]
        self._feasible = None
        if self.is_complete:
            self.is_over = True
        else:
            self.observation[rows[self.position], CURRENT] = 1

    def _show(self) -> None:
        """Write the state of the episode into the observation."""
        whole, more = self.teacher.architecture, {}
        if self._told:
            more = shares(self._told, self.meter, self.episode, whole)
        self._layout.show(self.observation, self.episode, whole, more)

    def _limits_info(self) -> dict[str, Any]:
        return self._settings.info(self.limits) | self._tables

    def mask_info(self) -> dict[str, Any]:
        if not self.episode.num_actions:
            return {}
        mask, is_infeasible = self._masked()
        more = {"infeasible": is_infeasible} if self.strict else {}
        return {"action_mask": mask} | more

    def _masked(self) -> tuple[Mask, bool]:
        """The mask, and whether ``strict`` would have masked every action."""
        if self.is_over:
            return np.ones(self.episode.num_actions, np.int8), False
        mask = self.episode.mask()
        if not self.strict:
            return mask, False
        if self._feasible is None:
            least = self.episode.least_fitted if self.fit else self.episode.least
            is_monotone = self.episode.is_monotone
            strict = feasible(mask, self.limits, least, is_monotone=is_monotone)
            is_infeasible = not strict.any()
            self._feasible = (mask if is_infeasible else strict, is_infeasible)
        mask, is_infeasible = self._feasible
        return mask.copy(), is_infeasible

    # The end of an episode.

    def conclude(
        self, student: Architecture, result: Score | Failure
    ) -> tuple[float, dict[str, Any]]:
        """The reward of the finished student, and the last info's entries for it."""
        worth = Worth(
            self.teacher,
            self.evaluator,
            self.reward,
            self.meter,
            self.limits,
            self.epsilon,
            self.objectives,
        )
        reward, info = conclude(worth, student, result)
        if self.fit and self.is_complete:
            info["start"] = self.episode.student.to_json()
        return reward, info | self._limits_info()

    def action_masks(self) -> NDArray[np.bool_]:
        """``info["action_mask"]`` under the name that sb3-contrib looks for."""
        return self._masked()[0].astype(bool)

    def render(self) -> str | NDArray[np.uint8] | None:
        """The network as text or a picture; None with "human" or no render mode."""
        if self.render_mode is None:
            return None
        return draw_ansi(self.scene) if self.render_mode == "ansi" else self._frame()

    @property
    def scene(self) -> Scene:
        """Everything that a picture of the episode shows."""
        current = None if self.is_over else self.current
        return Scene(
            self.teacher.architecture,
            self.start,
            self.student,
            current,
            self.position,
            len(self.decisions),
        )

    def _frame(self) -> NDArray[np.uint8] | None:
        """A picture, (H, W, 3); with "human", None: the window shows the picture."""
        frame = draw_rgb(self.scene)
        if self.render_mode != "human":
            return frame
        if self._window is None:
            self._window = Window()
        self._window.show(frame, 1 / self.metadata["render_fps"])
        return None

    def close(self) -> None:
        """Close the window, and end the workers unless the caller passed them in.

        Copies of an environment use the same workers. A later step starts new workers.
        """
        if self._owns_evaluator and hasattr(self.evaluator, "close"):
            self.evaluator.close()
        if self._window is not None:
            self._window.close()
            self._window = None

    def __deepcopy__(self, memo: dict[int, Any]) -> CompressionEnv:
        """A copy with its own episode; both environments use the same fixed parts."""
        twin = copy.copy(self)
        twin.observation = self.observation.copy()
        twin.episode = self.episode.copy()
        twin.action_space = copy.deepcopy(self.action_space)  # it has a generator
        twin._np_random = copy.deepcopy(self._np_random)
        memo[id(self)] = twin
        return twin
