"""The choice among the last finalists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from n2n_gym.compression import finalists as module
from n2n_gym.compression.choice import (
    Scored,
    burden,
    is_told_from,
    right_answers,
    smallest_alike,
)
from n2n_gym.compression.finalists import Finalists
from n2n_gym.compression.pacing import Fixed
from n2n_gym.evaluators.rungs import FULL
from n2n_gym.evaluators.runner import InProcess
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.scaling import uniform_student
from n2n_gym.rewards import Failure


def answers(count: int, wrong: range) -> Tensor:
    right = torch.ones(count, dtype=torch.float64)
    right[list(wrong)] = 0
    return right


@pytest.fixture(scope="module")
def students(teacher):
    start = teacher.architecture
    return [uniform_student(start, start.num_params // n) for n in (2, 4, 8)]


def test_a_few_images_do_not_tell_students_apart_and_many_do():
    """One wrong answer more of 100; ten more of 1,000."""
    assert not is_told_from(answers(100, range(3)), answers(100, range(2)))
    assert is_told_from(answers(1000, range(30)), answers(1000, range(20)))
    both = answers(100, range(5))
    assert not is_told_from(both, both)
    assert not is_told_from(answers(100, range(2)), answers(100, range(9)))


def test_the_error_is_that_of_the_paired_difference():
    better, worse = answers(400, range(8)), answers(400, range(4, 16))
    gap = (better - worse).numpy()
    error = gap.std(ddof=1) / np.sqrt(400)
    assert is_told_from(worse, better) == (gap.mean() > error)


def test_the_smallest_that_is_alike_is_chosen(students):
    best = answers(360, range(5))
    alike, poor = answers(360, range(1, 7)), answers(360, range(60))
    rewards = [0.9, 0.8, 0.7]
    assert smallest_alike(students, rewards, [best, alike, poor], best) == 1
    assert smallest_alike(students, rewards, [best, alike, alike], best) == 2
    assert smallest_alike(students, rewards, [best, alike, alike]) == 2
    assert burden(students[2]) < burden(students[1]) < burden(students[0])


def test_what_is_like_the_teacher_comes_before_what_is_smaller(students):
    """Right answers on 1,000 images: teacher 950, large student 949, small one 930."""
    whole, large = answers(1000, range(50)), answers(1000, range(51))
    small = answers(1000, range(70))
    assert smallest_alike(students[:2], [0.7, 0.9], [large, small], whole) == 0
    assert smallest_alike(students[:2], [0.9, 0.7], [large, small]) == 0


def test_where_all_are_told_from_the_teacher_rewards_say_which_is_best(students):
    whole = answers(360, range(5))
    right = [answers(360, range(n)) for n in (90, 60, 61)]
    assert smallest_alike(students, [0.8, 0.9, 0.7], right, whole) == 2
    assert smallest_alike(students, [0.9, 0.8, 0.7], right, whole) == 2
    right[2] = answers(360, range(90, 200))
    assert smallest_alike(students, [0.8, 0.9, 0.7], right, whole) == 1


def test_one_image_tells_nobody_apart():
    assert not is_told_from(torch.zeros(1), torch.ones(1))


def test_another_repeat_is_another_seed_and_the_first_keeps_its_key(teacher, students):
    rung = FULL.with_epochs(1).with_variants(1)
    first, again, second = (
        DistillationEvaluator(rung, repeat=repeat) for repeat in (0, 0, 1)
    )
    keys = [each.key(students[2], teacher) for each in (first, again, second)]
    assert keys[0] == keys[1] != keys[2]
    assert "repeat" not in keys[0].settings
    networks = [each.network(students[2], teacher) for each in (first, second)]
    weights = [next(iter(each.parameters())) for each in networks]
    assert not torch.equal(*weights)


def test_answers_are_those_of_the_networks_on_the_validation_images(teacher):
    device = torch.device("cpu")
    network = teacher.network(device)
    right = right_answers([network, network], teacher, device)
    assert right.mean().item() == pytest.approx(teacher.score.accuracy)
    assert len(right) == len(teacher.task.splits["validation"])


def finalists(teacher, folder, limits=None, told=None) -> Finalists:
    requirements = Requirements.read(teacher.architecture, limits or {})
    report = None if told is None else lambda *line: told.append(line)
    device = torch.device("cpu")
    return Finalists(
        teacher,
        Fixed(2),
        device,
        InProcess(),
        None,
        requirements,
        report,
        weights=folder,
    )


def scored(students) -> list[Scored]:
    return [Scored(0.9, student) for student in students]


def test_finalists_of_the_last_round_have_several_seeds(teacher, students, tmp_path):
    told: list[tuple] = []
    final = finalists(teacher, tmp_path, told=told)
    finished = final.choose(scored(students), "the best")
    assert len(list(tmp_path.iterdir())) == 2 * len(students)
    first = final.evaluator(2)
    assert finished.score == first([finished.student], teacher)[0]
    shipped = first.network(finished.student, teacher)
    assert torch.equal(next(finished.network.parameters()), next(shipped.parameters()))
    assert {line[3]["fingerprint"] for line in told} == {
        student.fingerprint for student in students
    }


@pytest.mark.parametrize("limits", [{}, {"num_params": 1e9}])
@pytest.mark.parametrize("wrong", [(5, 6, 90), (5, 6, 7), (5, 90, 90)])
def test_the_choice_goes_by_answers(
    teacher, students, tmp_path, monkeypatch, wrong, limits
):
    """360 images, with five wrong answers of the teacher."""
    final = finalists(teacher, tmp_path, limits)
    size = {student.num_params: n for n, student in enumerate(students)}

    def right(networks) -> Tensor:
        num_params = sum(p.numel() for p in networks[0].parameters())
        return answers(360, range(wrong[size[num_params]] if num_params in size else 5))

    monkeypatch.setattr(module, "within", lambda requirements, found, *_: found)
    monkeypatch.setattr(Finalists, "_right", lambda self, networks: right(networks))
    rewards = iter((0.9, 0.8, 0.7))
    monkeypatch.setattr(Finalists, "_worth", lambda self, score: next(rewards))
    monkeypatch.setattr(Fixed, "seeds", lambda self: 1)
    finished = final.choose(scored(students), "the best")
    alike = [n for n in range(3) if wrong[n] <= 6]  # one image is one error
    assert finished.student == students[alike[-1]]
    assert not final.falls_short


@pytest.mark.parametrize("failing", [0, 1])
def test_a_seed_that_fails_costs_a_student_no_more_than_that_seed(
    teacher, students, tmp_path, monkeypatch, caplog, failing
):
    def evaluate(made, teacher, evaluator):
        found = original(made, teacher, evaluator)
        if evaluator.repeat == failing:
            found[made.index(students[2])] = Failure("the loss became nan", False)
        return found

    original = module.evaluate
    monkeypatch.setattr(module, "evaluate", evaluate)
    told: list[tuple] = []
    final = finalists(teacher, tmp_path, told=told)
    final.choose(scored(students), "the best")
    names = {line[3]["fingerprint"] for line in told}
    assert (students[2].fingerprint in names) == (failing == 1)
    said = "is left out" if failing == 0 else "counts once"
    assert f"a finalist {said}: the loss became nan" in caplog.text


def test_a_least_accuracy_is_one_of_what_is_written(teacher, students, tmp_path):
    final = finalists(teacher, tmp_path, {"accuracy": 0.2})
    finished = final.choose(scored(students), "the best")
    assert len(list(tmp_path.iterdir())) == len(students)  # one seed
    assert finished.score.accuracy >= 0.2
