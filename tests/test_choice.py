"""The choice among the last finalists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from n2n_gym.compression.choice import (
    burden,
    is_told_from,
    right_answers,
    smallest_alike,
)
from n2n_gym.compression.finalists import Finalists, Scored
from n2n_gym.compression.timing import Fixed
from n2n_gym.evaluators.rungs import FULL
from n2n_gym.evaluators.runner import InProcess
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.scaling import uniform_student
from n2n_gym.rewards import n2n


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
    assert smallest_alike(students, [best, alike, poor], best) == 1
    assert smallest_alike(students, [best, alike, alike], best) == 2
    assert burden(students[2]) < burden(students[1]) < burden(students[0])


def test_where_all_are_told_from_the_reference_the_best_is_chosen(students):
    right = [answers(360, range(n)) for n in (90, 60, 70)]
    assert smallest_alike(students, right, answers(360, range(5))) == 1


def test_another_repeat_is_another_seed_and_the_first_keeps_its_key(teacher, students):
    rung = FULL.with_epochs(1).with_views(1)
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


def test_finalists_of_the_last_round_have_several_seeds(teacher, students, tmp_path):
    told: list[dict] = []
    final = Finalists(
        teacher,
        Fixed(2),
        torch.device("cpu"),
        InProcess(),
        None,
        Requirements.read(teacher.architecture, {}),
        lambda _what, _stage, _reward, info: told.append(info),
        weights=tmp_path,
    )
    finished = final.choose([Scored(0.9, student) for student in students], "the best")
    assert len(list(tmp_path.iterdir())) == 2 * len(students)
    evaluators = [final.evaluator(2, repeat=repeat) for repeat in (0, 1)]
    networks = {
        student.fingerprint: [each.network(student, teacher) for each in evaluators]
        for student in students
    }
    right = [right_answers(each, teacher, final.device) for each in networks.values()]
    rewards = [
        np.mean(
            [n2n(each([student], teacher)[0], teacher.score) for each in evaluators]
        )
        for student in students
    ]
    reference = right[int(np.argmax(rewards))]
    whole = right_answers([teacher.network(final.device)], teacher, final.device)
    if max(each.mean() for each in right) >= whole.mean():
        reference = whole
    assert finished.student == students[smallest_alike(students, right, reference)]
    assert finished.score == evaluators[0]([finished.student], teacher)[0]
    shipped, _ = networks[finished.student.fingerprint]
    assert torch.equal(next(finished.network.parameters()), next(shipped.parameters()))
    assert {info["fingerprint"] for info in told} == networks.keys()
