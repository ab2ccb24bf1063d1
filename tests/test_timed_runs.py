"""What a run with --minutes measures, writes down and finds again."""

from __future__ import annotations

import json
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from n2n_gym.common.progress import progress
from n2n_gym.compression import finalists, preparation
from n2n_gym.compression import plan as plans
from n2n_gym.compression.assessment import compare_networks
from n2n_gym.compression.choice import Offer, Scored
from n2n_gym.compression.costs import DIFFERENCE, Costs
from n2n_gym.compression.finalists import Finalists
from n2n_gym.compression.pacing import Fixed
from n2n_gym.compression.plan import Plan, TooShort
from n2n_gym.compression.stages import Enough, _Watch
from n2n_gym.compression.student_files import write_onnx
from n2n_gym.compression.timing import Timed
from n2n_gym.evaluators import scoring
from n2n_gym.evaluators.rungs import FULL, QUICK
from n2n_gym.evaluators.runner import InProcess, Result
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.scaling import uniform_student
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.pytorch.trace import trace
from n2n_gym.rewards import Score
from n2n_gym.runs.history import FINAL, History
from n2n_gym.scores import ScoreStore
from n2n_gym.teachers.learning import train_network
from n2n_gym.teachers.teacher import Teacher
from tests.networks import SmallResNet

CPU = torch.device("cpu")


class AtOnce(InProcess):
    """Scores of students without their distillation, as if each took a while."""

    def __init__(self) -> None:
        self.asked = 0

    def run(self, trials, teacher, settings):
        for number, (student, *_) in enumerate(trials):
            self.asked += 1
            score = Score(0.9, student.num_params, student.num_macs, 2.0)
            yield Result(number, score, 3.0)


@pytest.fixture(scope="module")
def students(teacher):
    start = teacher.architecture
    return [uniform_student(start, start.num_params // n) for n in (2, 3, 4, 5, 6, 8)]


def timed(plan: Plan, teacher, **more) -> Timed:
    costs = Costs(plan.costs, 1_000)
    costs.image.add(1e6, 1e-3)
    options = {"with_controls": True, "is_limited": False, **more}
    macs = teacher.architecture.num_macs
    return Timed(plan, costs, 2, 100, 100, macs, **options)


# Where a run goes on.


def line_of(teacher, number: int) -> dict:
    student = teacher.architecture
    score = Score(number / 100, student.num_params, student.num_macs)
    about = {"fingerprint": f"{number}", "student": student.to_json()}
    return {**score.to_dict(), **about}


def watch(history: History, timing: Timed, stage: str) -> _Watch:
    with progress(20, "a stage") as bar:
        is_enough = partial(timing.is_enough, f"reinforce: {stage}")
        return _Watch("reinforce", stage, history, 10_000, bar, is_enough)


@pytest.mark.parametrize("is_last", [True, False])
def test_a_run_killed_in_a_stage_goes_on_where_it_was(tmp_path, teacher, is_last):
    """It had scored twelve students, its time is up, nothing says that it ended."""
    history = History(tmp_path / "history.jsonl")
    plan = Plan(tmp_path / "plan.json", 100, 0.0)
    plan.decide("updates", lambda: 4, 2)
    stage = "shrink" if is_last else "remove"
    for number in range(12):
        history.add("reinforce", stage, number / 100, line_of(teacher, number))
    history.close()
    again = History(tmp_path / "history.jsonl")
    resumed = Plan(tmp_path / "plan.json", 100, -1e6)  # long ago
    resumed.decide("updates", lambda: 9, 2)
    watching = watch(again, timed(resumed, teacher), stage)

    def play() -> None:
        for number in range(20):
            watching(number / 100, line_of(teacher, number))

    with pytest.raises(Enough):
        play()
    assert len(watching.found) == 15  # the first five after the known ones
    again.add("the best students", FINAL, 0.5, line_of(teacher, 50))
    again.close()
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 16
    assert ["enough reinforce: " + stage, 15] in [
        decision[:2]
        for decision in json.loads((tmp_path / "plan.json").read_text())["decisions"]
    ]


def test_a_run_at_its_end_goes_on_and_one_without_time_is_refused(tmp_path):
    began = time.monotonic() - 600
    plan = Plan(tmp_path / "plan.json", 100, began)
    with pytest.raises(TooShort, match="at least 11 minutes make sense"):
        preparation._check_time(plan, 20.0)
    plan.decide("updates", lambda: 4, 2)
    again = Plan(tmp_path / "plan.json", 100, began)
    preparation._check_time(again, 20.0)


def test_a_refused_run_may_be_tried_again_with_all_its_time(tmp_path):
    plan = Plan(tmp_path / "plan.json", 100, 0.0)
    with pytest.raises(KeyboardInterrupt), preparation._kept_if_stopped(plan):
        raise KeyboardInterrupt
    assert plan.path.exists()
    with pytest.raises(TooShort), preparation._kept_if_stopped(plan):
        raise TooShort("too few")
    assert not plan.path.exists()


def test_the_seconds_of_a_training_are_kept_while_it_lasts(tmp_path, task, monkeypatch):
    plan = Plan(tmp_path / "plan.json", 1e6, time.monotonic())
    monkeypatch.setattr(plans, "KEEP_EVERY", 0.0)
    architecture = trace(SmallResNet(), task.input_shape)
    kept: list[bool] = []

    def provide():
        assert plan.path.exists()
        plan.path.unlink()
        recipe = Recipe(epochs=1, batch_size=500)
        trained = train_network("small", task, architecture, recipe, CPU)
        kept.append(plan.path.exists())
        return trained

    preparation._train(Teacher("small", task, architecture, provide), plan)
    assert kept == [True]


# What work costs.


def test_scores_from_the_store_count_for_nothing(tmp_path, teacher, students):
    store, runner = ScoreStore(tmp_path / "scores.sqlite"), AtOnce()
    first = DistillationEvaluator(QUICK, device=CPU, runner=runner, store=store)
    first(students[:3], teacher)
    evaluator = DistillationEvaluator(
        QUICK, device=CPU, runner=runner, store=store, precision="float32"
    )
    plan = Plan(tmp_path / "plan.json", 1e6, 0.0)
    timing = timed(plan, teacher)
    history = History(tmp_path / "history.jsonl")
    run = SimpleNamespace(history=history)
    remembering = preparation._remembering(evaluator, teacher, run, plan, timing)
    remembering(students, teacher)
    history.close()
    assert runner.asked == 6
    assert plan.costs["scores"] == [3, 9.0]
    assert timing.costs.score() == 3.0
    assert timing.costs.epoch(students[0].num_macs) == pytest.approx(1.5)
    store.close()


def test_an_evaluator_of_the_users_is_timed_as_a_whole(tmp_path, teacher, students):
    def evaluator(made, teacher):
        return [Score(0.9, each.num_params, each.num_macs) for each in made]

    timing = timed(Plan(tmp_path / "plan.json", 1e6, 0.0), teacher)
    history = History(tmp_path / "history.jsonl")
    run = SimpleNamespace(history=history)
    remembering = preparation._remembering(evaluator, teacher, run, timing.plan, timing)
    remembering(students, teacher)
    history.close()
    count, seconds = timing.plan.costs["scores"]
    assert count == len(students)
    assert 0 < seconds < 1


def final_of(teacher, timing, runner) -> Finalists:
    requirements = Requirements.read(teacher.architecture, {})
    return Finalists(teacher, timing, CPU, runner, None, requirements)


def test_rounds_are_fitted_after_what_all_finalists_learn_from_is_computed(
    tmp_path, teacher, students, monkeypatch
):
    """Workers' starts and the teacher's logits are no part of a student's seconds."""
    done = []
    prepare = DistillationEvaluator.prepare

    def prepared(self, teacher):
        done.append([what for what, _, _ in plan.decisions])
        prepare(self, teacher)

    monkeypatch.setattr(DistillationEvaluator, "prepare", prepared)
    timings = []

    def seconds_a_variant(teacher, device, precision, threads):
        timings.append((precision, threads))
        return 1e9

    monkeypatch.setattr(finalists, "seconds_a_variant", seconds_a_variant)
    plan = Plan(tmp_path / "plan.json", 1e9, 0.0)
    timing = timed(plan, teacher)
    final = final_of(teacher, timing, AtOnce())
    monkeypatch.setattr(Finalists, "finished", lambda self, offer: offer)
    monkeypatch.setattr(
        Finalists, "_smallest_alike", lambda self, left: (left[0].student, False)
    )
    final.prepare(plan, timing)
    settings = final.evaluator(1).settings(teacher)
    assert timings == [(settings.precision, 1)]
    assert done == [["precision of finalists", "forms of each image"]]
    final.choose([Scored(0.9, student) for student in students], "the best")
    measured, predicted = plan.costs["finalists"]
    assert measured == 3.0 * (6 + 3 * 2)  # the second round, and two seeds of the last
    assert predicted > 0


def test_the_precision_is_that_of_the_plan(tmp_path, teacher, monkeypatch):
    def measure(*_):
        raise AssertionError("the precision is known")

    monkeypatch.setattr(scoring, "faster_precision", measure)
    first = Plan(tmp_path / "plan.json", 1e6, 0.0)
    for name in ("precision of scores", "precision of finalists"):
        first.decide(name, lambda: "bfloat16", "float32")
    first.decide("forms of each image", lambda: 1, 1)
    plan = Plan(tmp_path / "other.json", None, 0.0, tmp_path / "plan.json")
    timing = timed(plan, teacher)
    evaluator = DistillationEvaluator(QUICK, device=CPU)
    run = SimpleNamespace(history=None)
    preparation._remembering(evaluator, teacher, run, plan, timing)
    assert evaluator.settings(teacher).precision == "bfloat16"
    final = final_of(teacher, timing, InProcess())
    final.prepare(plan, timing)
    assert final.evaluator(2).settings(teacher).precision == "bfloat16"


def test_a_precision_that_is_given_is_no_decision(tmp_path, teacher, monkeypatch):
    monkeypatch.setattr(finalists, "seconds_a_variant", lambda *_: 1e9)
    plan = Plan(tmp_path / "plan.json", 1e6, 0.0)
    timing = timed(plan, teacher)
    final = final_of(teacher, timing, InProcess())
    final.precision = "float32"
    final.prepare(plan, timing)
    assert final.evaluator(2).settings(teacher).precision == "float32"
    assert [what for what, _, _ in plan.decisions] == ["forms of each image"]


def test_controls_without_time_are_not_distilled(teacher, students, monkeypatch):
    runner = AtOnce()
    final = final_of(teacher, Fixed(2), runner)
    monkeypatch.setattr(Fixed, "allows_controls", lambda self, controls: False)
    assert final.compare_sizes({"magnitude": lambda: students[0]}) == {}
    assert runner.asked == 0


def test_a_student_is_distilled_for_a_part_of_an_epoch(teacher, students, tmp_path):
    final = final_of(teacher, Fixed(0.28), InProcess())
    final.weights = tmp_path
    finished = final.choose([Scored(0.9, students[-1])], "the smallest")
    assert finished.score.cost < 1


def test_the_training_of_finalists_is_timed_and_not_stored(teacher, students, tmp_path):
    plan = Plan(tmp_path / "plan.json", 1e6, 0.0)
    final = final_of(teacher, timed(plan, teacher), InProcess())
    with ScoreStore(tmp_path / "scores.sqlite") as final.store:
        final._time_training(students[:2])
        assert not list(final.store)
    num_images = len(teacher.task.splits["train"])
    for student in students[:2]:
        epochs, seconds = plan.costs[f"finalists of {student.num_macs} MACs"]
        assert epochs == DIFFERENCE / num_images
        assert seconds > 0
        assert final.timing.costs.epoch(student.num_macs) == seconds / epochs
    assert {path.name for path in tmp_path.iterdir()} <= {"plan.json", "scores.sqlite"}


# Answers to test images.


def test_a_student_answers_the_test_images_once(
    teacher, students, monkeypatch, tmp_path
):
    asked = []
    original = finalists.predict

    def predict(network, split, *arguments, **more):
        asked.append(network)
        return original(network, split, *arguments, **more)

    for module in ("finalists", "assessment"):
        monkeypatch.setattr(f"n2n_gym.compression.{module}.predict", predict)
    final = final_of(teacher, Fixed(1), InProcess())
    evaluator = DistillationEvaluator(FULL.with_epochs(1).with_variants(1), device=CPU)
    finished = final.finished(Offer(students[-1], evaluator))
    path = tmp_path / "student.onnx"
    write_onnx(finished, teacher, path)
    compared = compare_networks(teacher, finished, path, CPU)
    assert len(asked) == 2  # the student and the teacher
    assert compared.student.accuracy == pytest.approx(finished.test_accuracy)
