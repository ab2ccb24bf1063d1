import gymnasium as gym
import numpy as np
import pytest

from n2n_agents import search
from n2n_gym.comparison.budget import Budgeted, BudgetSpent, Ledger, run
from n2n_gym.envs import CompressionVectorEnv, RemoveEnv, ShrinkEnv
from n2n_gym.evaluators.evaluator import SizeEvaluator
from n2n_gym.rewards import Failure, Score

SEARCHES = [
    search.random_search,
    search.uniform,
    search.greedy,
    search.beam_search,
    search.evolution,
]


@pytest.fixture(params=["remove", "shrink"])
def env(request, teacher):
    stage = {"remove": RemoveEnv, "shrink": ShrinkEnv}[request.param]
    return stage(teacher, evaluator="size")


def students(env, agent, seed=0, evaluations=40):
    ledger = Ledger(evaluations=evaluations, patience=200)
    run(env, agent, ledger, seed=seed)
    return ledger


@pytest.mark.parametrize("agent", SEARCHES)
def test_equal_seeds_find_the_same(agent, env):
    one, two = (students(env, agent, seed=3).found for _ in range(2))
    assert list(one) == list(two)
    assert len(one) > 1


@pytest.mark.parametrize("agent", SEARCHES)
def test_what_is_found_can_be_replayed(agent, env):
    for name, evaluation in students(env, agent).found.items():
        *first, last = evaluation.actions
        env.reset(options={"decisions": first})
        _, reward, is_over, _, info = env.step(last)
        assert is_over
        assert not info["illegal"]
        assert info["fingerprint"] == name
        assert reward == evaluation.reward


@pytest.mark.parametrize("agent", SEARCHES[1:])
def test_continuous_actions_are_refused(agent, teacher):
    env = ShrinkEnv(teacher, evaluator="size", action="continuous")
    with pytest.raises(ValueError, match="actions must be Discrete, got Box"):
        students(env, agent)


def test_random_search_draws_continuous_actions_too(teacher):
    env = ShrinkEnv(teacher, evaluator="size", action="continuous")
    found = students(env, search.random_search).found
    drawn = np.array([evaluation.actions for evaluation in found.values()])
    assert len(drawn) == 40
    assert abs(drawn.mean()) < 0.1
    assert drawn.min() < -0.9 < 0.9 < drawn.max()


def test_random_search_is_the_same_in_rows_of_continuous_actions(teacher):
    env = ShrinkEnv(teacher, evaluator="size", action="continuous")
    found = []
    for each in (env, CompressionVectorEnv(env, 3)):
        search.random_search(
            each, episodes=6, on_episode=lambda _, info: found.append(info)
        )
    prints = [info["fingerprint"] for info in found]
    assert prints[:6] == prints[6:]
    assert len(set(prints)) == 6


class Worth(gym.Env):
    """Three decisions between three; what an episode earns is in a table."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(3)
    metadata = {"keep": 2, "render_modes": []}

    def __init__(self, worth):
        self.worth = worth
        self.played = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.actions = ()
        return np.zeros(1, np.float32), {"action_mask": np.ones(3, np.int8)}

    def step(self, action):
        self.actions += (action,)
        is_over = len(self.actions) == 3
        reward = 0.0
        if is_over:
            reward = self.worth(self.actions)
            self.played.append(self.actions)
        info = {"action_mask": np.ones(3, np.int8)}
        return np.zeros(1, np.float32), reward, is_over, False, info

    def __deepcopy__(self, memo):
        twin = Worth(self.worth)
        twin.actions, twin.played = self.actions, self.played
        return twin


def test_uniform_takes_one_action_everywhere():
    env = Worth(sum)
    search.uniform(env)
    assert env.played == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]


def test_greedy_makes_the_change_that_costs_least():
    env = Worth(lambda actions: np.dot(actions, (1, 4, 2)))
    search.greedy(env)
    # 2 becomes 1 becomes 0; the first decision costs 1 a step, the third 2, ...
    assert env.played[0] == (2, 2, 2)
    assert set(env.played[1:4]) == {(1, 2, 2), (2, 1, 2), (2, 2, 1)}
    assert set(env.played[4:7]) == {(0, 2, 2), (1, 1, 2), (1, 2, 1)}
    assert set(env.played[7:9]) == {(0, 1, 2), (0, 2, 1)}
    assert env.played[-1] == (0, 0, 0)


def test_beam_search_finds_what_no_single_change_shows():
    env = Worth(lambda actions: float(actions == (0, 1, 0)) + 0.1 * (actions[0] == 0))
    search.beam_search(env, width=9)
    assert (0, 1, 0) in env.played


def test_evolution_beats_chance():
    def worth(actions):
        return -sum(abs(a - b) for a, b in zip(actions, (0, 2, 1), strict=True))

    env = Worth(worth)
    search.evolution(env, episodes=120, population=10, seed=0)
    late = [worth(actions) for actions in env.played[-60:]]
    early = [worth(actions) for actions in env.played[:10]]
    assert np.mean(late) > np.mean(early) + 1


# Budgets.


class Priced(SizeEvaluator):
    """Students cost 2 epochs each, and 7 once."""

    def __call__(self, students, teacher):
        return [Score(0.5, s.num_params, s.num_macs, 2.0, 7.0) for s in students]


def test_each_student_costs_once_and_what_is_shared_too(teacher):
    env = RemoveEnv(teacher, evaluator=Priced())
    costs = []
    ledger = Ledger(epochs=16.0, on_evaluation=lambda e: costs.append(e.cost))
    run(env, search.random_search, ledger, seed=0)
    assert costs == [9.0, 11.0, 13.0, 15.0]
    assert ledger.reason == "budget"
    assert len(ledger.found) == 4
    assert ledger.episodes >= 5


def test_a_run_ends_with_its_number_of_evaluations(teacher):
    ledger = students(RemoveEnv(teacher, evaluator="size"), search.random_search)
    assert (len(ledger.found), ledger.reason) == (40, "budget")


def test_a_run_that_finds_nothing_new_ends(teacher):
    def keep_all(env, *, seed):
        while True:
            search._play(env, lambda position: 0)

    ledger = students(RemoveEnv(teacher, evaluator="size"), keep_all)
    assert (len(ledger.found), ledger.episodes) == (1, 201)
    assert ledger.reason == "nothing new"


def test_an_agent_may_end_by_itself(teacher):
    ledger = students(RemoveEnv(teacher, evaluator="size"), search.uniform)
    assert (len(ledger.found), ledger.reason) == (2, "finished")


def test_illegal_actions_are_recorded_as_what_they_do(teacher):
    env = RemoveEnv(teacher, evaluator="size")
    ledger = Ledger(evaluations=5)
    budgeted = Budgeted(env, ledger)
    budgeted.reset()
    is_over = False
    num_illegal = 0
    while not is_over:  # removes whatever it can, and tries the rest too
        _, _, is_over, _, info = budgeted.step(1)
        num_illegal += info["illegal"]
    (found,) = ledger.found.values()
    assert num_illegal == found.actions.count(0) > 0


def test_students_that_cannot_be_scored_cost_nothing(teacher):
    class Failing(SizeEvaluator):
        def __call__(self, students, teacher):
            return [Failure("on purpose", retryable=False) for _ in students]

    env = RemoveEnv(teacher, evaluator=Failing())
    ledger = Ledger(epochs=1.0, evaluations=3)
    run(env, search.random_search, ledger, seed=0)
    assert [e.reward for e in ledger.found.values()] == [-1.0] * 3
    assert ledger.cost == 0


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_budgets_that_make_no_sense_are_refused(value):
    with pytest.raises(ValueError, match="epochs must be a positive number, got"):
        Ledger(epochs=value)
    with pytest.raises(ValueError, match="a budget must limit the epochs"):
        Ledger()


def test_a_budget_that_is_never_spent_is_refused(teacher):
    env = RemoveEnv(teacher, evaluator="size")
    with pytest.raises(ValueError, match="cost no epochs"):
        run(env, search.random_search, Ledger(epochs=1.0), seed=0)


def test_a_spent_budget_is_told_to_those_who_play_on(teacher):
    env = Budgeted(RemoveEnv(teacher, evaluator="size"), Ledger(evaluations=1))
    for _ in range(2):
        with pytest.raises(BudgetSpent):
            search._play(env, lambda position: 0)
