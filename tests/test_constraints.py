"""Limits on what a student takes."""

from __future__ import annotations

import copy
import math
from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from n2n_gym.envs import CompressionVectorEnv, RemoveEnv, ShrinkEnv
from n2n_gym.envs.compression import CompressionEnv
from n2n_gym.envs.limits import LimitSettings
from n2n_gym.envs.wrappers import (
    MultiObjective,
    ProgressiveConstraint,
    ProgressiveConstraintVector,
    epsilon_at,
)
from n2n_gym.limits.constraints import Limit, penalised, read_limits
from n2n_gym.resources import ResourceError
from n2n_gym.rewards import Saving, Score
from tests.networks import DenseNet, GatedNet

TEN = 10  # actions of shrinkage


def play(env, actions) -> tuple[float, dict]:
    env.reset()
    for action in actions:
        _, reward, is_over, _, info = env.step(action)
    assert is_over
    return reward, info


def keep_all(env) -> list[int]:
    return [env.unwrapped.metadata["keep"]] * len(env.unwrapped.decisions)


def shallow(student, teacher) -> float:
    return len(student.layers)


# Limits.


def test_limits_by_name_are_upper_bounds_but_of_accuracy():
    size, accuracy = read_limits({"num_params": 1000, "accuracy": 0.9})
    assert size.excess({"num_params": 1200}) == 200
    assert size.excess({"num_params": 900}) == -100
    assert accuracy.excess({"accuracy": 0.8}) == pytest.approx(0.1)
    assert accuracy.excess({"accuracy": 0.9}) <= 0


def test_a_limit_may_be_a_weighted_sum():
    limit = Limit("both", {"num_params": 1, "num_macs": 0.1}, 300)
    assert read_limits([limit]) == (limit,)
    assert limit.excess({"num_params": 200, "num_macs": 2000}) == 100
    assert limit.can_be_kept({"num_params": 200, "num_macs": 1000})
    assert not limit.can_be_kept({"num_params": 200, "num_macs": 1001})


@pytest.mark.parametrize("bound", [0, -1, math.nan, math.inf, "1M"])
def test_a_bound_that_makes_no_sense_is_named(bound):
    with pytest.raises(ValueError, match="num_params"):
        read_limits({"num_params": bound})


def test_numpys_numbers_are_bounds_too():
    (limit,) = read_limits({"num_params": np.int64(1000)})
    assert limit.bound == 1000
    assert read_limits({"latency_ms": np.float32(2)})[0].bound == 2


def test_limits_have_names_of_their_own():
    two = [Limit("size", {"num_params": 1}, bound) for bound in (10, 20)]
    with pytest.raises(ValueError, match="two limits have the name 'size'"):
        read_limits(two)


def test_an_accuracy_is_a_share():
    with pytest.raises(ValueError, match="95"):
        read_limits({"accuracy": 95})


def test_what_is_no_limit_is_refused():
    with pytest.raises(ValueError, match="num_params"):
        read_limits(["num_params"])


def test_weights_without_upper_bounds_forbid_nothing():
    assert Limit("more", {"num_params": -1}, -1000).can_be_kept({"num_params": 1})
    assert Limit("any", {"latency_ms": 1}, 1e-9).can_be_kept({"num_params": 1})


@pytest.mark.parametrize("reward", [-1.0, 0.0, 0.9])
def test_a_penalty_is_hard_at_0_and_none_at_1(reward):
    assert penalised(reward, 0.0) == -1.0
    assert penalised(reward, 1.0) == pytest.approx(reward)


# In the environments.


@pytest.mark.parametrize("epsilon", [0.0, 0.25])
def test_a_student_that_breaks_a_limit_earns_what_epsilon_leaves(teacher, epsilon):
    whole = teacher.architecture.num_params
    constraints = {"num_params": whole / 2, "num_macs": 1e12}
    env = RemoveEnv(teacher, evaluator="size", constraints=constraints, epsilon=epsilon)
    reward, info = play(env, keep_all(env))
    assert reward == pytest.approx(epsilon * (0.0 + 1) - 1)  # R is 0 of the teacher
    assert info["violated"] == "num_params"
    assert info["excess_num_params"] == pytest.approx(whole / 2)
    assert info["excess_num_macs"] < 0
    assert info["is_success"] is False


def test_a_student_within_the_limits_earns_its_reward(teacher):
    whole = teacher.architecture
    env = ShrinkEnv(
        teacher, evaluator="size", constraints={"num_params": whole.num_params / 2}
    )
    reward, info = play(env, [0] * len(env.decisions))
    rho = info["num_params"] / whole.num_params
    assert reward == pytest.approx(1 - rho**2)
    assert info["violated"] == ""
    assert info["is_success"] is True
    assert isinstance(info["num_params"], int)


def test_a_limit_on_accuracy(teacher):
    env = RemoveEnv(teacher, evaluator="inherit", constraints={"accuracy": 1.0})
    reward, info = play(env, keep_all(env))
    assert info["excess_accuracy"] == pytest.approx(1 - info["accuracy"])
    assert (reward == -1.0) is (info["accuracy"] < 1)


def test_rows_are_penalised_as_the_environment_is(teacher):
    def make():
        return ShrinkEnv(teacher, evaluator="size", constraints={"num_params": 2000})

    vector, single = CompressionVectorEnv(make(), 3), make()
    rng = np.random.default_rng(0)
    actions = rng.integers(TEN, size=(len(single.decisions), 3))
    vector.reset()
    for row in actions:
        _, rewards, _, _, infos = vector.step(row)
    for i in range(3):
        reward, info = play(single, actions[:, i].tolist())
        assert rewards[i] == reward
        assert infos["violated"][i] == info["violated"]
        assert infos["excess_num_params"][i] == info["excess_num_params"]
        np.testing.assert_array_equal(infos["reward_vector"][i], info["reward_vector"])


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, math.nan])
def test_an_epsilon_outside_0_to_1_is_refused(teacher, epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        RemoveEnv(teacher, evaluator="size", epsilon=epsilon)


# Resources.


def test_own_resources_are_measured_and_limited(teacher):
    env = RemoveEnv(
        teacher,
        evaluator="size",
        resources={"depth": shallow},
        constraints={"depth": 3, "tests.test_constraints:shallow": 1000},
    )
    _, info = play(env, keep_all(env))
    assert info["depth"] == len(teacher.architecture.layers)
    assert info["tests.test_constraints:shallow"] == info["depth"]
    assert info["violated"] == "depth"


def test_an_unknown_resource_is_named_with_those_there_are(teacher):
    with pytest.raises(ValueError, match=r"latency_s.*num_params.*latency_ms.*mean"):
        RemoveEnv(teacher, evaluator="size", constraints={"latency_s": 2})


def test_a_resource_is_a_function_of_two(teacher):
    with pytest.raises(ValueError, match="must be a function that takes 2 arguments"):
        RemoveEnv(teacher, evaluator="size", resources={"depth": lambda: 1.0})


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, "much", None])
def test_a_resource_that_gives_no_number_of_the_teacher_is_an_error(teacher, value):
    env = RemoveEnv(teacher, evaluator="size", resources={"odd": lambda s, t: value})
    with pytest.raises(ResourceError, match="odd of the teacher must be a finite"):
        play(env, keep_all(env))


def test_a_resource_that_fails_for_a_student_is_its_failure(teacher):
    def breaks(student, teacher) -> float:
        if student is teacher or student == teacher:
            return 1.0
        raise TimeoutError("the board did not answer")

    env = ShrinkEnv(teacher, evaluator="size", resources={"board": breaks})
    reward, info = play(env, [0] * len(env.decisions))
    assert reward == -1.0
    assert "board" in info["error"]
    assert "TimeoutError: the board did not answer" in info["error"]
    assert info["is_success"] is False


@pytest.mark.parametrize("name", ["num_params", "accuracy", "cost", "error"])
def test_a_resource_is_called_as_nothing_else_is(teacher, name):
    with pytest.raises(ValueError, match=f"cannot be called '{name}'; taken: num_pa"):
        RemoveEnv(teacher, evaluator="size", resources={name: shallow})


def test_of_what_the_teacher_does_not_take_nothing_is_saved(teacher):
    def spilled(student, teacher) -> float:
        return 0.0

    env = ShrinkEnv(teacher, evaluator="size", resources={"spilled": spilled})
    _, info = play(env, [0] * len(env.decisions))
    assert info["spilled"] == 0
    assert info["reward_vector"][env.objectives.index("spilled")] == 0


def test_a_student_is_measured_once(teacher):
    asked = []

    def count(student, teacher) -> float:
        asked.append(student.fingerprint)
        return 1.0

    env = ShrinkEnv(teacher, evaluator="size", resources={"count": count})
    for _ in range(3):
        play(env, [0] * len(env.decisions))
    assert len(asked) == 2  # the teacher, the student


# Strict masks.


def students_of(env: CompressionEnv, actions) -> dict:
    """The last info, and whether each action was in the mask as it was taken."""
    _, info = env.reset()
    allowed = []
    for action in actions:
        allowed.append(bool(info["action_mask"][action]))
        _, _, _, _, info = env.step(action)
    return {**info, "allowed": all(allowed)}


@pytest.mark.parametrize("module", [DenseNet, GatedNet])
@pytest.mark.parametrize("resource", ["num_params", "num_macs"])
def test_no_removal_that_keeps_the_limits_is_ever_masked(task, module, resource):
    from tests.test_edits import start_of

    start = start_of(module.__name__)
    for share in (0.3, 0.6, 0.9):
        bound = share * getattr(start, resource)
        env = RemoveEnv(
            module(),
            task,
            evaluator="size",
            constraints={resource: bound},
            strict=True,
        )
        plain = RemoveEnv(module(), task, evaluator="size")
        found = set()
        for actions in product((0, 1), repeat=len(env.decisions)):
            free = students_of(plain, actions)
            if not free["allowed"]:
                continue
            strict = students_of(env, actions)
            if not strict["violated"]:
                assert strict["allowed"]
                found.add(strict["fingerprint"])
        assert found or share < 0.9


def test_no_shrinkage_that_keeps_the_limits_is_ever_masked(teacher):
    bound = 0.2 * teacher.architecture.num_params
    env = ShrinkEnv(
        teacher,
        variables=("width",),  # of kernels' actions equal ones are masked anyway
        evaluator="size",
        constraints={"num_params": bound},
        strict=True,
    )
    rng = np.random.default_rng(0)
    kept = 0
    for _ in range(60):
        actions = rng.integers(rng.integers(1, TEN + 1), size=len(env.decisions))
        info = students_of(env, actions.tolist())
        if not info["violated"]:
            kept += 1
            assert info["allowed"]
    assert kept


def test_whoever_follows_a_strict_mask_of_shrinkage_keeps_the_limit(teacher):
    bound = 0.1 * teacher.architecture.num_params
    env = ShrinkEnv(
        teacher, evaluator="size", constraints={"num_params": bound}, strict=True
    )
    rng = np.random.default_rng(0)
    for _ in range(20):
        _, info = env.reset()
        is_over = False
        while not is_over:
            mask = info["action_mask"]
            np.testing.assert_array_equal(mask, env.action_masks())
            assert info["infeasible"] is False
            _, _, is_over, _, info = env.step(rng.choice(np.flatnonzero(mask)))
        assert info["violated"] == ""


def test_where_nothing_keeps_the_limits_the_mask_is_of_what_is_legal(teacher):
    env = ShrinkEnv(
        teacher, evaluator="size", constraints={"num_params": 1}, strict=True
    )
    _, info = env.reset()
    assert info["infeasible"] is True
    assert info["action_mask"].all()


def test_strict_masks_are_those_of_a_copy_and_a_replay(teacher):
    env = ShrinkEnv(
        teacher, evaluator="size", constraints={"num_params": 1500}, strict=True
    )
    env.reset()
    taken = []
    for _ in range(3):
        action = int(np.flatnonzero(env.action_masks())[-1])
        env.step(action)
        taken.append(action)
        twin = copy.deepcopy(env)
        np.testing.assert_array_equal(twin.action_masks(), env.action_masks())
        replayed = copy.deepcopy(env)
        replayed.reset(options={"decisions": taken})
        np.testing.assert_array_equal(replayed.action_masks(), env.action_masks())


def test_continuous_actions_have_no_mask_to_be_strict_with(teacher):
    with pytest.raises(ValueError, match="continuous"):
        ShrinkEnv(teacher, evaluator="size", action="continuous", strict=True)


# Limits that close in.


@pytest.fixture
def constrained(teacher) -> RemoveEnv:
    return RemoveEnv(teacher, evaluator="size", constraints={"num_params": 1})


def test_epsilon_falls_from_1_to_0_and_never_rises(constrained):
    env = ProgressiveConstraint(constrained, episodes=4)
    seen = []
    for _ in range(7):
        seen.append(env.epsilon)
        reward, info = play(env, keep_all(env))
        assert info["violated"] == "num_params"
        assert reward == pytest.approx(penalised(0.0, seen[-1]))
    assert seen[:5] == [1.0, 0.75**4, 0.5**4, 0.25**4, 0.0]
    assert seen[5:] == [0.0, 0.0]


def test_by_default_limits_have_closed_in_after_75_episodes(constrained):
    env = ProgressiveConstraint(constrained)
    for _ in range(74):
        play(env, keep_all(env))
    assert 0 < env.epsilon < 1e-6
    play(env, keep_all(env))
    assert env.epsilon == 0


def test_progress_is_said_and_does_not_go_back(constrained):
    env = ProgressiveConstraint(constrained, episodes=None)
    play(env, keep_all(env))
    assert env.epsilon == 1.0
    for progress, wanted in ((0.5, 0.5), (0.2, 0.5), (1.0, 1.0), (0.0, 1.0)):
        env.set_progress(progress)
        assert env.epsilon == epsilon_at(wanted) == constrained.epsilon
    with pytest.raises(ValueError, match=r"1\.5"):
        env.set_progress(1.5)


def test_a_fork_goes_its_own_way_from_where_it_was(constrained):
    env = ProgressiveConstraint(constrained, episodes=4)
    play(env, keep_all(env))
    fork = copy.deepcopy(env)
    assert fork.epsilon == env.epsilon == 0.75**4
    play(fork, keep_all(fork))
    assert fork.epsilon == fork.unwrapped.epsilon == 0.5**4
    assert env.epsilon == env.unwrapped.epsilon == 0.75**4
    with pytest.raises(ValueError, match="episodes"):
        ProgressiveConstraint(constrained, episodes=0)


def test_rows_of_a_vector_share_their_progress(constrained):
    env = ProgressiveConstraintVector(CompressionVectorEnv(constrained, 2), episodes=8)
    seen = []
    for _ in range(5):
        seen.append(env.epsilon)
        env.reset()
        for action in keep_all(constrained):
            _, rewards, _, _, _ = env.step(np.full(2, action))
        np.testing.assert_allclose(rewards, penalised(0.0, seen[-1]))
    assert seen == [1.0, 0.75**4, 0.5**4, 0.25**4, 0.0]
    env.set_progress(0.0)
    assert env.epsilon == 0.0


def test_rows_of_gymnasiums_vector_count_for_themselves(teacher):
    def make():
        env = RemoveEnv(teacher, evaluator="size", constraints={"num_params": 1})
        return ProgressiveConstraint(env, episodes=2)

    env = SyncVectorEnv([make, make])
    env.reset()
    for action in [0] * len(env.envs[0].unwrapped.decisions):
        env.step(np.full(2, action))
    assert env.get_attr("epsilon") == (0.5**4, 0.5**4)


def test_a_vectors_copy_goes_its_own_way(constrained):
    env = ProgressiveConstraintVector(CompressionVectorEnv(constrained, 2), episodes=8)
    fork = copy.deepcopy(env)
    fork.set_progress(1.0)
    assert fork.epsilon == 0.0
    assert {each.epsilon for each in fork.unwrapped.envs} == {0.0}
    assert env.epsilon == 1.0
    assert {each.epsilon for each in env.unwrapped.envs} == {1.0}


def test_other_environments_are_refused():
    with pytest.raises(ValueError, match="CartPole"):
        ProgressiveConstraint(gym.make("CartPole-v1"))


# A reward with parts.


def test_the_reward_vector_has_a_part_for_each_objective(teacher):
    env = MultiObjective(
        ShrinkEnv(teacher, evaluator="size", resources={"depth": shallow})
    )
    assert env.unwrapped.objectives == ("accuracy", "num_params", "num_macs", "depth")
    assert env.reward_space.shape == (4,)
    env.reset()
    for _ in env.unwrapped.decisions:
        _, reward, is_over, _, info = env.step(0)
        assert reward.shape == (4,)
        assert env.reward_space.contains(reward)
        assert reward.any() == is_over
    whole = teacher.architecture
    assert reward.tolist() == pytest.approx(
        [1.0, info["compression"], 1 - info["num_macs"] / whole.num_macs, 0.0]
    )


def test_other_environments_have_no_reward_space(teacher):
    assert not hasattr(ShrinkEnv(teacher, evaluator="size"), "reward_space")


def test_mo_gymnasiums_wrappers_take_it(teacher):
    wrappers = pytest.importorskip("mo_gymnasium").wrappers
    env = wrappers.LinearReward(
        MultiObjective(ShrinkEnv(teacher, evaluator="size")), np.array([1, 0.5, 0.25])
    )
    env.reset()
    for _ in env.unwrapped.decisions:
        _, reward, _, _, info = env.step(2)
    assert reward == pytest.approx(info["vector_reward"] @ [1, 0.5, 0.25])


def test_what_takes_more_than_the_teacher_is_worth_no_less_than_a_failure():
    teacher = Score(0.9, 10, 10, resources={"latency_ms": 1.0})
    slower = teacher._replace(resources={"latency_ms": 1.3})
    assert -1 < Saving("latency_ms")(slower, teacher) < 0
    slowest = teacher._replace(resources={"latency_ms": 2.0})
    assert Saving("latency_ms")(slowest, teacher) == -1


def test_a_limit_by_itself_is_one():
    limit = Limit("x", {"num_params": 1}, 3)
    assert read_limits(limit) == (limit,)


@pytest.mark.parametrize(
    "given",
    [{3: 4}, {None: 4}, {"num_params": 10**400}, {"num_params": True}, 5, "abc"],
    ids=["3", "None", "huge", "True", "number", "text"],
)
def test_what_is_no_mapping_of_bounds_by_name_is_refused(given):
    with pytest.raises(ValueError, match=r"limit|constraints must be a mapping"):
        read_limits(given)


@pytest.mark.parametrize("bound", [100, 1e3, 12_345, 7e5, 0.1])
def test_a_bound_is_drawn_from_its_range(bound):
    settings = LimitSettings.read({"num_params": (bound, bound)}, "sample")
    (limit,) = settings.draw(np.random.default_rng(0), None)
    assert limit.bound == bound
