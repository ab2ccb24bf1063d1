import pytest
import torch

from n2n_gym.decisions import RATES, removals, remove, shrink, shrinkages
from n2n_gym.evaluators import (
    DistillationEvaluator,
    SizeEvaluator,
    distil,
    load_evaluator,
)
from n2n_gym.rewards import Failure, Score, compression, n2n
from n2n_gym.training import Recipe, compute_accuracy

CPU = torch.device("cpu")
RECIPE = Recipe(1, batch_size=32, learning_rate=0.1, logit_weight=0.1)


@pytest.fixture(scope="module")
def students(teacher):
    start = teacher.architecture
    branch = next(r for r in removals(start) if r.form == "branch")
    narrow = dict.fromkeys(shrinkages(start), RATES[6])
    return [start, remove(start, [branch]), shrink(start, narrow)]


def test_a_student_has_one_score_whatever_the_batch(teacher, students):
    together = DistillationEvaluator(RECIPE, device="cpu")(students, teacher)
    apart = [
        DistillationEvaluator(RECIPE, device="cpu")([student], teacher)[0]
        for student in reversed(students)
    ]
    assert together == apart[::-1]
    assert all(isinstance(score, Score) for score in together)
    assert [s.num_params for s in together] == [s.num_params for s in students]
    assert {s.cost for s in together} == {1.0}


def test_scores_are_validation_accuracies(teacher, students):
    evaluator = DistillationEvaluator(RECIPE, device="cpu")
    (score,) = evaluator(students[1:2], teacher)
    seed = int(evaluator.key(students[1], teacher)[:15], 16)
    network = distil(students[1], teacher, RECIPE, seed=seed, device=CPU)
    validation = teacher.task.splits["validation"]
    assert score.accuracy == compute_accuracy(network, validation, teacher.normalise)


def test_torchs_generator_is_left_alone(teacher, students):
    before = torch.get_rng_state()
    DistillationEvaluator(RECIPE, device="cpu")(students[1:2], teacher)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_agent_that_tracks_no_gradients_does_not_matter(teacher, students, mode):
    expected = DistillationEvaluator(RECIPE, device="cpu")(students[2:], teacher)
    with mode():
        found = DistillationEvaluator(RECIPE, device="cpu")(students[2:], teacher)
    assert found == expected


def test_what_its_score_depends_on_is_in_the_key(teacher, students):
    evaluator = DistillationEvaluator(RECIPE, device="cpu")
    keys = {evaluator.key(student, teacher) for student in students}
    longer = DistillationEvaluator(Recipe(2), device="cpu")
    keys.add(longer.key(students[0], teacher))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    keys.add(evaluator.key(students[0], teacher))
    torch.set_num_threads(threads)
    assert len(keys) == 5
    assert evaluator.key(students[0], teacher) in keys


def test_inheriting_the_whole_teacher_is_as_accurate_as_the_teacher(teacher):
    evaluator = load_evaluator("inherit", "cpu")
    (score,) = evaluator([teacher.architecture], teacher)
    assert score.accuracy == pytest.approx(teacher.score.accuracy, abs=0.02)
    assert score.cost == 0.0
    assert evaluator.score_teacher(teacher) == teacher.score


def test_distillation_makes_up_for_what_removal_lost(teacher, students):
    inherit = load_evaluator("inherit", "cpu")
    (before,) = inherit(students[1:2], teacher)
    (after,) = load_evaluator("short", "cpu")(students[1:2], teacher)
    assert after.accuracy > before.accuracy


def test_a_diverged_student_is_a_failure_and_the_others_have_scores(teacher, students):
    wild = DistillationEvaluator(Recipe(2, learning_rate=1e30), device="cpu")
    results = wild(students, teacher)
    assert all(isinstance(result, Failure) for result in results)
    assert "diverged" in results[0].reason
    assert not results[0].retryable


def test_sizes_alone_are_exact(teacher, students):
    evaluator = SizeEvaluator()
    scores = evaluator(students, teacher)
    assert scores[2] == Score(1.0, students[2].num_params, students[2].num_macs, 0.0)
    assert evaluator.score_teacher(teacher).accuracy == 1.0


def test_the_papers_reward_worked_by_hand():
    teacher = Score(0.92, 1000, 0)
    student = Score(0.9, 250, 0)
    assert compression(student, teacher) == 0.75
    assert n2n(student, teacher) == pytest.approx(0.75 * 1.25 * 0.9 / 0.92)


def test_an_unknown_evaluator_is_refused():
    with pytest.raises(ValueError, match=r"unknown evaluator 'exact'; known: size"):
        load_evaluator("exact")
