"""Searches without a policy, as baselines for policies.

They use only the Gymnasium interface: the mask of legal actions, and copies of a
running environment. A search with ``episodes=None`` goes on until an exception ends it.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from n2n_agents import rollouts
from n2n_agents.proposals import Proposal, Proposer, as_act, drawing

Env: TypeAlias = gym.Env[rollouts.Observation, Any]
TRIES: Final = 200  # draws of a student within the limits
BATCH: Final = 64  # episodes that an endless search plays at once, per row


class Found(NamedTuple):
    """A finished episode."""

    actions: tuple[int, ...]
    reward: float  # the return


def random_search(
    env: rollouts.Environment,
    *,
    episodes: int | None = None,
    seed: int = 0,
    on_episode: Callable[[float, dict[str, Any]], None] | None = None,
) -> None:
    """Play random legal actions, discrete or continuous, drawn uniformly.

    Args:
        env: An environment, or a vector of environments; both give the same episodes.
        episodes: Number of episodes, a multiple of a vector's rows.
        on_episode: Callback with the return and the last info of each episode.
    """
    if isinstance(env, gym.vector.VectorEnv):
        space, rows = env.single_action_space, env.num_envs
    else:
        space, rows = env.action_space, 1
    size = BATCH * rows if episodes is None else episodes
    for first in count(0, size) if episodes is None else (0,):
        acts = [_uniform([seed, k], space) for k in range(first, first + size)]
        for rewards, info in rollouts.play_all(env, acts):
            if on_episode is not None:
                on_episode(sum(rewards), info)


def _uniform(seed: Sequence[int], space: gym.Space[Any]) -> rollouts.Act:
    """An actor that draws from the legal actions; from all if they are continuous."""
    generator = np.random.default_rng(seed)

    def act(
        observation: rollouts.Observation, mask: NDArray[np.int8] | None
    ) -> int | NDArray[np.float32]:
        if mask is not None:
            return int(generator.choice(np.flatnonzero(mask)))
        assert isinstance(space, gym.spaces.Box)
        return generator.uniform(space.low, space.high).astype(np.float32)

    return act


def random_within(env: rollouts.Environment, *, seed: int = 0) -> None:
    """Score random students that keep the limits.

    A student that breaks a limit is drawn again, before it is scored. If ``TRIES``
    draws all break a limit, the last one is changed until it keeps the limits. This
    goes on until an exception ends it.
    """
    proposer = Proposer(env, seed=seed)

    def draw() -> Proposal:
        for _ in range(TRIES):
            proposal = proposer.propose(as_act(drawing(proposer)))
            if not proposal.excess:
                return proposal
        return proposer.fit(proposal)

    while True:
        proposer.score([draw() for _ in range(proposer.num_rows)])


def uniform(env: Env, *, seed: int = 0) -> None:
    """Play one episode for each action, with this action at every decision."""
    num_actions = _num_actions(env)
    length = len(_play(env, lambda position: 0).actions)
    for action in range(1, num_actions):
        _play_list(env, [action] * length)


def greedy(env: Env, *, seed: int = 0) -> None:
    """Greedy search from the start network: always the change that costs least.

    The cost of a change is the reward that it loses. A change halves one action (9
    becomes 4), or increases it by one if keep is action 0.
    """
    rng = np.random.default_rng(seed)
    _num_actions(env)
    now = _play(env, lambda position: _keep(env))
    while True:
        changed = []
        for position in rng.permutation(len(now.actions)):
            further = _further(env, now.actions[position])
            if further != now.actions[position]:
                tried = _play_list(env, _with(now.actions, position, further))
                if tried.actions != now.actions:  # it was legal
                    changed.append(tried)
        if not changed:
            return
        now = max(changed, key=lambda played: played.reward)


def beam_search(env: Env, *, seed: int = 0, width: int = 4) -> None:
    """Beam search over the beginnings of an episode, decision by decision.

    The value of a beginning is the reward of the episode that goes on with keep at all
    later decisions. The ``width`` best beginnings go on.
    """
    rng = np.random.default_rng(seed)
    _num_actions(env)

    def keep(observation: rollouts.Observation, mask: NDArray[np.int8] | None) -> int:
        return _nearest(mask, _keep(env))

    _, info = env.reset()
    beam = [(env, info["action_mask"])]
    while beam:
        offspring = []
        for parent, mask in beam:
            for action in rng.permutation(np.flatnonzero(mask)):
                child = copy.deepcopy(parent)
                observation, _, is_over, _, info = child.step(int(action))
                if not is_over:
                    rest = copy.deepcopy(child), observation, info
                    rewards, _ = rollouts.play_on(*rest, keep)
                    offspring.append((sum(rewards), child, info["action_mask"]))
        offspring.sort(key=lambda found: -found[0])
        beam = [(child, mask) for _, child, mask in offspring[:width]]


def evolution(
    env: Env,
    *,
    episodes: int | None = None,
    seed: int = 0,
    population: int = 20,
    tournament: int = 5,
) -> None:
    """Ageing evolution (Real et al., 2019) of action sequences.

    A child has two parents, each the best of ``tournament`` randomly drawn students of
    the population. Each action comes from either parent, and on average one action is
    redrawn. The child replaces the oldest student of the population.
    """
    rng = np.random.default_rng(seed)
    num_actions = _num_actions(env)

    def draw(position: int) -> int:
        return int(rng.integers(num_actions))

    living: deque[Found] = deque(maxlen=population)
    for number in count() if episodes is None else range(episodes):
        if number < population:
            living.append(_play(env, draw))
            continue
        mother, father = (_best_of(living, tournament, rng) for _ in range(2))
        length = min(len(mother), len(father))
        child = np.where(rng.random(length) < 0.5, mother[:length], father[:length])
        is_new = rng.random(length) < 1 / length
        child[is_new] = rng.integers(num_actions, size=is_new.sum())
        living.append(_play_list(env, child.tolist()))


def _best_of(
    living: Sequence[Found], size: int, rng: np.random.Generator
) -> tuple[int, ...]:
    drawn = rng.choice(len(living), size=min(size, len(living)), replace=False)
    best: Found = max((living[i] for i in drawn), key=lambda played: played.reward)
    return best.actions


# Playing.


def _play(env: Env, wanted: Callable[[int], int]) -> Found:
    """An episode of the wanted actions, or of the nearest legal ones."""
    taken: list[int] = []

    def act(observation: rollouts.Observation, mask: NDArray[np.int8] | None) -> int:
        taken.append(_nearest(mask, wanted(len(taken))))
        return taken[-1]

    ((rewards, _),) = rollouts.play_all(env, [act])
    return Found(tuple(taken), sum(rewards))


def _play_list(env: Env, actions: Sequence[int]) -> Found:
    return _play(env, actions.__getitem__)


def _nearest(mask: NDArray[np.int8] | None, action: int) -> int:
    assert mask is not None, "discrete actions come with a mask"
    legal = np.flatnonzero(mask)
    return int(legal[np.abs(legal - action).argmin()])


def _with(actions: Sequence[int], position: int, action: int) -> list[int]:
    changed = list(actions)
    changed[position] = action
    return changed


def _num_actions(env: Env) -> int:
    """The number of actions.

    Raises:
        ValueError: The actions are not discrete.
    """
    if not isinstance(env.action_space, gym.spaces.Discrete):
        raise ValueError(f"actions must be Discrete, got {env.action_space}")
    return int(env.action_space.n)


def _keep(env: Env) -> int:
    """The action that changes nothing."""
    return int(env.metadata["keep"])


def _further(env: Env, action: int) -> int:
    """An action that changes more than this one, or this one if it changes most."""
    return action // 2 if _keep(env) else min(action + 1, _num_actions(env) - 1)
