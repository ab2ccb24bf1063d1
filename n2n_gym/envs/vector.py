"""Many episodes of one environment in lock step, their students scored together."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from n2n_gym.envs.both import CompressEnv
from n2n_gym.envs.compression import CompressionEnv, Observation
from n2n_gym.envs.remove import RemoveEnv
from n2n_gym.envs.shrink import ShrinkEnv
from n2n_gym.evaluators.evaluator import evaluate

# Attributes that all rows share.
SHARED: Final = ("teacher", "evaluator", "meter")


class CompressionVectorEnv(gym.vector.VectorEnv[Observation, Any, NDArray[Any]]):
    """
    ## Description
    Plays `num_envs` episodes of one environment in lock step, one episode in each row.
    All episodes have the same number of decisions and end together. All distinct
    students go to the evaluator in a single call, so it can distil them in parallel.
    The results of each row are those of a single environment. The vector behaves like
    `gymnasium.vector.SyncVectorEnv` in all three autoreset modes.

    ## Action Space, Observation Space
    The environment's spaces, batched: observations are (N, T, F).

    ## Episode End
    With `illegal="end"` an episode can end before those of the other rows. Its row then
    idles until all episodes have ended, and all rows begin again together. In the step
    that ends the episode, `terminated` is True and the reward is -1. While the row
    idles, `terminated` is False, rewards are 0, actions are ignored, the observation
    stays the same, and `info["idle"]` is True. So wrappers count episodes and returns
    correctly, but add idle steps to the length of the next episode. An agent that skips
    idle steps sees the same as in a single environment.
    `reset(options={"reset_mask": ...})` ends a row's idling at any time.

    ## Information
    As in Gymnasium's vector environments: each key is an array over the rows, with a
    mask under `"_" + key`. `action_mask` is (N, A) int8. `idle` exists if a row idles.

    ## Arguments
    ```python
    gym.make_vec("N2NRemove-v0", num_envs=5, teacher="resnet18", task="digits")
    ```

    Args:
        env: The environment to copy into each row; all copies use the same teacher.
        num_envs: Number of rows.
        autoreset_mode: Gymnasium's mode: "NextStep", "SameStep" or "Disabled".
    """

    def __init__(
        self,
        env: CompressionEnv,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        # First, because older Gymnasiums call close() even if the constructor fails.
        self.envs = [copy.deepcopy(env) for _ in range(num_envs)]
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError as error:
            known = ", ".join(mode.value for mode in AutoresetMode)
            raise ValueError(
                f"unknown autoreset_mode={autoreset_mode!r}; known: {known}"
            ) from error
        self.num_envs = num_envs
        self.metadata = env.metadata | {"autoreset_mode": self.autoreset_mode}
        self.render_mode = env.render_mode
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)
        self._is_started = False

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode in every row, or restore one.

        Args:
            seed: A list of one seed per row, or an integer for the first row; each
                further row then gets the next integer.
            options: ``{"decisions": [...]}`` replays the first actions of an episode in
                all rows. ``{"decisions": [[...], ...]}`` replays one list in each row;
                all lists must be equally long. ``{"limits": {...}}`` sets the limits of
                all rows; a list of such dictionaries has one for each row.
                ``{"reset_mask": ...}``, (N,) bool, resets only the rows where it is
                True.

        Raises:
            ValueError: The number of seeds or prefixes is not the number of rows, or an
                option is unknown or wrong.
            TypeError: The reset mask is not an array of booleans.
        """
        options = dict(options or {})
        chosen = self._checked_mask(options.pop("reset_mask", None))
        seeds = self._seeds(seed)
        prefixes = self._prefixes(options)
        infos: dict[str, Any] = {}
        for i in _positions(chosen):
            _, info = self.envs[i].reset(seed=seeds[i], options=options | prefixes[i])
            infos = self._add_info(infos, info, i)
        self._is_started = True
        return self._observations(), infos

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + i for i in range(self.num_envs)]
        self._refuse_unless_one_each("seeds", seed)
        return seed

    def _prefixes(self, options: dict[str, Any]) -> list[dict[str, Any]]:
        """Options of each row: its decisions and limits, if they are given by row."""
        each: list[dict[str, Any]] = [{} for _ in self.envs]
        given = options.get("decisions")
        if given and _is_list(given) and all(map(_is_list, given)):
            self._refuse_unless_one_each("prefixes", given)
            lengths = [len(prefix) for prefix in given]
            if len(set(lengths)) > 1:
                raise ValueError(f"all prefixes must have one length, got {lengths}")
            for row, prefix in zip(each, given, strict=True):
                row["decisions"] = prefix
        limits = options.get("limits")
        if isinstance(limits, (list, tuple)):
            self._refuse_unless_one_each("limits", limits)
            for row, bounds in zip(each, limits, strict=True):
                row["limits"] = bounds
        return each

    def _checked_mask(self, mask: Any) -> NDArray[np.bool_]:
        """The rows to reset as a mask, (N,); without a mask, all rows."""
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"reset_mask must be an array of booleans, got {mask!r}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"reset_mask must have the shape ({self.num_envs},) and be True "
                f"somewhere, got {mask}"
            )
        return mask

    def _refuse_unless_one_each(self, name: str, values: Sequence[Any]) -> None:
        if len(values) != self.num_envs:
            raise ValueError(
                f"there must be {self.num_envs} {name}, one for each row, got "
                f"{len(values)}"
            )

    def step(
        self, actions: Any
    ) -> tuple[
        Observation,
        NDArray[np.float64],
        NDArray[np.bool_],
        NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Make the next decision in every row.

        Raises:
            ValueError: The number of actions is not the number of rows, or an action is
                not in the action space. In both cases no row has changed.
            RuntimeError: No episode was started, or all episodes have ended and the
                autoreset mode is "Disabled".
        """
        is_running = np.array([not env.is_over for env in self.envs])
        rewards = np.zeros(self.num_envs)
        never = np.zeros(self.num_envs, np.bool_)
        if not is_running.any():
            if not self._is_started or self.autoreset_mode is AutoresetMode.DISABLED:
                raise RuntimeError("there are no episodes to step in; call reset()")
            observations, infos = self.reset()
            return observations, rewards, never, never.copy(), infos

        given = list(iterate(self.action_space, actions))
        self._refuse_unless_one_each("actions", given)
        running = _positions(is_running)
        checked = {i: self.envs[i].checked(given[i]) for i in running}
        last: dict[int, dict[str, Any]] = {}  # each running row's info
        for i, action in checked.items():
            rewards[i], last[i] = self.envs[i].advance(action)
        self._score([i for i in running if self.envs[i].is_complete], rewards, last)
        terminations = np.array([env.is_over for env in self.envs]) & is_running
        infos = self._end_step(last, terminations)
        return self._observations(), rewards, terminations, never, infos

    def _score(
        self,
        complete: Sequence[int],
        rewards: NDArray[np.float64],
        infos: dict[int, dict[str, Any]],
    ) -> None:
        """Fill in the rewards and last infos of the rows with a finished student."""
        if not complete:
            return
        students = [self.envs[i].student for i in complete]
        first = self.envs[0]
        results = evaluate(students, first.teacher, first.evaluator)
        for i, student, result in zip(complete, students, results, strict=True):
            rewards[i], info = self.envs[i].conclude(student, result)
            infos[i] |= info

    def _end_step(
        self, last: dict[int, dict[str, Any]], terminations: NDArray[np.bool_]
    ) -> dict[str, Any]:
        """The infos of a step. In same-step mode, rows are reset once all are over.

        Args:
            last: Infos of the rows that made a decision in this step.
            terminations: Mask of the rows that ended in this step, (N,).
        """
        resets = self.autoreset_mode is AutoresetMode.SAME_STEP
        all_over = all(env.is_over for env in self.envs)
        infos: dict[str, Any] = {}
        for i, env in enumerate(self.envs):
            info = last.get(i)
            if resets and terminations[i]:
                final = {"final_obs": env.observation.copy(), "final_info": info}
                infos = self._add_info(infos, final, i)
                info = None
            if resets and all_over:
                _, info = env.reset()
            if info is None:
                info = {"idle": True} | env.mask_info()
            infos = self._add_info(infos, info, i)
        return infos

    def _observations(self) -> Observation:
        """The observations of all rows, as a new array, (N, T, F)."""
        return np.array([env.observation for env in self.envs])

    def action_masks(self) -> NDArray[np.bool_]:
        """``infos["action_mask"]``, (N, A), by the name that sb3-contrib looks for."""
        return np.stack([env.action_masks() for env in self.envs])

    def render(self) -> tuple[Any, ...]:
        """A frame for each row."""
        return tuple(env.render() for env in self.envs)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The result of a method in each row, or the value of an attribute."""
        found = self.get_attr(name)
        return tuple(f(*args, **kwargs) if callable(f) else f for f in found)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each row."""
        return tuple(getattr(env, name) for env in self.envs)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of all rows. A list or tuple has one value per row.

        Raises:
            ValueError: The number of values is not the number of rows, or rows would
                differ in one of the attributes ``SHARED``.
        """
        each = values if _is_list(values) else [values] * self.num_envs
        self._refuse_unless_one_each("values", each)
        if name in SHARED and any(value is not each[0] for value in each):
            raise ValueError(f"all rows share one {name}, got {each}")
        for env, value in zip(self.envs, each, strict=True):
            setattr(env, name, value)

    def close_extras(self, **kwargs: Any) -> None:
        """Close all rows."""
        for env in self.envs:
            env.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> CompressionVectorEnv:
        """Independent copies of the episodes; all of them use the same teacher."""
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin.envs = copy.deepcopy(self.envs, memo)
        twin.action_space = copy.deepcopy(self.action_space)  # it has a generator
        return twin


def _positions(mask: NDArray[np.bool_]) -> list[int]:
    """The positions where a mask is True."""
    return [int(i) for i in np.flatnonzero(mask)]


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _make_vector(
    kind: type[CompressionEnv],
    num_envs: int = 1,
    *,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    **arguments: Any,
) -> CompressionVectorEnv:
    """A vector of ``kind(**arguments)``."""
    env = kind(**arguments)
    return CompressionVectorEnv(env, num_envs, autoreset_mode=autoreset_mode)


make_remove_vector: Final = partial(_make_vector, RemoveEnv)
make_shrink_vector: Final = partial(_make_vector, ShrinkEnv)
make_compress_vector: Final = partial(_make_vector, CompressEnv)
