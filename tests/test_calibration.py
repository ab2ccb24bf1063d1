import json
import random
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from n2n_gym.cli import app
from n2n_gym.decisions import removals
from n2n_gym.evaluators import (
    CalibratedEvaluator,
    Calibration,
    DistillationEvaluator,
    Rung,
    calibrate,
    load_evaluator,
    rungs,
)
from n2n_gym.evaluators.elastic import random_student
from n2n_gym.tasks import Augmentation, Task
from n2n_gym.training import Recipe

CHEAP = Rung("inherit")
FULL = Rung("full", recipe=Recipe(2, 32, learning_rate=0.1, logit_weight=0.1))


def make(rung: Rung, **settings) -> DistillationEvaluator:
    return DistillationEvaluator(rung, device="cpu", precision="float32", **settings)


@pytest.fixture(scope="module")
def calibration(teacher):
    return calibrate(teacher, make(CHEAP), make(FULL), num_students=30)


@pytest.fixture(scope="module")
def students(teacher):
    """Of the kind that the map is fitted to, but others."""
    start, rng = teacher.architecture, random.Random(99)
    return [random_student(start, removals(start), rng) for _ in range(30)]


def test_the_map_is_monotone_and_in_range(calibration):
    grid = np.linspace(0, 1, 101)
    mapped = [calibration(accuracy) for accuracy in grid]
    assert (np.diff(mapped) >= 0).all()
    assert 0 <= min(mapped) <= max(mapped) <= 1


def test_it_lessens_the_bias_of_students_it_has_not_seen(
    teacher, calibration, students
):
    def mean(evaluator) -> float:
        scores = evaluator(students, teacher)
        return float(np.mean([score.accuracy for score in scores]))

    calibrated = CalibratedEvaluator(make(CHEAP), calibration)
    full, raw, mapped = map(mean, (make(FULL), make(CHEAP), calibrated))
    assert abs(mapped - full) < abs(raw - full)


def test_a_map_through_known_points(calibration):
    line = replace(calibration, cheap=(0.2, 0.6), full=(0.5, 0.9))
    assert line(0.4) == pytest.approx(0.7)
    assert (line(0.1), line(0.8)) == (0.5, 0.9)


def test_its_cost_is_counted_once(teacher, calibration, students):
    evaluator = CalibratedEvaluator(make(CHEAP), calibration)
    (score,) = evaluator(students[:1], teacher)
    (raw,) = make(CHEAP)(students[:1], teacher)
    (full,) = make(FULL)(students[:1], teacher)
    assert score.cost == raw.cost
    assert score.cost_once == calibration.cost
    assert calibration.cost == pytest.approx(30 * (raw.cost + full.cost))
    # What the reward compares with stays the teacher as it is.
    assert evaluator.score_teacher(teacher) == teacher.score


def test_what_full_distillation_costs_once_is_counted_once(teacher):
    read, task = teacher.task.read, teacher.task
    moving = Task(task.name, (1, 8, 8), 10, read, augmentation=Augmentation(padding=1))
    teacher = replace(teacher, task=moving)
    full = make(replace(FULL, views=3))
    found = calibrate(teacher, make(CHEAP), full, num_students=3)
    (cheap,) = make(CHEAP)([teacher.architecture], teacher)
    (score,) = full([teacher.architecture], teacher)
    assert score.cost_once == pytest.approx(2 / 3)  # two more views, forward only
    assert found.cost == pytest.approx(3 * (cheap.cost + score.cost) + 2 / 3)


def test_the_map_is_part_of_the_key(teacher, calibration, students):
    other = replace(calibration, full=tuple(0.9 * y for y in calibration.full))
    keys = {
        CalibratedEvaluator(make(CHEAP), each).key(students[0], teacher).digest
        for each in (calibration, other)
    }
    keys.add(make(CHEAP).key(students[0], teacher).digest)
    assert len(keys) == 3


def test_a_map_made_for_something_else_is_refused(teacher, calibration, students):
    other = replace(calibration, teacher="0" * 64)
    with pytest.raises(ValueError, match="the calibration was made for teacher 0000"):
        CalibratedEvaluator(make(CHEAP), other)(students[:1], teacher)
    threads = CalibratedEvaluator(make(CHEAP, threads=2), calibration)
    with pytest.raises(ValueError, match="the calibration was made for settings"):
        threads(students[:1], teacher)


def test_it_is_read_as_it_was_written(calibration, tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(calibration.to_json())
    assert Calibration.read(path) == calibration
    assert Calibration.read(path).digest == calibration.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"full": [0.9, 0.1]}, "do not ascend together"),
        ({"cheap": ["a"]}, "holds no calibration"),
        ({"version": 0}, "is of version 0"),
        ({"extra": 1}, "holds no calibration"),
    ],
)
def test_a_file_that_holds_none_is_refused(calibration, tmp_path, change, message):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(json.loads(calibration.to_json()) | change))
    with pytest.raises(ValueError, match=message):
        load_evaluator(str(path))


def test_too_few_students_are_refused(teacher):
    with pytest.raises(ValueError, match="at least 3 students, got 2"):
        calibrate(teacher, make(CHEAP), make(FULL), num_students=2)


def test_the_command_writes_one_that_the_environments_take(
    monkeypatch, tmp_path, students
):
    recipe = Recipe(1, 64, learning_rate=0.1, logit_weight=0.1)
    monkeypatch.setitem(
        load_evaluator.__globals__["RUNGS"],
        "full",
        replace(rungs.FULL, recipe=recipe),
    )
    path = tmp_path / "inherit.json"
    arguments = ["scores", "calibrate", str(path), "--rung", "inherit"]
    arguments += ["--teacher", "tests.networks:make_small", "--students", "4"]
    arguments += ["--workers", "1", "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "4 students" in result.stdout
    evaluator = load_evaluator(str(path), "cpu", store=False)
    assert evaluator.calibration.rung == "inherit"
    result = CliRunner().invoke(app, [*arguments[:2], "x.txt", *arguments[3:]])
    assert result.exit_code == 1
    assert "a calibration is a .json file" in result.stderr
