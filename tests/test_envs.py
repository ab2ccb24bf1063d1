import json
import math
import re

import numpy as np
import pytest
from gymnasium.wrappers import RecordVideo

from n2n_gym.envs import RemoveEnv, ShrinkEnv
from n2n_gym.envs.columns import COLUMNS
from n2n_gym.envs.observation import CHOICE, CURRENT, DECIDED
from n2n_gym.envs.render import draw_ansi
from n2n_gym.envs.window import Window
from n2n_gym.evaluators.evaluator import SizeEvaluator
from n2n_gym.evaluators.rungs import Rung
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import RATES
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.pytorch.trace import trace
from n2n_gym.rewards import Failure, Score
from n2n_gym.teachers.teacher import Teacher
from tests.networks import PlainNet

QUICK = Rung("quick", recipe=Recipe(1, 32, learning_rate=0.1, logit_weight=0.1))


@pytest.fixture
def remove_env(teacher) -> RemoveEnv:
    env = RemoveEnv(teacher, evaluator="size")
    env.reset(seed=0)
    return env


@pytest.fixture
def shrink_env(teacher) -> ShrinkEnv:
    env = ShrinkEnv(teacher, evaluator="size")
    env.reset(seed=0)
    return env


def play(env, actions) -> tuple[float, dict]:
    env.reset()
    for action in actions:
        _, reward, is_over, _, info = env.step(action)
        if is_over:
            return reward, info
    raise AssertionError("the episode did not end")


def play_masked(env, rng: np.random.Generator) -> dict:
    _, info = env.reset()
    is_over = False
    while not is_over:
        legal = np.flatnonzero(info["action_mask"])
        _, _, is_over, truncated, info = env.step(rng.choice(legal))
        assert not truncated
    return info


# Rewards and the last info.


def test_keeping_all_gives_the_teacher_and_no_reward(remove_env, teacher):
    reward, info = play(remove_env, [0] * len(remove_env.decisions))
    assert reward == 0.0  # C is 0
    assert info["fingerprint"] == teacher.architecture.fingerprint
    assert info["compression"] == 0.0


def test_the_reward_is_the_papers_and_comes_at_the_end(remove_env, teacher):
    rewards, is_over, info = [], False, {"action_mask": [1, 1]}
    while not is_over:
        action = int(info["action_mask"][1])
        _, reward, is_over, _, info = remove_env.step(action)
        rewards.append(reward)
    rho = info["num_params"] / teacher.architecture.num_params
    assert rewards[:-1] == [0.0] * (len(rewards) - 1)
    assert rewards[-1] == pytest.approx(1 - rho**2)  # equal accuracy
    assert isinstance(rewards[-1], float)


def test_the_last_info_is_flat_and_describes_the_student(remove_env):
    _, info = play(remove_env, [1] + [0] * (len(remove_env.decisions) - 1))
    student = Architecture.from_json(info["student"])
    assert student == remove_env.student
    assert info["fingerprint"] == student.fingerprint
    assert info["num_params"] == student.num_params
    assert info["num_macs"] == student.num_macs
    assert info["accuracy"] == 1.0
    assert info["cost"] == 0.0
    assert info["is_success"] is True
    assert info["illegal"] is False
    assert all(isinstance(x, float) for x in info["reward_vector"])
    arrays = ("action_mask", "reward_vector")
    plain = {k: v for k, v in info.items() if k not in arrays}
    assert all(isinstance(v, (bool, int, float, str)) for v in plain.values())


def test_a_distilled_student_is_scored_against_its_teacher(teacher):
    env = RemoveEnv(teacher, evaluator=DistillationEvaluator(QUICK, device="cpu"))
    actions = [1] + [0] * (len(env.decisions) - 1)
    reward, info = play(env, actions)
    compression = 1 - info["num_params"] / teacher.architecture.num_params
    share = info["accuracy"] / teacher.score.accuracy
    assert reward == pytest.approx(compression * (2 - compression) * share)
    assert info["cost"] > 1.0
    assert info["is_success"] == (info["accuracy"] >= teacher.score.accuracy - 0.01)
    assert play(env, actions)[0] == reward


class Broken(SizeEvaluator):
    """Scores nobody, and counts how often it was asked."""

    def __init__(self, *, retryable: bool) -> None:
        self.retryable = retryable
        self.calls = 0

    def __call__(self, students, teacher):
        self.calls += 1
        return [Failure("out of paper", self.retryable)]


@pytest.mark.parametrize(("retryable", "calls"), [(True, 2), (False, 1)])
def test_a_failed_evaluation_ends_with_minus_one_and_the_reason(
    teacher, retryable, calls
):
    env = RemoveEnv(teacher, evaluator=Broken(retryable=retryable))
    reward, info = play(env, [0] * len(env.decisions))
    assert reward == -1.0
    assert info["error"] == "out of paper"
    assert info["is_success"] is False
    assert env.evaluator.calls == calls


def test_a_reward_of_ones_own(teacher):
    env = RemoveEnv(
        teacher, evaluator="size", reward=lambda student, teacher: student.num_params
    )
    reward, info = play(env, [0] * len(env.decisions))
    assert reward == info["num_params"]
    by_name = RemoveEnv(teacher, evaluator="size", reward="tests.test_envs:half")
    assert play(by_name, [0] * len(env.decisions))[0] == 0.5


@pytest.mark.parametrize(
    "value", [None, "much", 1j, [0.5, 0.5], math.nan, math.inf, -math.inf], ids=repr
)
def test_a_reward_that_is_no_finite_number_is_refused(value, teacher):
    env = RemoveEnv(teacher, evaluator="size", reward=lambda *_: value)
    with pytest.raises(
        ValueError, match=rf"a reward must be .*{re.escape(str(value))}"
    ):
        play(env, [0] * len(env.decisions))


@pytest.mark.parametrize(
    "reward",
    [lambda: 1, lambda student: 1, lambda a, b, c: 1, 0.5, {"n2n": 1}],
    ids=["none", "one", "three", "number", "mapping"],
)
def test_a_reward_is_a_function_of_two_scores(reward, teacher):
    with pytest.raises(ValueError, match=r"reward .* must be a function that takes 2"):
        RemoveEnv(teacher, evaluator="size", reward=reward)


@pytest.mark.parametrize("reward", ["n2n", "accuracy", "log_size"])
def test_a_teacher_that_is_never_right_is_refused(reward, teacher):
    def never(students, teacher):
        return [Score(0.5, s.num_params, s.num_macs) for s in students]

    never.score_teacher = lambda teacher: Score(
        0.0, teacher.architecture.num_params, teacher.architecture.num_macs
    )
    env = RemoveEnv(teacher, evaluator=never, reward=reward)
    with pytest.raises(ValueError, match="has a validation accuracy of 0"):
        play(env, [0] * len(env.decisions))


@pytest.mark.parametrize("keep", [3, 1.5, True, object()], ids=type)
def test_what_is_to_be_kept_has_names(keep, teacher):
    with pytest.raises(ValueError, match="keep must be names of layers"):
        RemoveEnv(teacher, evaluator="size", keep=keep)


def half(student: Score, teacher: Score) -> float:
    return 0.5


# Masks and illegal actions.


def first_illegal(env: RemoveEnv) -> list[int]:
    """A legal prefix after which removing is illegal: the branch, then its unit."""
    names = [(d.form, d.name) for d in env.decisions]
    assert names[0][0] == "branch"
    assert names[1][0] == "unit"
    return [1]


def test_masks_are_fresh_int8_and_all_ones_at_the_end(remove_env):
    _, info = remove_env.reset()
    masks = [info["action_mask"]]
    is_over = False
    while not is_over:
        *_, is_over, _, info = remove_env.step(0)
        masks.append(info["action_mask"])
    assert {mask.dtype for mask in masks} == {np.dtype(np.int8)}
    assert len({id(mask) for mask in masks}) == len(masks)
    assert all(mask[0] == 1 for mask in masks)
    assert masks[-1].tolist() == [1, 1]
    assert remove_env.action_masks().dtype == bool


def test_an_illegal_action_is_taken_for_keep(remove_env):
    remove_env.reset(options={"decisions": first_illegal(remove_env)})
    before = remove_env.student
    observation, reward, is_over, _, info = remove_env.step(1)
    assert info["illegal"] is True
    assert (reward, is_over) == (0.0, False)
    assert remove_env.student == before
    assert observation[remove_env._layout.row_of[1], CHOICE] == 0


def test_an_illegal_action_can_end_the_episode(teacher):
    env = RemoveEnv(teacher, evaluator="size", illegal="end")
    env.reset(options={"decisions": first_illegal(env)})
    _, reward, is_over, truncated, info = env.step(1)
    assert (reward, is_over, truncated) == (-1.0, True, False)
    assert info["illegal"] is True
    assert info["error"] == "illegal action"
    assert info["action_mask"].tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(0)


@pytest.mark.parametrize("action", [2, -1, 0.5, "keep", None, [0, 1], np.nan])
def test_an_action_out_of_range_is_refused(remove_env, action):
    with pytest.raises(ValueError, match=r"is not in Discrete\(2\)"):
        remove_env.step(action)


@pytest.mark.parametrize("action", [1.5, np.nan, [0.0, 0.0], "half", None])
def test_a_continuous_action_out_of_range_is_refused(teacher, action):
    env = ShrinkEnv(teacher, evaluator="size", action="continuous")
    env.reset()
    with pytest.raises(ValueError, match="is not in Box"):
        env.step(action)


def test_paddings_have_illegal_rates_and_masks_that_tell(teacher):
    env = ShrinkEnv(teacher, evaluator="size", variables=("width", "kernel", "padding"))
    _, info = env.reset()
    seen = set()
    is_over = False
    while not is_over:
        mask = info["action_mask"]
        if env.current.variable == "padding":
            seen.add(mask.tobytes())
        elif env.current.variable == "width":
            assert mask.all()
        else:  # a 3x3 kernel stays from .7 on, and is 1x1 below
            assert np.flatnonzero(mask).tolist() == [5, 9]
        assert mask[-1] == 1
        _, _, is_over, _, info = env.step(9)
    assert len(seen) == 2  # in blocks all but 1.0 is illegal; at the stem none is


def test_random_masked_play_of_paddings_always_builds(teacher):
    env = ShrinkEnv(teacher, evaluator="size", variables=("width", "kernel", "padding"))
    rng = np.random.default_rng(0)
    for _ in range(30):
        info = play_masked(env, rng)
        assert "error" not in info
        build(env.student, "meta")


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("resnet34", "vgg19_bn", "mobilenet_v2")
        ),
    ],
)
def test_a_thousand_episodes_of_random_play_all_build(name):
    env = RemoveEnv(name, evaluator="size")
    rng = np.random.default_rng(0)
    built = set()
    for _ in range(1000):
        info = play_masked(env, rng)
        assert info["illegal"] is False
        if info["fingerprint"] not in built:
            network = build(env.student, "meta")
            counted = sum(p.numel() for p in network.parameters())
            assert counted == info["num_params"]
            built.add(info["fingerprint"])
    assert built


# Observations.


def test_only_the_columns_that_say_so_change(remove_env):
    first, _ = remove_env.reset()
    assert remove_env.observation_space.contains(first)
    is_over, decided = False, 0
    while not is_over:
        current = np.flatnonzero(remove_env.observation[:, CURRENT])
        assert current.tolist() == [remove_env._layout.row_of[decided]]
        observation, _, is_over, _, _ = remove_env.step(1)
        decided += 1
        stays = [
            place
            for place, name in enumerate(COLUMNS)
            if name not in ("current", "decided", "choice", "left")
            and not name.startswith(("taken_", "least_"))
        ]
        np.testing.assert_array_equal(observation[:, stays], first[:, stays])
        assert observation[:, DECIDED].sum() == decided
        assert remove_env.observation_space.contains(observation)
    assert observation[:, CURRENT].sum() == 0


def test_rows_are_the_decisions_and_the_fixed_units_between_them(remove_env):
    observation, _ = remove_env.reset()
    fixed = observation[:, COLUMNS.index("fixed")]
    assert len(fixed) - fixed.sum() == len(remove_env.decisions)
    assert fixed[0] == 1  # the stem
    assert fixed[-1] == 1  # the classifier


def test_single_layers_have_rows_with_the_fixed_ones_between_them(task):
    plain = trace(PlainNet(), task.input_shape)
    teacher = Teacher("plain", task, plain, provide=lambda: None)
    env = RemoveEnv(teacher, granularity="layer", evaluator="size")
    observation, _ = env.reset()
    # ten layers but for the flatten, of which conv1, hidden and fc are fixed
    assert len(observation) == 10
    assert len(env.decisions) == 7
    fixed = observation[:, COLUMNS.index("fixed")]
    assert fixed.tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 0, 1]
    assert observation[:, COLUMNS.index("decides_layer")].sum() == 7


def test_where_there_is_nothing_to_decide_that_is_said(task):
    plain = trace(PlainNet(), task.input_shape)
    teacher = Teacher("plain", task, plain, provide=lambda: None)
    with pytest.raises(ValueError, match="plain has nothing to decide with"):
        RemoveEnv(teacher, granularity="block", evaluator="size")


def test_shares_of_a_rows_parameters_are_exact(remove_env, teacher):
    observation, _ = remove_env.reset()
    last = observation[-1, COLUMNS.index("params_share")]
    assert last == pytest.approx(170 / teacher.architecture.num_params)  # 16*10+10


def test_the_choice_of_a_shrinkage_is_its_rate(shrink_env):
    observation, *_ = shrink_env.step(3)
    assert observation[shrink_env._layout.row_of[0], CHOICE] == pytest.approx(RATES[3])


def test_max_rows_pads_with_zeros(teacher):
    env = RemoveEnv(teacher, evaluator="size", max_rows=50)
    observation, _ = env.reset()
    assert observation.shape == (50, len(COLUMNS))
    assert not observation[-20:].any()
    with pytest.raises(ValueError, match="max_rows=3 is too few for small"):
        RemoveEnv(teacher, evaluator="size", max_rows=3)


# Forks and replays.


def test_a_prefix_of_decisions_is_replayed(remove_env):
    remove_env.step(1)
    observation, _, _, _, info = remove_env.step(0)
    replayed, replayed_info = remove_env.reset(options={"decisions": [1, 0]})
    np.testing.assert_array_equal(replayed, observation)
    np.testing.assert_array_equal(replayed_info["action_mask"], info["action_mask"])


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ([1, 1], r"action 1 is not legal at decision 1"),
        ([0] * 99, "proper prefix"),
        ([2], r"not in Discrete\(2\)"),
        (None, "must be a list of actions, got None"),
    ],
)
def test_a_prefix_that_is_none_is_refused(remove_env, decisions, message):
    with pytest.raises(ValueError, match=message):
        remove_env.reset(options={"decisions": decisions})


def test_an_unknown_option_is_refused(remove_env):
    with pytest.raises(ValueError, match=r"unknown options \['prefix'\]"):
        remove_env.reset(options={"prefix": [1]})


# Shrinkage.


def test_shrinkage_starts_from_what_removal_left(remove_env, teacher):
    _, info = play(remove_env, [1] + [0] * (len(remove_env.decisions) - 1))
    env = ShrinkEnv(teacher, start=info["student"], evaluator="size")
    _, kept = play(env, [9] * len(env.decisions))
    assert kept["fingerprint"] == info["fingerprint"]
    assert kept["compression"] == info["compression"]  # against the teacher
    _, small = play(env, [0] * len(env.decisions))
    assert small["num_params"] < info["num_params"] / 50


def test_a_start_can_be_an_architecture_or_a_file(remove_env, teacher, tmp_path):
    play(remove_env, [1] + [0] * (len(remove_env.decisions) - 1))
    student = remove_env.student
    path = tmp_path / "architecture.json"
    path.write_text(student.to_json())
    for start in (student, path, str(path)):
        assert ShrinkEnv(teacher, start=start, evaluator="size").start == student


def edited(teacher, of: str, **changes) -> str:
    """The teacher's JSON with fields of one layer changed."""
    entries = json.loads(teacher.architecture.to_json())
    (layer,) = (entry for entry in entries["layers"] if entry["name"] == of)
    layer.update(changes)
    return json.dumps(entries)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "conv9"}, "the teacher has no layer 'conv9'"),
        ({"bias": True}, "conv1 has bias=True, there False"),
        ({"kernel": [5, 5]}, r"conv1 has the kernel \(5, 5\), there \(3, 3\)"),
        ({"padding": [2, 2]}, r"conv1 has the padding \(2, 2\), there \(1, 1\)"),
        ({"width": 0}, "width must be an integer >= 1, got 0"),
        ({"kernel": [3]}, r"kernel must be two integers >= 1, got \(3,\)"),
        ({"stride": [0, 0]}, r"stride must be two integers >= 1, got \(0, 0\)"),
        ({"dilation": [2, 2]}, r"conv1 has dilation=\(2, 2\), there \(1, 1\)"),
    ],
)
def test_a_start_with_other_layers_is_no_descendant(teacher, changes, message):
    with pytest.raises(ValueError, match=message):
        ShrinkEnv(teacher, start=edited(teacher, "conv1", **changes), evaluator="size")


def test_a_start_that_is_wider_is_no_descendant(teacher):
    start = edited(teacher, "block3.conv1", width=17)
    with pytest.raises(ValueError, match=r"block3.conv1 has the width 17, there 16"):
        ShrinkEnv(teacher, start=start, evaluator="size")


def test_a_start_can_be_the_folder_of_a_run(remove_env, teacher, tmp_path):
    start = remove_env.student
    (tmp_path / "architecture.json").write_text(start.to_json())
    assert ShrinkEnv(teacher, start=tmp_path, evaluator="size").start == start


def test_a_start_that_cannot_be_read_is_refused(teacher, tmp_path):
    with pytest.raises(ValueError, match=r"start='.*nothing.json' cannot be read"):
        ShrinkEnv(teacher, start=tmp_path / "nothing.json", evaluator="size")
    path = tmp_path / "half.json"
    path.write_text(teacher.architecture.to_json()[:100])
    for start in (path, '{"a', 3):
        with pytest.raises(ValueError, match=r"start='.*' cannot be read .* accepted"):
            ShrinkEnv(teacher, start=start, evaluator="size")


@pytest.mark.parametrize(("value", "rate"), [(-1.0, 0.1), (0.0, 0.55), (1.0, 1.0)])
def test_continuous_actions_are_rates_mapped_linearly(teacher, value, rate):
    env = ShrinkEnv(teacher, evaluator="size", action="continuous")
    _, info = env.reset()
    assert "action_mask" not in info
    observation, *_ = env.step(np.array([value]))
    assert observation[env._layout.row_of[0], CHOICE] == pytest.approx(rate)


# Bad arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"illegal": "stop"}, "unknown illegal='stop'; known: keep, end"),
        ({"granularity": "atom"}, "unknown granularity 'atom'; known: unit"),
        ({"device": "tpu9"}, "unknown device 'tpu9'"),
        ({"task": 3}, "a task must be a name, a path or a Task, got 3"),
        ({"teacher": 3}, "a teacher must be a name, .* got 3"),
        ({"max_rows": 0}, "max_rows=0 is too few"),
        ({"reward": ":"}, "reward ':' cannot be imported"),
        ({"task": "digit"}, "unknown task 'digit'; known: digits"),
        ({"teacher": "resnet19"}, "unknown teacher 'resnet19'"),
        ({"reward": "gold"}, "unknown reward 'gold'; known: n2n"),
        ({"evaluator": "guess"}, "unknown evaluator 'guess'"),
        ({"evaluator": "no_such:thing"}, "cannot be imported"),
        ({"render_mode": "smell"}, "unknown render_mode='smell'"),
    ],
)
def test_a_bad_argument_is_named_with_what_is_accepted(arguments, message):
    with pytest.raises(ValueError, match=message):
        RemoveEnv(**{"teacher": "resnet18", **arguments})


def test_an_unknown_kind_of_action_is_refused(teacher):
    with pytest.raises(ValueError, match="unknown action='fuzzy'; known: discrete"):
        ShrinkEnv(teacher, action="fuzzy")


def test_an_untraceable_teacher_names_the_node():
    with pytest.raises(ValueError, match=r"uses attention; node '\w+' \(call"):
        RemoveEnv("swin_t")


def test_stepping_before_reset_is_refused(teacher):
    with pytest.raises(RuntimeError, match="call reset"):
        RemoveEnv(teacher, evaluator="size").step(0)


# Rendering.


def test_the_text_marks_the_decision_and_what_is_gone(teacher):
    env = RemoveEnv(teacher, evaluator="size", render_mode="ansi")
    env.reset()
    env.step(1)
    text = env.render()
    heading, *lines = text.splitlines()
    assert heading == f"decision 2 of {len(env.decisions)}: remove unit block1.conv1?"
    assert "removed" in next(line for line in lines if "block1.conv1" in line)
    assert next(line for line in lines if line.startswith(">")).split()[1] in {
        d.name for d in env.decisions
    } | {"block1.conv1"}
    assert lines[-1].endswith("x smaller")
    assert f"{env.student.num_params:,} of" in lines[-1]
    assert RemoveEnv(teacher, evaluator="size").render() is None


def test_pictures_have_one_size_and_show_what_changes(teacher):
    env = RemoveEnv(teacher, evaluator="size", render_mode="rgb_array")
    env.reset()
    before = env.render()
    env.step(1)
    after = env.render()
    assert before.dtype == np.uint8
    assert before.shape == after.shape
    assert (before != after).any()


def test_text_fits_narrow_terminals(teacher):
    env = RemoveEnv(teacher, evaluator="size")
    env.reset()
    for columns in (40, 80, 200):
        _, *rows, _ = draw_ansi(env.scene, columns).splitlines()
        assert max(map(len, rows)) <= columns
        assert any("█" in row for row in rows)


def test_people_see_every_step_in_a_window(teacher, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    frames = []
    show = Window.show
    monkeypatch.setattr(
        Window, "show", lambda self, f, s: (frames.append(f), show(self, f, 0.01))
    )
    env = RemoveEnv(teacher, evaluator="size", render_mode="human")
    env.reset()
    _, _, is_over, _, _ = env.step(1)
    assert not is_over
    assert env.render() is None
    assert len(frames) == 3
    assert (frames[0] != frames[1]).any()
    drawn = env._window._picture.get_array()
    assert (np.asarray(drawn) == frames[-1]).all()
    env.close()
    assert env._window is None


def test_an_episode_is_recorded_as_a_video(teacher, tmp_path):
    pytest.importorskip("moviepy")
    env = RemoveEnv(teacher, evaluator="size", render_mode="rgb_array")
    env = RecordVideo(env, tmp_path / "videos", disable_logger=True)
    env.reset()
    is_over = False
    while not is_over:
        _, _, is_over, _, _ = env.step(0)
    env.close()
    (video,) = tmp_path.glob("videos/*.mp4")
    assert video.stat().st_size > 1_000
