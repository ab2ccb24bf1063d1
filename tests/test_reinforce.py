import copy
import inspect
import json
import math
import multiprocessing
import random
import time
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from n2n_agents.kept import load_policy, save_policy
from n2n_agents.players import Player
from n2n_agents.policies import NO_ACTION, make_policy
from n2n_agents.reinforce import (
    MODERN,
    PAPER,
    advantages,
    log_probabilities,
    mean_entropy,
    moving_average,
    play,
    reinforce_loss,
    train,
)
from n2n_agents.rollouts import play_all
from n2n_agents.search import random_search
from n2n_gym.envs import CompressionVectorEnv, RemoveEnv, ShrinkEnv
from n2n_gym.evaluators.evaluator import SizeEvaluator
from n2n_gym.networks.decisions import legal_removal
from n2n_gym.rewards import Score

SEEDS = range(5)


@pytest.fixture
def remove_env(teacher) -> RemoveEnv:
    return RemoveEnv(teacher, evaluator="size")


@pytest.fixture
def shrink_env(teacher) -> ShrinkEnv:
    return ShrinkEnv(teacher, evaluator="size")


# The arithmetic, by hand.


def test_a_return_is_the_undiscounted_sum(remove_env):
    policy = make_policy(remove_env)
    columns = policy.columns_in(remove_env)
    player = Player(policy, columns, None)
    player.act(*first_step(remove_env))
    assert player.episode([0.25, 0.0, 0.5], {}).reward == 0.75


def first_step(env):
    observation, info = env.reset()
    return observation, info["action_mask"]


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


def test_plain_policies_are_the_papers_for_each_stage(remove_env, shrink_env):
    removal, shrinkage = (
        make_policy(env, is_plain=True) for env in (remove_env, shrink_env)
    )
    assert removal.lstm.bidirectional
    assert not shrinkage.lstm.bidirectional
    assert (removal.lstm.num_layers, removal.lstm.hidden_size) == (2, 30)
    assert (shrinkage.lstm.num_layers, shrinkage.lstm.hidden_size) == (2, 30)


def read_by(policy, env) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, no actions, and no states, as the policy reads them."""
    observation = torch.from_numpy(env.reset()[0])[None]
    columns = policy.columns_in(env)
    actions = torch.full(observation.shape[:2], NO_ACTION)
    states = torch.zeros(*observation.shape[:2], len(columns.states))
    return observation[..., columns.rows], actions, states


@pytest.mark.parametrize("kind", ["autoregressive", "two-pass"])
@pytest.mark.parametrize("stage", ["remove_env", "shrink_env"])
def test_logits_depend_on_earlier_decisions_alone(kind, stage, request):
    env = request.getfixturevalue(stage)
    policy = make_policy(env, kind)
    rows, actions, states = read_by(policy, env)
    other = actions.clone()
    other[0, 5] = 1
    one, two = policy(rows, actions, states), policy(rows, other, states)
    assert torch.equal(one[0, :6], two[0, :6])
    assert not torch.equal(one[0, 6], two[0, 6])


@pytest.mark.parametrize("kind", ["autoregressive", "two-pass"])
def test_logits_depend_on_the_target_and_on_what_is_taken(kind, remove_env):
    policy = make_policy(remove_env, kind)
    rows, actions, states = read_by(policy, remove_env)
    for name in ("target_params", "taken_macs", "least_params", "left"):
        other = states.clone()
        other[..., policy.states.index(name)] = 0.5  # in all rows alike
        assert not torch.equal(
            policy(rows, actions, states), policy(rows, actions, other)
        )


def test_a_policy_is_told_the_limit_as_it_is(teacher):
    bound = teacher.architecture.num_params / 4
    env = ShrinkEnv(teacher, evaluator="size", constraints={"num_params": bound})
    policy = make_policy(env)
    episode = play(env, policy)
    targets = episode.states[:, policy.states.index("target_params")]
    decided = episode.actions != NO_ACTION
    assert torch.allclose(targets[decided], torch.tensor(0.25))


@pytest.mark.parametrize("kind", ["bidirectional", "autoregressive", "two-pass"])
def test_rows_that_fill_up_change_nothing(kind, teacher):
    env = RemoveEnv(teacher, evaluator="size")
    padded = RemoveEnv(teacher, evaluator="size", max_rows=40)
    policy = make_policy(env, kind)
    one, other = (play(each, policy) for each in (env, padded))
    assert torch.equal(one.actions, other.actions)
    one, other = (log_probabilities(policy, [each])[0] for each in (one, other))
    assert torch.equal(one, other)


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


# Vectors.


def vector_of(env, kind: str) -> gym.vector.VectorEnv:
    """Five rows of an environment: our own, or Gymnasium's in an autoreset mode."""
    if kind == "own":
        return CompressionVectorEnv(env, 5)
    return gym.vector.SyncVectorEnv(
        [lambda: copy.deepcopy(env)] * 5, autoreset_mode=kind
    )


@pytest.mark.parametrize("kind", ["own", "NextStep", "SameStep"])
@pytest.mark.parametrize("stage", ["remove_env", "shrink_env"])
def test_a_training_is_the_same_in_a_vector(stage, kind, request):
    single = request.getfixturevalue(stage)
    policies, found = [], []
    for env in (single, vector_of(single, kind)):
        episodes = []
        policies.append(make_policy(env, seed=1))
        train(
            env,
            policies[-1],
            replace(PAPER, rollouts=10),
            updates=3,
            seed=1,
            on_episode=episodes.append,
        )
        found.append(episodes)
    assert len(found[0]) == len(found[1]) == 30
    for one, two in zip(*found, strict=True):
        assert torch.equal(one.actions, two.actions)
        assert torch.equal(one.masks, two.masks)
        assert one.reward == two.reward
        assert_equal_infos(one.info, two.info)
    one, two = (policy.state_dict() for policy in policies)
    assert all(torch.equal(one[name], two[name]) for name in one)


def assert_equal_infos(one: dict, two: dict) -> None:
    one, two = dict(one), dict(two)
    masks = one.pop("action_mask"), two.pop("action_mask")
    assert masks[0].tolist() == masks[1].tolist()
    assert json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)


@pytest.mark.parametrize("kind", ["own", "NextStep", "SameStep"])
@pytest.mark.parametrize("stage", ["remove_env", "shrink_env"])
def test_a_random_search_is_the_same_in_a_vector(stage, kind, request):
    single = request.getfixturevalue(stage)
    found = []
    for env in (single, vector_of(single, kind)):
        scored = []
        random_search(
            env,
            episodes=10,
            seed=2,
            on_episode=lambda reward, info, scored=scored: scored.append(
                (reward, info["fingerprint"])
            ),
        )
        found.append(scored)
    assert found[0] == found[1]
    assert len(set(found[0])) > 5


def test_an_episode_does_not_depend_on_those_before_it(shrink_env):
    found = []
    for episodes in (1, 3):
        random_search(
            shrink_env,
            episodes=episodes,
            on_episode=lambda reward, info: found.append(info["fingerprint"]),
        )
    assert found[0] == found[1]
    assert len(set(found[1:])) == 3


def test_the_students_of_an_update_are_scored_together(teacher):
    evaluator = BatchSizes()
    env = CompressionVectorEnv(ShrinkEnv(teacher, evaluator=evaluator), 5)
    train(env, make_policy(env), updates=3)
    assert evaluator.sizes == [5, 5, 5]


class BatchSizes(SizeEvaluator):
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, students, teacher):
        self.sizes.append(len(students))
        return super().__call__(students, teacher)


def test_rollouts_that_do_not_fill_a_vector_are_refused(remove_env):
    env = CompressionVectorEnv(remove_env, 4)
    for learn in (
        lambda: train(env, make_policy(env), replace(PAPER, rollouts=6)),
        lambda: random_search(env, episodes=6),
    ):
        with pytest.raises(ValueError, match="a multiple of num_envs=4, got 6"):
            learn()


class UntilOne(gym.Env):
    """Ends at the first 1; an episode is as long as its actor likes."""

    observation_space = gym.spaces.Box(0, 99, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length = 0
        return self._observation(), {"action_mask": np.ones(2, np.int8)}

    def step(self, action):
        self.length += 1
        info = {"action_mask": np.ones(2, np.int8)}
        if action:
            info |= {"length": self.length, "name": f"of {self.length}"}
        return self._observation(), 0.5, bool(action), False, info

    def _observation(self):
        return np.array([self.length], np.float32)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_rows_may_end_at_different_times(mode):
    lengths = [3, 1, 5, 2]
    acts = [
        lambda observation, mask, n=n: int(observation[0] == n - 1) for n in lengths
    ]
    vector = gym.vector.SyncVectorEnv([UntilOne] * 2, autoreset_mode=mode)
    for env in (UntilOne(), vector):
        played = list(play_all(env, acts))
        assert [rewards for rewards, _ in played] == [[0.5] * n for n in lengths]
        assert [info["length"] for _, info in played] == lengths
        assert [info["name"] for _, info in played] == [f"of {n}" for n in lengths]


# What is learned.


def test_shrinkage_learns(shrink_env):
    """With accuracy left out, the smallest student is the best."""
    policy = make_policy(shrink_env)
    train(shrink_env, policy, MODERN, updates=40)
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
    """Rewards of every legal student; all-keep first, the greediest last."""
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


@pytest.mark.slow
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
        train(env, policy, MODERN, updates=100, seed=seed)
        greedy.append(play(env, policy).reward)
        found: list[float] = []
        random_search(
            env,
            episodes=500,
            seed=seed,
            on_episode=lambda reward, info, found=found: found.append(reward),
        )
        random_best.append(max(found))
    shares = sorted(reward / best for reward in greedy)
    assert shares[0] >= 0.97, shares
    assert shares[1] >= 0.99, shares
    assert np.median(greedy) > np.median(random_best)


# Going on.


def everything(policy, checkpoint) -> list[torch.Tensor]:
    """All numbers of a training: weights, moments, moving averages, updates."""
    content = torch.load(checkpoint, weights_only=True)
    states = content["optimiser"]["state"].values()
    numbers = [content["baseline"], content["square"], content["updates"]]
    return [
        *policy.state_dict().values(),
        *(torch.as_tensor(v) for state in states for v in state.values()),
        *(torch.tensor(n, dtype=torch.float64) for n in numbers),
    ]


def is_equal(one, two) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def train_and_keep(env, path, updates, **more) -> list[torch.Tensor]:
    policy = make_policy(env, seed=1)
    train(env, policy, MODERN, updates=updates, seed=1, checkpoint=path, **more)
    return everything(policy, path)


@pytest.mark.parametrize("stage", ["remove_env", "shrink_env"])
def test_a_training_goes_on_as_if_it_had_never_stopped(stage, request, tmp_path):
    env = request.getfixturevalue(stage)
    whole = train_and_keep(env, tmp_path / "whole.pt", 5)
    seen: list[int] = []
    for updates in (2, 5):
        path, seen = tmp_path / "parts.pt", []
        parts = train_and_keep(
            env, path, updates, on_update=lambda update, s=seen: s.append(update.number)
        )
    assert is_equal(whole, parts)
    assert seen == [1, 2, 3, 4, 5]
    assert {p.name for p in tmp_path.iterdir()} == {"whole.pt", "parts.pt"}


def train_in_child(path: str) -> None:
    torch.set_num_threads(1)
    env = ShrinkEnv("vgg11_bn", evaluator="size")
    train_and_keep(env, path, 30)


@pytest.mark.slow
def test_ten_kills_leave_the_result_as_it_is(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["n2n_agents.reinforce", "n2n_gym.envs"])

    def start(name: str) -> multiprocessing.Process:
        child = context.Process(target=train_in_child, args=(str(tmp_path / name),))
        child.start()
        return child

    started = time.perf_counter()
    whole = start("whole.pt")
    whole.join()
    seconds = time.perf_counter() - started
    rng, kills = random.Random(0), 0
    while kills < 10:
        child = start("killed.pt")
        child.join(seconds * rng.uniform(0, 0.3))
        if child.exitcode is not None:  # done before the last kill: once more, anew
            assert child.exitcode == 0
            (tmp_path / "killed.pt").unlink()
            continue
        child.kill()
        child.join()
        kills += 1
    last = start("killed.pt")
    last.join()
    assert (whole.exitcode, last.exitcode) == (0, 0)
    one, two = (
        everything(load_policy(tmp_path / name), tmp_path / name)
        for name in ("whole.pt", "killed.pt")
    )
    assert is_equal(one, two)


def test_a_checkpoint_of_another_training_is_refused(remove_env, tmp_path):
    path = tmp_path / "training.pt"
    train_and_keep(remove_env, path, 1)
    policy = make_policy(remove_env)
    with pytest.raises(ValueError, match="another training: its seed is 1, not 2"):
        train(remove_env, policy, MODERN, seed=2, checkpoint=path)
    with pytest.raises(ValueError, match="another training: its settings is"):
        train(remove_env, policy, PAPER, seed=1, checkpoint=path)
    with pytest.raises(ValueError, match="its subject is , not another teacher"):
        train(
            remove_env,
            policy,
            MODERN,
            seed=1,
            checkpoint=path,
            subject="another teacher",
        )
    plain = make_policy(remove_env, is_plain=True)
    with pytest.raises(ValueError, match="another training: its policy is"):
        train(remove_env, plain, MODERN, seed=1, checkpoint=path)
    save_policy(policy, path)
    with pytest.raises(ValueError, match="no training that can be resumed"):
        train(remove_env, policy, MODERN, seed=1, checkpoint=path)


def test_a_policy_of_another_stage_is_refused(remove_env, shrink_env):
    for learn in (play, train):
        with pytest.raises(ValueError, match=r"has 10 actions and the environment 2"):
            learn(remove_env, make_policy(shrink_env))


def test_a_policy_says_which_columns_it_misses(remove_env, tmp_path):
    policy = make_policy(remove_env)
    policy.columns[3] = policy.arguments["columns"][3] = "dilation"
    save_policy(policy, tmp_path / "policy.pt")
    with pytest.raises(ValueError, match="reads the columns dilation, which the"):
        play(remove_env, load_policy(tmp_path / "policy.pt"))


def test_a_policy_reads_columns_wherever_they_are(remove_env, monkeypatch):
    policy = make_policy(remove_env)
    expected = play(remove_env, policy)
    columns = list(remove_env.metadata["columns"])
    order = random.Random(0).sample(range(len(columns)), len(columns))

    class Shuffled(gym.ObservationWrapper):
        metadata = {**remove_env.metadata, "columns": [columns[i] for i in order]}

        def observation(self, observation):
            return observation[:, order]

    found = play(Shuffled(remove_env), policy)
    assert torch.equal(found.actions, expected.actions)
    assert torch.equal(found.states, expected.states)


def test_a_policy_of_another_contract_is_refused_with_its_columns(tmp_path):
    path = tmp_path / "old.pt"
    arguments = {"kind": "bidirectional", "columns": ["type", "kernel"]}
    torch.save({"policy": arguments, "weights": {}}, path)
    with pytest.raises(ValueError, match=r"another contract; .*: type, kernel"):
        load_policy(path)


# The paper's own.


@pytest.mark.parametrize("stage", ["remove_env", "shrink_env"])
def test_a_plain_policy_reads_the_papers_columns_alone(stage, request):
    env = request.getfixturevalue(stage)
    policy = make_policy(env, is_plain=True)
    assert policy.columns == [
        *("type", "kernel", "stride", "padding", "outputs", "skip_start", "skip_end")
    ]
    directions = 2 if stage == "remove_env" else 1
    assert policy.head.in_features == directions * 30
    assert policy.states == []
    assert [env.metadata["columns"][i] for i in policy.columns_in(env).rows] == (
        policy.columns
    )


def test_the_papers_settings_are_the_defaults():
    assert (PAPER.rollouts, PAPER.learning_rate) == (5, 3e-3)
    assert (PAPER.entropy_bonus, PAPER.is_scaled) == (0.0, False)
    assert inspect.signature(train).parameters["settings"].default is PAPER


# Between teachers.


@pytest.mark.parametrize("stage", [RemoveEnv, ShrinkEnv])
def test_a_policy_plays_networks_of_other_sizes_and_families(stage, tmp_path):
    small, deep, other = (
        stage(name, evaluator="size") for name in ("resnet18", "resnet34", "vgg11_bn")
    )
    policy = make_policy(small)
    train(small, policy, MODERN, updates=2)
    before = [p.clone() for p in policy.parameters()]
    for env in (deep, other):
        assert play(env, policy).reward > 0
    assert is_equal(before, policy.parameters())
    train(deep, policy, MODERN, updates=1)
    assert not is_equal(before, policy.parameters())
