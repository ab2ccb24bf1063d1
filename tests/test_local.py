"""Local search as an agent, and from a policy on; that few evaluations teach agents."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import tables
from n2n_agents.kept import save_policy
from n2n_agents.library import find_agent
from n2n_agents.local import local_search, new_child
from n2n_agents.players import Player
from n2n_agents.policies import make_policy
from n2n_agents.proposals import Proposer, as_act, keeping
from n2n_gym.comparison.budget import Ledger, run
from n2n_gym.envs import ShrinkEnv
from tests.test_proposals import make


def search(env, agent, seed: int, evaluations: int) -> Ledger:
    ledger = Ledger(evaluations=evaluations, patience=100)
    run(env, agent, ledger, seed=seed)
    return ledger


def test_children_differ_in_one_to_three_decisions(teacher):
    proposer = Proposer(make("shrink", teacher), seed=0)
    parent = proposer.propose(as_act(keeping(proposer)))
    seen = {parent.actions}
    children = [new_child(proposer, parent.actions, seen) for _ in range(30)]
    changes = [
        sum(a != b for a, b in zip(each.actions, parent.actions, strict=True))
        for each in children
    ]
    assert set(changes) == {1, 2, 3}
    assert len(seen) == 31


def test_it_goes_on_from_the_best(teacher):
    """What counts is the first width, which changes near what it was."""

    def reward(mine, theirs):
        return -mine.resources["first"]

    def first(student, whole):
        return student.shape_of(0)[0]

    env = make("shrink", teacher, 0.4, reward=reward, resources={"first": first})
    found = list(search(env, local_search, 0, 60).found.values())
    widths = [each.info["first"] for each in found]
    assert widths[0] > 2 * min(widths)
    assert np.mean(widths[-20:]) < 0.8 * np.mean(widths[:20])


def test_it_begins_at_a_policys_likeliest_student(teacher, tmp_path):
    env = make("shrink", teacher)
    policy = make_policy(env, seed=4)
    save_policy(policy, tmp_path / "policy.pt")
    proposer = Proposer(env, seed=0)
    likeliest = proposer.propose(Player(policy, policy.columns_in(env), None).act)
    agent = find_agent(f"local@{tmp_path / 'policy.pt'}")
    ledgers = [search(env, agent, seed, 10) for seed in (0, 0, 1)]
    played = [[x.actions for x in each.found.values()] for each in ledgers]
    assert all(each[0] == likeliest.actions for each in played)
    assert played[0] == played[1] != played[2]


def test_changes_are_drawn_from_the_policy(teacher):
    """One that is sure of two rates changes every width to either."""
    env = make("shrink", teacher, variables=("width",))
    policy = make_policy(env, seed=0)
    policy.head.bias.data[[2, 6]] = 50.0
    proposer = Proposer(env, seed=0)
    parent = proposer.propose(as_act(keeping(proposer)))
    children = [
        new_child(proposer, parent.actions, {parent.actions}, policy) for _ in range(20)
    ]
    taken = {action for each in children for action in each.actions}
    assert taken == {2, 6, 9}


def test_a_policy_of_another_stage_is_refused(teacher):
    policy = make_policy(make("remove", teacher))
    with pytest.raises(ValueError, match="it was made for another stage"):
        local_search(make("shrink", teacher), seed=0, policy=policy)


@pytest.mark.parametrize("agent", ["local", "bayesian", "imitation"])
def test_few_evaluations_are_enough_within_a_limit(agent):
    """Against random search on a table of 4,000 students that were distilled.

    Its best of 30 students is some .02 to .05 less accurate than the best of all.
    """
    table = tables.Table(tables.FOLDER / "shrink-digits.npz")
    subject = tables.load_subject("shrink-digits")
    env = ShrinkEnv(
        subject,
        evaluator=table,
        reward="accuracy",
        constraints={"num_params": subject.architecture.num_params / 10},
    )

    def best(name: str, seed: int) -> float:
        found = search(env, find_agent(name), seed, 30).found
        return max(each.reward for each in found.values())

    mine, random = (
        [best(name, seed) for seed in range(4)] for name in (agent, "random")
    )
    assert np.mean(mine) > np.mean(random) + 0.005
    assert min(mine) > np.median(random)
