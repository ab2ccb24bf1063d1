"""The environments in batches: ``gym.make_vec`` and what it makes."""

import copy
import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st

import n2n_gym  # noqa: F401  registers the ids
from envs_registry import ENVIRONMENTS
from n2n_gym.envs import CompressionVectorEnv, RemoveEnv, ShrinkEnv
from n2n_gym.envs.observation import CURRENT
from n2n_gym.evaluators.evaluator import SizeEvaluator
from n2n_gym.evaluators.rungs import INHERIT
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.rewards import Failure

IDS = sorted(ENVIRONMENTS)
STAGES = {"remove": RemoveEnv, "shrink": ShrinkEnv}


class Recorder(SizeEvaluator):
    """Scores by size, and keeps the fingerprints of the batches it was given.

    It fails the students whose fingerprints are among ``failures``, as often as told.
    """

    def __init__(self, failures: dict[str, int] | None = None, *, retryable=True):
        self.batches: list[list[str]] = []
        self.failures = failures or {}
        self.retryable = retryable

    def __call__(self, students, teacher):
        self.batches.append([student.fingerprint for student in students])
        scores = super().__call__(students, teacher)
        return [
            self._result(student.fingerprint, score)
            for student, score in zip(students, scores, strict=True)
        ]

    def _result(self, fingerprint, score):
        if not self.failures.get(fingerprint):
            return score
        self.failures[fingerprint] -= 1
        return Failure("out of paper", self.retryable)


def assert_equal(one, two) -> None:
    """Compare results of a vector's reset or step: values, types and shapes."""
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, tuple):
        assert len(one) == len(two)
        for mine, theirs in zip(one, two, strict=True):
            assert_equal(mine, theirs)
    elif isinstance(one, np.ndarray) and one.dtype == object:
        assert_equal(tuple(one), tuple(two))
    elif isinstance(one, np.ndarray):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    else:
        assert one == two


def play_rows(env: gym.vector.VectorEnv, rows) -> tuple[np.ndarray, dict]:
    """The rewards and infos of the step that ends all rows; (N, T) actions."""
    env.reset()
    for actions in np.array(rows).T:
        _, rewards, terminated, _, infos = env.step(actions)
    assert terminated.all()
    return rewards, infos


def remove_rows(
    teacher, num_envs: int, *, autoreset_mode="NextStep", evaluator="size", **arguments
) -> CompressionVectorEnv:
    env = RemoveEnv(teacher, evaluator=evaluator, **arguments)
    return CompressionVectorEnv(env, num_envs, autoreset_mode=autoreset_mode)


def num_decisions(teacher) -> int:
    return len(RemoveEnv(teacher, evaluator="size").decisions)


# It is what Gymnasium's own vector is.


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("stage", STAGES)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_envs=st.integers(1, 4))
def test_it_behaves_as_gymnasiums_vector(teacher, stage, mode, seed, num_envs):
    compare_vectors(STAGES[stage](teacher, evaluator="size"), mode, seed, num_envs)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("stage", STAGES)
def test_it_behaves_as_gymnasiums_vector_with_networks_scored(teacher, stage, mode):
    evaluator = DistillationEvaluator(INHERIT, device="cpu", precision="float32")
    compare_vectors(STAGES[stage](teacher, evaluator=evaluator), mode, 0, 3)


def compare_vectors(env, mode, seed, num_envs) -> None:
    """Play more than two episodes at random, illegal actions and all."""
    rng = np.random.default_rng(seed)
    ours = CompressionVectorEnv(env, num_envs, autoreset_mode=mode)
    makers = [lambda: copy.deepcopy(env)] * num_envs
    theirs = SyncVectorEnv(makers, autoreset_mode=mode)
    assert ours.action_space == theirs.action_space
    assert ours.observation_space == theirs.observation_space
    assert ours.metadata == theirs.metadata
    assert_equal(ours.reset(seed=seed), theirs.reset(seed=seed))
    num_ended = 0
    for _ in range(2 * len(env.decisions) + 5):
        actions = rng.integers(env.action_space.n, size=num_envs)
        step = ours.step(actions)
        assert_equal(step, theirs.step(actions))
        num_ended += step[2].sum()
        if mode is AutoresetMode.DISABLED:
            mask = step[2] | (rng.random(num_envs) < 0.02)
            if mask.any():
                again = ours.reset(options={"reset_mask": mask})
                assert_equal(again, theirs.reset(options={"reset_mask": mask}))
    assert num_ended or mode is AutoresetMode.DISABLED


def test_continuous_actions_are_one_a_row(teacher):
    env = ShrinkEnv(teacher, evaluator="size", action="continuous")
    ours = CompressionVectorEnv(env, 2)
    theirs = SyncVectorEnv([lambda: copy.deepcopy(env)] * 2)
    assert_equal(ours.reset(seed=1), theirs.reset(seed=1))
    ours.action_space.seed(0)
    for _ in range(len(env.decisions)):
        actions = ours.action_space.sample()
        step = ours.step(actions)
        assert_equal(step, theirs.step(actions))
    assert step[2].all()


def test_arrays_are_fresh_at_every_step(teacher):
    env = remove_rows(teacher, 2)
    first, infos = env.reset()
    kept, mask = first.copy(), infos["action_mask"].copy()
    env.step(np.array([1, 1]))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(infos["action_mask"], mask)
    assert env.action_masks().dtype == bool
    assert env.action_masks().shape == (2, 2)


# Scoring.


def test_equal_students_are_scored_once_and_in_one_batch(teacher):
    recorder = Recorder()
    env = remove_rows(teacher, 4, evaluator=recorder)
    keep = [0] * num_decisions(teacher)
    drop = [1, *keep[1:]]
    rewards, infos = play_rows(env, [keep, drop, keep, drop])
    assert recorder.batches == [list(infos["fingerprint"][:2])]
    assert rewards[0] == rewards[2] == 0.0
    assert rewards[1] == rewards[3] > 0.0
    assert infos["student"][1] == infos["student"][3]


def test_a_failure_in_one_row_leaves_the_others_alone(teacher):
    whole = teacher.architecture.fingerprint
    env = remove_rows(teacher, 2, evaluator=Recorder({whole: 9}, retryable=False))
    keep = [0] * num_decisions(teacher)
    rewards, infos = play_rows(env, [keep, [1, *keep[1:]]])
    assert rewards[0] == -1.0
    assert rewards[1] > 0.0
    assert infos["error"].tolist() == ["out of paper", None]
    assert infos["_error"].tolist() == [True, False]
    assert infos["_accuracy"].tolist() == [False, True]
    assert infos["is_success"].tolist() == [False, True]
    assert len(env.envs[0].evaluator.batches) == 1


@pytest.mark.parametrize(("times", "reward"), [(1, 0.0), (2, -1.0)])
def test_failures_that_may_pass_get_one_more_batch(teacher, times, reward):
    whole = teacher.architecture.fingerprint
    recorder = Recorder({whole: times})
    env = remove_rows(teacher, 3, evaluator=recorder)
    keep = [0] * num_decisions(teacher)
    rewards, infos = play_rows(env, [keep, [1, *keep[1:]], keep])
    other = infos["fingerprint"][1]
    assert recorder.batches == [[whole, other], [whole]]
    assert rewards[0] == rewards[2] == reward


def test_rows_cannot_have_evaluators_of_their_own(teacher):
    env = remove_rows(teacher, 2)
    with pytest.raises(ValueError, match="all rows share one evaluator"):
        env.set_attr("evaluator", [Recorder(), Recorder()])
    recorder = Recorder()
    env.set_attr("evaluator", recorder)
    assert env.get_attr("evaluator") == (recorder, recorder)


# Rows that end early.


def illegal_second(teacher) -> list[int]:
    """Actions with an illegal second one: the unit's branch is already gone."""
    names = [(d.form, d.name) for d in RemoveEnv(teacher, evaluator="size").decisions]
    assert names[0][0] == "branch"
    assert names[1][0] == "unit"
    return [1, 1] + [0] * (len(names) - 2)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_row_that_ended_at_an_illegal_action_idles_until_all_have(teacher, mode):
    recorder = Recorder()
    env = remove_rows(
        teacher, 2, illegal="end", autoreset_mode=mode, evaluator=recorder
    )
    bad = illegal_second(teacher)
    rows = np.array([bad, [0] * len(bad)])
    start, _ = env.reset()
    env.step(rows[:, 0])
    last, rewards, terminated, _, infos = env.step(rows[:, 1])
    assert rewards.tolist() == [-1.0, 0.0]
    assert terminated.tolist() == [True, False]
    is_same_step = mode is AutoresetMode.SAME_STEP
    ends = infos["final_info"] if is_same_step else infos
    assert ends["error"].tolist() == ["illegal action", None]
    assert last[0, :, CURRENT].sum() == 0
    for t in range(2, len(bad)):
        observations, rewards, terminated, truncated, infos = env.step(rows[:, t])
        assert rewards[0] == 0.0
        assert terminated.tolist() == [False, t == len(bad) - 1]
        assert not truncated.any()
        if not (is_same_step and terminated.any()):
            np.testing.assert_array_equal(observations[0], last[0])
            assert infos["idle"].tolist() == [True, False]
            assert infos["action_mask"][0].tolist() == [1, 1]
    assert recorder.batches == [[teacher.architecture.fingerprint]]
    if mode is AutoresetMode.DISABLED:
        with pytest.raises(RuntimeError, match="call reset"):
            env.step(rows[:, 0])
        observations, infos = env.reset()
    elif mode is AutoresetMode.NEXT_STEP:
        observations, rewards, terminated, _, infos = env.step(rows[:, 0])
        assert not rewards.any()
        assert not terminated.any()
    np.testing.assert_array_equal(observations, start)
    assert "idle" not in infos


def test_a_reset_mask_ends_the_idling(teacher):
    env = remove_rows(teacher, 2, illegal="end")
    start, _ = env.reset()
    env.step(np.array([1, 0]))
    env.step(np.array([1, 0]))
    options = {"reset_mask": np.array([True, False])}
    observations, infos = env.reset(options=options)
    assert "reset_mask" in options  # the caller's, left as it was
    assert infos["_action_mask"].tolist() == [True, False]
    np.testing.assert_array_equal(observations[0], start[0])
    assert "idle" not in env.step(np.array([0, 0]))[4]


def test_idling_is_not_counted_as_episodes(teacher):
    env = RecordEpisodeStatistics(remove_rows(teacher, 2, illegal="end"))
    bad = illegal_second(teacher)
    rows = np.array([bad, [0] * len(bad)])
    env.reset()
    for actions in rows.T:
        *_, infos = env.step(actions)
    assert env.episode_count == 2
    assert list(env.return_queue) == [-1.0, 0.0]
    assert list(env.length_queue) == [2, len(bad)]
    assert infos["episode"]["l"].tolist() == [0, len(bad)]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_episode_statistics_are_recorded_in_every_mode(teacher, mode):
    env = RecordEpisodeStatistics(remove_rows(teacher, 3, autoreset_mode=mode))
    length = num_decisions(teacher)
    rewards, infos = play_rows(env, [[0] * length, [1] * length, [0] * length])
    np.testing.assert_array_equal(infos["episode"]["r"], rewards)
    assert infos["episode"]["l"].tolist() == [length] * 3


# Restoring, copying, asking.


def test_a_prefix_is_replayed_in_all_rows_or_one_in_each(teacher):
    env = remove_rows(teacher, 2)
    single = RemoveEnv(teacher, evaluator="size")
    expected = {p: single.reset(options={"decisions": [p, 0]})[0] for p in (0, 1)}
    same, _ = env.reset(options={"decisions": [1, 0]})
    np.testing.assert_array_equal(same, [expected[1], expected[1]])
    each, _ = env.reset(options={"decisions": [[0, 0], [1, 0]]})
    np.testing.assert_array_equal(each, [expected[0], expected[1]])


def test_seeds_go_up_from_row_to_row(teacher):
    env = remove_rows(teacher, 3)
    env.reset(seed=7)
    assert env.get_attr("np_random_seed") == (7, 8, 9)
    env.reset(seed=[3, 3, 5])
    assert env.get_attr("np_random_seed") == (3, 3, 5)


def test_copies_go_on_independently_and_share_the_teacher(teacher):
    env = remove_rows(teacher, 2)
    env.reset()
    env.step(np.array([1, 0]))
    twin = copy.deepcopy(env)
    assert twin.envs[0].teacher is env.envs[1].teacher is teacher
    one, two = env.step(np.array([0, 1])), twin.step(np.array([0, 1]))
    assert_equal(one, two)
    twin.step(np.array([0, 1]))
    assert env.get_attr("position") == (2, 2)
    assert twin.get_attr("position") == (3, 3)


def test_rows_can_be_asked_and_drawn(teacher):
    env = remove_rows(teacher, 2, render_mode="rgb_array")
    env.reset(options={"decisions": [[0], [1]]})
    one, two = env.render()
    assert one.shape == two.shape
    assert (one != two).any()
    assert env.render_mode == "rgb_array"
    assert len(env.call("render")) == 2
    assert env.call("position") == (1, 1)
    env.set_attr("reward", lambda student, teacher: 0.5)
    assert env.get_attr("reward")[0] is env.get_attr("reward")[1]
    env.close()
    assert env.closed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"autoreset_mode": "Later"}, "unknown autoreset_mode='Later'; known: NextSt"),
    ],
)
def test_bad_arguments_are_named(teacher, arguments, message):
    with pytest.raises(ValueError, match=message):
        remove_rows(teacher, **{"num_envs": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": [1]}, ValueError, "there must be 2 seeds, one for each row, got 1"),
        ({"options": {"decisions": [[1]]}}, ValueError, "must be 2 prefixes"),
        ({"options": {"decisions": [[1], []]}}, ValueError, r"one length, got \[1, 0"),
        ({"options": {"prefix": [1]}}, ValueError, r"unknown options \['prefix'\]"),
        ({"options": {"reset_mask": [True, True]}}, TypeError, "array of booleans"),
        ({"options": {"reset_mask": np.zeros(2, bool)}}, ValueError, "True somewhere"),
        ({"options": {"reset_mask": np.ones(3, bool)}}, ValueError, r"shape \(2,\)"),
    ],
)
def test_a_reset_that_fits_no_batch_is_refused(teacher, arguments, error, message):
    with pytest.raises(error, match=message):
        remove_rows(teacher, 2).reset(**arguments)


def test_a_bad_action_leaves_all_rows_where_they_were(teacher):
    env = remove_rows(teacher, 2)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step([0, 0])
    env.reset()
    with pytest.raises(ValueError, match=r"is not in Discrete\(2\)"):
        env.step([1, 2])
    with pytest.raises(ValueError, match="must be 2 actions, one for each row, got 3"):
        env.step([1, 0, 0])
    assert env.get_attr("position") == (0, 0)


# By name.


@pytest.mark.parametrize("prefix", ["", "n2n_gym:"])
@pytest.mark.parametrize("name", IDS)
def test_make_vec_gives_it_by_default(name, prefix):
    env = gym.make_vec(
        prefix + name, num_envs=2, autoreset_mode="SameStep", evaluator="size"
    )
    assert isinstance(env, CompressionVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert json.loads(env.spec.to_json())["id"] == name
    again = gym.make_vec(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert_equal(again.reset(seed=0), env.reset(seed=0))
    assert again.num_envs == 2


@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_vector_is_there_when_asked_for(name):
    env = gym.make_vec(name, num_envs=2, vectorization_mode="sync", evaluator="size")
    assert isinstance(env, SyncVectorEnv)
    env.close()


@pytest.mark.slow
def test_processes_are_there_when_asked_for():
    env = gym.make_vec(
        "n2n_gym:N2NRemove-v0",
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"context": "spawn"},
        evaluator="size",
    )
    assert env.reset(seed=0)[0].shape[0] == 2
    env.close()
