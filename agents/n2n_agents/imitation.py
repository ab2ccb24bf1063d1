"""A recurrent policy that imitates the best students so far.

This is priority queue training (Abolafia et al., 2018, arXiv 1801.03526). REINFORCE
compares each episode with a baseline; this agent raises the likelihood of the best
students. These students are few, so the agent can take many training steps before it
scores the next ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Final, NamedTuple

import torch
from torch import Tensor

from n2n_agents import rollouts
from n2n_agents.local import fill, new_child
from n2n_agents.players import Episode, Player, generator_of, play_players
from n2n_agents.policies import NO_ACTION, Policy, make_policy
from n2n_agents.proposals import NothingNew, Proposal, Proposer, widest_level
from n2n_agents.reinforce import MODERN, log_probabilities, mean_entropy

QUEUE: Final = 10  # number of students that are imitated
ROLLOUTS: Final = 5  # students scored between updates
STEPS: Final = 8  # training steps in an update
LEARNING_RATE: Final = 5e-3
ENTROPY_BONUS: Final = 0.1
TRIES: Final = 5  # to find a student that is new and keeps the limits


class Scored(NamedTuple):
    """A scored episode, with the actions that lead to its student."""

    actions: tuple[int, ...]
    episode: Episode


# The arithmetic.


def imitation_loss(log_probs: Tensor) -> Tensor:
    """-(1/k) sum_k sum_t log pi(a_t) of the k best episodes.

    Args:
        log_probs: Log-probabilities of the actions taken, (k, T); 0 in rows without
            an action.
    """
    return -log_probs.sum(1).mean()


def best_of(scored: Sequence[Scored], size: int) -> list[Scored]:
    """The distinct students with the highest rewards; ties go to the earlier one."""
    distinct: dict[tuple[int, ...], Scored] = {}
    for each in scored:
        distinct.setdefault(each.actions, each)
    return sorted(distinct.values(), key=lambda each: -each.episode.reward)[:size]


# The search.


def imitate(env: rollouts.Environment, *, seed: int) -> None:
    """Search until the environment raises an exception, or no new student is found."""
    proposer = Proposer(env, seed=seed)
    # Proposals are fitted to limits, so a removal policy starts by keeping most layers.
    level = widest_level(proposer) if proposer.is_limited else None
    policy = make_policy(env, uniformity=MODERN.uniformity, level=level, seed=seed)
    optimiser = torch.optim.Adam(policy.parameters(), lr=LEARNING_RATE)
    queue: list[Scored] = []
    seen: set[tuple[int, ...]] = set()
    with suppress(NothingNew):
        for first in count(0, proposer.num_rows):
            batch: list[Proposal] = []
            make = partial(_proposed, proposer, policy, queue, seen)
            fill(batch, proposer.num_rows, make)
            queue = best_of([*queue, *_played(proposer, policy, batch)], QUEUE)
            if first // ROLLOUTS < (first + len(batch)) // ROLLOUTS:
                for _ in range(STEPS):
                    _learn(policy, optimiser, [each.episode for each in queue])


def _proposed(
    proposer: Proposer,
    policy: Policy,
    queue: Sequence[Scored],
    seen: set[tuple[int, ...]],
) -> Proposal:
    """A new student: the policy's, or (equally likely) a changed copy of the best.

    Before any student is scored, the last of the policy's ``TRIES`` students is taken
    even if it breaks a limit or is not new.

    Raises:
        NothingNew: No student that was tried is new and keeps the limits.
    """
    columns = policy.columns_in(proposer.env)
    if queue and proposer.rng.random() < 0.5:
        return new_child(proposer, queue[0].actions, seen, policy)
    for _ in range(TRIES):
        generator = generator_of(int(proposer.rng.integers(2**31)), 0)
        player = Player(policy, columns, generator)
        one = proposer.fit(proposer.propose(player.act))
        if one.actions not in seen and not one.excess:
            seen.add(one.actions)
            return one
    return new_child(proposer, one.actions, seen, policy) if queue else one


def _played(
    proposer: Proposer, policy: Policy, proposals: Sequence[Proposal]
) -> list[Scored]:
    columns = policy.columns_in(proposer.env)
    players = [
        Player(policy, columns, None, dict(enumerate(each.actions)))
        for each in proposals
    ]
    episodes = play_players(proposer.env, players)
    return [
        Scored(each.actions, episode)
        for each, episode in zip(proposals, episodes, strict=True)
    ]


def _learn(
    policy: Policy, optimiser: torch.optim.Optimizer, episodes: Sequence[Episode]
) -> None:
    log_probs = log_probabilities(policy, episodes)
    actions = torch.stack([episode.actions for episode in episodes])
    is_decided = actions != NO_ACTION
    taken = log_probs.gather(-1, actions.clamp_min(0)[..., None])[..., 0]
    loss = imitation_loss(taken.masked_fill(~is_decided, 0.0))
    loss = loss - ENTROPY_BONUS * mean_entropy(log_probs, is_decided)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
