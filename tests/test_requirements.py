"""A search within limits, from the command to the student that keeps them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from itertools import compress as compress_by
from itertools import product

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from n2n_gym.cli import app
from n2n_gym.compression import candidates
from n2n_gym.compression.candidates import (
    Failed,
    smallest_students,
    uniform_students,
    within,
)
from n2n_gym.compression.choice import Scored
from n2n_gym.compression.finalists import Finalists
from n2n_gym.compression.pacing import Fixed
from n2n_gym.compression.reopen import Revisited
from n2n_gym.evaluators.runner import InProcess
from n2n_gym.limits.constraints import Limit
from n2n_gym.limits.feasibility import refuse_if_out_of_reach, smallest
from n2n_gym.limits.fitting import fitted, widest_uniform
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import removals, shrink, shrinkages, without
from n2n_gym.networks.layers import PRODUCERS, Conv
from n2n_gym.networks.random_students import random_students
from n2n_gym.networks.scaling import (
    OutOfReach,
    at_full_width,
    narrowest,
    uniform_student,
)
from n2n_gym.pytorch.trace import trace
from n2n_gym.resources import RESOURCES, Latency, latency_table, predicted
from n2n_gym.resources.accelerator import AcceleratorEnergy
from n2n_gym.resources.nodes import BLOCK
from n2n_gym.resources.prediction import FileSize
from n2n_gym.rewards import Score, Toward, n2n
from n2n_gym.runs.options import Options
from tests.networks import (
    DenseNet,
    GatedNet,
    GroupedJoinNet,
    ShuffledNet,
    SmallResNet,
)
from tests.test_edits import start_of

SMALL = ["--teacher", "tests.networks:make_small", "--evaluator", "inherit"]
BUDGET = ["--removal-updates", "2", "--shrinkage-updates", "4", "--final-epochs", "4"]


def compress(*arguments) -> tuple[int, str, str]:
    result = CliRunner().invoke(
        app, ["compress", *SMALL, *BUDGET, *map(str, arguments)]
    )
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def heavy(student: Architecture, teacher: Architecture) -> float:
    """For a limit by module:function."""
    return 2.0 * student.num_params


def work(student: Architecture, teacher: Architecture) -> float:
    """Likewise."""
    return 3.0 * student.num_macs


spent = AcceleratorEnergy()  # whether there is an accelerator is asked when it measures


def broken(student: Architecture, teacher: Architecture) -> float:
    raise TimeoutError("the board did not answer")


def nothing(student: Architecture, teacher: Architecture) -> float:
    return float("nan")


def slow(student: Architecture, teacher: Architecture) -> float:
    """Not of what a student computes."""
    return 1.2


def moody(student: Architecture, teacher: Architecture) -> float:
    """A board that half of the students crash."""
    if student == teacher or int(student.fingerprint, 16) % 2:
        return 1.0
    raise TimeoutError("the board did not answer")


@pytest.fixture(scope="module", autouse=True)
def short_measurements():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RESOURCES, "latency_ms", Latency(seconds=0.5))
        yield


# What is asked.


def test_options_are_limits_by_name():
    options = Options(
        max_params="1M",
        max_latency="300us",
        max_size="1MB",
        min_accuracy="95%",
        limits="peak_bytes=64KB,my.boards:energy_mj=2J",
    )
    assert options.constraints() == pytest.approx(
        {
            "num_params": 1e6,
            "latency_ms": 0.3,
            "onnx_bytes": 1e6,
            "accuracy": 0.95,
            "peak_bytes": 64_000,
            "my.boards:energy_mj": 2_000,
        }
    )
    assert Options().constraints() == {}
    with pytest.raises(ValueError, match="two limits on num_params: 1M and 2M"):
        Options(max_params="1M", limits="num_params=2M").constraints()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max-params", "1MB"], "unknown unit 'MB' of num_params in '1MB'"),
        (["--max-latency", "fast"], "latency_ms must be a number with a unit"),
        (["--max-size", "0KB"], "limit of onnx_bytes must be a positive number"),
        (["--min-accuracy", "95"], "must be in (0, 1]"),
        (["--limits", "heat=3"], "unknown resource 'heat'; known: num_params"),
        (["--limits", "heat"], "a limit must be name=value, got 'heat'"),
        (["--limits", "tests.test_requirements:broken=3"], "the board did not answer"),
        (
            ["--limits", "tests.test_requirements:nothing=3"],
            "must be a finite number >= 0",
        ),
        (["--max-latency", "0.1us"], "keeps the limit latency_ms <= 0.1 µs: the"),
    ],
)
def test_bad_limits_are_said_before_the_search(arguments, said, tmp_path):
    code, _, stderr = compress(*arguments, "--output", tmp_path / "run")
    assert code == 1
    assert said in stderr
    assert not (tmp_path / "run" / "history.jsonl").exists() or not (
        (tmp_path / "run" / "history.jsonl").read_text()
    )


def test_a_limit_that_nothing_keeps_is_said_with_what_can_be_reached(tmp_path):
    arguments = ["--max-params", "10", "--output", tmp_path / "run"]
    code, _, stderr = compress(*arguments)
    assert code == 1
    assert (
        "no student keeps the limit num_params <= 10: the smallest found takes"
        in stderr
    )
    assert "the teacher" in stderr
    assert not (tmp_path / "run").exists()  # another limit may be tried there


def test_less_may_be_taken_with_something_kept():
    # Without its pool, a network has larger maps.
    network = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    )
    start = trace(network, (1, 16, 16))
    every = removals(start, "layer")
    takes = []
    for wanted in product((False, True), repeat=len(every)):
        student = narrowest(without(start, compress_by(every, wanted)))
        takes.append(student.num_macs)
    assert min(takes) < takes[-1]  # not without all of it
    refuse_if_out_of_reach(Requirements.read(start, {"num_macs": min(takes)}), "layer")
    requirements = Requirements.read(start, {"num_macs": min(takes) - 1})
    with pytest.raises(ValueError, match="the smallest found takes"):
        refuse_if_out_of_reach(requirements, "layer")


def test_a_reachable_limit_on_an_own_resource_is_not_refused():
    start = start_of("PlainNet")
    every = removals(start, "unit")
    least = min(
        work(narrowest(without(start, compress_by(every, wanted))), start)
        for wanted in product((False, True), repeat=len(every))
    )
    name = f"{__name__}:work"
    refuse_if_out_of_reach(Requirements.read(start, {name: least / 0.9}), "unit")
    with pytest.raises(ValueError, match="the smallest found takes"):
        refuse_if_out_of_reach(Requirements.read(start, {name: least / 0.91}), "unit")


def test_what_is_left_to_the_next_measurement_is_said(teacher):
    requirements = Requirements.read(
        teacher.architecture, {"tests.test_requirements:moody": 1.0}
    )
    with pytest.raises(ValueError, match=r"takes 1, .*, and 0\.1 have to be left"):
        refuse_if_out_of_reach(requirements, "unit")
    requirements = Requirements.read(
        teacher.architecture, {"tests.test_requirements:moody": 1.2}
    )
    refuse_if_out_of_reach(requirements, "unit")  # the teacher keeps it


# What keeps it.


def test_the_reward_goes_as_far_as_the_limits():
    whole = Score(0.9, 1000, 1000, resources={"num_params": 1000, "num_macs": 1000})
    reward = Toward({"num_params": 200, "num_macs": 2000})

    def of(params: float, accuracy: float = 0.9) -> float:
        taken = {"num_params": params, "num_macs": 900}
        return reward(Score(accuracy, 1, 1, resources=taken), whole)

    assert of(1000) == 0.0
    assert 0 < of(600) < of(300) < of(200) == of(20) == 1.0
    assert of(20, 0.45) == 0.5
    assert -1 < of(1100) < 0
    assert of(3000) == -1.0  # as what failed, however small the penalty is by then
    assert reward.resources == ("num_params", "num_macs")


def test_uniform_width_is_as_wide_as_the_limit_allows(teacher):
    whole = teacher.architecture
    requirements = Requirements.read(whole, {"num_params": whole.num_params / 4})
    thin = widest_uniform(requirements)
    assert requirements.keeps(thin)
    assert thin.num_params > whole.num_params / 5


def test_what_is_to_be_fast_has_whole_blocks_of_channels(teacher):
    whole = teacher.architecture
    assert Requirements.read(whole, {"num_params": 1e3, "onnx_bytes": 1e6}).block == 1
    assert (
        Requirements.read(whole, {"num_params": 1e3, "latency_ms": 1.0}).block == BLOCK
    )
    assert Requirements.read(whole, {f"{__name__}:heavy": 1e3}).block == 1
    assert Requirements.read(whole, {f"{__name__}:spent": 1e3}).block == BLOCK
    requirements = Requirements.read(whole, {"num_params": whole.num_params / 2})
    thin = widest_uniform(requirements, 4)
    assert requirements.keeps(thin)
    assert all(each.width % 4 == 0 for each in thin.layers if isinstance(each, Conv))


def test_uniform_width_is_a_finalist_within_limits_alone(teacher, caplog):
    def finalists_of(limits) -> list[Scored]:
        return uniform_students(Requirements.read(teacher.architecture, limits))

    assert finalists_of({}) == []
    size = teacher.architecture.num_params / 4
    (thin,) = finalists_of({"num_params": size})
    assert thin.student == widest_uniform(
        Requirements.read(teacher.architecture, {"num_params": size})
    )
    assert finalists_of({"num_params": 10}) == []
    assert "uniform width is no finalist" in caplog.text


def test_uniform_width_in_blocks_is_a_finalist_where_blocks_are_faster(teacher):
    whole = teacher.architecture
    requirements = Requirements.read(whole, {"num_params": whole.num_params / 2})
    requirements = replace(requirements, block=4)
    thin, in_blocks = uniform_students(requirements)
    assert thin.student == widest_uniform(requirements)
    assert in_blocks.student == widest_uniform(requirements, 4) != thin.student


def test_finalists_become_as_wide_as_the_limits_allow(teacher):
    whole = teacher.architecture
    size = whole.num_params // 4
    requirements = Requirements.read(whole, {"num_params": size})
    large, little, half = (
        Scored(0.9, uniform_student(whole, most))
        for most in (size * 2, int(size * 1.2), size // 2)
    )
    short = dict.fromkeys(shrinkages(half.student, ("kernel",))[:1], 0.1)
    small = half._replace(student=shrink(half.student, short))
    assert little.student.num_params > size
    narrower, wider = within(requirements, [large, little, little, small], 12)
    assert 0.8 * size < narrower.student.num_params <= size  # of a few channels a layer
    assert len(narrower.student.layers) == len(little.student.layers)
    assert 0.8 * size < wider.student.num_params <= size
    with pytest.raises(OutOfReach):
        fitted(requirements, large.student)


def test_the_smallest_students_are_finalists_where_no_other_keeps_a_limit(teacher):
    whole = teacher.architecture
    least = min(student.num_params for student in smallest(whole, "unit"))
    requirements = Requirements.read(whole, {"num_params": 1.3 * least})
    refuse_if_out_of_reach(requirements, "unit")
    large = [Scored(0.9, uniform_student(whole, whole.num_params // 2))]
    with pytest.raises(Failed):
        within(requirements, large, 12)
    kept = within(
        requirements, large, 12, smallest_students(whole, requirements, "unit")
    )
    assert kept
    assert all(requirements.keeps(each.student) for each in kept)


def test_what_was_made_to_fit_a_limit_is_reported(teacher):
    whole = teacher.architecture
    requirements = Requirements.read(whole, {"num_params": whole.num_params // 2})
    told: list[tuple] = []
    final = Finalists(
        teacher, Fixed(1), torch.device("cpu"), InProcess(), None, requirements
    )
    final.tell = lambda *line: told.append(line)
    small = uniform_student(whole, whole.num_params // 4)
    finished = final.choose([Scored(0.9, small)], "the best")
    ((what, stage, reward, info),) = told
    assert (what, stage) == ("the best", "final")
    assert Architecture.from_json(info["student"]) == finished.student != small
    assert info["fingerprint"] == finished.student.fingerprint
    assert info["accuracy"] == finished.score.accuracy
    assert reward == n2n(finished.score, teacher.score)


def test_hundreds_of_students_that_break_a_limit_are_not_measured(teacher, monkeypatch):
    whole = teacher.architecture
    requirements = Requirements.read(whole, {"num_params": whole.num_params // 4})
    kept = partial(within, requirements, most=12)
    monkeypatch.setattr(candidates, "MEASURED", 3)
    large, small = (
        Scored(0.9, uniform_student(whole, whole.num_params // n)) for n in (2, 5)
    )
    assert len(kept([small, large, large, small, small])) == 1
    assert len(kept([large, large, large, large, small])) == 1
    found = [
        small,
        large,
        large,
        large._replace(student=widest_uniform(requirements)),
    ]
    assert len(kept(found)) == 1


def test_a_control_that_breaks_a_limit_is_left_out_and_not_narrowed(teacher, caplog):
    whole = teacher.architecture
    size = whole.num_params // 4
    requirements = Requirements.read(whole, {"num_params": size})
    device = torch.device("cpu")
    final = Finalists(teacher, Fixed(1), device, InProcess(), None, requirements)
    little = uniform_student(whole, int(size * 1.2))
    assert final.compare_sizes({"magnitude": lambda: little})["magnitude"] is None
    assert "magnitude: a limit is not kept" in caplog.text


def test_narrowing_leaves_whole_blocks_of_channels():
    module = nn.Sequential(
        nn.Conv2d(1, BLOCK, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(BLOCK, 8 * BLOCK, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * BLOCK, 10),
    )
    whole = trace(module, (1, 8, 8))
    requirements = Requirements.read(
        whole, {f"{__name__}:heavy": heavy(whole, whole) / 1.3}
    )
    requirements = replace(requirements, block=BLOCK)
    narrower = fitted(requirements, whole)
    assert requirements.keeps(narrower)
    widths = [each.width for each in narrower.layers if isinstance(each, Conv)]
    assert widths in ([BLOCK, 5 * BLOCK], [BLOCK, 6 * BLOCK])


def test_a_finalist_that_leaves_room_is_widened_in_proportion():
    """Up to the teacher's widths, kernels as they are; in whole blocks."""
    module = nn.Sequential(
        nn.Conv2d(1, BLOCK, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(BLOCK, 8 * BLOCK, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8 * BLOCK, 8 * BLOCK, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * BLOCK, 10),
    )
    whole = trace(module, (1, 8, 8))
    second, third = (whole.positions[name] for name in ("2", "4"))
    small = whole.shrink(
        widths={second: 4 * BLOCK, third: 2 * BLOCK},
        kernels={third: (1, 1)},
        paddings={third: (0, 0)},
    )
    wider = small.shrink(widths={second: 6 * BLOCK, third: 3 * BLOCK})
    for bound, expected in (
        (1.05 * small.num_params, small),  # there is no room
        (1.01 * wider.num_params, wider),
        (3.00 * whole.num_params, wider),  # by so much, and no more
    ):
        requirements = Requirements.read(whole, {"num_params": bound})
        assert fitted(replace(requirements, block=BLOCK), small) == expected
    nearly = whole.shrink(widths={second: 7 * BLOCK})
    requirements = Requirements.read(whole, {"num_params": 2 * whole.num_params})
    assert fitted(replace(requirements, block=BLOCK), nearly) == whole
    assert fitted(Requirements.read(whole, {}), small) == small
    full = {"num_params": 3 * whole.num_params, "num_macs": small.num_macs}
    assert fitted(Requirements.read(whole, full), small) == small


def test_widening_fills_parts_of_blocks_where_that_is_not_too_much():
    module = nn.Sequential(
        nn.Conv2d(1, 4 * BLOCK, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * BLOCK, 10),
    )
    whole = trace(module, (1, 8, 8))
    part = whole.shrink(widths={0: BLOCK + BLOCK // 4})
    filled = whole.shrink(widths={0: 2 * BLOCK})
    for bound, expected in (
        (1.2 * part.num_params, part),
        (1.2 * filled.num_params, filled),
    ):
        requirements = Requirements.read(whole, {"num_params": bound})
        assert fitted(replace(requirements, block=BLOCK), part) == expected


def fragile(student: Architecture, teacher: Architecture) -> float:
    """Measures the small alone."""
    if student.num_params > teacher.num_params / 3:
        raise MemoryError("the board has no room for it")
    return 1.0


def test_a_finalist_stays_where_a_wider_one_cannot_be_measured(teacher, caplog):
    whole = teacher.architecture
    requirements = Requirements.read(whole, {f"{__name__}:fragile": 2.0})
    student = uniform_student(whole, whole.num_params // 3)
    assert fitted(requirements, student) == student
    assert "the board has no room for it" in caplog.text


@pytest.mark.parametrize(
    "make", [SmallResNet, DenseNet, GatedNet, GroupedJoinNet, ShuffledNet]
)
@pytest.mark.parametrize("block", [1, 4])
def test_widening_makes_no_layer_narrower_and_none_wider_than_the_teachers(make, block):
    whole = trace(make(), (1, 8, 8))
    requirements = Requirements.read(whole, {"num_params": 0.9 * whole.num_params})
    grown = 0
    for student in random_students(whole, 20, seed=0):
        if not requirements.keeps(student):
            continue
        wider = fitted(replace(requirements, block=block), student)
        grown += wider != student
        assert requirements.keeps(wider)
        most = at_full_width(student, whole)
        for mine, now, teachers in zip(
            student.layers, wider.layers, most.layers, strict=True
        ):
            if isinstance(mine, PRODUCERS):
                assert mine.width <= now.width <= teachers.width
                position = whole.positions[mine.name]
                assert teachers.width == whole.shape_of(position)[0]
    assert grown > 3


def in_steps(student: Architecture, teacher: Architecture) -> float:
    """A part of a block costs as much as a whole one."""
    convolutions = (each for each in student.layers if isinstance(each, Conv))
    return float(sum(-(-each.width // 4) for each in convolutions))


def test_the_widths_of_controls_stay_as_they_are(teacher):
    """Uniform width among the finalists, and what has the student's size."""
    whole = teacher.architecture
    bound = 0.88 * in_steps(whole, whole)
    requirements = replace(
        Requirements.read(whole, {f"{__name__}:in_steps": bound}), block=4
    )
    final = Finalists(
        teacher, Fixed(1), torch.device("cpu"), InProcess(), None, requirements
    )
    uniform = uniform_students(requirements)
    assert fitted(requirements, uniform[0].student) != uniform[0].student
    assert [each.student for each in within(requirements, uniform, 12)] == [
        widest_uniform(requirements, 1),
        widest_uniform(requirements, 4),
    ]
    small = uniform_student(whole, whole.num_params // 10)
    assert fitted(requirements, small) != small
    finished = final.compare_sizes({"magnitude": lambda: small})["magnitude"]
    assert finished.student == small


def test_what_gets_no_better_by_narrowing_is_out_of_reach(teacher):
    requirements = Requirements.read(teacher.architecture, {f"{__name__}:slow": 1.0})
    with pytest.raises(OutOfReach):
        fitted(requirements, teacher.architecture)


def test_a_clock_is_left_something_to_spare(teacher):
    whole = teacher.architecture
    requirements = Requirements.read(whole, {"num_params": 100, "latency_ms": 1.0})
    known = {"num_params": 100, "num_macs": 1, "latency_ms": 0.91}
    requirements.meter.remember([(whole.fingerprint, known)])
    assert not requirements.keeps(whole)
    requirements.meter.remember([(whole.fingerprint, {**known, "latency_ms": 0.89})])
    assert requirements.keeps(whole)


def test_a_file_is_left_room_for_what_it_says_about_itself(teacher):
    whole = teacher.architecture
    requirements = Requirements.read(whole, {"onnx_bytes": 50_000})
    known = {"num_params": 100, "num_macs": 1, "onnx_bytes": 49_201}
    requirements.meter.remember([(whole.fingerprint, known)])
    assert not requirements.keeps(whole)
    requirements.meter.remember([(whole.fingerprint, {**known, "onnx_bytes": 49_200})])
    assert requirements.keeps(whole)


def test_limits_that_are_none_change_nothing(teacher):
    requirements = Requirements.read(teacher.architecture, {"accuracy": 0.5})
    assert not requirements
    assert requirements.least_accuracy == 0.5
    assert requirements.keeps(teacher.architecture)
    refuse_if_out_of_reach(requirements, "unit")


@pytest.mark.slow
def test_sizes_of_files_are_predicted(teacher):
    whole = teacher.architecture
    predict = predicted(whole, {"onnx_bytes": 1.0, "num_params": 1.0})
    assert list(predict) == ["onnx_bytes"]
    for student in random_students(whole, 4, seed=1):
        real = RESOURCES["onnx_bytes"](student, whole)
        assert predict["onnx_bytes"](student, whole) == pytest.approx(real, rel=0.05)
    assert FileSize.of(whole) is predict["onnx_bytes"]  # fitted once


@pytest.fixture(scope="module")
def limited_run(tmp_path_factory, teacher):
    folder = tmp_path_factory.mktemp("limited") / "run"
    whole = teacher.architecture.num_params
    arguments = ["--max-params", whole // 4, "--limits"]
    arguments += [f"tests.test_requirements:heavy={whole}", "--output", folder]
    code, stdout, stderr = compress(*arguments)
    assert code == 0, stderr
    return folder, stdout, arguments


def test_the_student_keeps_the_limits(limited_run, teacher):
    folder, stdout, _ = limited_run
    summary = json.loads((folder / "summary.json").read_text())
    student = Architecture.from_json((folder / "architecture.json").read_text())
    whole = teacher.architecture
    assert student.num_params <= whole.num_params // 4
    rows = {row["name"]: row for row in summary["limits"]}
    assert rows["num_params"]["student"] == student.num_params
    assert rows["tests.test_requirements:heavy"]["student"] == 2 * student.num_params
    assert all(row["is_kept"] for row in summary["limits"])
    assert "num_params <=" in stdout
    assert "kept" in stdout
    assert summary["uniform"]["num_params"] <= whole.num_params // 4
    # Uniform width is a finalist. The student is the smallest finalist that is within
    # one standard error of the best.
    best = max(summary[name]["accuracy"] for name in ("student", "uniform"))
    error = math.sqrt(best * (1 - best) / len(teacher.task.splits["validation"]))
    assert summary["student"]["accuracy"] >= best - error
    page = (folder / "report.html").read_text()
    assert "this is the most accurate" in page


def test_what_was_distilled_to_the_end_can_be_exported(limited_run):
    folder, *_ = limited_run
    lines = [json.loads(x) for x in (folder / "history.jsonl").read_text().splitlines()]
    best = [x for x in lines if x["search"] == "the best students"]
    assert {x["stage"] for x in best} == {"final"}
    student = Architecture.from_json((folder / "architecture.json").read_text())
    assert student.fingerprint in {x["fingerprint"] for x in best}
    for line in best:
        found = Revisited.open(folder).student(line["fingerprint"])
        assert found.fingerprint == line["fingerprint"]


def test_every_shrunk_student_keeps_what_the_mask_can_see(limited_run, teacher):
    folder, _, _ = limited_run
    lines = [json.loads(x) for x in (folder / "history.jsonl").read_text().splitlines()]
    shrunk = [x for x in lines if x["stage"] == "shrink"]
    assert shrunk
    assert all("num_params" not in x["violated"] for x in shrunk)
    assert all("tests.test_requirements:heavy" in x for x in shrunk)


@pytest.mark.slow
def test_a_run_within_limits_goes_on_to_the_same_end(limited_run):
    folder, _, arguments = limited_run
    before = (folder / "history.jsonl").read_text()
    student = (folder / "architecture.json").read_text()
    (folder / "summary.json").unlink()
    lines = before.splitlines(keepends=True)
    (folder / "history.jsonl").write_text("".join(lines[:13]))
    code, _, stderr = compress(*arguments)
    assert code == 0, stderr
    assert (folder / "history.jsonl").read_text() == before
    assert (folder / "architecture.json").read_text() == student


@pytest.mark.slow
def test_students_that_cannot_be_measured_are_left_out(tmp_path, caplog):
    arguments = [
        "--limits",
        "tests.test_requirements:moody=2",
        "--output",
        tmp_path / "run",
    ]
    code, _, stderr = compress(*arguments)
    assert code == 0, stderr
    student = Architecture.from_json(
        (tmp_path / "run" / "architecture.json").read_text()
    )
    assert int(student.fingerprint, 16) % 2
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    failed = [line for line in map(json.loads, lines) if "error" in line]
    assert failed
    assert all("the board did not answer" in line["error"] for line in failed)


def test_the_written_file_is_what_a_limit_on_size_is_about(teacher, tmp_path):
    whole = teacher.architecture
    path = tmp_path / "student.onnx"
    for length, is_kept in ((60_000, True), (60_001, False)):
        path.write_bytes(bytes(length))
        (row,) = Requirements.read(whole, {"onnx_bytes": 60_000}).rows(whole, 1.0, path)
        assert row["student"] == length
        assert row["is_kept"] is is_kept
    long = '["' + 10 * "Ä" + '"]'
    assert Requirements.read(whole, {"onnx_bytes": 60_000}, long).aims == {
        "onnx_bytes": 60_000 - 800 - len(long.encode())
    }


@pytest.mark.slow
def test_a_limit_on_latency_is_predicted_then_measured_once(
    tmp_path, teacher, monkeypatch
):
    monkeypatch.setattr(latency_table, "STUDENTS", 8)
    monkeypatch.setattr(latency_table, "SECONDS", 0.0)
    whole = RESOURCES["latency_ms"](teacher.architecture, teacher.architecture)
    arguments = ["--max-latency", f"{0.8 * whole}ms", "--no-controls"]
    arguments += ["--output", tmp_path / "run"]
    code, _, stderr = compress(*arguments)
    assert code == 0, stderr
    (row,) = json.loads((tmp_path / "run" / "summary.json").read_text())["limits"]
    assert row["is_kept"]
    kept = json.loads((tmp_path / "run" / "resources.json").read_text())
    assert kept[teacher.architecture.fingerprint]["latency_ms"] == row["teacher"]
    history = (tmp_path / "run" / "history.jsonl").read_text()
    (tmp_path / "run" / "summary.json").unlink()

    def never(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(type(RESOURCES["latency_ms"]), "__call__", never)
    code, _, stderr = compress(*arguments)
    assert code == 0, stderr
    assert (tmp_path / "run" / "history.jsonl").read_text() == history

    (tmp_path / "run" / "summary.json").unlink()
    monkeypatch.setattr("n2n_gym.runs.folder.processor", lambda: "another")
    code, _, stderr = compress(*arguments)
    assert code == 1
    assert "measured on another machine" in stderr
    assert "this is another" in stderr


def test_a_weighted_limit_is_one_too(teacher):
    limit = Limit("both", {"num_params": 1, "num_macs": 0.001}, 10)
    assert limit.excess({"num_params": 5, "num_macs": 5_000}) == pytest.approx(0)
