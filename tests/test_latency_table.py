"""Latencies that are predicted: the graph, the work in it, the costs."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import latency
from benchmarks.results import Results
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import shrink, shrinkages
from n2n_gym.networks.layers import (
    ACTIVATIONS,
    Activation,
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    Flatten,
    Linear,
    MaxPool,
)
from n2n_gym.networks.random_students import random_students, students_in_blocks
from n2n_gym.pytorch.trace import trace
from n2n_gym.resources import Latency, latency_table, predicted
from n2n_gym.resources.clock import ROUNDS, ratios_in_rounds
from n2n_gym.resources.graph import timed_onnx
from n2n_gym.resources.latency_table import (
    LatencyTable,
    PredictedLatency,
    fit_costs,
    median_error,
)
from n2n_gym.resources.measured import onnx_file, open_session, pixels_of
from n2n_gym.resources.nodes import CACHES, Node, nodes, work
from n2n_gym.resources.operators import OPERATORS
from tests.networks import (
    IMAGE,
    DenseNet,
    GatedNet,
    GroupNormNet,
    MixedNet,
    PaddedNet,
    ScaledNet,
    ShuffledNet,
    SmallResNet,
    VariedNet,
)

KINDS = [SmallResNet, DenseNet, GatedNet, ShuffledNet, ScaledNet]
NEW_KINDS = [PaddedNet, VariedNet, MixedNet, GroupNormNet]


@pytest.fixture(scope="module")
def whole() -> Architecture:
    return trace(SmallResNet(), IMAGE)


@pytest.fixture
def few(monkeypatch, tmp_path):
    """A table of few students, in a cache of its own."""
    monkeypatch.setenv("N2N_CACHE", str(tmp_path))
    monkeypatch.setattr(latency_table, "STUDENTS", 8)
    monkeypatch.setattr(latency_table, "SECONDS", 0.0)
    latency_table.latency_table.cache_clear()
    yield tmp_path
    latency_table.latency_table.cache_clear()


# The graph.


def operators(content: bytes, folder) -> Counter[str]:
    """The operators that ONNX Runtime runs for a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3  # that the file is for this machine alone
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = onnx.load(folder / "optimised.onnx").graph.node
    return Counter(f"{node.domain}:{node.op_type}" for node in found)


# A scaled network's exported graph also computes shapes, a few small nodes.
@pytest.mark.parametrize("module", [m for m in KINDS if m is not ScaledNet])
def test_onnx_runtime_makes_the_same_of_the_timed_and_the_exported_graph(
    module, tmp_path
):
    start = trace(module(), IMAGE)
    for student in (start, *random_students(start, 1)):
        timed, exported = timed_onnx(student), onnx_file(student)
        assert operators(timed, tmp_path) == operators(exported, tmp_path)


@pytest.mark.parametrize("module", [*KINDS, *NEW_KINDS])
def test_a_timed_graph_gives_logits_for_any_batch(module):
    start = trace(module(), IMAGE)
    content = timed_onnx(start)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    session = open_session(content, 1)
    for batch in (1, 3):
        (logits,) = session.run(None, {"pixels": pixels_of(start, batch)})
        assert logits.shape == (batch, *start.shape_of(len(start.layers) - 1))


def test_every_activation_has_operators():
    assert set(OPERATORS) == set(ACTIVATIONS)
    for function in ACTIVATIONS:
        network = Architecture(
            (1, 4, 4),
            (Conv("a", (-1,), 2, (1, 1)), Activation("b", (0,), function)),
        )
        (values,) = open_session(timed_onnx(network), 1).run(
            None, {"pixels": pixels_of(network, 1)}
        )
        assert values.shape == (1, 2, 4, 4)


@pytest.mark.parametrize(
    "pool",
    [
        MaxPool("p", (0,), (3, 3), (2, 2), (1, 1), ceil_mode=True),
        AvgPool("p", (0,), (2, 2), (2, 2)),
        AdaptiveAvgPool("p", (0,), (3, 2)),
        AdaptiveAvgPool("p", (0,), (9, 9)),
    ],
)
def test_pools_leave_maps_of_their_shape(pool):
    network = Architecture(
        (1, 7, 7),
        (
            Conv("a", (-1,), 3, (1, 1)),
            pool,
            Flatten("f", (1,)),
            Linear("l", (2,), 4),
        ),
    )
    session = open_session(timed_onnx(network), 1)
    (logits,) = session.run(None, {"pixels": pixels_of(network, 2)})
    assert logits.shape == (2, 4)


# The work.


def test_work_is_counted_by_hand():
    conv = Node("Conv", [(1, 20, 4, 4), (24, 20, 3, 3), (24,)], [(1, 24, 4, 4)])
    found = work([conv, Node("Relu", [(1, 24, 4, 4)], [(1, 24, 4, 4)])])
    assert found == {
        "run": 1,
        "weights": 24 * 180,
        "sums": 0,
        "Conv nodes": 1,
        "Conv macs": 24 * 180 * 16,
        "Conv padded macs": 24 * 180 * 16,
        "Conv outputs": 24 * 16,
        "Conv loads": 180 * 16,  # one strip of 64 channels
        "Conv calls": 4 * 2,  # rows of the map, blocks of inputs
        "Conv tiles": 2 * 180,  # of 12 channels, of 16 places
        "Conv columns": 180 * 16,
        "Conv groups": 0,
        "Relu nodes": 1,
        "Relu values": 2 * 24 * 16,
        **{f"weights beyond {size}": 0 for size in CACHES},
    }


def test_weights_that_caches_do_not_hold_are_counted_of_all_nodes():
    conv = Node("Conv", [(1, 400, 4, 4), (500, 400, 1, 1)], [(1, 500, 4, 4)])
    linear = Node("Gemm", [(1, 500), (500, 200), (200,)], [(1, 200)])
    found = work([conv, linear])
    beyond = {size: found[f"weights beyond {size}"] for size in CACHES}
    assert beyond == {size: max(300_000 - size, 0) for size in CACHES}
    assert beyond[2**18] == 37_856
    assert beyond[2**19] == 0


def test_onnx_runtime_says_what_nodes_there_are(whole):
    found = nodes(whole)
    convolutions = [n for n in found if n.operator.startswith("Conv")]
    assert len(convolutions) == sum(isinstance(x, Conv) for x in whole.layers)
    assert nodes(whole, batch=3)[0].gives[0][0] == 3


# The costs.


def test_costs_are_found_again():
    rng = np.random.default_rng(0)
    real = {"macs": 3e-6, "nodes": 2e-3}
    amounts = [
        Counter({"macs": int(rng.integers(1e3, 1e6)), "nodes": int(rng.integers(2, 9))})
        for _ in range(20)
    ]
    ratios = np.array([sum(real[k] * n for k, n in each.items()) for each in amounts])
    assert fit_costs(amounts, ratios) == pytest.approx(real, rel=0.01)
    assert median_error(amounts, ratios) < 0.01
    blind = [Counter({"nodes": each["nodes"]}) for each in amounts]
    assert median_error(blind, ratios) > 0.2  # on those it is fitted to, and on others
    separate = [Counter({f"kind {number}": 1}) for number in range(20)]
    assert (
        median_error(separate, ratios) == 1.0
    )  # of each of which no other says a thing


def test_ratios_are_of_the_first():
    def work_of(times):
        return lambda: sum(range(2000 * times))

    rounds = []
    one, four = ratios_in_rounds(
        work_of(1),
        [work_of(1), work_of(4)],
        seconds=60.0,
        on_round=lambda: rounds.append(1),
    )
    assert 0.7 < one < 1.4
    assert 2.5 < four < 6
    assert len(rounds) == ROUNDS


def test_a_table_is_measured_once_for_a_machine(few, whole, monkeypatch, caplog):
    table = latency_table.latency_table(whole, Latency())
    (path,) = (few / "latencies").glob("*.json")
    about = json.loads(path.read_text())["about"]
    assert about["teacher"] == whole.fingerprint
    assert about["processor"]
    student = shrink(whole, dict.fromkeys(shrinkages(whole), 0.5))
    assert 0 < table.ratio(student) < 2

    def never(*_):
        raise AssertionError("measured again")

    latency_table.latency_table.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(latency_table, "_measure", never)
        assert latency_table.latency_table(whole, Latency()) == table
        with pytest.raises(AssertionError):  # with a batch it is another one
            latency_table.latency_table(whole, Latency(batch=2))
    path.write_text("{")
    latency_table.latency_table.cache_clear()
    with caplog.at_level(logging.WARNING):
        latency_table.latency_table(whole, Latency())
    assert "is damaged" in caplog.text


def test_latencies_are_predicted_as_multiples_of_the_teachers(few, whole):
    predict = predicted(whole, {"latency_ms": 4.0, "num_params": 1.0})
    assert list(predict) == ["latency_ms"]
    assert predict["latency_ms"](whole, whole) == 4.0
    student = random_students(whole, 1)[0]
    ratio = latency_table.latency_table(whole, Latency()).ratio(student)
    assert predict["latency_ms"](student, whole) == 4.0 * ratio


def test_students_in_blocks_are_of_all_sizes_and_keep_most_kernels(whole):
    students = students_in_blocks(whole, 100, block=4)
    layers = [each for s in students for each in s.layers if isinstance(each, Conv)]
    assert all(each.width % 4 == 0 for each in layers)
    spatial = {
        each.name for each in whole.layers if getattr(each, "kernel", 0) == (3, 3)
    }
    kernels = [each.kernel for each in layers if each.name in spatial]
    assert 0.6 < kernels.count((3, 3)) / len(kernels) < 0.9
    shares = [student.num_params / whole.num_params for student in students]
    assert min(shares) < 0.15
    assert max(shares) > 0.5
    assert len({student.fingerprint for student in students}) > 80
    assert students_in_blocks(whole, 5, block=4) == students[:5]
    assert students_in_blocks(whole, 5, block=4, seed=1) != students[:5]


def test_what_has_no_cost_takes_nothing(whole):
    table = LatencyTable({"run": 0.25}, batch=1, threads=1)
    student = random_students(whole, 1)[0]
    assert PredictedLatency(table, 2.0)(student, whole) == 0.5


def test_the_stored_measurements_have_the_fields_of_the_benchmark():
    folder = Path(latency.__file__).parent / "data" / "latency"
    lines = Results(folder, "subject").read()
    assert lines
    assert all(line.keys() == set(latency.Found._fields) for line in lines.values())
