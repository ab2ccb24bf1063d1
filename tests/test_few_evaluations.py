"""Agents that are to use few evaluations well: what all of them keep to."""

from __future__ import annotations

import gymnasium as gym
import pytest

from n2n_agents.library import BATCHED, find_agent
from n2n_gym.comparison.budget import Ledger, run
from n2n_gym.envs import CompressionVectorEnv
from tests.test_proposals import ENVS, make

AGENTS = ["local", "bayesian", "imitation"]
# Environments, with and without limits, masked and fitted.
CASES = [
    *((stage, {"share": 0.3}) for stage in ENVS),
    *((stage, {"share": 0.3, "fit": True}) for stage in ENVS),
    ("remove", {"share": 0.3, "strict": True}),
    ("compress", {}),
]


class Watched(gym.Wrapper):
    """Notes illegal actions, and students that break a limit."""

    def __init__(self, env):
        super().__init__(env)
        self.illegal = self.broken = 0

    def step(self, action):
        result = super().step(action)
        self.illegal += result[-1]["illegal"]
        self.broken += bool(result[-1].get("violated"))
        return result


def search(env, agent: str, seed: int, evaluations: int) -> tuple[Ledger, Watched]:
    ledger, watched = Ledger(evaluations=evaluations), Watched(env)
    run(watched, find_agent(agent), ledger, seed=seed)
    return ledger, watched


@pytest.mark.parametrize(("stage", "limits"), CASES)
@pytest.mark.parametrize("agent", [*AGENTS, "random-within"])
def test_the_budget_is_used_for_legal_students_within_the_limits(
    agent, stage, limits, teacher
):
    env = make(stage, teacher, **limits)
    ledger, watched = search(env, agent, 0, 8)
    assert (len(ledger.found), ledger.reason) == (8, "budget")
    assert watched.illegal == 0
    assert watched.broken <= 1  # the last decision's share is an estimate


@pytest.mark.parametrize("stage", ENVS)
@pytest.mark.parametrize("agent", [*AGENTS, "random-within"])
def test_equal_seeds_find_the_same(agent, stage, teacher):
    one, same, other = (
        search(make(stage, teacher, 0.3), agent, seed, 8)[0] for seed in (0, 0, 1)
    )
    prints = [[x.actions for x in each.found.values()] for each in (one, same, other)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("agent", AGENTS)
def test_students_that_were_found_already_are_not_played_again(agent, teacher):
    ledger, _ = search(make("shrink", teacher), agent, 0, 25)
    assert ledger.episodes <= 27  # other actions may come to the same student


@pytest.mark.parametrize("agent", AGENTS)
def test_where_all_students_are_known_it_ends(agent, teacher):
    env = make("remove", teacher, granularity="block")
    ledger = Ledger(evaluations=100, patience=20)
    run(env, find_agent(agent), ledger, seed=0)
    assert ledger.reason == "finished"
    assert 11 <= len(ledger.found) <= 12  # all, or all but one


@pytest.mark.parametrize("agent", AGENTS)
def test_where_no_student_keeps_the_limits_one_is_scored(agent, teacher):
    ledger, _ = search(make("shrink", teacher, 0.001), agent, 0, 20)
    assert (len(ledger.found), ledger.reason) == (1, "finished")


@pytest.mark.parametrize("agent", BATCHED)
def test_rows_of_a_vector_are_scored_together(agent, teacher):
    class Enough(Exception):
        """So many episodes were played."""

    class Counted(gym.vector.VectorWrapper):
        batches = 0

        def step(self, actions):
            result = self.env.step(actions)
            if result[2].any():
                assert result[2].all()
                self.batches += 1
                if self.batches == 4:
                    raise Enough
            return result

    env = Counted(CompressionVectorEnv(make("compress", teacher, 0.3), 5))
    with pytest.raises(Enough):
        find_agent(agent)(env, seed=0)
