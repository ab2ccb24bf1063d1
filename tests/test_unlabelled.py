"""Images without labels: read, split, learned from and spoken of as what they are."""

import html
import json
import pickle
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from n2n_gym import load_teacher
from n2n_gym.cli import app
from n2n_gym.compression import pacing
from n2n_gym.compression.assessment import evaluate_onnx
from n2n_gym.evaluators.distillation import Settings, distil, without_labels
from n2n_gym.evaluators.loading import load_evaluator
from n2n_gym.evaluators.packed_teacher import pack, unpack
from n2n_gym.evaluators.rungs import FULL, PAPER, SHORT
from n2n_gym.pytorch.inference import predict
from n2n_gym.tasks.arrays import SPLITS, UNKNOWN
from n2n_gym.tasks.loading import load_task
from n2n_gym.tasks.task import Task
from n2n_gym.teachers import providing
from n2n_gym.teachers.teacher import Teacher, Trained
from tests.networks import SmallResNet

CPU = torch.device("cpu")
ALL, TRAIN = SPLITS, ("train",)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("N2N_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def arrays(task):
    """A third of the images of digits."""
    return {
        name: tuple(array[::3] for array in split.arrays())
        for name, split in task.splits.items()
    }


def without(arrays, unlabelled):
    return {
        name: (images, None if name in unlabelled else labels)
        for name, (images, labels) in arrays.items()
    }


def make_task(arrays, unlabelled, **changes):
    classes = 0 if unlabelled == ALL else 10
    parts = without(arrays, unlabelled)
    return Task(
        "own", (1, 8, 8), classes, lambda: parts, unlabelled=unlabelled, **changes
    )


def make_npz(folder, arrays, unlabelled):
    keys = {}
    for name, (images, labels) in without(arrays, unlabelled).items():
        keys[f"{name}_images"] = images
        if labels is not None:
            keys[f"{name}_labels"] = labels
    np.savez(folder / "own.npz", **keys)
    return str(folder / "own.npz")


def make_folder(folder, arrays, unlabelled):
    for name, (images, labels) in arrays.items():
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = folder / "own" / name
            if name not in unlabelled:
                place = place / f"digit {label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(place / f"{i}.png")
    return f"{folder / 'own'}@8"


MAKE = {
    "arrays": lambda folder, arrays, unlabelled: make_task(arrays, unlabelled),
    "npz": make_npz,
    "folder": make_folder,
}


@pytest.fixture(params=MAKE)
def reader(request):
    return MAKE[request.param]


def network(channels, teacher):
    """The trained teacher's network, for as many channels as the images have."""
    module = SmallResNet(channels)
    weights = dict(teacher.weights)
    if channels == 3:
        weights["conv1.weight"] = weights["conv1.weight"].repeat(1, 3, 1, 1) / 3
    module.load_state_dict(weights)
    return module


def asked(data, teacher):
    """A trained teacher on images that may have no labels."""
    data = load_task(data)
    module = network(data.input_shape[0], teacher)
    return load_teacher(module, data, device="cpu")


# Reading.


@pytest.mark.parametrize("unlabelled", [TRAIN, ALL])
def test_each_reader_says_what_has_no_labels(
    tmp_path, arrays, reader, unlabelled, teacher
):
    data = load_task(reader(tmp_path, arrays, unlabelled))
    assert data.unlabelled == unlabelled
    assert data.num_classes == (0 if unlabelled == ALL else 10)
    for name in SPLITS:
        labels = data.splits[name].labels
        assert len(labels) == len(arrays[name][1])
        assert bool((labels == UNKNOWN).all()) == (name in unlabelled)
    found = asked(data, teacher)
    assert found.task.unlabelled == unlabelled
    assert found.task.num_classes == 10
    for name in SPLITS:
        split = found.task.split(name, CPU)
        answers = predict(found.network(CPU), split, found.normalise)
        is_answer = torch.equal(split.labels, answers)
        assert is_answer == (name in unlabelled)
    if unlabelled == ALL:
        assert found.score.accuracy == 1.0
    else:
        assert 0.5 < found.score.accuracy < 1.0


@pytest.mark.parametrize("parts", [("all",), ("train", "test")])
def test_what_is_missing_is_split_without_classes(tmp_path, arrays, parts):
    images = np.concatenate([images for images, _ in arrays.values()])
    if parts == ("all",):
        (tmp_path / "flat").mkdir()
        for i, image in enumerate(images[:100]):
            Image.fromarray(image[..., 0]).save(tmp_path / "flat" / f"{i}.png")
        data, sizes = load_task(f"{tmp_path / 'flat'}@8"), [60, 20, 20]
    else:
        path = tmp_path / "two.npz"
        np.savez(path, train_images=images[:200], test_images=images[200:250])
        data, sizes = load_task(str(path)), [180, 20, 50]
    assert data.unlabelled == ALL
    assert [len(data.splits[name]) for name in SPLITS] == sizes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "lacks train_labels, and has validation_labels"),
        ({"validation_labels": None}, "lacks train_labels, and has test_labels"),
        (
            {"validation_labels": None, "validation_images": None},
            "lacks train_labels, and has test_labels",
        ),
        ({"train_labels": slice(0, 50)}, r"train has \d+ images and 50 labels"),
        ({"train_images": None}, "lacks train_images"),
        ({"test_images": None}, "lacks test_images"),
    ],
)
def test_labels_of_some_images_are_refused(tmp_path, arrays, changes, message):
    keys = {
        f"{name}_{kind}": array
        for name, pair in arrays.items()
        for kind, array in zip(("images", "labels"), pair, strict=True)
    }
    labels = keys.pop("train_labels")
    for key, change in changes.items():
        if change is None:
            keys.pop(key)
        else:
            keys[key] = labels[change]
    np.savez(tmp_path / "own.npz", **keys)
    with pytest.raises(ValueError, match=message):
        load_task(str(tmp_path / "own.npz"))


@pytest.mark.parametrize("unlabelled", [("test",), ("validation", "test"), "train"])
def test_other_splits_without_labels_are_refused(arrays, unlabelled):
    with pytest.raises(ValueError, match="unlabelled must be"):
        make_task(arrays, unlabelled)


def test_labels_that_are_said_to_be_none_are_refused(arrays):
    data = Task("own", (1, 8, 8), 0, lambda: arrays, unlabelled=ALL)
    with pytest.raises(ValueError, match="train is unlabelled but has labels"):
        _ = data.splits


def test_half_of_the_labels_unknown_is_refused(arrays):
    images, labels = arrays["train"]
    half = np.where(np.arange(len(labels)) % 2, labels, UNKNOWN)
    data = Task("own", (1, 8, 8), 10, lambda: {**arrays, "train": (images, half)})
    with pytest.raises(ValueError, match="train_labels has the negative class -1"):
        _ = data.splits


def test_classes_in_test_alone_are_refused(tmp_path, arrays):
    path = make_folder(tmp_path, arrays, TRAIN)
    (tmp_path / "own" / "validation").rename(tmp_path / "own" / "others")
    with pytest.raises(ValueError, match="give val and test, both with a subfolder"):
        load_task(path)


# Teachers.


@pytest.mark.parametrize("unlabelled", [TRAIN, ALL])
@pytest.mark.parametrize(
    "name", ["resnet18", "tests.networks:make_small", "architecture"]
)
def test_a_teacher_that_would_have_to_be_trained_is_refused(
    tmp_path, arrays, reader, unlabelled, name, teacher
):
    if name == "tests.networks:make_small" and unlabelled == ALL:
        pytest.skip("it makes a network of the task's classes, which are not known")
    given = teacher.architecture if name == "architecture" else name
    data = load_task(reader(tmp_path, arrays, unlabelled))
    if name == "architecture" and data.input_shape[0] == 3:
        pytest.skip("it reads grey images")
    with pytest.raises(ValueError, match="cannot be trained: the training images of"):
        load_teacher(given, data, device="cpu")


def test_weights_say_how_many_classes_a_network_by_name_has(tmp_path, arrays):
    from n2n_gym.pytorch.build import build
    from n2n_gym.teachers.zoo import teacher_architecture

    data = make_task(arrays, ALL)
    shape = replace(data, num_classes=7)
    saved = build(teacher_architecture("squeezenet1_1", shape)).state_dict()
    teacher = load_teacher(
        "squeezenet1_1", data, weights={"state_dict": saved}, device="cpu"
    )
    assert teacher.task.num_classes == 7
    with pytest.raises(ValueError, match="does not show how many classes resnet18"):
        load_teacher("resnet18", data, weights=saved, device="cpu")


def test_a_teacher_of_one_answer_is_refused(arrays):
    module = SmallResNet()
    with torch.no_grad():
        module.fc.weight.zero_()
        module.fc.bias[3] = 1
    found = load_teacher(module, make_task(arrays, ALL), device="cpu")
    with pytest.raises(ValueError, match="predicts class 3 for all"):
        _ = found.task.splits


def test_a_whole_teacher_is_asked_too(arrays, teacher):
    data = make_task(arrays, ALL)
    logits = asked(data, teacher).trained.logits
    trained = Trained(teacher.weights, 0.5, logits)
    whole = Teacher("whole", data, teacher.architecture, lambda: trained)
    assert whole.score.accuracy == 1.0
    for name in SPLITS:
        assert torch.equal(
            whole.task.splits[name].labels,
            asked(data, teacher).task.splits[name].labels,
        )


def test_answers_are_computed_once_and_go_to_other_processes(
    arrays, teacher, monkeypatch
):
    first = asked(make_task(arrays, ALL), teacher)
    wanted = first.task.splits["test"].labels
    monkeypatch.setattr(providing, "compute_answers", None)
    again = asked(make_task(arrays, ALL), teacher)
    there = pickle.loads(pickle.dumps(again))
    for found in (again, there):
        assert torch.equal(found.task.splits["test"].labels, wanted)
        assert found.identity == first.identity
    packed = unpack(pack(first))
    assert packed.task.unlabelled == ALL
    assert torch.equal(
        packed.task.splits["validation"].labels, first.task.splits["validation"].labels
    )


# Scores.


@pytest.mark.parametrize("rung", [SHORT, FULL, PAPER])
def test_students_learn_no_labels_where_there_are_none(arrays, teacher, rung):
    found = asked(make_task(arrays, TRAIN), teacher)
    recipe = without_labels(rung.recipe, found.task)
    assert recipe.hard_weight == 0
    assert recipe.logit_weight == rung.recipe.logit_weight
    assert without_labels(rung.recipe, teacher.task) == rung.recipe


def test_what_stands_for_labels_does_not_change_what_students_learn(arrays, teacher):
    found = asked(make_task(arrays, TRAIN), teacher)
    rung = replace(PAPER, recipe=replace(PAPER.recipe, epochs=1))
    settings = Settings(rung, CPU, "float32", 1)
    one = distil(found.architecture, found, settings, seed=0)
    found.task.split("train", CPU).labels.fill_(0)
    two = distil(found.architecture, found, settings, seed=0)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])


@pytest.mark.parametrize("rung", ["inherit", "short", "paper", "full"])
def test_scores_without_labels_have_other_keys(arrays, teacher, rung):
    """Even where the labels are the teacher's answers."""
    data = [make_task(arrays, unlabelled) for unlabelled in (TRAIN, ALL)]
    teachers = [asked(each, teacher) for each in data]
    answers = {
        name: (images, teachers[1].task.splits[name].labels.numpy())
        for name, (images, _) in arrays.items()
    }
    for labelled in (arrays, answers):
        parts = dict(labelled)
        teachers.append(asked(Task("own", (1, 8, 8), 10, lambda p=parts: p), teacher))
    evaluator = load_evaluator(rung, "cpu", precision="float32")
    keys = {evaluator.key(each.architecture, each).digest for each in teachers}
    assert len(keys) == len(teachers)


def test_a_score_is_agreement(arrays, teacher):
    found = asked(make_task(arrays, ALL), teacher)
    evaluator = load_evaluator("inherit", "cpu", precision="float32")
    (score,) = evaluator([found.architecture], found)
    split = found.task.split("validation", CPU)
    mine = predict(evaluator.network(found.architecture, found), split, found.normalise)
    theirs = predict(found.network(CPU), split, found.normalise)
    assert score.accuracy == pytest.approx((mine == theirs).double().mean().item())
    assert evaluator.score_teacher(found).accuracy == 1.0


# The whole path.


@pytest.mark.parametrize("unlabelled", [TRAIN, ALL])
def test_a_run_says_what_its_accuracies_are(
    tmp_path, arrays, teacher, unlabelled, monkeypatch
):
    from safetensors.torch import save_file

    monkeypatch.setattr(pacing, "ROUNDS", ((2, 1.0),))
    save_file(dict(teacher.weights), tmp_path / "teacher.safetensors")
    (tmp_path / "teacher.json").write_text(teacher.architecture.to_json())
    path = make_npz(tmp_path, arrays, unlabelled)
    command = ["compress", "--teacher", tmp_path / "teacher.json", "--task", path]
    command += ["--weights", tmp_path / "teacher.safetensors", "--device", "cpu"]
    command += ["--evaluator", "inherit", "--removal-updates", 1]
    command += ["--shrinkage-updates", 0, "--final-epochs", 1, "--no-controls"]
    command += ["--output", tmp_path / "run"]
    result = CliRunner().invoke(app, list(map(str, command)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    page = (tmp_path / "run" / "report.html").read_text()
    page = html.unescape(" ".join(page.split()))
    sizes = {name: len(arrays[name][0]) for name in unlabelled}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["unlabelled"] == sizes
    model = onnx.load(tmp_path / "run" / "student.onnx")
    about = {each.key: each.value for each in model.metadata_props}
    assert "labels" in about["unlabelled"]
    file, task = tmp_path / "run" / "student.onnx", load_task(path)
    if unlabelled == ALL:
        sentence = (
            f"accuracy is agreement with the teacher, on {sizes['validation']} "
            f"unlabelled validation images and {sizes['test']} unlabelled test images"
        )
        assert summary["teacher"]["accuracy"] == 1.0
        assert summary["test"]["teacher"]["confusion"]
        assert "test agreement" in page
        assert "test accuracy" not in page
        assert {"validation_agreement", "test_agreement"} <= about.keys()
        assert "test_accuracy" not in about
        with pytest.raises(ValueError, match="test images of own have no labels"):
            evaluate_onnx(file, task, "test")
    else:
        sentence = "students learned the teacher's logits alone"
        assert 0 < summary["teacher"]["accuracy"] < 1
        assert {"validation_accuracy", "test_accuracy"} <= about.keys()
        assert evaluate_onnx(file, task, "test").num_images == len(arrays["test"][0])
    assert sentence in said
    assert sentence in page
    again = CliRunner().invoke(app, list(map(str, command)), catch_exceptions=False)
    assert again.exit_code == 0
    assert sentence in " ".join(again.stdout.split())
