"""Resources of a student, computed and measured."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from n2n_gym.export.onnx import export_onnx
from n2n_gym.limits.requirements import NOTES
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import shrink, shrinkages
from n2n_gym.networks.layers import (
    Activation,
    Add,
    Conv,
    Flatten,
    Linear,
)
from n2n_gym.networks.random_students import random_students
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.inputs import Normalisation
from n2n_gym.pytorch.trace import trace
from n2n_gym.resources import (
    RESOURCES,
    Energy,
    Latency,
    ResourceError,
    load_meter,
    measured,
    onnx_file,
)
from n2n_gym.resources.accelerator import TorchLatency
from n2n_gym.resources.clock import time_in_turns
from n2n_gym.resources.measured import open_session, session_of
from tests.networks import IMAGE, SmallResNet
from tests.test_edits import start_of


@pytest.fixture(scope="module")
def whole() -> Architecture:
    return trace(SmallResNet(), IMAGE)


@pytest.fixture(scope="module")
def thin(whole) -> Architecture:
    return shrink(whole, dict.fromkeys(shrinkages(whole), 0.3))


def test_the_activations_of_a_chain_are_two_neighbours():
    chain = Architecture(
        (1, 4, 4),
        (
            Conv("a", (-1,), 8, (3, 3), padding=(1, 1)),  # 16 + 128 values
            Activation("b", (0,), "relu"),  # in place
            Conv("c", (1,), 2, (3, 3), padding=(1, 1)),  # 128 + 32
            Flatten("d", (2,)),  # 32 + 32
            Linear("e", (3,), 10),
        ),
    )
    assert RESOURCES["peak_bytes"](chain, chain) == 4 * (128 + 32)


def test_a_skip_is_alive_until_it_is_added():
    block = Architecture(
        (4, 4, 4),
        (
            Conv("a", (-1,), 4, (3, 3), padding=(1, 1)),
            Conv("b", (0,), 4, (3, 3), padding=(1, 1)),
            Activation("c", (0,), "relu"),  # not in place: the sum reads its input
            Add("d", (0, 1)),
            Add("e", (2, 3)),
        ),
    )
    # While c runs: a, b and c; the same while d runs: a, b, c and d.
    assert RESOURCES["peak_bytes"](block, block) == 4 * 64 * 4


def test_the_onnx_file_is_as_large_as_it_says(thin, whole, tmp_path):
    content = onnx_file(thin)
    path = tmp_path / "thin.onnx"
    path.write_bytes(content)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    size = RESOURCES["onnx_bytes"](thin, whole)
    assert size == path.stat().st_size > 4 * thin.num_params


@pytest.mark.parametrize("kind", ["DenseNet", "ScaledNet", "ShuffledNet"])
def test_a_trained_file_is_as_large(kind, tmp_path):
    """Normalisation that goes into no convolution stays in the file."""
    network = start_of(kind)
    trained = build(network)
    for values in trained.state_dict().values():
        if values.is_floating_point():
            values.uniform_(0.5, 1.5)
    images = torch.randint(256, (4, *network.input_shape), dtype=torch.uint8)
    as_is = Normalisation((0.0,), (1.0,))
    export_onnx(trained, as_is, images, tmp_path / "trained.onnx", {})
    said = (tmp_path / "trained.onnx").stat().st_size - len(onnx_file(network))
    assert 0 < said < NOTES


def test_functions_that_take_turns_are_compared():
    def work(times):
        return lambda: sum(range(2000 * times))

    one, two = time_in_turns([work(1), work(4)], seconds=5.0)
    assert one.ratio == 1.0
    assert two.low <= two.ratio <= two.high
    assert 2 < two.ratio < 8
    assert two.seconds > one.seconds


def test_a_noisy_measurement_ends_by_the_clock():
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    time_in_turns([lambda: time.sleep(rng.uniform(0, 0.01))], precision=0, seconds=0.5)
    assert time.perf_counter() - started < 5


@pytest.mark.slow
def test_what_disturbs_for_a_while_widens_the_interval():
    started = time.perf_counter()

    def disturbed():
        time.sleep(0.002 if (time.perf_counter() - started) % 1.0 < 0.5 else 0.004)

    _, other = time_in_turns([lambda: time.sleep(0.002), disturbed], seconds=3.0)
    assert other.low < 1.2
    assert other.high > 1.6


@pytest.mark.slow
@pytest.mark.parametrize("latency", [Latency(), TorchLatency(device="cpu")])
def test_a_thinner_network_is_faster(latency, whole, thin):
    mine = latency(thin, whole)
    assert 0 < mine < latency(whole, whole)
    assert latency(whole, whole) == latency(whole, whole)  # measured once


@pytest.mark.slow
def test_a_batch_takes_longer_than_an_image(whole):
    assert Latency(batch=32)(whole, whole) > 2 * Latency()(whole, whole)


@pytest.mark.slow
def test_the_slowest_of_a_students_sessions_counts(whole, thin, monkeypatch):
    opened = []

    def slow_at_second(*args):
        session = open_session(*args)
        opened.append(session)
        if len(opened) != 3:  # the first is the teacher's
            return session
        slow = SimpleNamespace()
        slow.run = lambda *a: [session.run(*a) for _ in range(4)]
        return slow

    usual = Latency()(thin, whole) / Latency()(whole, whole)
    session_of.cache_clear()
    monkeypatch.setattr(measured, "open_session", slow_at_second)
    latency = Latency(sessions=3)
    assert latency(thin, whole) > 2 * usual * latency(whole, whole)  # four runs
    assert len(opened) == 4


@pytest.mark.parametrize("name", ["batch", "threads", "sessions"])
def test_a_latency_needs_something_to_run(name):
    with pytest.raises(ValueError, match=f"{name} must be 1 or more, got 0"):
        Latency(**{name: 0})


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a device")
def test_a_device_that_is_missing_is_named():
    with pytest.raises(ValueError, match=r"no device 'cuda'; it has cpu"):
        TorchLatency(device="cuda")


def test_only_cuda_has_graphs():
    with pytest.raises(ValueError, match=r"graph=True needs device='cuda', got 'cpu'"):
        TorchLatency(device="cpu", graph=True)


def test_energy_is_read_from_the_counters_of_linux(whole, tmp_path):
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "name").write_text("package-0\n")
    (package / "energy_uj").write_text("1000\n")
    (package / "max_energy_range_uj").write_text("4999\n")
    for other, name in {"intel-rapl:0:0": "core", "intel-rapl:1": "psys"}.items():
        (tmp_path / other).mkdir()
        (tmp_path / other / "name").write_text(f"{name}\n")
        (tmp_path / other / "energy_uj").write_text("3000\n")  # counted already
    reads = iter([{"intel-rapl:0": 4000}, {"intel-rapl:0": 1000}])
    energy = Energy(tmp_path)
    assert energy._microjoules() == {"intel-rapl:0": 1000}

    class Fake(Energy):
        def _microjoules(self):
            return next(reads)

    # It began anew: 1000 to its end, 1000 more.
    assert 0 < Fake(tmp_path)(whole, whole) < 2.0


def test_a_machine_without_counters_says_so(whole, tmp_path):
    meter = load_meter(["energy"], {"energy": Energy(tmp_path)})
    with pytest.raises(ResourceError, match="this machine has no energy counters"):
        meter(whole, whole)


def test_what_was_measured_before_is_not_measured_again(whole, thin):
    def never(student, teacher):
        raise AssertionError("asked")

    meter = load_meter([], {"never": never})
    line = json.loads(json.dumps({"never": 3.0, "num_params": 1, "num_macs": 2}))
    meter.remember([(thin.fingerprint, line)])
    assert meter(thin, whole)["never"] == 3.0


def test_measurements_are_kept_in_a_file(whole, thin, tmp_path):
    asked = []

    def count(student, teacher):
        asked.append(student.fingerprint)
        return 1.0

    for _ in range(2):
        meter = load_meter([], {"count": count})
        meter.keep_in(tmp_path / "kept.json")
        assert meter(thin, whole)["count"] == 1.0
    assert asked == [thin.fingerprint]


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}'])
def test_a_damaged_file_of_measurements_is_named(content, tmp_path):
    path = tmp_path / "kept.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"kept\.json is damaged"):
        load_meter(["peak_bytes"]).keep_in(path)
    assert path.read_text() == content


def test_the_measured_file_has_biases_as_trained_ones_have(whole):
    """Without, ONNX Runtime would fuse other nodes."""
    graph = onnx.load_from_string(onnx_file(whole)).graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert {len(node.input) for node in convolutions} == {3}


def test_onnx_runtime_takes_the_measured_file(thin):
    session = onnxruntime.InferenceSession(
        onnx_file(thin), providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(None, {"pixels": np.zeros((3, *IMAGE), np.float32)})
    assert logits.shape == (3, 10)


def test_what_is_measured_together_is_written_once(whole, tmp_path, monkeypatch):
    writes = []
    monkeypatch.setattr(
        "n2n_gym.resources.resource.write_whole",
        lambda path, content: writes.append(json.loads(content)),
    )
    meter = load_meter(["peak_bytes"])
    meter.keep_in(tmp_path / "kept.json")
    one, two, three = random_students(whole, 3)

    def interrupted() -> None:
        with meter.written_once():
            meter(one, whole)
            meter(two, whole)
            assert writes == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # nothing is lost
        interrupted()
    assert [len(each) for each in writes] == [2]
    meter(three, whole)
    assert [len(each) for each in writes] == [2, 3]


def test_of_what_is_measured_together_seconds_may_be_lost(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("n2n_gym.resources.resource.SECONDS", 0.0)
    path = tmp_path / "kept.json"
    meter = load_meter(["peak_bytes"])
    meter.keep_in(path)
    with meter.written_once():
        for number, student in enumerate(random_students(whole, 3), start=1):
            meter(student, whole)
            assert len(json.loads(path.read_text())) == number
