"""Checks that an environment keeps the contract, for example with your own teacher.

The checks use the Gymnasium interface, the environment's metadata, its attributes
``action_masks``, ``illegal``, ``position`` and ``start``, and the description of the
student in an episode's last info. So they also work for wrapped environments, and for
environments that change networks by your own rules.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from n2n_gym.envs.columns import COLUMNS
from n2n_gym.envs.observation import CURRENT, DECIDED
from n2n_gym.networks.architecture import Architecture
from n2n_gym.pytorch.build import build

Observation = NDArray[np.float32]
Env = gym.Env[Observation, Any]


class _Episode(NamedTuple):
    """A finished episode."""

    actions: list[Any]
    reward: float
    info: dict[str, Any]

    @property
    def outcome(self) -> tuple[float, str]:
        """The reward and the student's fingerprint, which equal actions reproduce."""
        return self.reward, self.info["fingerprint"]


def check_compression_env(env: Env, *, episodes: int = 5, seed: int = 0) -> None:
    """Play legal episodes and raise an error at the first violation of the contract.

    Gymnasium's own checker runs first. Then these are checked:

    - masks and observations follow the decisions;
    - only the last step has a reward;
    - the last info describes the student, which computes finite logits in torch;
    - the same actions give the same result, and steps in a copy of the environment
      leave the original unchanged;
    - with discrete actions, keeping everything gives the start network;
    - actions outside the mask are reported as illegal, or executed.

    Args:
        env: The environment to check; its observations are rows, (T, F). The check is
            about decisions, not about the evaluator; ``evaluator="size"`` makes it
            quick.
        episodes: Number of random legal episodes.
        seed: Seed of the random actions.

    Raises:
        AssertionError: The environment breaks the contract; the message says how and
            where.
    """
    check_env(env.unwrapped, skip_render_check=True)
    _check_spaces(env)
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    for number in range(episodes):
        where = f"episode {number}"
        played = _play(env, rng, where)
        _check_student(played.info, where)
        _check_replay(env, played, where)
        _check_fork(env, played, rng, where)
    if isinstance(env.action_space, gym.spaces.Discrete):
        _check_keeping(env)
        _check_illegal(env, rng)


def _require(is_so: bool, where: str, message: str) -> None:
    if not is_so:
        raise AssertionError(f"{where}: {message}")


def _check_spaces(env: Env) -> None:
    space = env.observation_space
    is_rows = isinstance(space, gym.spaces.Box) and len(space.shape) == 2
    _require(is_rows, "observation_space", f"must be rows, (T, F), got {space}")
    columns = env.metadata.get("columns", COLUMNS)
    _require(
        space.shape is not None and len(columns) == space.shape[1],
        "metadata['columns']",
        f"names {len(columns)} columns, the observation has {space.shape}",
    )
    _require(
        tuple(columns) == COLUMNS[: len(columns)],
        "metadata['columns']",
        f"must be {', '.join(COLUMNS)} in this order, got {', '.join(columns)}",
    )
    if isinstance(env.action_space, gym.spaces.Discrete):
        keep = env.metadata.get("keep")
        _require(
            isinstance(keep, int) and 0 <= keep < env.action_space.n,
            "metadata['keep']",
            f"must be the action that changes nothing, got {keep!r}",
        )


def _mask(env: Env, info: dict[str, Any], where: str) -> NDArray[np.int8] | None:
    """The mask of the legal actions, (A,); None if actions are continuous."""
    if not isinstance(env.action_space, gym.spaces.Discrete):
        return None
    mask: NDArray[np.int8] | None = info.get("action_mask")
    _require(
        isinstance(mask, np.ndarray)
        and mask.dtype == np.int8
        and mask.shape == (env.action_space.n,),
        where,
        f"info['action_mask'] must be ({env.action_space.n},) int8, got {mask!r}",
    )
    assert mask is not None
    _require(bool(mask.any()), where, "no action is legal")
    return mask


def _draw(env: Env, mask: NDArray[np.int8] | None, rng: np.random.Generator) -> Any:
    if mask is not None:
        return int(rng.choice(np.flatnonzero(mask)))
    space = env.action_space
    assert isinstance(space, gym.spaces.Box)
    return rng.uniform(space.low, space.high).astype(np.float32)


def _play(env: Env, rng: np.random.Generator, where: str) -> _Episode:
    """Play a random legal episode and check each step."""
    observation, info = env.reset()
    actions: list[Any] = []
    is_over = False
    while not is_over:
        at = f"{where}, step {len(actions)}"
        _require(
            env.observation_space.contains(observation), at, "a value out of bounds"
        )
        current = observation[:, CURRENT]
        decided = observation[:, DECIDED]
        _require(
            current.sum() == 1 and set(np.unique(current)) <= {0.0, 1.0},
            at,
            "one row must be the current one",
        )
        _require(
            decided.sum() == len(actions) and decided[current.argmax()] == 0,
            at,
            f"{len(actions)} rows must be decided, {decided.sum():g} are",
        )
        actions.append(_draw(env, _mask(env, info, at), rng))
        _require(
            len(actions) <= len(observation), at, "more decisions than there are rows"
        )
        observation, reward, is_over, truncated, info = env.step(actions[-1])
        _require(not info["illegal"], at, f"the mask allows {actions[-1]}, the step no")
        _require(not truncated, at, "episodes end, they are not truncated")
        _require(is_over or reward == 0, at, "a reward before the end")
    _mask(env, info, f"{where}, the end")
    _require(
        not observation[:, CURRENT].any(), f"{where}, the end", "a row is still current"
    )
    return _Episode(actions, float(reward), info)


def _check_student(info: dict[str, Any], where: str) -> None:
    """Compare the last info with the network that it describes."""
    for key, value in info.items():
        if key in ("action_mask", "episode"):  # gymnasium's own RecordEpisodeStatistics
            continue
        is_plain = isinstance(value, (bool, int, float, str)) or (
            isinstance(value, tuple) and all(isinstance(x, float) for x in value)
        )
        _require(is_plain, where, f"info[{key!r}] is no plain value: {value!r}")
    student = Architecture.from_json(info["student"])
    for key in ("fingerprint", "num_params", "num_macs"):
        found = getattr(student, key)
        _require(info[key] == found, where, f"{key} is {info[key]}, not {found}")
    network = build(student).eval()
    count = sum(p.numel() for p in network.parameters())
    _require(
        count == student.num_params,
        where,
        f"the network has {count} parameters, the architecture {student.num_params}",
    )
    with torch.no_grad():
        logits = network(torch.zeros(2, *student.input_shape))
    _require(
        logits.ndim == 2 and len(logits) == 2 and bool(logits.isfinite().all()),
        where,
        f"the student does not give finite logits, but {tuple(logits.shape)}",
    )


def _finish(env: Env, actions: list[Any]) -> tuple[float, str]:
    """Play the last actions of an episode; return its reward and fingerprint."""
    for action in actions:
        _, reward, _, _, info = env.step(action)
    return float(reward), info["fingerprint"]


def _limits_of(played: _Episode) -> dict[str, Any]:
    """The option of ``reset`` that repeats an episode's drawn limits, if it has any."""
    beginning = "limit_"
    drawn = {
        key.removeprefix(beginning): value
        for key, value in played.info.items()
        if key.startswith(beginning)
    }
    return {"limits": drawn} if drawn else {}


def _check_replay(env: Env, played: _Episode, where: str) -> None:
    """Repeated actions give the same result, also if reset replays the first half."""
    env.reset(options=_limits_of(played))
    again = _finish(env, played.actions)
    _require(again == played.outcome, where, f"{played.outcome}, then {again}")
    middle = len(played.actions) // 2
    env.reset(options=_limits_of(played) | {"decisions": played.actions[:middle]})
    restored = _finish(env, played.actions[middle:])
    _require(
        restored == played.outcome,
        where,
        f"{played.outcome}, restored after {middle} decisions {restored}",
    )


def _check_fork(
    env: Env, played: _Episode, rng: np.random.Generator, where: str
) -> None:
    """A copy is independent and leaves the original episode unchanged."""
    middle = len(played.actions) // 2
    env.reset(options=_limits_of(played) | {"decisions": played.actions[:middle]})
    fork = copy.deepcopy(env)
    is_over = False
    while not is_over:
        mask = None
        if isinstance(env.action_space, gym.spaces.Discrete):
            mask = fork.get_wrapper_attr("action_masks")().astype(np.int8)
        _, _, is_over, _, _ = fork.step(_draw(fork, mask, rng))
    found = env.get_wrapper_attr("position")
    _require(
        found == middle, where, f"{middle} decisions were made; with a copy's, {found}"
    )
    after = _finish(env, played.actions[middle:])
    _require(
        after == played.outcome, where, f"a copy changed {played.outcome} to {after}"
    )


def _check_keeping(env: Env) -> None:
    """Keeping everything is legal and gives the start network."""
    keep, where = env.metadata["keep"], "keeping everything"
    _, info = env.reset()
    is_over = False
    while not is_over:
        mask = _mask(env, info, where)
        assert mask is not None
        _require(bool(mask[keep]), where, f"action {keep} must always be legal")
        _, _, is_over, _, info = env.step(keep)
    # With fitted students, `start` is the student before fitting.
    left = Architecture.from_json(info.get("start", info["student"]))
    start = env.get_wrapper_attr("start")
    _require(left == start, where, "the student is not the start")


def _check_illegal(env: Env, rng: np.random.Generator) -> None:
    """An action outside the mask is either reported as illegal or executed.

    With ``illegal="keep"``, a reported action has the effect of keep. An action that is
    executed was masked for another reason: it repeats another action's result, or all
    students after it break a limit.
    """
    _, info = env.reset()
    is_over = False
    while not is_over:
        mask = _mask(env, info, "illegal actions")
        assert mask is not None
        illegal = np.flatnonzero(mask == 0)
        if len(illegal):
            twin = copy.deepcopy(env)
            kept, _, _, _, _ = twin.step(env.metadata["keep"])
            found, _, _, _, info = env.step(int(rng.choice(illegal)))
            if env.get_wrapper_attr("illegal") == "keep":
                is_kept = np.array_equal(kept, found)
            else:
                is_kept = bool(info["illegal"])
            _require(
                info["illegal"] == is_kept, "illegal actions", "one was taken for legal"
            )
            return
        _, _, is_over, _, info = env.step(_draw(env, mask, rng))
