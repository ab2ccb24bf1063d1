"""The parts of training policies before: what is drawn, predicted, learned."""

import json
import math
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from n2n_agents.batched import play_batch
from n2n_agents.policies import NO_ACTION
from n2n_gym.envs import CompressionVectorEnv
from n2n_gym.evaluators.evaluator import SizeEvaluator
from n2n_gym.networks.decisions import removals, shrink, shrinkages, without
from n2n_gym.networks.scaling import uniform_student, widest_in_proportion
from n2n_gym.pretraining import samples as drawing
from n2n_gym.pretraining.correction import compare, first_number, score_fresh
from n2n_gym.pretraining.encoding import DESCRIBED, LEFT, NUM_FEATURES, Encoder
from n2n_gym.pretraining.judging import Judged, judge, summarise
from n2n_gym.pretraining.learning import (
    LEAST_SPREAD,
    RATE,
    Arena,
    Source,
    fresh_policy,
    group_advantages,
    learn,
    leave_one_out,
    play_groups,
)
from n2n_gym.pretraining.lines import add_lines, read_lines
from n2n_gym.pretraining.predictor import (
    Ensemble,
    EnsembleEvaluator,
    Examples,
    Member,
    cautious,
    fit_member,
    load_member,
    rank_correlations,
    save_member,
    statistics,
)
from n2n_gym.pretraining.samples import (
    FRESH_WEIGHT,
    UNIFORM,
    Drawer,
    Sample,
    draw_samples,
    examples_of,
    random_actions,
    read_samples,
    turn,
    width_probabilities,
)
from n2n_gym.pretraining.spent import Spent
from n2n_gym.pretraining.stages import Target, aim, draw_target, make_env, starts
from n2n_gym.pretraining.suite import Subject
from n2n_gym.rewards import Failure, Score

SUBJECT = Subject("small", "digits", "small")
BOTH = ("num_params", "num_macs")


def suite_of(**given):
    """A suite in few numbers."""
    usual = {
        "stages": ("compress", "remove", "shrink"),
        "students": 12,
        "fresh": 2,
        "groups": 2,
        "rollouts": 3,
        "resources": BOTH,
        "targets": (0.05, 0.5),
    }
    return SimpleNamespace(**{**usual, **given})


class ByWidth:
    """Real scores in a moment: the larger, the more accurate; some fail."""

    def __init__(self, fails=lambda student: False):
        self.scored, self.fails = [], fails

    def __call__(self, students, teacher):
        self.scored += [student.fingerprint for student in students]
        return [
            Failure("it is so", False)
            if self.fails(student)
            else Score(
                0.9 * (student.num_params / teacher.architecture.num_params) ** 0.1,
                student.num_params,
                student.num_macs,
            )
            for student in students
        ]

    def score_teacher(self, teacher):
        whole = teacher.architecture
        return Score(0.9, whole.num_params, whole.num_macs)


@pytest.fixture(scope="module")
def source(teacher):
    """The teacher with an ensemble that was fitted to hardly anything."""
    encoder = Encoder(teacher.architecture)
    ensemble = Ensemble([fit_member([made_up(encoder)], k, epochs=1) for k in range(2)])
    return Source(SUBJECT, teacher, EnsembleEvaluator(ensemble, encoder, 0.9))


def made_up(encoder, num=40):
    """Students at one rate of all widths, accuracy as ``ByWidth`` has it."""
    whole = encoder.teacher
    widths = shrinkages(whole, ("width",))
    rates = [(k + 1) / num for k in range(num)]
    students = [shrink(whole, dict.fromkeys(widths, rate)) for rate in rates]
    found = [(s.num_params / whole.num_params) ** 0.1 for s in students]
    rows, sizes = map(torch.from_numpy, encoder.batch(students))
    accuracies = torch.tensor(found, dtype=torch.float32)
    return Examples(rows, sizes, accuracies, torch.ones(num))


# Arithmetic.


def test_caution_is_the_mean_less_deviations():
    predictions = torch.tensor([[0.6, 1.0], [0.8, 1.0]])
    # Means 0.7 and 1; deviations 0.1 and 0.
    assert cautious(predictions, 2.0).tolist() == pytest.approx([0.5, 1.0])
    assert cautious(predictions, 0.0).tolist() == pytest.approx([0.7, 1.0])


def test_standardisation_is_by_column_over_all_arrays():
    first = torch.tensor([[[1.0, 5.0], [3.0, 5.0]]])  # (1, 2, 2)
    second = torch.tensor([[[5.0, 5.0]], [[7.0, 5.0]]])  # (2, 1, 2)
    mean, std = statistics([first, second])
    assert mean.tolist() == [4.0, 5.0]
    # 1, 3, 5, 7 are 3, 1, 1, 3 from their mean: variance 5. A constant has the least.
    assert std.tolist() == pytest.approx([math.sqrt(5), 1e-3])


def test_leave_one_out_compares_with_the_mean_of_the_others():
    # 1 less (2 + 6) / 2, 2 less (1 + 6) / 2, 6 less (1 + 2) / 2.
    found = leave_one_out(torch.tensor([1.0, 2.0, 6.0]))
    assert found.tolist() == pytest.approx([-3.0, -1.5, 4.5])


def test_advantages_of_a_group_are_in_its_deviations_but_noise_stays_small():
    wide = group_advantages(torch.tensor([0.0, 1.0]))  # -1 and 1, deviation 0.5
    assert wide.tolist() == pytest.approx([-2.0, 2.0])
    close = group_advantages(torch.tensor([0.5, 0.501]))  # less than predictions err
    assert close.tolist() == pytest.approx(
        [-0.001 / LEAST_SPREAD, 0.001 / LEAST_SPREAD], rel=1e-3
    )
    assert group_advantages(torch.full((3,), 0.7)).tolist() == pytest.approx([0] * 3)


def test_targets_are_log_uniform():
    rng = np.random.default_rng(0)
    drawn = [draw_target(rng, BOTH, 0.05, 0.5) for _ in range(4_000)]
    shares = np.array([target.share for target in drawn])
    assert shares.min() >= 0.05
    assert shares.max() <= 0.5
    # As many below the geometric mean as above it.
    assert (shares < math.sqrt(0.05 * 0.5)).mean() == pytest.approx(0.5, abs=0.03)
    of_params = np.mean([target.resource == "num_params" for target in drawn])
    assert of_params == pytest.approx(0.5, abs=0.03)


def test_a_target_bounds_one_resource_and_the_other_by_the_whole(teacher):
    whole = teacher.architecture
    bounds = Target("num_macs", 0.25).bounds(whole, BOTH)
    assert bounds == {
        "num_params": whole.num_params,
        "num_macs": whole.num_macs / 4,
    }


def test_widths_are_drawn_about_their_level():
    legal = np.array([0, 4, 9])  # the rates .1, .5, 1
    found = width_probabilities(legal, 0.5, 0.5)
    weights = [math.exp(-(math.log(x) ** 2) / 0.5) for x in (0.2, 1.0, 2.0)]
    assert found == pytest.approx(np.array(weights) / sum(weights))
    # Without spread, the nearest rate is certain, however far it is.
    assert width_probabilities(legal, 0.15, 1e-3) == pytest.approx([1, 0, 0])


def test_compress_gets_most_students_and_each_stage_its_held_out_ones():
    three, numbers = ("remove", "compress", "shrink"), range(600)
    turns = [turn(three, number) for number in numbers]
    counts = Counter(stage for stage, _ in turns)
    assert counts == {"compress": 400, "remove": 100, "shrink": 100}
    for stage in three:  # ranks count a stage's students
        ranks = [rank for name, rank in turns if name == stage]
        assert ranks == list(range(counts[stage]))
    held = Counter(turns[number][0] for number in numbers if number % 5 == 4)
    assert held == {"compress": 80, "remove": 20, "shrink": 20}
    assert [turn(("compress",), n) for n in (0, 7)] == [
        ("compress", 0),
        ("compress", 7),
    ]
    assert turn(("remove", "shrink"), 3) == ("shrink", 1)


def test_half_of_the_students_keep_most_and_are_nearly_uniform():
    rng, legal = np.random.default_rng(0), np.arange(10)
    widths = [SimpleNamespace(variable="width")] * 20
    kernels = [SimpleNamespace(variable="kernel")] * 20
    kept, spreads = [], []
    for _ in range(600):
        act = random_actions(rng)
        rates = [math.log(act(each, legal) + 1) for each in widths]
        spreads.append(np.std(rates))
        kept.append(np.mean([act(each, legal) == 9 for each in kernels]))
    # Without such students it would be a seventh.
    assert 0.28 < np.mean(np.array(kept) >= 0.9) < 0.45
    assert np.mean(np.array(kept) == 1) > 0.12
    assert 0.1 < np.mean(np.array(spreads) < 0.1) < 0.4


def test_uniform_students_are_drawn_at_targets_from_end_to_end(teacher):
    suite = suite_of(stages=("compress",))
    drawer, whole = Drawer(suite, SUBJECT, teacher), teacher.architecture
    drawn = [drawer.draw(number) for number in range(UNIFORM)]
    assert {each.target.resource for each in drawn} == set(BOTH)
    assert drawn[0].target.share == pytest.approx(0.5)
    assert drawn[-1].target.share == pytest.approx(0.05)
    for each in drawn:
        bound = each.target.share * getattr(whole, each.target.resource)
        widths = shrinkages(whole, ("width",))
        rates = dict.fromkeys(widths, 1.0)
        alike = widest_in_proportion(
            whole, rates, lambda s, e=each, b=bound: getattr(s, e.target.resource) <= b
        )
        assert each.student == alike


def test_rank_correlations_by_hand():
    sizes = np.arange(6.0)
    real = np.array([0, 1, 2, 3, 4, 5.0])
    swapped = np.array([1, 0, 3, 2, 5, 4.0])  # 3 of 15 pairs; all within thirds
    found = rank_correlations(swapped, real, sizes)
    assert found["tau"] == pytest.approx((12 - 3) / 15)
    assert found["tau_at_size"] == pytest.approx(-1)
    assert found["tau_of_size"] == pytest.approx(1)
    assert rank_correlations(np.zeros(6), real, sizes)["tau"] is None


# Students as predictors read them.


def test_the_whole_teacher_has_all_of_every_row(teacher):
    encoder = Encoder(teacher.architecture)
    rows = encoder.rows(teacher.architecture)
    assert rows.shape[1] == NUM_FEATURES == len(DESCRIBED) + len(LEFT)
    assert (rows[:, len(DESCRIBED) :] == 1).all()
    assert encoder.sizes(teacher.architecture).tolist() == [0, 0, 1]


def test_what_was_removed_has_nothing_left_and_half_the_width_a_half(teacher):
    whole = teacher.architecture
    encoder = Encoder(whole)
    (removal, *_) = removals(whole)
    gone = encoder.rows(without(whole, [removal]))[:, len(DESCRIBED) :]
    there = gone[:, LEFT.index("is_left")]
    assert 0 < (there == 0).sum() < len(there)
    assert (gone[there == 0] == 0).all()
    half = shrink(whole, dict.fromkeys(shrinkages(whole, ("width",)), 0.5))
    rows = encoder.rows(half)[:, len(DESCRIBED) :]
    outputs = rows[:, LEFT.index("outputs")]
    assert outputs[:-1] == pytest.approx(0.5)  # the classifier's stay
    assert outputs[-1] == 1
    params = rows[:, LEFT.index("params")]
    total = sum(whole.params_per_layer[p] * 1 for p in range(len(whole.layers)))
    assert total == whole.num_params
    assert (params < 1).all()
    assert encoder.sizes(half)[0] == pytest.approx(
        math.log(half.num_params / whole.num_params)
    )


# Predictors.


def test_a_predictor_learns_and_comes_back_from_its_file(teacher, tmp_path):
    given = made_up(Encoder(teacher.architecture), 60)
    member = fit_member([given], 0, epochs=60)
    same, another = (fit_member([given], seed, epochs=2) for seed in (0, 0))
    with torch.no_grad():
        found = member(given.rows, given.sizes)
        again, other = (each(given.rows, given.sizes) for each in (same, another))
    assert torch.equal(again, other)
    assert not torch.equal(found, again)
    tau = rank_correlations(
        found.double().numpy(), given.accuracies.double().numpy(), np.arange(60.0)
    )["tau"]
    assert tau > 0.9
    assert (found - given.accuracies).abs().mean() < 0.05
    save_member(member, tmp_path / "member.safetensors")
    kept = load_member(tmp_path / "member.safetensors")
    with torch.no_grad():
        assert torch.equal(kept(given.rows, given.sizes), found)


class Constant(Member):
    """A predictor that says one thing."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, rows, sizes):
        return torch.full((len(rows),), self.value)


def test_an_ensemble_scores_students_cautiously_and_within_bounds(teacher):
    whole = teacher.architecture
    encoder = Encoder(whole)
    said = {(0.6, 0.8): 0.9 * 0.6, (-1.0, -1.0): 0.0, (2.0, 2.0): 1.0}
    means = {(0.6, 0.8): 0.9 * 0.7, (-1.0, -1.0): 0.0, (2.0, 2.0): 1.0}
    for values, expected in said.items():
        ensemble = Ensemble([Constant(value) for value in values])
        evaluator = EnsembleEvaluator(ensemble, encoder, 0.9, caution=1.0)
        (score,) = evaluator([whole], teacher)
        assert score.accuracy == pytest.approx(expected)
        assert score.num_params == whole.num_params
        (both,) = evaluator.accuracies([whole])
        assert both == pytest.approx((expected, means[values]))
        assert evaluator.score_teacher(teacher).accuracy == 0.9


# Environments.


@pytest.mark.parametrize("stage", ["compress", "remove", "shrink"])
def test_environments_show_the_target_of_an_episode(stage, teacher):
    whole = teacher.architecture
    env = make_env(stage, teacher, ByWidth(), BOTH)
    for share in (0.5, 0.25):
        options = aim([env], Target("num_macs", share), BOTH)
        observation, info = env.reset(options=options)
        columns = env.metadata["columns"]
        assert observation[0, columns.index("target_macs")] == pytest.approx(share)
        assert observation[0, columns.index("target_params")] == 1
        is_over = False
        while not is_over:  # everything kept, or the most that is legal
            keep, legal = env.metadata["keep"], np.flatnonzero(info["action_mask"])
            action = keep if keep in legal else int(legal.max())
            _, reward, is_over, _, info = env.step(action)
        accuracy = info["accuracy"] / 0.9
        if stage == "remove":  # nothing went: nothing of the way
            assert info["num_macs"] == whole.num_macs
            assert reward == 0
        else:
            assert info["num_macs"] <= share * whole.num_macs
            assert reward == pytest.approx(accuracy)


def test_starts_of_shrinkage_are_the_teacher_and_what_removals_leave(teacher):
    found = starts(teacher.architecture, 0)
    assert found[0] is teacher.architecture
    assert len({start.fingerprint for start in found}) > 3
    assert found == starts(teacher.architecture, 0)


# Samples.


def test_a_student_follows_from_its_number(teacher):
    suite = suite_of()
    one, other = (Drawer(suite, SUBJECT, teacher) for _ in range(2))
    forwards = [one.draw(number) for number in range(6)]
    backwards = [other.draw(number) for number in reversed(range(6))]
    assert forwards == backwards[::-1]
    stages = ["compress"] * 4 + ["remove", "shrink"]
    assert [each.stage for each in forwards] == stages
    assert len({each.student.fingerprint for each in forwards}) == 6
    for each in forwards:
        if each.stage != "remove":
            whole = getattr(teacher.architecture, each.target.resource)
            mine = getattr(each.student, each.target.resource)
            assert mine <= each.target.share * whole


def test_a_drawing_that_was_stopped_goes_on_to_the_same_file(
    teacher, tmp_path, monkeypatch
):
    monkeypatch.setattr(drawing, "TOGETHER", 3)
    suite = suite_of(students=8)
    drawer = Drawer(suite, SUBJECT, teacher)
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    draw_samples(whole, drawer, ByWidth())
    content = whole.read_bytes()
    assert len(read_samples(whole)) == 8
    for cut in (0, 10, len(content) // 2, len(content) - 1):
        stopped.write_bytes(content[:cut])
        evaluator, ticks = ByWidth(), count()
        draw_samples(stopped, drawer, evaluator, partial(next, ticks))
        assert stopped.read_bytes() == content
        assert len(evaluator.scored) == 8 - content[:cut].count(b"\n")
        assert next(ticks) == 8


def test_failures_are_kept_and_not_learned_from(teacher, tmp_path):
    drawer = Drawer(suite_of(students=6), SUBJECT, teacher)
    small = teacher.architecture.num_params / 10
    evaluator = ByWidth(lambda student: student.num_params < small)
    path = tmp_path / "students.jsonl"
    draw_samples(path, drawer, evaluator)
    found = read_samples(path)
    known = [sample for sample in found if sample.accuracy is not None]
    assert 0 < len(known) < len(found) == 6
    examples = examples_of(found, Encoder(teacher.architecture))
    assert len(examples) == len(known)
    expected = [sample.accuracy / 0.9 for sample in known]
    assert examples.accuracies.tolist() == pytest.approx(expected)
    draw_samples(path, drawer, SizeEvaluator())  # all are there
    assert read_samples(path) == found


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "students.jsonl"
    for content in ('{"number": 1}\n', "[]\n", "{\n"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"students\.jsonl is damaged"):
            read_samples(path)


def test_a_line_that_is_cut_is_taken_out(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert read_lines(path) == []
    add_lines(path, [{"a": 1}, {"a": 2}])
    path.write_bytes(path.read_bytes()[:-3])
    assert read_lines(path) == [{"a": 1}]
    add_lines(path, [{"a": 3}])
    assert [json.loads(x) for x in path.read_text().splitlines()] == [
        {"a": 1},
        {"a": 3},
    ]


def test_a_killed_process_leaves_the_time_that_it_spent(tmp_path, monkeypatch):
    clock = iter([0.0, 50.0, 70.0, 70.0, 90.0, 95.0, 95.0])
    monkeypatch.setattr("n2n_gym.pretraining.spent.time.process_time", clock.__next__)
    spent = Spent(tmp_path / "seconds.jsonl")
    with spent.on("this") as tick:
        tick()  # after 50 seconds: too early
        assert spent.hours == 0
        tick()  # after 70
        assert spent.hours == pytest.approx(70 / 3600)
        tick()  # 20 later
    assert spent.hours == pytest.approx(95 / 3600)


# Learning.


@pytest.mark.parametrize("stage", ["compress", "remove", "shrink"])
def test_groups_share_a_teacher_and_a_target(stage, source):
    arena = Arena(suite_of(), stage, 3)
    policy = fresh_policy(arena, source, 0)
    groups = play_groups(arena, [source], policy, 5)
    again = play_groups(arena, [source], policy, 5)
    assert [len(group) for group in groups] == [3, 3]
    for group, same in zip(groups, again, strict=True):
        names = [f"limit_{name}" for name in BOTH]  # told where they are no teacher's
        limits = {tuple(e.info.get(name) for name in names) for e in group}
        assert len(limits) == 1
        assert limits != {(None, None)}
        for one, other in zip(group, same, strict=True):
            assert torch.equal(one.actions, other.actions)
            assert one.reward == other.reward
            assert (one.actions != NO_ACTION).any()


def test_a_training_that_was_stopped_goes_on_bit_for_bit(source, tmp_path, monkeypatch):
    monkeypatch.setattr("n2n_gym.pretraining.learning.KEEP_EVERY", 0.0)
    arena = Arena(suite_of(), "remove", 3)

    def trained(path, stops_after=None, **about):
        seen = []

        def watch(reward, entropy):
            seen.append((reward, entropy))
            if len(seen) == stops_after:
                raise KeyboardInterrupt

        given = arena, [source], fresh_policy(arena, source, 0), 7, path
        about = {"suite": "a", **about}
        return learn(*given, about, updates=4, on_update=watch)

    whole, path = trained(tmp_path / "whole.pt"), tmp_path / "stopped.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(path, 2)
    again = trained(path)
    assert whole.rewards == again.rewards
    assert whole.entropies == again.entropies
    assert all(entropy > 0 for entropy in whole.entropies)
    assert whole.optimiser.param_groups[0]["lr"] == pytest.approx(RATE * 0.325)
    assert whole.steps == again.steps
    weights, same = whole.policy.state_dict(), again.policy.state_dict()
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    with pytest.raises(ValueError, match="its suite is 'a', not 'b'"):
        trained(path, suite="b")


@pytest.mark.slow
def test_a_policy_learns_what_predictors_reward(teacher, tmp_path):
    """Of two widths one is worth more: the policy finds out which."""

    class Likes(Member):
        def forward(self, rows, sizes):
            left = rows[:, :, len(DESCRIBED) + LEFT.index("is_left")]
            return left.mean(1)  # removals cost

    encoder = Encoder(teacher.architecture)
    evaluator = EnsembleEvaluator(Ensemble([Likes()]), encoder, 1.0)
    source = Source(SUBJECT, teacher, evaluator)
    arena = Arena(suite_of(rollouts=8), "compress", 8)
    policy = fresh_policy(arena, source, 0)
    policy.bias.data.zero_()  # it removes as often as not
    given = arena, [source], policy, 0, tmp_path / "policy.pt", {}
    found = learn(*given, updates=60).rewards
    assert np.mean(found[-5:]) > np.mean(found[:5]) + 0.1


# Corrections and judgements.


def test_fresh_students_are_scored_once_and_compared(source, tmp_path):
    arena = Arena(suite_of(fresh=3), "compress", 1)
    policy = fresh_policy(arena, source, 0)
    path, first = tmp_path / "students.jsonl", first_number(1, 2)
    found = score_fresh(path, arena, source, policy, first, ByWidth())
    assert [sample.number for sample in found] == [first, first + 1, first + 2]
    evaluator = ByWidth()
    assert score_fresh(path, arena, source, policy, first, evaluator) == found
    assert not evaluator.scored
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    assert score_fresh(path, arena, source, policy, first, evaluator) == found
    assert all(sample.weight == FRESH_WEIGHT for sample in found)
    said = compare([found])
    for name, value in (("excess", "predicted"), ("excess_of_mean", "expected")):
        differences = [(getattr(s, value) - s.accuracy) / 0.9 for s in found]
        assert said[name] == pytest.approx(np.mean(differences))
    assert said["students"] == 3


def fresh_sample(accuracy, predicted, share=0.5):
    return Sample(
        0, "remove", "num_params", share, accuracy, 1.0, predicted, predicted + 0.1, ""
    )


def test_students_are_compared_within_each_teacher():
    # Each teacher's students are ranked the wrong way round, but the teachers are not.
    low = [fresh_sample(0.1, 0.2), fresh_sample(0.2, 0.1)]
    high = [fresh_sample(0.8, 0.9), fresh_sample(0.9, 0.8)]
    said = compare([low, high, []])
    assert said["students"] == 4
    assert said["tau"] == pytest.approx(-1)
    assert said["real"] == pytest.approx(0.5)
    assert said["excess"] == pytest.approx(0)
    assert said["excess_of_mean"] == pytest.approx(0.1)
    assert compare([low, high, [fresh_sample(0.5, 0.5)]])["tau"] == pytest.approx(-1)


def test_heavy_students_count_more_in_a_fit(teacher):
    given = made_up(Encoder(teacher.architecture), 30)
    large = torch.arange(30) >= 15  # the larger half
    sums = []
    for weight in (0.01, 100.0):
        weights = torch.where(large, weight, 1.0)
        member = fit_member([replace(given, weights=weights)], 0, epochs=20)
        with torch.no_grad():
            errors = (member(given.rows, given.sizes) - given.accuracies).abs()
        sums.append(errors[large].sum() / errors[~large].sum())
    assert sums[0] > sums[1]


def test_nothing_is_said_of_students_without_scores():
    sample = Sample(0, "remove", "num_params", 0.5, None, 0.9, 0.8, 0.8, "{}")
    assert compare([[sample]]) == {"students": 0}


def test_policies_are_judged_once_and_summed_up(source, tmp_path):
    suite = suite_of()
    arena = Arena(suite, "compress", 1)
    policies = {"fresh": fresh_policy(arena, source, 0), "uniform": None}
    subjects = [(SUBJECT, source.teacher)]
    path, evaluator = tmp_path / "scores.jsonl", ByWidth()
    given = (path, suite, "compress", 0, policies, subjects, [0.5, 0.1], evaluator)
    found = judge(*given)
    assert [each.share for each in found] == [0.5, 0.5, 0.1, 0.1]
    assert [len(each.rewards) for each in found] == [5, 1, 5, 1]
    # As a frozen policy does, each plays its likeliest student first.
    env = make_env("compress", source.teacher, evaluator, BOTH)
    options = aim([env], Target(BOTH[0], 0.5), BOTH)
    vector = CompressionVectorEnv(env, 2)
    likeliest, _ = play_batch(vector, policies["fresh"], None, options)
    assert found[0].rewards[0] == likeliest.reward
    whole = source.teacher.architecture
    bound = found[1].share * whole.num_params
    uniform = uniform_student(whole, int(bound))
    expected = (uniform.num_params / whole.num_params) ** 0.1
    assert found[1].rewards == [pytest.approx(expected, rel=0.01)]
    num_scored = len(evaluator.scored)
    assert judge(*given) == found
    assert len(evaluator.scored) == num_scored


def test_a_summary_has_the_mean_and_the_best_of_each_target():
    judged = [
        Judged("remove", 0, "trained", "a", "b", 0.5, [0.1, 0.3]),
        Judged("remove", 0, "trained", "a", "b", 0.2, [0.5, 0.7]),
        Judged("remove", 0, "fresh", "a", "b", 0.5, [0.2, 0.0]),
    ]
    said = summarise(judged)
    assert said["trained"] == pytest.approx({"mean": 0.4, "best": 0.5})
    assert said["fresh"] == pytest.approx({"mean": 0.1, "best": 0.2})
