"""Local search: a few changes of the best student so far.

It is a (1 + m) evolution strategy; m is the number of rows of the vector environment,
or 1. The first student has one rate for all widths and no removals, or is a policy's
likeliest student. Changed actions are drawn near the old ones, or from the policy. With
limits, each child is changed until it just keeps the limits, and only then scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from n2n_agents import rollouts
from n2n_agents.players import Player, generator_of
from n2n_agents.policies import Policy, require_fit
from n2n_agents.proposals import (
    Found,
    NothingNew,
    Proposal,
    Proposer,
    as_act,
    changed,
    chosen_positions,
    drawing,
    first_proposals,
)

TRIES: Final = 10  # tries of each way to make a new child that keeps the limits


def local_search(
    env: rollouts.Environment, *, seed: int, policy: Policy | None = None
) -> None:
    """Search until the environment raises an exception, or no new student is found.

    Args:
        env: Environment, or vector environment, to play in.
        seed: Seed of the search.
        policy: Policy that draws changes. With a policy, the search starts from the
            policy's likeliest student.
    """
    proposer = Proposer(env, seed=seed)
    if policy is None:
        waiting = first_proposals(proposer)
    else:
        require_fit(policy, env)
        likeliest = Player(policy, policy.columns_in(env), None)
        waiting = [proposer.fit(proposer.propose(likeliest.act))]
    seen = {each.actions for each in waiting}
    best: Found | None = None
    with suppress(NothingNew):
        while True:
            parent = waiting[0] if best is None else best.proposal
            make = partial(new_child, proposer, parent.actions, seen, policy)
            fill(waiting, proposer.num_rows, make)
            batch, waiting = waiting[: proposer.num_rows], waiting[proposer.num_rows :]
            for found in proposer.score(batch):
                if best is None or found.reward >= best.reward:
                    best = found


def fill(waiting: list[Proposal], count: int, make: Callable[[], Proposal]) -> None:
    """Fill a list up with new students; if too few are found, repeat its first student.

    Raises:
        NothingNew: The list is empty, and no new student is found.
    """
    with suppress(NothingNew):
        while len(waiting) < count:
            waiting.append(make())
    if not waiting:
        raise NothingNew
    waiting += waiting[:1] * (count - len(waiting))


def new_child(
    proposer: Proposer,
    parent: Sequence[int],
    seen: set[tuple[int, ...]],
    policy: Policy | None = None,
) -> Proposal:
    """A new student that keeps the limits: a changed copy of the parent, or random.

    Random students are tried only after changed copies.

    Args:
        proposer: Proposer of the environment.
        parent: The parent's actions.
        seen: Actions of known students; the child's actions are added.
        policy: Policy that draws the changes in the first third of the tries.

    Raises:
        NothingNew: No student that was tried is new and keeps the limits.
    """
    act: rollouts.Act
    for number in range(3 * TRIES):
        if policy is not None and number < TRIES:
            act = drawn_changes(proposer, parent, policy).act
        elif number < 2 * TRIES:
            act = as_act(changed(proposer, parent))
        else:
            act = as_act(drawing(proposer))
        child = proposer.fit(proposer.propose(act))
        if child.actions not in seen and not child.excess:
            seen.add(child.actions)
            return child
    raise NothingNew


def drawn_changes(proposer: Proposer, parent: Sequence[int], policy: Policy) -> Player:
    """A player that repeats the parent's actions, except a few drawn by the policy."""
    chosen = chosen_positions(proposer)
    given = {i: a for i, a in enumerate(parent) if i not in chosen}
    generator = generator_of(int(proposer.rng.integers(2**31)), 0)
    return Player(policy, policy.columns_in(proposer.env), generator, given)
