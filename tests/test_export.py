import copy
import math

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from n2n_gym.export import onnx as export
from n2n_gym.export.onnx import export_onnx, save_weights
from n2n_gym.networks.decisions import shrink, shrinkages
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.trace import trace
from tests.networks import GatedNet, ScaledNet, ShuffledNet

ABOUT = {"teacher": "small", "task": "digits"}


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


@pytest.mark.parametrize("kind", [ShuffledNet, ScaledNet, GatedNet])
def test_every_kind_of_layer_can_be_exported(kind, teacher, images, tmp_path):
    student = build(trace(kind(), images.shape[1:])).eval()
    path = tmp_path / "student.onnx"
    assert export_onnx(student, teacher.normalise, images, path, ABOUT) <= 1e-4


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
