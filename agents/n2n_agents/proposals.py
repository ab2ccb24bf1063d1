"""Proposed students: their resources are known before they are scored.

Only the last decision costs an evaluation. Before that decision, the observation shows
how much of each resource the student takes. So a search spends no evaluation on a
student that breaks a limit on a computed resource.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from n2n_agents import rollouts

RESOURCES: Final = ("params", "macs", "bytes", "peak", "latency", "energy", "other")
WIDTH: Final = "decides_width"
SIZES: Final = (WIDTH, "decides_kernel", "decides_padding")  # others are removals
MOST_CHANGES: Final = 3  # largest number of changed decisions in a child
SPREAD: Final = 0.5  # standard deviation of the change of a rate's logarithm
LEVELS: Final = (0.5, 0.3)  # rates of the first students, if there is no limit
REPAIRS: Final = 30  # largest number of steps to keep the limits
STEPS: Final = 4  # with an excess of 1, each step changes one decision in four
FILLINGS: Final = 4  # largest number of steps back to the limits

T = TypeVar("T")
# Chooses an action from the decision's position and the legal actions (ascending).
Wanted: TypeAlias = Callable[[int, NDArray[np.int64]], int]


class Proposal(NamedTuple):
    """A student that is not scored yet.

    Attributes:
        actions: The actions that lead to the student.
        takes: The student's resources as fractions of the teacher's, (R,), for each of
            ``RESOURCES`` that the environment shows.
        excess: The largest excess over a limit, as a fraction of that limit; 0 if the
            student keeps all limits.
    """

    actions: tuple[int, ...]
    takes: NDArray[np.float64]
    excess: float


class Found(NamedTuple):
    """A student that was scored."""

    proposal: Proposal
    reward: float
    info: dict[str, Any]  # the last info of the episode


class NothingNew(Exception):
    """The search finds no more students that are new and keep the limits."""


# The arithmetic.


def change_probabilities(
    legal: NDArray[np.int64], action: int, num_actions: int
) -> NDArray[np.float64]:
    """Probability of each legal action to replace the old action, (L,).

    Action i stands for the rate (i + 1) / A. The change of the log rate is normally
    distributed with standard deviation ``SPREAD``. The old action can stay only if no
    other action is legal.

    Args:
        legal: The legal actions, (L,).
        action: The old action.
        num_actions: The number of actions, A.
    """
    steps = np.log((legal + 1) / (action + 1)) / SPREAD
    weights = np.where(legal == action, 0.0, np.exp(-(steps**2) / 2))
    if not weights.any():
        weights = np.ones(len(legal))
    return np.asarray(weights / weights.sum())


def some_of(kinds: Sequence[Sequence[T]], rng: np.random.Generator) -> list[T]:
    """Draw one to ``MOST_CHANGES`` items; each kind of item is equally likely."""
    chosen = []
    for _ in range(rng.integers(1, MOST_CHANGES + 1)):
        some = kinds[int(rng.integers(len(kinds)))]
        chosen.append(some[int(rng.integers(len(some)))])
    return chosen


def excess_of(takes: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """The largest excess over a target, as a fraction of that target; at least 0.

    Args:
        takes: Used resources, as fractions of the teacher's, (R,).
        targets: Limits on these resources, as fractions of the teacher's, (R,); 1 means
            no limit.
    """
    over = takes / np.maximum(targets, 1e-9) - 1
    most = float(over[targets < 1].max(initial=0.0))
    return most if most > 1e-6 else 0.0  # observations are float32


# The environment.


class Proposer:
    """Proposes students in an environment, or in the rows of a vector environment.

    Args:
        env: Environment with discrete actions, action masks and names of columns.
        seed: Seed of the proposals.

    Raises:
        ValueError: The environment has no discrete actions, or no names of columns.
    """

    def __init__(self, env: rollouts.Environment, *, seed: int) -> None:
        self.env, self.rng = env, np.random.default_rng(seed)
        # If a vector environment shows its rows, a copy of one row plays proposals.
        self._walked, self.num_rows = env, 1
        space = env.action_space
        if isinstance(env, gym.vector.VectorEnv):
            space, self.num_rows = env.single_action_space, env.num_envs
            if rows := getattr(env.unwrapped, "envs", None):
                self._walked = copy.deepcopy(rows[0])
        if not isinstance(space, gym.spaces.Discrete):
            raise ValueError(f"actions must be Discrete, got {space}")
        if "columns" not in env.metadata:
            raise ValueError(
                "the environment has no column names: metadata['columns'] is missing"
            )
        self.num_actions = int(space.n)
        self.keep = int(env.metadata["keep"])
        self._column = {name: i for i, name in enumerate(env.metadata["columns"])}
        is_alone = not isinstance(self._walked, gym.vector.VectorEnv)
        self._num_idle = 0 if is_alone else self.num_rows - 1
        env.reset(seed=seed)
        observations, _ = self._walked.reset(seed=seed)
        self._read(observations if is_alone else observations[0])

    def _read(self, rows: rollouts.Observation) -> None:
        """Read the decisions and the limits, which are the same in all episodes."""
        names = [name for name in self._column if name.startswith("decides_")]
        decided = rows[:, [self._column[name] for name in names]]  # (T, K)
        self.kinds = [names[k] for k in decided[decided.any(1)].argmax(1)]
        self._shown = [name for name in RESOURCES if f"taken_{name}" in self._column]
        self.targets = self._values(rows, "target")
        # If the environment fits students, all decisions keep the limits.
        self.is_fitted = bool(self.env.metadata.get("fits"))
        self.is_limited = not self.is_fitted and bool((self.targets < 1).any())

    @property
    def resources_with_limits(self) -> list[str]:
        """The names in ``RESOURCES`` that have a limit."""
        pairs = zip(self._shown, self.targets, strict=True)
        return [name for name, target in pairs if target < 1]

    def _values(self, rows: rollouts.Observation, what: str) -> NDArray[np.float64]:
        """Values, (R,), of the resources' columns with this prefix in the first row."""
        columns = [self._column[f"{what}_{name}"] for name in self._shown]
        return rows[0, columns].astype(np.float64)

    def propose(self, act: rollouts.Act) -> Proposal:
        """The student that an actor's actions lead to, without a score."""
        actions: list[int] = []

        def noting(observation: rollouts.Observation, mask: Any) -> int:
            actions.append(act(observation, mask))
            return actions[-1]

        others = [as_act(keeping(self)) for _ in range(self._num_idle)]
        length = len(self.kinds) - 1
        rows, mask = rollouts.play_until(self._walked, [noting, *others], length)
        noting(rows, mask)
        return self._proposal(rows, mask, tuple(actions))

    def _proposal(
        self, rows: rollouts.Observation, mask: Any, actions: tuple[int, ...]
    ) -> Proposal:
        """The proposal, with the resources estimated after the last action."""
        furthest = np.abs(np.flatnonzero(mask) - self.keep).max()
        gone = abs(actions[-1] - self.keep) / max(1, furthest)
        taken, least = self._values(rows, "taken"), self._values(rows, "least")
        # Other resources have no tight lower bound.
        takes = np.where(least > 0, taken - gone * (taken - least), taken)
        excess = excess_of(takes, self.targets) if self.is_limited else 0.0
        return Proposal(actions, takes, excess)

    def score(self, proposals: Sequence[Proposal]) -> list[Found]:
        """Play proposals to the end and score them.

        Args:
            proposals: The proposals; their number must be a multiple of ``num_rows``.
        """
        acts = [as_act(following(each.actions)) for each in proposals]
        played = rollouts.play_all(self.env, acts)
        return [
            Found(each, sum(rewards), info)
            for each, (rewards, info) in zip(proposals, played, strict=True)
        ]

    def fit(self, proposal: Proposal) -> Proposal:
        """A changed proposal that just keeps the limits.

        The actions of random decisions move away from the keep action, step by step,
        until the student keeps the limits. Then the actions of some random decisions
        move one step back, if the limits allow it. If ``REPAIRS`` steps are not enough,
        the proposal still breaks a limit.
        """
        if not self.is_limited:
            return proposal
        for _ in range(REPAIRS):
            if not proposal.excess:
                break
            count = 1 + int(proposal.excess * len(self.kinds) / STEPS)
            other = self.propose(as_act(stepped(self, proposal.actions, 1, count)))
            if other.excess < proposal.excess:
                proposal = other
        for _ in range(0 if proposal.excess else FILLINGS):
            other = self.propose(as_act(stepped(self, proposal.actions, -1)))
            if not other.excess:
                proposal = other
        return proposal


def as_act(wanted: Wanted) -> rollouts.Act:
    """An actor that plays the wanted actions, in one episode."""
    position = -1

    def act(observation: rollouts.Observation, mask: NDArray[np.int8] | None) -> int:
        nonlocal position
        assert mask is not None, "discrete actions come with a mask"
        position += 1
        return wanted(position, np.flatnonzero(mask))

    return act


# Wanted actions.


def nearest(legal: NDArray[np.int64], action: float) -> int:
    """The nearest legal action; if two are equally near, the lower of them."""
    return int(legal[np.abs(legal - action).argmin()])


def keeping(proposer: Proposer) -> Wanted:
    """Keep everything."""
    return lambda position, legal: nearest(legal, proposer.keep)


def following(actions: Sequence[int]) -> Wanted:
    """These actions, or the nearest legal ones."""
    return lambda position, legal: nearest(legal, actions[position])


def drawing(proposer: Proposer) -> Wanted:
    """Random legal actions."""
    return lambda position, legal: int(proposer.rng.choice(legal))


def at_level(proposer: Proposer, level: float) -> Wanted:
    """All widths at the rate ``level``, and everything else unchanged.

    If all decisions are removals, each of them keeps with probability ``level``.
    """
    has_widths = WIDTH in proposer.kinds

    def wanted(position: int, legal: NDArray[np.int64]) -> int:
        kind = proposer.kinds[position]
        if kind == WIDTH:
            return nearest(legal, level * proposer.num_actions - 1)
        if kind in SIZES or has_widths or proposer.rng.random() < level:
            return nearest(legal, proposer.keep)
        return int(legal[np.abs(legal - proposer.keep).argmax()])

    return wanted


def changed(proposer: Proposer, actions: Sequence[int]) -> Wanted:
    """These actions, with one to three changed: see ``chosen_positions``."""
    rng, chosen = proposer.rng, chosen_positions(proposer)

    def wanted(position: int, legal: NDArray[np.int64]) -> int:
        now = nearest(legal, actions[position])
        if position not in chosen:
            return now
        weights = change_probabilities(legal, now, proposer.num_actions)
        return int(rng.choice(legal, p=weights))

    return wanted


def chosen_positions(proposer: Proposer) -> set[int]:
    """Positions of one to three decisions; each kind of decision is equally likely."""
    by_kind: dict[str, list[int]] = {}
    for position, kind in enumerate(proposer.kinds):
        by_kind.setdefault(kind if kind in SIZES else "removal", []).append(position)
    return set(some_of(list(by_kind.values()), proposer.rng))


def stepped(
    proposer: Proposer, actions: Sequence[int], direction: int, count: int = 1
) -> Wanted:
    """These actions, except that random ones of them move by one step.

    Args:
        direction: 1 for steps away from the keep action, -1 for steps back.
        count: The largest number of actions that move.
    """
    keep = proposer.keep
    open_to = [i for i, a in enumerate(actions) if direction > 0 or a != keep]
    chosen = set(proposer.rng.permutation(open_to)[:count].tolist())

    def wanted(position: int, legal: NDArray[np.int64]) -> int:
        now = nearest(legal, actions[position])
        if position not in chosen:
            return now
        steps = direction * (np.abs(legal - keep) - abs(now - keep))
        others = legal[steps > 0]
        return nearest(others, now) if len(others) else now

    return wanted


def first_proposals(proposer: Proposer) -> list[Proposal]:
    """First students of a search: one rate for all widths, no removals.

    With limits there is one student, as wide as the limits allow. Without limits there
    is one student for each rate in ``LEVELS``. If all decisions are removals, layers
    are removed at random instead.
    """
    is_one = proposer.is_limited or proposer.is_fitted
    levels = [widest_level(proposer)] if is_one else LEVELS
    proposed = [proposer.propose(as_act(at_level(proposer, x))) for x in levels]
    fitted = [proposer.fit(each) for each in proposed]
    return list({each.actions: each for each in fitted}.values())


def common_level(proposer: Proposer) -> float:
    """The rate at which new policies start: ``widest_level``, or a half without limits.

    If all decisions are removals and there are limits, it is instead the smallest
    limit, as a fraction of the teacher's amount.
    """
    if proposer.is_limited and WIDTH not in proposer.kinds:
        return float(proposer.targets.min())
    if proposer.is_limited or proposer.is_fitted:
        return widest_level(proposer)
    return LEVELS[0]


def widest_level(proposer: Proposer) -> float:
    """The highest of the rates 1 / A, ..., 1 that keeps the limits.

    If no rate keeps the limits, it is 1 / A. If all decisions are removals, it is 1. If
    the environment fits students, it is a half, because all rates lead to the same
    student.
    """
    if WIDTH not in proposer.kinds:
        return 1.0
    if proposer.is_fitted:
        return LEVELS[0]
    levels = [(a + 1) / proposer.num_actions for a in range(proposer.num_actions)]
    for level in reversed(levels):
        one = proposer.propose(as_act(at_level(proposer, level)))
        if not one.excess:
            return level
    return levels[0]
