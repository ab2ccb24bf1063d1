import json
import random
from dataclasses import astuple, replace

import numpy as np
import pytest
from typer.testing import CliRunner

from n2n_gym.cli import app
from n2n_gym.evaluators import rungs
from n2n_gym.evaluators.calibration import (
    AccuracyMap,
    CalibratedEvaluator,
    Calibration,
    calibrate,
)
from n2n_gym.evaluators.loading import load_evaluator
from n2n_gym.evaluators.rungs import Rung
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.decisions import removals
from n2n_gym.networks.random_students import random_student
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.rewards import Score
from n2n_gym.tasks.augmentation import Augmentation
from n2n_gym.tasks.task import Task

CHEAP = Rung("inherit")
WEIGHTS = ("intercept", "accuracy", "log_params", "log_macs")
FULL = Rung("full", recipe=Recipe(2, 32, learning_rate=0.1, logit_weight=0.1))


def make(rung: Rung, **settings) -> DistillationEvaluator:
    return DistillationEvaluator(rung, device="cpu", precision="float32", **settings)


@pytest.fixture(scope="module")
def calibration(teacher):
    return calibrate(teacher, make(CHEAP), make(FULL), num_students=30)


@pytest.fixture(scope="module")
def students(teacher):
    """Students of the kind that the map is fitted to, but not the same ones."""
    start, rng = teacher.architecture, random.Random(99)
    return [random_student(start, removals(start), rng) for _ in range(30)]


def test_more_of_anything_never_lowers_it_and_it_stays_in_range(calibration):
    low = Score(0.3, 1_000, 50_000)
    fitted = calibration.accuracy_map
    for more in ({"accuracy": 0.4}, {"num_params": 2_000}, {"num_macs": 90_000}):
        assert fitted(low._replace(**more)) >= fitted(low)
    for extreme in (Score(0.0, 1, 1), Score(1.0, 10**9, 10**12)):
        assert 0 < fitted(extreme) < 1


@pytest.mark.slow
def test_it_lessens_the_bias_of_students_it_has_not_seen(
    teacher, calibration, students
):
    def mean(evaluator) -> float:
        scores = evaluator(students, teacher)
        return float(np.mean([score.accuracy for score in scores]))

    calibrated = CalibratedEvaluator(make(CHEAP), calibration)
    full, raw, mapped = map(mean, (make(FULL), make(CHEAP), calibrated))
    assert abs(mapped - full) < abs(raw - full)


def test_a_law_of_this_form_is_found():
    law = AccuracyMap(-2.5, accuracy=0.6, log_params=0.2, log_macs=0.05)
    rng = np.random.default_rng(0)
    cheap = [
        Score(float(rng.uniform(0.1, 0.9)), int(rng.integers(10**3, 10**6)), 2**i)
        for i in range(10, 20)
    ]
    found = AccuracyMap.fit(cheap, [law(score) for score in cheap])
    assert astuple(found) == pytest.approx(astuple(law))


def test_what_would_lower_it_counts_nothing():
    cheap = [Score(0.1 * i, 10 ** (9 - i), 2 ** (i % 3)) for i in range(1, 8)]
    found = AccuracyMap.fit(cheap, [score.accuracy for score in cheap])
    assert found.log_params == 0  # the smaller, the better, in these
    assert found.accuracy == pytest.approx(1)


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
    full = make(replace(FULL, num_variants=3))
    found = calibrate(teacher, make(CHEAP), full, num_students=5)
    (cheap,) = make(CHEAP)([teacher.architecture], teacher)
    (score,) = full([teacher.architecture], teacher)
    assert score.cost_once == pytest.approx(2 / 3)  # two more variants, forward only
    assert found.cost == pytest.approx(5 * (cheap.cost + score.cost) + 2 / 3)


def test_the_map_is_part_of_the_key(teacher, calibration, students):
    flatter = replace(calibration.accuracy_map, accuracy=0.1)
    other = replace(calibration, accuracy_map=flatter)
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
    other = replace(calibration, version=0)
    with pytest.raises(ValueError, match="made for version 0, not"):
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
        ({"accuracy_map": {"intercept": 0.0}}, "holds no calibration"),
        ({"accuracy_map": dict.fromkeys(WEIGHTS, -1.0)}, "at least 0, got"),
        ({"accuracy_map": dict.fromkeys(WEIGHTS, float("nan"))}, "must be finite"),
        ({"format": 1}, "expected .*; make it anew"),
        ({"extra": 1}, "holds no calibration"),
    ],
)
def test_a_file_that_holds_none_is_refused(calibration, tmp_path, change, message):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(json.loads(calibration.to_json()) | change))
    with pytest.raises(ValueError, match=message):
        load_evaluator(str(path))


def test_too_few_students_are_refused(teacher):
    with pytest.raises(ValueError, match="at least 5 students, got 2"):
        calibrate(teacher, make(CHEAP), make(FULL), num_students=2)


@pytest.mark.slow
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
    arguments += ["--teacher", "tests.networks:make_small", "--students", "5"]
    arguments += ["--workers", "1", "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "5 students" in result.stdout
    evaluator = load_evaluator(str(path), "cpu", store=False)
    assert evaluator.calibration.rung == "inherit"
    result = CliRunner().invoke(app, [*arguments[:2], "x.txt", *arguments[3:]])
    assert result.exit_code == 1
    assert "a calibration must be a .json file" in result.stderr
