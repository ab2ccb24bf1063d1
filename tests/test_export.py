import copy
import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from n2n_gym.compression.assessment import evaluate_onnx
from n2n_gym.compression.student_files import classes_of, preprocessing_of
from n2n_gym.export import onnx as export
from n2n_gym.export.onnx import export_onnx
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import shrink, shrinkages
from n2n_gym.networks.layers import (
    ACTIVATIONS,
    KINDS,
    Activation,
    Concat,
    Conv,
    Flatten,
    Linear,
)
from n2n_gym.networks.random_students import random_students
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.inheritance import Inheritance
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.saving import save_weights
from n2n_gym.pytorch.trace import trace, translate
from n2n_gym.tasks.task import Task
from tests.networks import IMAGE, NETWORKS, OF_TIMM, SmallResNet, awake

ABOUT = {"teacher": "small", "task": "digits"}
LOGGER = evaluate_onnx.__module__


@pytest.fixture(scope="module")
def network(teacher):
    return teacher.inheritance(torch.device("cpu")).build(teacher.architecture).eval()


@pytest.fixture(scope="module")
def images(task):
    return task.splits["test"].images


def test_onnx_gives_torchs_logits_for_any_batch(network, teacher, images, tmp_path):
    path = tmp_path / "student.onnx"
    largest = export_onnx(network, teacher.normalise, images, path, ABOUT)
    assert largest <= 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["pixels"]
    for count in (1, 3, 100):
        pixels = images[:count].float() / 255
        (logits,) = session.run(["logits"], {"pixels": pixels.numpy()})
        with torch.no_grad():
            expected = network(teacher.normalise(images[:count]))
        torch.testing.assert_close(
            torch.from_numpy(logits), expected, rtol=0, atol=1e-4
        )


def test_the_networks_have_every_kind_of_layer():
    kinds = {
        layer.kind for kind in NETWORKS for layer in translate(kind(), IMAGE).layers
    }
    assert kinds == set(KINDS)


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_kind_of_layer_can_be_exported(kind, teacher, images, tmp_path):
    """In a network as it is, and in a student of it, with its weights."""
    torch.manual_seed(0)
    whole = awake(kind())
    start = trace(whole, images.shape[1:])
    inheritance = Inheritance(start, whole.state_dict())
    path = tmp_path / "student.onnx"
    for student in (start, *random_students(start, 1)):
        network = inheritance.build(student).eval()
        assert export_onnx(network, teacher.normalise, images, path, ABOUT) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TIMM)
def test_students_of_timms_networks_can_be_exported(name, teacher, tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    whole = awake(timm.create_model(name, num_classes=10, in_chans=1))
    start = trace(whole, (1, 64, 64))
    (student,) = random_students(start, 1)
    network = Inheritance(start, whole.state_dict()).build(student).eval()
    images = torch.randint(256, (4, 1, 64, 64), dtype=torch.uint8)
    path = tmp_path / "student.onnx"
    assert export_onnx(network, teacher.normalise, images, path, ABOUT) <= 1e-4


def test_every_activation_can_be_exported(teacher, images, tmp_path):
    layers = [Conv("stem", (-1,), 4, (3, 3), padding=(1, 1))]
    for function in ACTIVATIONS:
        layers.append(Activation(function, (0,), function, slope=0.3, alpha=0.7))
    of_each = tuple(range(1, len(layers)))
    layers += [
        Concat("all", of_each),
        Flatten("flat", (len(layers),)),
        Linear("fc", (len(layers) + 1,), 10),
    ]
    torch.manual_seed(0)
    network = build(Architecture(images.shape[1:], tuple(layers))).eval()
    path = tmp_path / "student.onnx"
    assert export_onnx(network, teacher.normalise, images, path, ABOUT) <= 1e-4


def test_the_file_says_what_it_is(network, teacher, images, tmp_path):
    path = tmp_path / "student.onnx"
    export_onnx(network, teacher.normalise, images, path, ABOUT)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about["teacher"] == "small"
    assert "[0, 1]" in about["input"]
    assert f"mean {teacher.normalise.mean}" in about["normalisation"]
    assert [file.name for file in tmp_path.iterdir()] == ["student.onnx"]  # no .part


def test_the_file_is_hardly_larger_than_the_weights(network, teacher, images, tmp_path):
    path = tmp_path / "student.onnx"
    export_onnx(network, teacher.normalise, images, path, ABOUT)
    graph = onnx.load(path).graph
    numbers = sum(math.prod(tensor.dims) for tensor in graph.initializer)
    assert path.stat().st_size < 4 * numbers + 12_000
    assert b"/n2n_gym/" not in path.read_bytes()  # no traces of the code


def test_the_opset_is_the_exporters_default(network, teacher, images, tmp_path):
    path = tmp_path / "student.onnx"
    export_onnx(network, teacher.normalise, images, path, ABOUT)
    (opset,) = [o.version for o in onnx.load(path).opset_import if not o.domain]
    assert opset == export.OPSET


def test_logits_that_differ_are_refused(
    network, teacher, images, tmp_path, monkeypatch
):
    written = export._to_onnx

    def write_another(module, pixels):
        other = copy.deepcopy(module)
        with torch.no_grad():
            for weights in other.parameters():
                weights += 1e-3
        return written(other, pixels)

    monkeypatch.setattr(export, "_to_onnx", write_another)
    with pytest.raises(RuntimeError, match="ONNX Runtime's logits differ"):
        export_onnx(network, teacher.normalise, images, tmp_path / "x.onnx", ABOUT)


def test_rounding_that_a_network_magnifies_is_no_difference(teacher, images, tmp_path):
    # Logits of a million: single precision has them to a tenth.
    network = build(teacher.architecture).eval()
    with torch.no_grad():
        for weights in list(network.parameters())[-2:]:
            weights *= 1e6
    path = tmp_path / "student.onnx"
    assert export_onnx(network, teacher.normalise, images, path, ABOUT) > 1e-4


def test_saved_weights_load_into_the_architecture(teacher, network, tmp_path):
    save_weights(network, tmp_path / "student.safetensors")
    again = build(teacher.architecture).eval()
    again.load_state_dict(load_file(tmp_path / "student.safetensors"))
    batch = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(batch), network(batch))


def test_a_shrunk_student_exports_too(teacher, images, tmp_path):
    start = teacher.architecture
    student = shrink(start, dict.fromkeys(shrinkages(start), 0.3))
    network = teacher.inheritance(torch.device("cpu")).build(student).eval()
    path = tmp_path / "student.onnx"
    assert export_onnx(network, teacher.normalise, images, path, ABOUT) <= 1e-4


def written(task, path):
    """The file of an untrained student of a task, as a run writes it."""
    network = build(trace(SmallResNet(classes=task.num_classes), task.input_shape))
    about = {
        "task": task.name,
        "classes": classes_of(task),
        "preprocessing": preprocessing_of(task),
    }
    normalise = Normalisation((0.5,), (0.5,))
    images = task.splits["test"].images[:4]
    export_onnx(network.eval(), normalise, images, path, about)
    return path


def drawn(name="drawn", count=10, class_names=None, **about):
    """A task of noise, of 8x8 images."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * count, 8, 8), np.uint8)
    labelled = images, np.arange(2 * count) % count
    splits = dict.fromkeys(("train", "validation", "test"), labelled)
    return Task(name, (1, 8, 8), count, lambda: splits, class_names, **about)


@pytest.mark.parametrize(
    "about",
    [
        {"preprocessing": "8x8 grey images, as in digits.npz"},
        {"preprocessing": "8x8 grey images"},
        {"preprocessing": ""},
        {},
    ],
    ids=str,
)
def test_own_images_that_are_called_digits_are_not_taken_for_the_published(
    about, tmp_path
):
    path = written(drawn("digits", **about), tmp_path / "student.onnx")
    with pytest.raises(ValueError, match="other images than the published digits"):
        evaluate_onnx(path, None, "test")


def test_the_published_digits_are_found_by_their_name(task, tmp_path):
    found = evaluate_onnx(written(task, tmp_path / "student.onnx"), None, "test")
    assert found.num_images == 360


@pytest.mark.parametrize("count", [2, 9, 11, 20])
def test_a_task_of_more_or_fewer_classes_is_refused(count, task, tmp_path):
    path = written(task, tmp_path / "student.onnx")
    message = f"has 10 classes, the task drawn has {count}"
    with pytest.raises(ValueError, match=message):
        evaluate_onnx(path, drawn(count=count), "test")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("ba", "its a is number 0, which is b in"),
        ("ax", "its b is number 1, which is x in"),
        ("xy", "its a is number 0, which is x in"),
        ("ab", None),
        (None, None),
    ],
)
def test_classes_of_other_names_are_warned_of(names, said, tmp_path, caplog):
    path = written(drawn(count=2, class_names=("a", "b")), tmp_path / "student.onnx")
    other = drawn(count=2, class_names=names and tuple(names))
    evaluate_onnx(path, other, "test")
    warnings = [r.getMessage() for r in caplog.records if r.name == LOGGER]
    assert len(warnings) == (said is not None)
    assert said is None or said in warnings[0]
