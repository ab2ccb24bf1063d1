"""The studies of recipes: of teachers, and of the final distillation."""

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import final_distillation, recipes, variants
from benchmarks.final_distillation import CHANGES, SHARES, Study, longer, rung_of
from benchmarks.recipes import VARIANTS, recipe_of
from benchmarks.results import Results
from benchmarks.variants import TODAY, answers, gap, merged, points, task_named
from n2n_gym.evaluators import distillation, elastic
from n2n_gym.evaluators.distillation import distil
from n2n_gym.evaluators.rungs import FULL
from n2n_gym.pytorch import checkpoint
from n2n_gym.tasks.loading import load_task
from n2n_gym.teachers.learning import teacher_recipe

SMALL = "tests.networks:make_small"


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(variants, "STEPS", 1)
    monkeypatch.setattr(variants, "FIRST", 1)


def result(seed, right, **named):
    bits = np.packbits(np.array(right, bool)).tobytes().hex()
    accuracy = float(np.mean(right))
    found = {"right": bits, "num_images": len(right), "validation": accuracy}
    return {"seed": seed, **found, **named}


def test_differences_are_paired_by_image_and_averaged_over_seeds():
    ours = {s: result(s, [1, 1, 1, 0]) for s in (0, 1, 7)}
    usual = {0: result(0, [1, 0, 1, 0]), 1: result(1, [0, 0, 1, 1])}
    gaps = gap(ours, usual)
    assert gaps.tolist() == [0.5, 1.0, 0.0, -0.5]
    # Mean .25; variance (.0625 + .5625 + .0625 + .5625) / 3, over 4 images.
    assert points(gaps) == f"+25.00 ± {100 * (1.25 / 3 / 4) ** 0.5:.2f}"
    assert gap(ours, {5: usual[0]}) is None


def test_two_variants_are_merged_and_unknown_ones_refused():
    assert merged(VARIANTS, "tail+average") == {"fall_power": 2, "average_share": 0.05}
    assert merged(CHANGES, TODAY) == {}
    with pytest.raises(ValueError, match="unknown variant='tall'; known: today, "):
        merged(VARIANTS, "tail+tall")


def test_the_first_images_of_each_class():
    task = load_task(task_named("digits", 50))
    labels = task.splits["train"].labels
    assert labels.bincount().tolist() == [5] * 10
    assert task_named("digits", None) == "digits"


def test_todays_variants_are_todays_recipes(teacher):
    assert recipe_of(teacher, {}) == teacher_recipe(teacher.task, teacher.architecture)
    assert rung_of({}, FULL.recipe.epochs) == FULL
    for known, make in ((VARIANTS, recipe_of), (CHANGES, None)):
        for name, changes in known.items():
            made = make(teacher, changes) if make else rung_of(changes, 60)
            usual = make(teacher, {}) if make else FULL
            is_same = name in (TODAY, final_distillation.LONGER, "flip-alone")
            assert (made == usual) == is_same, name


def test_longer_schedules_of_small_students_cost_as_much_in_total():
    macs = [200, 100, 50]
    factors = longer(macs)
    assert factors[0] < 1 < factors[2]
    assert factors[2] / factors[1] == pytest.approx(2**0.37)
    total = sum(m * f for m, f in zip(macs, factors, strict=True))
    assert total == pytest.approx(350)


def test_costs_are_measured_once_for_the_same_work(teacher, tmp_path):
    costs = Results(tmp_path, "work")
    seconds = recipes.cost_of(teacher, {}, costs)
    assert seconds > 0
    assert recipes.cost_of(teacher, VARIANTS["tail"], costs) == seconds
    assert len(costs.read()) == 1
    recipes.cost_of(teacher, VARIANTS["cutout"], costs)
    assert len(costs.read()) == 2


def test_teachers_are_trained_for_equal_minutes_and_not_again(tmp_path, capsys):
    (tmp_path / "costs").mkdir()
    costs = Results(tmp_path / "costs", "work")
    for work, seconds in (("{}", 1.0), ('{"smallest_side": 0.5}', 0.5)):
        costs.add(work=work, seconds=seconds)
    costs.add(work='{"precision": "bfloat16"}', seconds=2.0)
    command = ["--teacher", SMALL, "--task", "digits", "--images", "200"]
    command += ["--minutes", "0.02", "--output", str(tmp_path)]
    names = [TODAY, "progressive", "tail+average", "bfloat16"]
    costs.add(work='{"average_share": 0.05}', seconds=1.0)
    for _ in range(2):
        recipes.main([*command, "--variants", *names])
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    found = {line["variant"]: line for line in map(json.loads, lines)}
    assert len(lines) == 3  # bfloat16 is slower
    epochs = {name: line["epochs"] for name, line in found.items()}
    assert epochs == pytest.approx({TODAY: 1.2, "progressive": 2.4, names[2]: 1.2})
    assert found["progressive"]["recipe"]["smallest_side"] == 0.5
    kept = {path.name for path in (tmp_path / "weights").iterdir()}
    assert kept == {f"{name}-0.02-0.safetensors" for name in found}
    shown = capsys.readouterr().out
    assert "bfloat16 is not tried: an epoch takes 2.00 times" in shown
    assert "| progressive | 2.4 | 0 | " in shown
    with pytest.raises(SystemExit):  # the folder has results of other images
        recipes.main(["--output", str(tmp_path)])


@pytest.fixture
def study(teacher, tmp_path):
    (tmp_path / "costs").mkdir()
    costs = Results(tmp_path / "costs", *final_distillation.COST)
    return Study(teacher, Results(tmp_path, *final_distillation.KEY), costs)


def test_students_are_distilled_at_equal_cost_and_not_again(study, monkeypatch, capsys):
    monkeypatch.setattr(elastic, "STEPS", 1)
    monkeypatch.setattr(elastic, "RECIPE", replace(elastic.RECIPE, epochs=0.1))
    monkeypatch.setattr(elastic, "LEAST", 0.0)
    for share in SHARES:
        for work, seconds in (("{}", 1.0), ('{"cutout": 0.25}', 2.0)):
            study.costs.add(share=share, work=work, seconds=seconds)
    names = [TODAY, "cutout", "longer", "elastic"]
    options = argparse.Namespace(changes=names, epochs=[1], seeds=[0])
    for _ in range(2):
        final_distillation.measure_all(study, options)
    assert len(study.results.path.read_text().splitlines()) == 4 * len(SHARES)
    found = study.results.read()
    for share in SHARES:
        params = found[TODAY, share, 1, 0]["num_params"]
        assert params <= study.teacher.architecture.num_params / share
        assert found[TODAY, share, 1, 0]["own_epochs"] == 1
        assert found["cutout", share, 1, 0]["own_epochs"] == 0.5
    assert found["longer", 20, 1, 0]["own_epochs"] > 1
    assert found["elastic", 5, 1, 0]["rung"]["start"] == "elastic"
    ours, usual = (study.elastic.variants, study.teacher.variants)
    assert ours == usual  # the teacher's own logits
    final_distillation.show(study.results)
    shown = capsys.readouterr().out
    assert shown.count(" ± ") == 3 * 4
    assert not list(study.results.path.parent.glob("*.checkpoint"))


def test_the_cost_of_a_students_epoch_is_measured(study):
    first = study.cost(20, {})
    assert first > 0
    assert study.cost(20, CHANGES["tail"]) == first
    assert study.cost(20, CHANGES["variants-1"]) == first


def test_a_killed_distillation_resumes(study, tmp_path, monkeypatch):
    settings = replace(study.usual, rung=replace(rung_of({}, 3), num_variants=1))
    student, path = study.students[20], tmp_path / "student.checkpoint"
    whole = distil(student, study.teacher, settings, seed=1)
    write = checkpoint.write_whole

    def written_and_killed(path, content):
        write(path, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "KEEP_EVERY", 0.0)
        patch.setattr(checkpoint, "write_whole", written_and_killed)
        with pytest.raises(KeyboardInterrupt):
            distil(student, study.teacher, settings, seed=1, checkpoint=path)
    assert torch.load(path, weights_only=True)["training"]["epoch"] == 1
    steps = []
    train = distillation.train
    monkeypatch.setattr(
        distillation,
        "train",
        lambda *a, **k: train(*a, **k, after_step=lambda: steps.append(1)),
    )
    resumed = distil(student, study.teacher, settings, seed=1, checkpoint=path)
    assert len(steps) == 2 * (len(study.teacher.task.splits["train"]) // 64)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)


def test_a_bit_for_each_validation_image(teacher):
    found = answers(teacher.network(torch.device("cpu")), teacher)
    right = variants.right_of(found)
    assert right.mean() == found["validation"] == teacher.score.accuracy
    assert len(right) == len(teacher.task.splits["validation"])


@pytest.mark.parametrize("module", [recipes, final_distillation])
def test_what_is_in_the_repository_is_shown(module, capsys):
    module.main(["--show"])
    name = module.__name__.split(".")[1]
    folder = variants.folder_of(None, name, is_shown=True)
    said = capsys.readouterr().out
    assert (f"{folder}/results.jsonl has no results yet" in said) != folder.exists()
