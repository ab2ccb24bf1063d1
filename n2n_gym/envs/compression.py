"""What both environments share: an episode of decisions about one network."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from n2n_gym.common.plugins import lookup
from n2n_gym.envs.features import (
    CHOICE,
    COLUMNS,
    CURRENT,
    DECIDED,
    rows,
    static_features,
)
from n2n_gym.envs.outcome import Worth, conclude, describe_student, failed
from n2n_gym.envs.render import Scene, draw_ansi, draw_rgb
from n2n_gym.envs.window import Window
from n2n_gym.evaluators.evaluator import Evaluator, evaluate
from n2n_gym.evaluators.loading import (
    Place,
    Store,
    load_evaluator,
    refuse_without_images,
)
from n2n_gym.evaluators.runner import Runner
from n2n_gym.limits.bounds import Least
from n2n_gym.limits.constraints import (
    ACCURACY,
    Constraints,
    Limit,
    limited_resources,
    read_limits,
)
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import Removal, Shrinkage
from n2n_gym.resources import Meter, Resource, load_meter
from n2n_gym.rewards import DEGENERATE, REWARDS, Failure, Reward, Score, needed
from n2n_gym.tasks.arrays import Statistics
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.loading import load_teacher
from n2n_gym.teachers.teacher import TeacherLike, Weights

Observation = NDArray[np.float32]
Mask = NDArray[np.int8]


D = TypeVar("D", Removal, Shrinkage)


class CompressionEnv(gym.Env[Observation, Any], Generic[D]):
    """An episode goes through the decisions about a start network, one a step.

    The last step scores the student. A subclass says what the decisions are, which
    choices are legal, and what student they leave.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["ansi", "rgb_array", "human"],
        "render_fps": 4,
        "columns": COLUMNS,  # of the observation
    }
    reward_space: gym.spaces.Box  # of one that the wrapper MultiObjective is around

    def __init__(
        self,
        teacher: TeacherLike,
        task: str | Task | None,
        *,
        weights: Weights | None,
        normalisation: Statistics | None,
        evaluator: str | Evaluator,
        evaluator_workers: Place,
        store: Store,
        reward: str | Reward,
        constraints: Constraints | None,
        resources: Mapping[str, Resource] | None,
        epsilon: float,
        strict: bool,
        illegal: Literal["keep", "end"],
        device: str | None,
        train_teacher: bool,
        render_mode: str | None,
    ) -> None:
        if illegal not in ("keep", "end"):
            raise ValueError(f"unknown illegal={illegal!r}; known: keep, end")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            known = ", ".join(self.metadata["render_modes"])
            raise ValueError(f"unknown render_mode {render_mode!r}; known: {known}")
        self.render_mode = render_mode
        self._window: Window | None = None  # with "human", once there is a frame
        self.illegal = illegal
        self.teacher = load_teacher(
            teacher,
            task,
            weights=weights,
            normalisation=normalisation,
            device=device,
            train_teacher=train_teacher,
        )
        refuse_without_images(evaluator, self.teacher)
        self.evaluator = load_evaluator(
            evaluator, device, workers=evaluator_workers, store=store
        )
        # What was given is the giver's to close.
        self._owns_evaluator = isinstance(evaluator, (str, Path)) and not isinstance(
            evaluator_workers, Runner
        )
        self.reward = (
            lookup("reward", reward, REWARDS) if isinstance(reward, str) else reward
        )
        self.limits: tuple[Limit, ...] = read_limits(constraints)
        names = (*needed(self.reward), *limited_resources(self.limits))
        self.meter: Meter = load_meter(names, resources)
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon must be from 0 to 1, got {epsilon!r}")
        self.epsilon = epsilon
        self.strict = strict
        # Of ``info["reward_vector"]``: all are to be large.
        self.objectives: tuple[str, ...] = (ACCURACY, *self.meter.names)
        # An episode's state. All of it is immutable but the observation, so that
        # copies are cheap.
        self._choices: tuple[float, ...] = ()  # the observation's ``choice``s so far
        self._is_over = True
        self._feasible: tuple[Mask, bool] | None = None  # of the decision at hand

    def _lay_out(
        self,
        start: Architecture,
        decisions: Sequence[D],
        max_rows: int | None,
    ) -> None:
        """Fix what the episodes are about, and the observation's shape with it."""
        if not decisions:
            raise ValueError(
                f"there is nothing to decide about {self.teacher.name} with this "
                f"granularity or these variables"
            )
        self.start = start
        self.decisions: tuple[D, ...] = tuple(decisions)
        shown = rows(start, decisions)
        height = len(shown) if max_rows is None else max_rows
        if len(shown) > height:
            raise ValueError(
                f"max_rows={max_rows} is too few for {self.teacher.name}; it has "
                f"{len(shown)} rows"
            )
        self._static = np.zeros((height, len(COLUMNS)), np.float32)
        self._static[: len(shown)] = static_features(start, shown)
        self._row_of = [i for i, row in enumerate(shown) if row.decides is not None]
        self._observation = self._static.copy()
        self.observation_space = gym.spaces.Box(
            0.0, 1.0, self._static.shape, np.float32
        )

    # What a subclass says.

    @property
    @abstractmethod
    def student(self) -> Architecture:
        """What the decisions so far leave; with none, the start."""

    def _restart(self) -> None:
        """Forget all decisions."""

    @abstractmethod
    def _mask(self) -> Mask:
        """1 for each legal action of the decision at hand, a fresh (A,) array."""

    @abstractmethod
    def _is_legal(self, action: Any) -> bool:
        """Whether the decision at hand may be made so."""

    @abstractmethod
    def _least(self, action: Any) -> Least:
        """What every student takes that the decision at hand, made so, can lead to."""

    @abstractmethod
    def _keep(self) -> Any:
        """The action that leaves the decision's layers as they are."""

    @abstractmethod
    def _decide(self, action: Any) -> float:
        """Make the decision at hand; gives the observation's ``choice`` for it."""

    def _checked(self, action: Any) -> Any:
        """The action as a plain value; ValueError if it is not in the space."""
        value = np.asarray(action)
        if value.size != 1 or not self.action_space.contains(value.item()):
            raise ValueError(f"action {action!r} is not in {self.action_space}")
        return value.item()

    # The Gymnasium interface.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode, or restore one.

        Args:
            options: ``{"decisions": [...]}`` replays the actions of a legal proper
                prefix of an episode.

        Raises:
            ValueError: An option is unknown, or the prefix is not one.
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := options.keys() - {"decisions"}:
            raise ValueError(f"unknown options {sorted(unknown)}; known: decisions")
        prefix = options.get("decisions", [])
        if not isinstance(prefix, (list, tuple)):
            raise ValueError(f"decisions must be a list of actions, got {prefix!r}")
        if len(prefix) >= len(self.decisions):
            raise ValueError(
                f"decisions must be a proper prefix of {len(self.decisions)}, got "
                f"{len(prefix)}"
            )
        self._choices = ()
        self._is_over = False
        self._feasible = None
        self._restart()
        self._observation = self._static.copy()
        self._observation[self._row_of[0], CURRENT] = 1
        for action in map(self._checked, prefix):
            if not self._is_legal(action):
                raise ValueError(
                    f"decision {self.position} ({self.current.name}) cannot be {action}"
                )
            self._record(action)
        if self.render_mode == "human":
            self.render()
        return self._observation.copy(), self._mask_info()

    def step(
        self, action: Any
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Make the decision at hand.

        Raises:
            ValueError: The action is not in the action space.
            RuntimeError: The episode has ended, or none was started.
        """
        if self._is_over:
            raise RuntimeError("there is no episode to step in; call reset() first")
        reward, info = self._go_on(self._checked(action))
        if self.is_complete:
            student = self.student
            (result,) = evaluate([student], self.teacher, self.evaluator)
            reward, last = self.conclude(student, result)
            info |= last
        if self.render_mode == "human":
            self.render()
        return self._observation.copy(), reward, self._is_over, False, info

    @property
    def position(self) -> int:
        """How many decisions have been made."""
        return len(self._choices)

    @property
    def is_complete(self) -> bool:
        """Whether all decisions have been made, so that there is a student to score."""
        return self.position == len(self.decisions)

    @property
    def current(self) -> D:
        """The decision at hand."""
        return self.decisions[self.position]

    def _go_on(self, action: Any) -> tuple[float, dict[str, Any]]:
        """Make the decision at hand; the step's reward and info but for the score."""
        is_illegal = not self._is_legal(action)
        reward, info = 0.0, {"reward_vector": (0.0,) * len(self.objectives)}
        if is_illegal and self.illegal == "end":
            self._observation[self._row_of[self.position], CURRENT] = 0
            self._is_over = True
            reward = DEGENERATE
            info |= describe_student(self.teacher, self.student)
            info |= failed("illegal action")
        else:
            self._record(self._keep() if is_illegal else action)
        return reward, info | {"illegal": is_illegal} | self._mask_info()

    def _record(self, action: Any) -> None:
        """Make the decision at hand and go on to the next."""
        here = self._observation[self._row_of[self.position]]
        choice = self._decide(action)
        here[CURRENT], here[DECIDED], here[CHOICE] = 0, 1, choice
        self._choices += (choice,)
        self._feasible = None
        if self.is_complete:
            self._is_over = True
        else:
            self._observation[self._row_of[self.position], CURRENT] = 1
            self._advance()

    def _advance(self) -> None:
        """Prepare the next decision."""

    def _mask_info(self) -> dict[str, Any]:
        if not isinstance(self.action_space, gym.spaces.Discrete):
            return {}
        mask, is_infeasible = self._masked()
        more = {"infeasible": is_infeasible} if self.strict else {}
        return {"action_mask": mask} | more

    def _masked(self) -> tuple[Mask, bool]:
        """The mask, and whether strictness would have left nothing of it."""
        mask = self._mask()
        if not self.strict or self._is_over:
            return mask, False
        if self._feasible is None:
            least = {
                int(a): self._least(int(a))._asdict() for a in np.flatnonzero(mask)
            }
            for action, takes in least.items():
                mask[action] = all(limit.can_be_kept(takes) for limit in self.limits)
            is_infeasible = not mask.any()
            self._feasible = (self._mask() if is_infeasible else mask, is_infeasible)
        mask, is_infeasible = self._feasible
        return mask.copy(), is_infeasible

    def conclude(
        self, student: Architecture, result: Score | Failure
    ) -> tuple[float, dict[str, Any]]:
        """The reward of the finished student, and what the last info says of it."""
        worth = Worth(
            self.teacher,
            self.evaluator,
            self.reward,
            self.meter,
            self.limits,
            self.epsilon,
            self.objectives,
        )
        return conclude(worth, student, result)

    def action_masks(self) -> NDArray[np.bool_]:
        """``info["action_mask"]`` as sb3-contrib asks for it."""
        return self._masked()[0].astype(bool)

    def render(self) -> str | NDArray[np.uint8] | None:
        """The network as text or as a picture; None without a render mode."""
        if self.render_mode is None:
            return None
        return draw_ansi(self.scene) if self.render_mode == "ansi" else self._frame()

    @property
    def scene(self) -> Scene:
        """What there is to draw."""
        current = None if self._is_over else self.current
        return Scene(
            self.teacher.architecture,
            self.start,
            self.student,
            current,
            self.position,
            len(self.decisions),
        )

    def _frame(self) -> NDArray[np.uint8] | None:
        """A picture; for people it goes to the window that they look at."""
        frame = draw_rgb(self.scene)
        if self.render_mode != "human":
            return frame
        if self._window is None:
            self._window = Window()
        self._window.show(frame, 1 / self.metadata["render_fps"])
        return None

    def close(self) -> None:
        """End the workers, if this environment started them; a later step starts more.

        The window closes likewise.
        Copies share them.
        """
        close = getattr(self.evaluator, "close", None)
        if self._owns_evaluator and close is not None:
            close()
        if self._window is not None:
            self._window.close()
            self._window = None

    def __deepcopy__(self, memo: dict[int, Any]) -> CompressionEnv[D]:
        """An independent copy of the running episode; what never changes is shared."""
        twin = copy.copy(self)
        twin._observation = self._observation.copy()
        twin.action_space = copy.deepcopy(self.action_space)  # it has a generator
        twin._np_random = copy.deepcopy(self._np_random)
        memo[id(self)] = twin
        return twin
