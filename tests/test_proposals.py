"""Students that are proposed: what they take is known before one is scored."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from n2n_agents import proposals
from n2n_agents.proposals import (
    Proposer,
    as_act,
    at_level,
    change_probabilities,
    changed,
    common_level,
    drawing,
    excess_of,
    first_proposals,
    widest_level,
)
from n2n_gym.comparison.budget import Budgeted, Ledger
from n2n_gym.envs import CompressEnv, CompressionVectorEnv, RemoveEnv, ShrinkEnv
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import Shrinkage

ENVS = {"remove": RemoveEnv, "shrink": ShrinkEnv, "compress": CompressEnv}


def make(stage: str, teacher, share: float | None = None, **arguments):
    """An environment, perhaps within a share of the teacher's parameters."""
    if share is not None:
        bound = share * teacher.architecture.num_params
        arguments["constraints"] = {"num_params": bound}
    return ENVS[stage](teacher, evaluator="size", **arguments)


# The arithmetic, by hand.


def test_a_changed_rate_is_near_what_it_was():
    legal = np.array([0, 4, 9])
    # From rate .5: ln(.1 / .5) / .5 = -3.219, ln(1 / .5) / .5 = 1.386 deviations.
    weights = np.exp(-(np.array([3.219, 1.386]) ** 2) / 2)
    found = change_probabilities(legal, 4, 10)
    assert found[1] == 0
    assert found[[0, 2]] == pytest.approx(weights / weights.sum(), abs=1e-4)
    # A removal has one other action, and a decision that is settled none.
    assert change_probabilities(np.array([0, 1]), 0, 2).tolist() == [0, 1]
    assert change_probabilities(np.array([3]), 3, 10).tolist() == [1]


def test_the_excess_is_that_of_the_limit_that_is_broken_most():
    targets = np.array([0.5, 0.25, 1.0])
    assert excess_of(np.array([0.6, 0.5, 9.0]), targets) == pytest.approx(1.0)
    assert excess_of(np.array([0.6, 0.2, 9.0]), targets) == pytest.approx(0.2)
    assert excess_of(np.array([0.5, 0.25, 1.0]), targets) == 0


# What is known before a score.


@pytest.mark.parametrize("stage", ENVS)
def test_what_a_student_takes_is_known_and_costs_nothing(stage, teacher):
    ledger = Ledger(evaluations=100)
    env = Budgeted(make(stage, teacher), ledger)
    proposer = Proposer(env, seed=0)
    whole = teacher.architecture
    proposed = [proposer.propose(as_act(drawing(proposer))) for _ in range(20)]
    assert ledger.episodes == 0
    errors = []
    for one in proposed:
        (found,) = proposer.score([one])
        takes = found.info["num_params"] / whole.num_params
        errors.append(abs(one.takes[0] / takes - 1))
        if one.actions[-1] == proposer.keep:
            assert errors[-1] < 1e-5
            macs = found.info["num_macs"] / whole.num_macs
            assert one.takes[1] == pytest.approx(macs, rel=1e-5)
    # Only what the last decision leaves is estimated.
    assert np.median(errors) < 0.02
    assert max(errors) < 0.25


def test_a_vector_is_told_the_same(teacher):
    env = make("shrink", teacher, 0.25)
    vectors = [
        CompressionVectorEnv(env, 3),
        gym.vector.SyncVectorEnv([lambda: make("shrink", teacher, 0.25)] * 3),
    ]
    one, *others = (Proposer(each, seed=2) for each in (env, *vectors))
    expected = [one.propose(as_act(drawing(one))) for _ in range(3)]
    for other in others:
        found = [other.propose(as_act(drawing(other))) for _ in range(3)]
        for mine, theirs in zip(expected, found, strict=True):
            assert mine.actions == theirs.actions
            assert mine.takes.tolist() == theirs.takes.tolist()
        rewards = [each.reward for each in other.score(found)]
        assert rewards == [one.score([each])[0].reward for each in expected]


def test_a_vector_that_hides_its_rows_is_walked_through_itself(teacher):
    class Hidden(gym.vector.VectorWrapper):
        @property
        def unwrapped(self):
            return self

    env = make("remove", teacher)
    one = Proposer(env, seed=2)
    other = Proposer(Hidden(CompressionVectorEnv(env, 3)), seed=2)
    for _ in range(3):
        mine, theirs = (each.propose(as_act(drawing(each))) for each in (one, other))
        assert mine.actions == theirs.actions


@pytest.mark.parametrize("stage", ENVS)
@pytest.mark.parametrize("share", [0.5, 0.25])
def test_fitted_proposals_keep_the_limits(stage, share, teacher):
    env = make(stage, teacher, share)
    proposer = Proposer(env, seed=0)
    fitted = [
        proposer.fit(proposer.propose(as_act(drawing(proposer)))) for _ in "abcde"
    ]
    fitted += [
        proposer.fit(proposer.propose(as_act(changed(proposer, fitted[0].actions))))
        for _ in "abcde"
    ]
    kept = [one for one in fitted if not one.excess]
    assert len(kept) >= 8
    for one in kept:
        (found,) = proposer.score([one])
        assert found.info["violated"] == ""


# Where a search begins.


def rates(env) -> set[float]:
    """That widths have been decided to."""
    choices = zip(env.decisions, env.episode.choices, strict=True)
    return {
        rate
        for each, rate in choices
        if isinstance(each, Shrinkage) and each.variable == "width"
    }


@pytest.mark.parametrize("stage", ["shrink", "compress"])
def test_within_limits_it_begins_at_the_widest_uniform_width(stage, teacher):
    env = make(stage, teacher, 0.3)
    proposer = Proposer(env, seed=0)
    level = widest_level(proposer)
    assert 0.1 < level < 1
    one = proposer.propose(as_act(at_level(proposer, level)))
    (found,) = proposer.score([one])
    assert rates(env) == {level}
    assert found.info["violated"] == ""
    student = Architecture.from_json(found.info["student"])
    assert [each.name for each in student.layers] == [
        each.name for each in teacher.architecture.layers
    ]
    (wider,) = proposer.score(
        [proposer.propose(as_act(at_level(proposer, level + 0.1)))]
    )
    assert wider.info["violated"] == "num_params"
    (first,) = first_proposals(proposer)
    assert not first.excess


@pytest.mark.parametrize("stage", ["shrink", "compress"])
def test_without_limits_it_begins_with_several_sizes(stage, teacher):
    env = make(stage, teacher)
    proposer = Proposer(env, seed=1)
    first = first_proposals(proposer)
    assert len(first) == len(proposals.LEVELS)
    for one, level in zip(first, proposals.LEVELS, strict=True):
        proposer.score([one])
        assert rates(env) == {level}


@pytest.mark.parametrize("stage", ENVS)
def test_where_students_are_made_to_fit_nothing_has_to_be(stage, teacher):
    env = make(stage, teacher, 0.1, fit=True)
    proposer = Proposer(env, seed=0)
    assert not proposer.is_limited
    (first,) = first_proposals(proposer)
    (found,) = proposer.score([first])
    assert found.info["violated"] == ""
    student = Architecture.from_json(found.info["student"])
    assert len(student.layers) == len(teacher.architecture.layers)
    assert found.info["num_params"] > 0.06 * teacher.architecture.num_params


def test_the_common_level_follows_from_the_limit(teacher):
    levels = {
        stage: common_level(Proposer(make(stage, teacher, 0.25), seed=0))
        for stage in ENVS
    }
    assert levels["remove"] == pytest.approx(0.25)
    assert levels["shrink"] == levels["compress"] == pytest.approx(0.5, abs=0.11)
    assert common_level(Proposer(make("shrink", teacher), seed=0)) == 0.5


def test_environments_it_cannot_read_are_refused(teacher):
    continuous = ShrinkEnv(teacher, evaluator="size", action="continuous")
    with pytest.raises(ValueError, match="actions must be Discrete, got Box"):
        Proposer(continuous, seed=0)
    nameless = gym.Wrapper(make("remove", teacher))
    nameless.metadata = {"keep": 0}
    with pytest.raises(ValueError, match="no column names"):
        Proposer(nameless, seed=0)
