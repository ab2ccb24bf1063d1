import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.reinforce import (
    NO_ACTION,
    advantages,
    load_policy,
    log_probabilities,
    make_policy,
    mean_entropy,
    moving_average,
    play,
    reinforce_loss,
    returns,
    save_policy,
    train,
)
from agents.search import random_search
from n2n_gym.decisions import legal_removal
from n2n_gym.envs import RemoveEnv, ShrinkEnv
from n2n_gym.evaluators import SizeEvaluator
from n2n_gym.rewards import Score

SEEDS = range(5)


@pytest.fixture
def remove_env(teacher) -> RemoveEnv:
    return RemoveEnv(teacher, evaluator="size")


@pytest.fixture
def shrink_env(teacher) -> ShrinkEnv:
    return ShrinkEnv(teacher, evaluator="size")


# The arithmetic, by hand.


def test_a_return_is_the_undiscounted_sum():
    assert returns([0.0, 0.0, 0.75]) == 0.75


def test_the_baseline_is_an_exponential_moving_average():
    assert moving_average(None, [0.5], 0.9) == 0.5
    assert moving_average(0.5, [1.0, 0.0], 0.8) == pytest.approx(0.48)


def test_advantages_are_each_rollouts_own():
    found = advantages([1.0, 0.5, 0.0], baseline=0.5, scale=0.25)
    assert found.tolist() == [2.0, 0.0, -2.0]


def test_the_loss_is_minus_the_mean_of_advantage_times_log_probability():
    log_probs = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]])
    loss = reinforce_loss(log_probs, torch.tensor([2.0, -1.0]))
    assert loss.item() == pytest.approx(-((-3.0 * 2) + (-0.5 * -1)) / 2)


def test_entropy_is_summed_over_the_rows_decided():
    probs = torch.tensor([[[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]])
    is_decided = torch.tensor([[True, False, True]])
    entropy = mean_entropy(probs.log(), is_decided)
    assert entropy.item() == pytest.approx(math.log(2))


# The policies.


@pytest.mark.parametrize("stage", ["remove_env", "shrink_env"])
def test_gradients_reach_every_parameter(stage, request):
    env = request.getfixturevalue(stage)
    policy = make_policy(env)
    episode = play(env, policy, torch.Generator().manual_seed(0))
    log_probs = log_probabilities(policy, [episode])[0]
    decided = episode.actions != NO_ACTION
    log_probs[decided, episode.actions[decided]].sum().backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_policies_are_the_papers_for_each_stage(remove_env, shrink_env):
    removal, shrinkage = make_policy(remove_env), make_policy(shrink_env)
    assert removal.lstm.bidirectional
    assert not shrinkage.lstm.bidirectional
    assert (removal.lstm.num_layers, removal.lstm.hidden_size) == (2, 30)
    assert (shrinkage.lstm.num_layers, shrinkage.lstm.hidden_size) == (2, 30)


def test_shrinkage_logits_depend_on_earlier_actions_alone(shrink_env):
    policy = make_policy(shrink_env)
    rows = torch.from_numpy(shrink_env.reset()[0][:, :-3])[None]
    actions = torch.zeros(1, rows.shape[1], dtype=torch.int64)
    other = actions.clone()
    other[0, 5] = 3
    one, two = policy(rows, actions), policy(rows, other)
    assert torch.equal(one[0, :6], two[0, :6])
    assert not torch.equal(one[0, 6], two[0, 6])


def test_acting_and_learning_see_the_same_probabilities(shrink_env):
    policy = make_policy(shrink_env)
    episode = play(shrink_env, policy)  # greedy
    likeliest = log_probabilities(policy, [episode])[0].argmax(-1)
    decided = episode.actions != NO_ACTION
    assert torch.equal(likeliest[decided], episode.actions[decided])
    assert decided.sum() == len(shrink_env.decisions)


def test_illegal_actions_are_never_taken(remove_env):
    policy = make_policy(remove_env)
    policy.head.bias.data[1] = 20.0  # wants to remove everything
    generator = torch.Generator().manual_seed(0)
    episode = play(remove_env, policy, generator)
    assert remove_env.unwrapped.student.num_params > 0
    assert not episode.masks.all()
    decided = episode.actions != NO_ACTION
    chosen = episode.masks[decided].gather(1, episode.actions[decided][:, None])
    assert chosen.all()
    log_probs = log_probabilities(policy, [episode])[0]
    assert log_probs[~episode.masks].eq(-torch.inf).all()


@pytest.mark.parametrize("stage", ["remove_env", "shrink_env"])
def test_a_policy_is_saved_and_loaded(stage, request, tmp_path):
    env = request.getfixturevalue(stage)
    policy = make_policy(env, seed=3)
    save_policy(policy, tmp_path / "policy.pt")
    again = load_policy(tmp_path / "policy.pt")
    assert again.kind == policy.kind
    assert torch.equal(play(env, again).actions, play(env, policy).actions)


def test_a_file_that_holds_no_policy_is_refused(tmp_path):
    torch.save({"weights": 1}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("policy")
    for name in ("other.pt", "text.pt"):
        with pytest.raises(ValueError, match=f"{name} does not hold a policy"):
            load_policy(tmp_path / name)


def test_environments_it_cannot_play_are_refused(teacher):
    continuous = ShrinkEnv(teacher, evaluator="size", action="continuous")
    with pytest.raises(ValueError, match="actions must be Discrete, got Box"):
        make_policy(continuous)
    flat = gym.wrappers.FlattenObservation(RemoveEnv(teacher, evaluator="size"))
    with pytest.raises(ValueError, match=r"observations must be rows, \(T, F\)"):
        make_policy(flat)


def test_equal_seeds_give_equal_trainings(remove_env):
    rewards = []
    for _ in range(2):
        policy = make_policy(remove_env, seed=1)
        found: list[float] = []
        train(
            remove_env,
            policy,
            updates=3,
            seed=1,
            on_episode=lambda episode, found=found: found.append(episode.reward),
        )
        rewards.append(found)
    assert rewards[0] == rewards[1]
    assert len(rewards[0]) == 15


def test_shrinkage_learns(shrink_env):
    """With accuracy left out, the smallest student is the best."""
    policy = make_policy(shrink_env)
    train(shrink_env, policy, updates=40)
    assert play(shrink_env, policy).reward > 0.995


# An environment small enough to enumerate.


class ImportanceEvaluator(SizeEvaluator):
    """Exact and cheap: convolutions differ in how much accuracy goes with them."""

    def __init__(self, names: list[str], seed: int) -> None:
        weights = np.random.default_rng(seed).exponential(size=len(names))
        self.importance = dict(zip(names, weights / weights.sum(), strict=True))

    def __call__(self, students, teacher):
        return [
            Score(1 - 0.9 * self._lost(s) ** 1.5, s.num_params, s.num_macs)
            for s in students
        ]

    def _lost(self, student) -> float:
        names = student.positions
        return sum(w for name, w in self.importance.items() if name not in names)


def all_rewards(env: RemoveEnv) -> list[float]:
    """Of every student that legal decisions lead to; all-keep first, greediest last."""
    start, found = env.start, []
    reference = env.evaluator.score_teacher(env.teacher)

    def go_on(position, taken, left):
        if position == len(env.decisions):
            (score,) = env.evaluator([start.keep(left)], env.teacher)
            found.append(env.reward(score, reference))
            return
        go_on(position + 1, taken, left)
        removal = env.decisions[position]
        wiring = legal_removal(start, taken, left, removal)
        if wiring is not None:
            go_on(position + 1, (*taken, removal), wiring)

    go_on(0, (), start.rewire(set(), set()))
    return found


def test_reinforce_finds_the_best_of_all_students():
    env = RemoveEnv("vgg19_bn", evaluator="size")
    convolutions = [la.name for la in env.start.layers if la.kind == "Conv"]
    env.evaluator = ImportanceEvaluator(convolutions, seed=0)
    rewards = all_rewards(env)
    best = max(rewards)
    assert len(rewards) >= 2**12
    assert best > rewards[0] + 0.1  # all-keep is far from it
    assert best > rewards[-1] + 0.1  # so is removing all that can be

    greedy, random_best = [], []
    for seed in SEEDS:
        policy = make_policy(env, seed=seed)
        train(env, policy, updates=100, rollouts=5, seed=seed)
        greedy.append(play(env, policy).reward)
        found: list[float] = []
        random_search(
            env,
            episodes=500,
            seed=seed,
            on_episode=lambda reward, info, found=found: found.append(reward),
        )
        random_best.append(max(found))
    assert min(greedy) >= 0.99 * best, [reward / best for reward in greedy]
    assert np.median(greedy) > np.median(random_best)
