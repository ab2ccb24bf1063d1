import json
import os
from contextlib import closing
from dataclasses import replace

import pytest
import torch

from n2n_gym.envs import RemoveEnv
from n2n_gym.evaluators import rungs, scoring
from n2n_gym.evaluators.distillation import is_out_of_memory, out_of_memory
from n2n_gym.evaluators.evaluator import SizeEvaluator, evaluate
from n2n_gym.evaluators.loading import default_runner, load_evaluator
from n2n_gym.evaluators.packed_teacher import packed_name
from n2n_gym.evaluators.rungs import FULL, INHERIT, PAPER, SHORT, Rung
from n2n_gym.evaluators.runner import InProcess
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.evaluators.workers import Workers
from n2n_gym.networks.decisions import RATES, removals, remove, shrink, shrinkages
from n2n_gym.pytorch import checkpoint
from n2n_gym.pytorch.inference import compute_accuracy
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.rewards import Failure, Score, compression, n2n

QUICK = Rung("quick", recipe=Recipe(1, 32, learning_rate=0.1, logit_weight=0.1))


def quick(rung: Rung = QUICK, **settings) -> DistillationEvaluator:
    settings = {"device": "cpu", "precision": "float32"} | settings
    return DistillationEvaluator(rung, **settings)


@pytest.fixture(scope="module")
def students(teacher):
    start = teacher.architecture
    branch = next(r for r in removals(start) if r.form == "branch")
    narrow = dict.fromkeys(shrinkages(start), RATES[6])
    return [start, remove(start, [branch]), shrink(start, narrow)]


def test_a_student_has_one_score_whatever_the_batch(teacher, students):
    together = quick()(students, teacher)
    apart = [quick()([student], teacher)[0] for student in reversed(students)]
    assert together == apart[::-1]
    assert all(isinstance(score, Score) for score in together)
    assert [s.num_params for s in together] == [s.num_params for s in students]
    # One epoch, and forward 500 training and 360 validation images.
    assert {s.cost for s in together} == {1 + (500 + 360) / (3 * 1077)}


def test_students_are_trained_with_one_seed_and_those_of_others_with_others(
    teacher, students
):
    class Seeds(InProcess):
        def run(self, tasks, teacher, settings):
            seen.append({task.seed for task in tasks})
            return super().run(tasks, teacher, settings)

    seen: list[set[int]] = []
    for rung in (QUICK, INHERIT):
        quick(rung, runner=Seeds())(students, teacher)
    assert [len(seeds) for seeds in seen] == [1, 1]
    assert seen[0] != seen[1]


def test_scores_are_validation_accuracies(teacher, students):
    evaluator = quick()
    (score,) = evaluator(students[1:2], teacher)
    network = evaluator.network(students[1], teacher)
    validation = teacher.task.splits["validation"]
    assert score.accuracy == compute_accuracy(network, validation, teacher.normalise)


@pytest.mark.parametrize("processes", [0, 1, 2, 3])
def test_weights_that_are_kept_are_those_that_were_scored(
    teacher, students, processes, tmp_path, monkeypatch
):
    again = quick().network(students[1], teacher).state_dict()
    with closing(Workers(processes) if processes else InProcess()) as runner:
        evaluator = quick(weights=tmp_path, runner=runner)
        scores = evaluator(students, teacher)
    assert len(list(tmp_path.iterdir())) == len(students)
    with monkeypatch.context() as patch:
        # Nothing is distilled a second time.
        patch.setattr(scoring, "distil_and_keep", None)
        networks = [evaluator.network(student, teacher) for student in students]
    kept = networks[1].state_dict()
    assert kept.keys() == again.keys()
    for name, expected in again.items():
        assert torch.equal(kept[name], expected), name
    validation = teacher.task.splits["validation"]
    found = [compute_accuracy(n, validation, teacher.normalise) for n in networks]
    assert found == [score.accuracy for score in scores]


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_weights_that_are_damaged_or_gone_are_made_anew(
    teacher, students, content, tmp_path, caplog
):
    evaluator = quick(weights=tmp_path)
    evaluator(students[1:2], teacher)
    (path,) = tmp_path.iterdir()
    expected = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    evaluator.network(students[1], teacher)
    assert path.read_bytes() == expected
    assert ("is damaged" in caplog.text) == (content is not None)


def test_a_killed_distillation_resumes_where_weights_are_kept(
    teacher, students, tmp_path, monkeypatch
):
    three = replace(QUICK, recipe=replace(QUICK.recipe, epochs=3))
    (expected,) = quick(three)(students[1:2], teacher)
    evaluator, begun = quick(three, weights=tmp_path), []

    def write_or_stop(*arguments):
        if len(begun) == 2:
            raise KeyboardInterrupt
        begun.append(write(*arguments))

    write = checkpoint.write_checkpoint
    monkeypatch.setattr(checkpoint, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "write_checkpoint", write_or_stop)
    assert not evaluator.is_begun(students[1], teacher)
    with pytest.raises(KeyboardInterrupt):
        evaluator(students[1:2], teacher)
    assert evaluator.is_begun(students[1], teacher)
    begun.clear()
    assert evaluator(students[1:2], teacher) == [expected]
    assert len(begun) == 1  # the third epoch
    assert not evaluator.is_begun(students[1], teacher)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_torchs_generator_is_left_alone(teacher, students):
    before = torch.get_rng_state()
    quick()(students[1:2], teacher)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_agent_that_tracks_no_gradients_does_not_matter(teacher, students, mode):
    expected = quick()(students[2:], teacher)
    with mode():
        found = quick()(students[2:], teacher)
    assert found == expected


def test_what_its_score_depends_on_is_in_the_key(teacher, students):
    evaluators = [
        quick(),
        quick(FULL),
        quick(threads=2),
        quick(precision="bfloat16"),
        quick(Rung("quick", recipe=Recipe(2, 32, learning_rate=0.1))),
    ]
    keys = {evaluator.key(students[0], teacher).digest for evaluator in evaluators}
    keys |= {quick().key(student, teacher).digest for student in students}
    assert len(keys) == len(evaluators) + len(students) - 1


def test_keys_have_the_names_that_the_first_scores_were_kept_under(teacher, students):
    key = DistillationEvaluator(FULL, device="cpu").key(students[0], teacher)
    rung = {
        *("name", "start", "recipe", "fewest_images", "statistics", "is_fitted"),
        *("views", "is_augmented", "precision"),
    }
    settings = json.loads(key.settings)
    assert settings.keys() >= rung
    assert "num_variants" not in settings
    assert settings["views"] == FULL.num_variants == 8


def test_what_a_teacher_says_is_in_the_key_too(teacher, students):
    trained = teacher.trained._replace(logits=teacher.trained.logits * 2)
    ensemble = replace(teacher, provide=lambda: trained)
    keys = {quick().key(students[0], t).digest for t in (teacher, ensemble)}
    assert len(keys) == 2
    assert packed_name(ensemble) != packed_name(teacher)


class Often(SizeEvaluator):
    """Fails in a way that may pass; says which students it was asked for."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        self.asked: list[int] = []

    def __call__(self, students, teacher):
        self.asked.append(len(students))
        return [self.failure for _ in students]


def test_what_was_lost_is_tried_once_more_and_what_was_too_large_alone(
    teacher, students
):
    for failure, asked in (
        (Failure("the worker died", retryable=True), [3, 3]),
        (out_of_memory(MemoryError()), [3, 1, 1, 1]),
    ):
        evaluator = Often(failure)
        results = evaluate(students, teacher, evaluator)
        assert all(isinstance(result, Failure) for result in results)
        assert evaluator.asked == asked


@pytest.mark.parametrize(
    "message",
    [
        "could not create a primitive",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_exhausted_memory_is_told_by_what_torch_says(message):
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError(message))


def test_as_many_workers_as_cores_or_fewer(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    assert default_runner(1).count == 1
    assert default_runner(1_000).count == cores
    monkeypatch.setattr(os, "name", "nt")
    assert isinstance(default_runner(4), InProcess)


def test_torchs_threads_do_not_matter(teacher, students):
    expected = quick()(students[1:2], teacher)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert quick()(students[1:2], teacher) == expected
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)


def test_inheriting_the_whole_teacher_is_as_accurate_as_the_teacher(teacher):
    evaluator = load_evaluator("inherit", "cpu", store=False)
    (score,) = evaluator([teacher.architecture], teacher)
    assert score.accuracy == pytest.approx(teacher.score.accuracy, abs=0.02)
    assert 0 < score.cost < 0.5
    assert evaluator.score_teacher(teacher) == teacher.score


def test_distillation_makes_up_for_what_removal_lost(teacher, students):
    rungs = (Rung("bare"), INHERIT, QUICK)
    (bare,), (fitted,), (distilled,) = (
        quick(rung)(students[1:2], teacher) for rung in rungs
    )
    assert bare.accuracy < fitted.accuracy < distilled.accuracy


def test_a_diverged_student_is_a_failure_and_the_others_have_scores(teacher, students):
    wild = quick(Rung("wild", recipe=Recipe(2, learning_rate=1e30)))
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


@pytest.mark.parametrize(
    ("num_images", "share", "epochs"),
    [
        (500, 1, 2.0),
        (1_000, 1, 1.25),
        (4_000, 1, 0.3125),
        (45_000, 1, 1_250 / 45_000),
        (4_000, 1 / 16, 0.3125 * 16**0.37),
        (45_000, 1 / 16, 16**0.37 * 1_250 / 45_000),
        (45_000, 1 / 256, 3.3 * 1_250 / 45_000),
        (1_000, 1 / 16, 2.0),
    ],
)
@pytest.mark.parametrize("rung", [SHORT, rungs.QUICK])
def test_a_cheap_score_sees_as_many_images_whatever_there_are_and_small_students_more(
    rung, num_images, share, epochs
):
    assert rung.recipe_for(num_images, share).epochs == pytest.approx(epochs)


def test_what_a_longer_training_costs_is_counted(teacher, students):
    whole, _, narrow = quick(replace(SHORT, start="teacher"))(students, teacher)
    assert narrow.cost > whole.cost > 1_250 / 1_077


def test_the_papers_rung_is_the_papers(teacher, students):
    recipe = PAPER.recipe
    assert (recipe.epochs, recipe.optimiser) == (5, "adam")
    assert (recipe.learning_rate, recipe.weight_decay) == (5e-4, 5e-4)
    assert (recipe.hard_weight, recipe.logit_weight) == (0, 1)
    assert PAPER.start == "fresh"
    evaluator = load_evaluator("paper", "cpu", store=False)
    (score,) = evaluator(students[:1], teacher)
    assert score.cost > 5
    assert evaluator.settings(teacher).precision == "float32"


def test_a_fresh_start_inherits_nothing(teacher, students):
    untrained = Rung("untrained", start="fresh", statistics=100)
    (score,) = quick(untrained)(students[:1], teacher)
    assert score.accuracy < 0.4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_the_caller_has_set_of_torch_does_not_matter(teacher, students, precision):
    (expected,) = quick(precision=precision)(students[1:2], teacher)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            (found,) = quick(precision=precision)(students[1:2], teacher)
        assert torch.get_default_dtype() == torch.float64  # it stays set
        assert torch.get_default_device() == torch.device("meta")
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert found == expected
    # A student learns in either precision.
    assert expected.accuracy > 0.5


def test_the_papers_teacher_gets_no_gradients(teacher, students, monkeypatch):
    networks = []
    original = type(teacher).network

    def network(self, device):
        networks.append(original(self, device))
        return networks[-1]

    monkeypatch.setattr(type(teacher), "network", network)
    quick(PAPER)(students[2:], teacher)
    assert networks
    assert all(p.grad is None for n in networks for p in n.parameters())


def test_precision_can_be_fixed_and_is_part_of_the_key(teacher):
    keys = {
        name: load_evaluator("inherit", "cpu", store=False, precision=name).key(
            teacher.architecture, teacher
        )
        for name in ("float32", "bfloat16")
    }
    for name, key in keys.items():
        assert f'"precision":"{name}"' in key.settings
    with pytest.raises(ValueError, match="unknown precision='int8'; known: None, flo"):
        load_evaluator("inherit", "cpu", precision="int8")
    with pytest.raises(ValueError, match="need an evaluator by name"):
        load_evaluator(SizeEvaluator(), precision="float32")
    env = RemoveEnv(teacher, evaluator="inherit", store=False, precision="bfloat16")
    assert env.evaluator.precision == "bfloat16"
