"""The comparison with today's pruners: same networks, same limits, right intervals."""

import importlib.util
import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.peers import show, timing, tuning
from benchmarks.peers.__main__ import check, main, measure_all, parser, rows
from benchmarks.peers.networks import resnet20, resnet56, thinned
from benchmarks.peers.pruners import (
    CHUNK,
    METHODS,
    Pruned,
    as_pruned,
    fastnas,
    first_within,
    largest,
    pruning_steps,
)
from benchmarks.peers.spent import Spent, counted, read_spent
from benchmarks.peers.subject import MEASURED, TARGETS, Subject, check_alone
from benchmarks.peers.timing import shares_of_first, time_students
from benchmarks.peers.tuning import KEY, LATENCY, Bench, Found, longer, read_compress
from benchmarks.results import Results
from n2n_gym.compression.candidates import Failed
from n2n_gym.evaluators.distillation import Settings, distil
from n2n_gym.evaluators.rungs import FULL, Rung
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.scaling import OutOfReach, uniform_student
from n2n_gym.pytorch import checkpoint
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.trace import trace
from n2n_gym.resources import load_meter
from n2n_gym.runs.options import Options
from n2n_gym.tasks.sets import cifar10
from n2n_gym.teachers.cifar import cifar_resnet
from tests.networks import SmallResNet

SHAPE = (1, 8, 8)
NEEDS_TORCH_PRUNING = "Torch-Pruning is the extra peers"


def no_gradients(module):
    """Magnitudes need none."""


def gradients(module):
    images = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0))
    module.zero_grad()
    nn.functional.cross_entropy(module(images), torch.arange(8)).backward()


@pytest.mark.parametrize("kind", ["magnitude", "taylor"])
def test_a_pruned_module_and_its_trace_have_the_same_logits(kind):
    tp = pytest.importorskip("torch_pruning", reason=NEEDS_TORCH_PRUNING)
    importance, prepare = {
        "magnitude": (tp.importance.GroupMagnitudeImportance(), no_gradients),
        "taylor": (tp.importance.GroupTaylorImportance(), gradients),
    }[kind]
    module = SmallResNet().eval()
    start = trace(module, SHAPE)
    sizes = []
    for pruned in pruning_steps(module, start, importance, prepare, steps=8):
        found = as_pruned(pruned, start)
        sizes.append(found.student.num_params)
        network = build(found.student)
        network.load_state_dict(found.weights)
        images = torch.rand(4, *SHAPE)
        with torch.no_grad():
            expected = pruned.eval()(images)
            torch.testing.assert_close(network.eval()(images), expected)
        if len(sizes) == 5:
            break
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < start.num_params / 2
    assert found.student.num_outputs == 10


def pruned_in_blocks(block):
    """A network before and after half of its pruning, in blocks of channels."""
    tp = pytest.importorskip("torch_pruning", reason=NEEDS_TORCH_PRUNING)
    module = SmallResNet().eval()
    start = trace(module, SHAPE)
    importance = tp.importance.GroupMagnitudeImportance()
    steps = pruning_steps(module, start, importance, no_gradients, steps=8, block=block)
    *_, last = (as_pruned(pruned, start).student for pruned in islice(steps, 4))
    return start, last


def test_pruned_widths_may_be_in_blocks():
    start, last = pruned_in_blocks(4)
    assert last.num_params < start.num_params
    names = ("conv1", "block1.conv1", "block2.conv1", "block3.conv2")
    widths = [last.shape_of(last.positions[name])[0] for name in names]
    assert all(width < 4 or width % 4 == 0 for width in widths), widths
    assert max(widths) > 4


def test_layers_no_wider_than_a_block_may_get_any_width():
    start, last = pruned_in_blocks(16)
    assert last.num_params < 0.6 * start.num_params


PROGRAM = """
import torch
from torch import nn
from benchmarks.peers.networks import thinned
torch.set_num_threads(1)
layer = nn.Conv2d(6, 4, 1, 2, bias=False).to(memory_format=torch.channels_last)
for number in range(100):
    images = torch.randn(128, 6, 8, 8).to(memory_format=torch.channels_last)
    with thinned(layer):
        layer(images.requires_grad_()).square().sum().backward()
"""


def test_the_gradients_of_a_pruned_projection_are_computed_without_an_overrun():
    layer = nn.Conv2d(6, 4, 1, 2, bias=False)
    images = torch.randn(2, 6, 9, 8)
    expected = layer(images)
    with thinned(layer):
        assert layer.stride == (1, 1)
        torch.testing.assert_close(layer(images), expected)
    assert layer.stride == (2, 2)
    torch.testing.assert_close(layer(images), expected)
    # An overrun ends the process where glibc checks its memory.
    checked = {"MALLOC_CHECK_": "3", "LD_PRELOAD": "libc_malloc_debug.so.0"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **checked},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


def test_the_larger_of_any_widths_and_widths_in_blocks_is_taken():
    made = {width: trace(plain(width), SHAPE) for width in (3, 4)}
    limits = SimpleNamespace(block=16)
    asked = []

    def make(block):
        asked.append(block)
        if block == 1:
            raise OutOfReach("no step keeps it")
        return Pruned(made[4], {})

    assert largest(limits, make).student is made[4]
    assert asked == [1, 16]
    both = {1: Pruned(made[4], {}), 16: Pruned(made[3], {})}
    assert largest(limits, both.__getitem__).student is made[4]
    with pytest.raises(OutOfReach, match="no step keeps it"):
        largest(SimpleNamespace(block=1), make)


@pytest.mark.slow
def test_a_resnet56_is_pruned_to_a_tenth():
    tp = pytest.importorskip("torch_pruning", reason=NEEDS_TORCH_PRUNING)
    module = resnet56(cifar10()).eval()
    start = trace(module, (3, 32, 32))
    limits = Requirements.read(start, {"num_params": start.num_params // 10})
    importance = tp.importance.GroupMagnitudeImportance()
    steps = pruning_steps(module, start, importance, no_gradients)
    found = as_pruned(first_within(steps, limits), start).student
    assert start.num_params / 12 < found.num_params <= start.num_params / 10


def a_subject(folder, module):
    """A subject whose latencies are known: the teacher takes 4 ms."""
    start = trace(module, SHAPE)
    meter = load_meter(MEASURED)
    macs = {"num_params": start.num_params, "num_macs": start.num_macs}
    meter.remember([(start.fingerprint, {**macs, "latency_ms": 4.0})])
    task = SimpleNamespace(
        input_shape=SHAPE,
        split=lambda *_: Images(),
    )
    teacher = SimpleNamespace(architecture=start, task=task, normalise=None)
    teacher.weights = module.state_dict()
    return Subject("small", "none", folder / "weights", folder, teacher, meter)


def test_a_student_of_fastnas_that_breaks_the_limit_is_refused(tmp_path, monkeypatch):
    module = SmallResNet().eval()
    config = {"nn.Conv2d": {"*": {}}, "nn.BatchNorm2d": {"*": {}}}
    asked = {}

    def prune(module, *, config, constraints, **_):
        asked.update(config)
        if constraints["params"] < 100:
            raise ValueError("... NOT all constraints can be satisfied ...")
        return module, {}

    library = ModuleType("modelopt.torch.prune")
    library.prune = prune
    library.fastnas = SimpleNamespace(FastNASConfig=lambda: config)
    parts = {"modelopt": ModuleType("modelopt"), "torch": ModuleType("modelopt.torch")}
    parts["modelopt"].torch, parts["torch"].prune = parts["torch"], library
    monkeypatch.setitem(sys.modules, "modelopt", parts["modelopt"])
    monkeypatch.setitem(sys.modules, "modelopt.torch", parts["torch"])
    monkeypatch.setitem(sys.modules, "modelopt.torch.prune", library)
    monkeypatch.setattr("benchmarks.peers.pruners.module_of", lambda *_: module)
    subject = a_subject(tmp_path, module)
    whole = subject.teacher.architecture.num_params
    limits = Requirements.read(subject.teacher.architecture, {"num_params": whole})
    assert fastnas(subject, limits, 0).student.num_params == whole
    assert asked["checkpoint"] == str(tmp_path / "fastnas-0.pth")
    half = Requirements.read(subject.teacher.architecture, {"num_params": whole // 2})
    with pytest.raises(OutOfReach, match=f"found {whole} parameters"):
        fastnas(subject, half, 0)
    few = Requirements.read(subject.teacher.architecture, {"num_params": 50})
    with pytest.raises(OutOfReach, match="no student for"):
        fastnas(subject, few, 0)


class Images:
    """A split with black images."""

    images, labels = torch.zeros(8, *SHAPE), torch.zeros(8)

    def __len__(self):
        return 8

    def batches(self, *_):
        return iter(())


def test_widths_that_padded_shortcuts_tie_are_kept():
    tp = pytest.importorskip("torch_pruning", reason=NEEDS_TORCH_PRUNING)
    module = cifar_resnet("resnet20").eval()
    start = trace(module, (3, 32, 32))
    importance = tp.importance.GroupMagnitudeImportance()
    steps = pruning_steps(module, start, importance, no_gradients, steps=4)
    pruned = as_pruned(next(steps), start).student
    assert pruned.num_params < start.num_params
    for name in ("conv1", "layer1.0.conv2", "layer2.0.conv2", "layer3.2.conv2"):
        kept, whole = (net.shape_of(net.positions[name]) for net in (pruned, start))
        assert kept == whole


def plain(width):
    layers = [nn.Conv2d(1, width, 3, padding=1), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 2))


@pytest.mark.parametrize("width", [40, 39, 31, 30, 2, 1])
def test_the_first_step_within_the_limits_is_found(width):
    start, target = (trace(plain(each), SHAPE) for each in (41, width))
    limits = Requirements.read(start, {"num_params": target.num_params})
    widths = range(40, 0, -1)
    assert len(widths) > 3 * CHUNK
    found = trace(first_within(map(plain, widths), limits), SHAPE)
    assert found == target


def test_a_target_that_no_step_keeps_is_out_of_reach():
    limits = Requirements.read(trace(plain(8), SHAPE), {"num_params": 1})
    with pytest.raises(OutOfReach, match="num_params"):
        first_within(map(plain, (3, 2, 1)), limits)


def test_a_distillation_starts_from_given_weights(teacher):
    small = uniform_student(teacher.architecture, teacher.architecture.num_params // 3)
    given = build(small).state_dict()
    kept = Settings(Rung("kept", statistics=0), torch.device("cpu"), "float32", 1)
    found = distil(small, teacher, kept, seed=0, initial=given).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in given.items())


def test_a_distillation_goes_on_where_it_was_stopped(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "KEEP_EVERY", 0.0)
    student = uniform_student(
        teacher.architecture, teacher.architecture.num_params // 3
    )
    rung = FULL.with_epochs(3).with_variants(1)
    settings = Settings(rung, torch.device("cpu"), "float32", 1)
    whole = distil(student, teacher, settings, seed=0)
    path = tmp_path / "student.checkpoint"
    write, written = checkpoint.write_checkpoint, []

    def write_or_stop(*arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(arguments)
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_checkpoint", write_or_stop)
        with pytest.raises(KeyboardInterrupt):
            distil(student, teacher, settings, seed=0, checkpoint=path)
        written.clear()
        found = distil(student, teacher, settings, seed=0, checkpoint=path)
        assert len(written) == 1  # the third epoch
    for key, tensor in whole.state_dict().items():
        assert torch.equal(found.state_dict()[key], tensor)
    other = distil(student, teacher, settings, seed=1, checkpoint=path).state_dict()
    alone = distil(student, teacher, settings, seed=1).state_dict()
    assert all(torch.equal(other[key], tensor) for key, tensor in alone.items())


@pytest.mark.parametrize(
    ("make", "num_params"), [(resnet20, 272_474), (resnet56, 855_770)]
)
def test_the_subjects_may_be_narrowed_everywhere(make, num_params):
    start = trace(make(cifar10()), (3, 32, 32))
    assert start.num_params == num_params
    assert uniform_student(start, num_params // 10).num_params > num_params / 12


def result(method, seed, right, **more):
    line = {
        **dict(zip(KEY, (method, "params/10", "epochs", seed), strict=True)),
        **{"num_params": 80_000, "num_macs": 12.5e6, "latency_ms": 1.5},
        **{"search_minutes": 6.0, "tuning_minutes": 24.0, "num_images": len(right)},
        "test": float(np.mean(right)),
        "right": np.packbits(right).tobytes().hex(),
    }
    return {**line, **more}


def written(folder, *lines):
    results = Results(folder, *KEY)
    for line in lines:
        results.add(**line)
    return results.read()


def row_of(found, method):
    return dict(zip(show.HEAD, show.row_of(found, method, "params/10"), strict=True))


def test_the_interval_is_of_the_same_images(tmp_path):
    right = np.arange(400) % 2  # half of them
    lines = [result(m, s, right) for m in ("ours", "taylor") for s in (0, 1)]
    # As good on average, right on all other images.
    lines += [result("uniform", s, 1 - right) for s in (0, 1)]
    # Right on every tenth image fewer.
    fewer = right * (np.arange(400) % 10 != 1)
    lines += [result("magnitude", s, fewer) for s in (0, 1)]
    found = written(tmp_path, *lines)
    gap = "ours - it, equal epochs"
    assert row_of(found, "taylor")[gap] == "+0.00 (+0.00 to +0.00)"
    value, low, high = show.difference(
        *(show.lines_of(found, m, "params/10", "epochs") for m in ("ours", "magnitude"))
    )
    # 40 of 400 images differ: a standard error of 1.5 points.
    assert value == pytest.approx(10)
    assert low == pytest.approx(10 - 1.96 * 1.5, abs=0.4)
    assert high == pytest.approx(10 + 1.96 * 1.5, abs=0.4)
    value, low, high = show.difference(
        *(show.lines_of(found, m, "params/10", "epochs") for m in ("ours", "uniform"))
    )
    assert value == pytest.approx(0)
    # Each image differs by 1 or -1: a standard error of 5 points.
    assert high - low == pytest.approx(2 * 1.96 * 5, abs=1.5)


def test_a_row_has_means_over_seeds_and_blanks(tmp_path):
    right = np.arange(100) < 80
    found = written(
        tmp_path,
        result("ours", 0, right),
        result("ours", 1, np.arange(100) < 84),
        result("taylor", 1, right, error="the loss became nan"),
    )
    row = row_of(found, "ours")
    assert row["test, equal epochs"] == "82.00 ± 2.83"
    assert (row["parameters"], row["MACs, M"]) == ("80,000", "12.5")
    assert (row["hours"], row["seeds"]) == ("0.50 / ", "2 / ")
    assert row["test, equal time"] == row["ours - it, equal epochs"] == ""
    assert set(row_of(found, "taylor").values()) == {"taylor", ""}


def test_blanks_come_with_the_command_that_fills_them(tmp_path, capsys):
    written(tmp_path, result("ours", 0, np.ones(8, int)))
    main(["--show", "--output", str(tmp_path), "--seeds", "0", "--columns", "epochs"])
    said = capsys.readouterr().out
    assert "| ours | 80,000 | 12.5 | 1.50 |  | 100.00 |" in said
    command = "--methods uniform --targets params/10 --seeds 0"
    assert f"python -m benchmarks.peers {command} --output {tmp_path}" in said
    assert "--methods ours --targets params/10 " not in said
    assert "--methods fastnas --targets params/5 " not in said


def test_the_figure_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    lines = [result(method, 0, np.ones(8, int)) for method in show.ORDER]
    show.draw(written(tmp_path, *lines), tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 5_000


def test_a_row_says_how_many_students_keep_the_target(tmp_path):
    right = np.ones(8, int)
    whole = {"num_params": 800_000, "num_macs": 125e6, "latency_ms": 10.0}
    alone = result("teacher", 0, right, target="", column="", **whole)
    of = {"target": "latency/5"}
    lines = [result("ours", seed, right, latency_ms=9.0, **of) for seed in (0, 1)]
    lines += [
        {**of, "method": "ours", "column": LATENCY, "seed": seed, "latency_ms": time}
        for seed, time in enumerate((1.8, 2.2))
    ]
    found = written(tmp_path, alone, *lines, result("taylor", 0, right))
    row = dict(zip(show.HEAD, show.row_of(found, "ours", "latency/5"), strict=True))
    # Timed together with the teacher, not as measured in the search.
    assert (row["latency, ms"], row["keep the target"]) == ("2.00", "1 of 2")
    assert row_of(found, "taylor")["keep the target"] == "1 of 1"


def test_the_latencies_of_a_target_are_timed_together(tmp_path, monkeypatch):
    subject = a_subject(tmp_path, plain(8))
    students = {m: trace(plain(n), SHAPE) for m, n in (("ours", 4), ("taylor", 2))}
    timed = []

    def shares(networks):
        timed.append(list(networks))
        return [1.0, 0.5, 0.25][: len(networks)]

    monkeypatch.setattr(timing, "shares_of_first", shares)
    bench = SimpleNamespace(
        subject=subject, made_with=dict, student=lambda method, *_: students[method]
    )
    results = Results(tmp_path, *KEY)
    results.add(**result("ours", 0, np.ones(8, int)))
    results.add(**result("taylor", 1, np.ones(8, int), error="the loss became nan"))
    for _ in range(2):
        time_students(bench, "params/10", results)
    assert timed == [[subject.teacher.architecture, students["ours"]]]
    results.add(**result("taylor", 0, np.ones(8, int)))
    time_students(bench, "params/10", results)  # all of them anew
    assert len(timed[1]) == 3
    found = results.read()
    assert found["ours", "params/10", LATENCY, 0]["latency_ms"] == 2.0
    assert found["taylor", "params/10", LATENCY, 0]["latency_ms"] == 1.0
    assert len(found) == 5


def test_latencies_are_fractions_of_the_first_networks():
    networks = [trace(plain(width), (1, 64, 64)) for width in (512, 8)]
    whole, share = shares_of_first(networks, seconds=0.5)
    assert whole == 1
    assert 0 < share < 0.5


class Idle:
    """A bench that has nothing to do any more."""

    def prepare(self):
        pass


class Finding(Idle):
    """A bench whose searches end at once, one of them without a student."""

    epochs, options = 3, Options()

    def __init__(self):
        self.done, self.busy = [], None

    @contextmanager
    def claimed(self, *row):
        yield row != self.busy

    def find(self, method, target, seed):
        self.done.append(("find", method, target))
        if method == "taylor" and target == "params/10":
            raise OutOfReach("no step of the pruner keeps it")
        if method == "ours" and target == "params/10":
            raise Failed("the distillation of every finalist failed")
        return Found(Pruned(trace(plain(2), SHAPE), {}), Spent(1, 1))

    def tune(self, found, epochs, key):
        self.done.append(("tune", key[0], key[1]))
        return {"test": 0.5, "right": "ff", "num_images": 8}, Spent(2, 2)

    def forget(self, key):
        assert key in Results(self.folder, *KEY).read()

    def made_with(self):
        return {}


def test_what_cannot_be_found_shows_before_any_tuning(tmp_path, monkeypatch):
    bench = Finding()
    bench.folder, bench.subject = tmp_path, None
    size = {"num_params": 80_000, "num_macs": 12.5e6, "latency_ms": 1.5}
    monkeypatch.setattr("benchmarks.peers.__main__.sizes", lambda *_: size)
    monkeypatch.setattr("benchmarks.peers.__main__.time_students", lambda *_: None)
    names = ["--methods", "ours", "taylor", "--targets", "params/5", "params/10"]
    options = parser().parse_args([*names, "--seeds", "0", "--columns", "epochs"])
    results = Results(tmp_path, *KEY)
    results.add(**result("teacher", 0, np.ones(8, int), target="", column=""))
    bench.busy = ("ours", "params/5", 0)  # of another process
    measure_all(bench, options, results)
    assert bench.done[:2] == [
        ("find", "taylor", "params/5"),
        ("find", "taylor", "params/10"),
    ]
    assert ("tune", "taylor", "params/5") in bench.done
    found = results.read()
    assert "no step" in found["taylor", "params/10", "epochs", 0]["error"]
    assert "every finalist" in found["ours", "params/10", "epochs", 0]["error"]
    assert ("ours", "params/5", "epochs", 0) not in found
    assert "- taylor, seed 0: no step of the pruner keeps it" in show.as_markdown(found)

    def damaged(*_):
        raise ValueError("history.jsonl: line 3 differs")

    bench.busy, bench.find = None, damaged
    with pytest.raises(ValueError, match="line 3 differs"):
        measure_all(bench, options, results)


def test_a_student_has_one_process_at_a_time(tmp_path):
    one, other = (
        Bench(a_subject(tmp_path, plain(2)), 1, None, Options()) for _ in range(2)
    )
    row = ("taylor", "params/5", 0)
    with one.claimed(*row) as is_mine:
        assert is_mine
        with other.claimed(*row) as is_mine:
            assert not is_mine
        with other.claimed("taylor", "params/5", 1) as is_mine:
            assert is_mine
    with other.claimed(*row) as is_mine:
        assert is_mine


def test_tunings_of_two_processes_have_clocks_of_their_own(tmp_path):
    bench = Bench(a_subject(tmp_path, plain(2)), 1, None, Options())
    keys = [("taylor", "params/5", "epochs", seed) for seed in (0, 1)]
    files = [path for key in keys for path in bench._tuning(key)]
    assert len(set(files)) == 4
    for path in files:
        path.touch()
    bench.forget(keys[0])
    assert [path.exists() for path in files] == [False, False, True, True]


def test_our_search_has_the_limits_of_the_peers(tmp_path, monkeypatch):
    subject = a_subject(tmp_path, plain(8))
    start = subject.teacher.architecture
    stopped = []

    def compress(options):
        limits = Requirements.read(start, options.constraints())
        limits.keep_in(options.output)
        whole = limits.meter(start, start)
        stopped.append((limits.bounds["latency_ms"], whole["latency_ms"]))
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "compress", compress)
    monkeypatch.setattr(tuning, "_own_cache", nullcontext)
    bench = Bench(subject, 1, None, Options(controls="none"))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            bench.find("ours", "latency/5", 0)
    # A fifth of 4 ms, and the same 4 ms for the teacher.
    assert stopped == [(0.8, 4.0)] * 2


def test_results_in_the_folder_are_not_made_again(tmp_path):
    options = parser().parse_args(["--methods", "ours", "taylor", "--seeds", "0"])
    lines = [
        result(method, seed, np.ones(8, int), target=target, column=column)
        for method, target, seed in rows(options)
        for column in options.columns
    ]
    lines += [
        {"method": m, "target": target, "column": LATENCY, "seed": seed}
        for m, target, seed in rows(options)
    ]
    lines.append(result("teacher", 0, np.ones(8, int), target="", column=""))
    before = written(tmp_path, *lines)
    results = Results(tmp_path, *KEY)
    measure_all(Idle(), options, results)
    assert results.read() == before
    assert len(before) == 1 + 2 * 3 * len(TARGETS)


def test_a_folder_has_results_of_one_subject(tmp_path):
    check_alone(tmp_path, {"teacher": "resnet56", "epochs": 60})
    check_alone(tmp_path, {"teacher": "resnet56", "epochs": 60})
    with pytest.raises(ValueError, match="epochs=60, got 6; give another --output"):
        check_alone(tmp_path, {"teacher": "resnet56", "epochs": 6})


def test_a_folder_has_results_of_one_commit_and_one_search(tmp_path):
    made = {
        "commit": "a1",
        "versions": {"torch": "2.11"},
        "compress": {"agent": "local"},
    }
    check_alone(tmp_path, made)
    check_alone(tmp_path, made)
    other = {
        "commit": "b2",
        "versions": {"torch": "2.12"},
        "compress": {"agent": "best"},
    }
    differences = (
        "commit='a1', got 'b2'; versions.torch='2.11', got '2.12'; "
        "compress.agent='local', got 'best'"
    )
    with pytest.raises(ValueError, match=differences):
        check_alone(tmp_path, other)
    with pytest.raises(ValueError, match=r"versions\.timm=None, got '1'"):
        check_alone(tmp_path, made | {"versions": {"torch": "2.11", "timm": "1"}})


def test_ours_comes_before_its_peers_and_fastnas_once():
    options = parser().parse_args([])
    found = list(rows(options))
    assert found[0] == ("ours", "params/5", 0)
    assert [each for each in found if each[0] == "fastnas"] == [
        ("fastnas", "params/10", 0)
    ]
    assert len(found) == 3 * len(TARGETS) * len(METHODS) + 1


@pytest.mark.parametrize(
    ("option", "name", "known"),
    [
        ("--methods", "thinet", "uniform, magnitude, taylor, fastnas, ours"),
        ("--targets", "params/3", "params/5, params/10, latency/5, params+macs/10"),
        ("--columns", "both", "epochs, time"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(option, name, known, capsys):
    with pytest.raises(SystemExit):
        main([option, name])
    said = capsys.readouterr().err
    assert repr(name) in said
    assert known in said


@pytest.mark.parametrize(
    ("method", "library"), [("fastnas", "ModelOpt"), ("taylor", "Torch-Pruning")]
)
def test_missing_libraries_are_named(monkeypatch, method, library):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    advice = (
        rf'{library} is missing: pip install "n2n-gym\[peers\]", or leave {method} '
        "out of --methods"
    )
    with pytest.raises(ValueError, match=advice):
        check(parser().parse_args(["--methods", method, "ours"]))
    check(parser().parse_args(["--methods", "uniform", "ours"]))
    # FastNAS has one target only.
    check(parser().parse_args(["--methods", "fastnas", "--targets", "latency/5"]))


def test_peers_have_the_epochs_of_our_whole_time():
    # 50 minutes in all, 2 for the peer's own search: 48 minutes at half a minute each.
    assert longer(2.0, 50.0, 60, 30.0) == 96
    assert longer(2.0, 10.0, 60, 30.0) == 60  # never fewer than at equal epochs


def test_time_is_counted_across_stops(tmp_path):
    path = tmp_path / "clock"
    with pytest.raises(KeyboardInterrupt), counted(path):
        raise KeyboardInterrupt
    first = read_spent(path)
    with counted(path):
        sum(range(3_000_000))
    again = read_spent(path)
    assert again.cpu > first.cpu >= 0
    assert again.wall > first.wall > 0


def test_options_of_the_search_come_from_a_file(tmp_path):
    path = tmp_path / "search.toml"
    path.write_text('evaluator = "quick"\n')
    assert read_compress(None, 7, 1).final_epochs == 7
    given = read_compress(path, 7, 2)
    assert (given.evaluator, given.final_epochs) == ("quick", 7)
    assert (given.controls, given.workers) == ("none", 2)
    path.write_text("final-epochs = 3\n")
    assert read_compress(path, 7, 1).final_epochs == 3


@pytest.mark.slow
def test_the_whole_command_and_its_resumption(tmp_path):
    pytest.importorskip("torch_pruning", reason=NEEDS_TORCH_PRUNING)
    path = tmp_path / "search.toml"
    path.write_text(
        'evaluator = "inherit"\nremoval_updates = 1\nshrinkage_updates = 1\n'
    )
    folder = tmp_path / "peers"
    command = [
        *(sys.executable, "-m", "benchmarks.peers"),
        *("--teacher", "tests.networks:make_small", "--task", "digits"),
        *("--teacher-epochs", "2", "--epochs", "1", "--seeds", "0"),
        *("--methods", "uniform", "magnitude", "taylor", "ours"),
        *("--targets", "params/5", "--compress", str(path), "--output", str(folder)),
    ]
    root = Path(__file__).parent.parent
    first = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    found = Results(folder, *KEY).read()
    assert len(found) == 1 + 4 * 3
    whole = found["teacher", "", "", 0]["num_params"]
    for (method, _, column, _), line in found.items():
        if column == LATENCY:
            assert line["latency_ms"] > 0
        elif method != "teacher":
            assert line["num_params"] <= whole / 5
            assert line["epochs"] >= 1
            assert 0 < line["test"] <= 1
            assert line["versions"]["torch-pruning"]
        if method == "ours" and column == "time":
            assert line["test"] == found["ours", "params/5", "epochs", 0]["test"]
    again = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert Results(folder, *KEY).read() == found


@pytest.mark.slow
def test_fastnas_finds_a_student_within_the_limit_or_says_that_it_does_not(tmp_path):
    if importlib.util.find_spec("modelopt") is None:
        pytest.skip("ModelOpt is in the extra peers")
    command = [
        *(sys.executable, "-m", "benchmarks.peers"),
        *("--teacher", "tests.networks:make_small", "--task", "digits"),
        *("--teacher-epochs", "2", "--epochs", "1", "--seeds", "0"),
        *("--methods", "fastnas", "--targets", "params/10", "--columns", "epochs"),
        *("--output", str(tmp_path)),
    ]
    root = Path(__file__).parent.parent
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = Results(tmp_path, *KEY).read()
    line = found["fastnas", "params/10", "epochs", 0]
    if "error" in line:
        assert "FastNAS" in line["error"]
    else:
        assert line["num_params"] <= found[show.ALONE]["num_params"] / 10
