"""Other formats of a student, each against torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from n2n_gym.cli import app
from n2n_gym.compression.assessment import compare_files
from n2n_gym.compression.reopen import Revisited
from n2n_gym.export.formats import FORMATS, Exported, check_formats, load_model
from n2n_gym.export.onnx import export_onnx


@pytest.fixture(scope="module")
def source(teacher, tmp_path_factory) -> Exported:
    network = teacher.network(torch.device("cpu"))
    path = tmp_path_factory.mktemp("exported") / "student.onnx"
    images = teacher.task.splits["train"].images
    export_onnx(network, teacher.normalise, images[:16], path, {"teacher": "small"})
    return Exported(network, teacher.normalise, path, images[:256])


@pytest.fixture(scope="module")
def written(source):
    """Paths by format."""
    paths = {"float32": source.path}
    for name, (file, write) in FORMATS.items():
        paths[name] = source.path.with_name(file)
        write(source, paths[name])
    return paths


@pytest.mark.parametrize(
    ("name", "difference", "agreement"),
    [
        ("float32", 1e-4, 1.0),
        ("torch", 1e-4, 1.0),
        ("float16", 0.1, 0.99),
        ("int8", 10.0, 0.9),
    ],
)
def test_each_format_answers_as_torch_does(
    name, difference, agreement, written, source, teacher
):
    (found,) = compare_files([written[name]], source.network, teacher)
    assert found.difference <= difference
    assert found.agreement >= agreement
    assert abs(found.accuracy - teacher.score.accuracy) < 0.1
    assert found.bytes == written[name].stat().st_size
    assert (found.latency is None) is (name == "torch")
    if name in ("float16", "int8"):
        assert found.difference > 0  # it is another arithmetic


def test_a_format_is_as_small_as_its_numbers(written):
    whole = written["float32"].stat().st_size
    assert written["float16"].stat().st_size < 0.8 * whole
    assert written["int8"].stat().st_size < 0.8 * whole


def test_8_bits_are_8_bits(written):
    model = onnx.load(written["int8"])
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    about = {x.key: x.value for x in model.metadata_props}
    assert about["teacher"] == "small"
    assert "test_accuracy" not in about  # that is the float32 file's
    weights = [
        x for x in model.graph.initializer if x.data_type == onnx.TensorProto.INT8
    ]
    assert weights


@pytest.mark.parametrize("name", FORMATS)
def test_any_number_of_images_goes_through(name, written):
    model = load_model(written[name])
    for count in (1, 7):
        assert model(np.zeros((count, 1, 8, 8), np.float32)).shape == (count, 10)


@pytest.mark.slow
def test_a_file_is_set_against_the_teachers(written, source, teacher):
    (found,) = compare_files([written["float32"]], source.network, teacher)
    assert found.size == pytest.approx(1, abs=0.05)  # it is the teacher
    assert 0.5 < found.latency < 2
    assert found._replace(size=0.5, latency=0.9).is_smaller
    assert found._replace(size=0.5, latency=None).is_smaller
    assert not found._replace(size=1.1, latency=0.9).is_smaller
    assert not found._replace(size=0.5, latency=1.1).is_smaller


def test_what_is_no_format_is_named():
    assert check_formats(" int8,float16 ") == ["int8", "float16"]
    assert check_formats("") == []
    with pytest.raises(ValueError, match=r"unknown format 'int4'.*float16, int8"):
        check_formats("int8,int4")


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"\.onnx, \.pt2"):
        load_model(tmp_path / "student.safetensors")


def test_the_command_writes_the_runs_student_in_all_formats(finished_run, tmp_path):
    arguments = [str(finished_run), "--formats", "int8,torch", "--output"]
    result = CliRunner().invoke(app, ["export", *arguments, str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    names = ["student.onnx", "student.int8.onnx", "student.pt2"]
    assert [row["path"] for row in rows] == [str(tmp_path / name) for name in names]
    summary = json.loads((finished_run / "summary.json").read_text())
    assert rows[0]["size"] < 1  # of the teacher's file
    assert rows[0]["is_smaller"] is (rows[0]["latency"] <= 1)
    about = onnx.load(tmp_path / "student.int8.onnx").metadata_props
    said = {x.key: x.value for x in about}
    assert said["test_accuracy"] == f"{rows[1]['accuracy']:.4f}"  # its own
    assert said["fingerprint"]
    assert not {"validation_accuracy", "reward"} & said.keys()
    assert all(row["bytes"] == Path(row["path"]).stat().st_size for row in rows)
    assert rows[0]["latency"] > 0
    assert rows[2]["latency_ms"] is None
    assert rows[0]["accuracy"] == pytest.approx(summary["student"]["test_accuracy"])
    assert (tmp_path / "student.safetensors").is_file()


def test_the_run_of_an_export_must_be_finished(tmp_path, finished_run):
    for name in ("options.toml", "run.json"):
        (tmp_path / name).write_text((finished_run / name).read_text())
    with pytest.raises(ValueError, match="holds no finished run"):
        Revisited.open(tmp_path).export(None, None, [])
