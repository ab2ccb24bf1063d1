"""The comparison with today's pruners: same networks, same limits, right intervals."""

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.peers import show
from benchmarks.peers.__main__ import KEY, check, main, measure_all, parser, rows
from benchmarks.peers.networks import resnet20, resnet56
from benchmarks.peers.pruners import (
    CHUNK,
    METHODS,
    as_pruned,
    first_within,
    pruning_steps,
)
from benchmarks.peers.spent import counted, read_spent
from benchmarks.peers.subject import TARGETS, check_alone
from benchmarks.peers.tuning import longer, read_compress
from benchmarks.results import Results
from n2n_gym.evaluators.distillation import Settings, distil
from n2n_gym.evaluators.rungs import Rung
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.scaling import OutOfReach, uniform_student
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.trace import trace
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
    assert "| ours | 80,000 | 12.5 | 1.50 | 100.00 |" in said
    command = "--methods uniform --targets params/10 --seeds 0"
    assert f"python -m benchmarks.peers {command} --output {tmp_path}" in said
    assert "--methods ours --targets params/10 " not in said
    assert "--methods fastnas --targets params/5 " not in said


def test_the_figure_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    lines = [result(method, 0, np.ones(8, int)) for method in show.ORDER]
    show.draw(written(tmp_path, *lines), tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 5_000


class Idle:
    """A bench that has nothing to do any more."""

    def prepare(self):
        pass


def test_results_in_the_folder_are_not_made_again(tmp_path):
    options = parser().parse_args(["--methods", "ours", "taylor", "--seeds", "0"])
    lines = [
        result(method, seed, np.ones(8, int), target=target, column=column)
        for method, target, seed in rows(options)
        for column in options.columns
    ]
    lines.append(result("teacher", 0, np.ones(8, int), target="", column=""))
    before = written(tmp_path, *lines)
    results = Results(tmp_path, *KEY)
    measure_all(Idle(), options, results)
    assert results.read() == before
    assert len(before) == 1 + 2 * 2 * len(TARGETS)


def test_a_folder_has_results_of_one_subject(tmp_path):
    check_alone(tmp_path, {"teacher": "resnet56", "epochs": 60})
    check_alone(tmp_path, {"teacher": "resnet56", "epochs": 60})
    with pytest.raises(ValueError, match="epochs=60, got 6; give another --output"):
        check_alone(tmp_path, {"teacher": "resnet56", "epochs": 6})


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


def test_missing_libraries_are_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    options = parser().parse_args(["--methods", "fastnas", "ours"])
    check(options)
    assert options.methods == ["ours"]
    assert "pip install nvidia-modelopt" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r'pip install "n2n-gym\[peers\]"'):
        check(argparse.Namespace(**{**vars(options), "methods": ["taylor"]}))


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
    assert len(found) == 1 + 4 * 2
    whole = found["teacher", "", "", 0]["num_params"]
    for (method, _, column, _), line in found.items():
        if method != "teacher":
            assert line["num_params"] <= whole / 5
            assert line["epochs"] >= 1
            assert 0 < line["test"] <= 1
            assert line["versions"]["torch-pruning"]
        if method == "ours" and column == "time":
            assert line["test"] == found["ours", "params/5", "epochs", 0]["test"]
    again = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert Results(folder, *KEY).read() == found
