import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import typer
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from n2n_agents import kept
from n2n_agents.kept import load_policy, trained_path, write_trained
from n2n_agents.policies import make_policy
from n2n_gym.cli import app
from n2n_gym.cli.main import EXAMPLES
from n2n_gym.compression import finalists
from n2n_gym.compression.assessment import evaluate_onnx
from n2n_gym.compression.choice import Scored
from n2n_gym.compression.controls import magnitude_student
from n2n_gym.compression.pacing import Fixed
from n2n_gym.compression.pipeline import compress
from n2n_gym.compression.stages import Search
from n2n_gym.envs import RemoveEnv, ShrinkEnv
from n2n_gym.evaluators import elastic
from n2n_gym.evaluators.runner import InProcess
from n2n_gym.limits.requirements import Requirements
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.scaling import uniform_student
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.rewards import Failure, n2n
from n2n_gym.runs.history import History
from n2n_gym.runs.options import Options
from n2n_gym.tasks.loading import TASKS
from n2n_gym.teachers import learning
from n2n_gym.teachers.loading import load_teacher

ROOT = Path(__file__).parent.parent
SMALL = Options(
    teacher="tests.networks:make_small",
    evaluator="inherit",
    removal_updates=1,
    shrinkage_updates=1,
    final_epochs=1,
    controls="all",
    device="cpu",
)


@pytest.fixture(
    scope="module",
    params=[
        "tests.networks:make_small",
        pytest.param("squeezenet1_1", marks=pytest.mark.slow),
    ],
)
def run(request, tmp_path_factory):
    """The folder of a small run, and its summary."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        recipe = Recipe(2, 32, largest_gradient=1.0)
        patch.setattr(learning, "teacher_recipe", lambda *_: recipe)
        more = {"teacher": request.param, "output": folder}
        yield folder, compress(Options(**{**vars(SMALL), **more}))


def options_of(run, **changes) -> Options:
    """The options of the small run, with some changes."""
    folder, _ = run
    before = vars(Options.read(folder / "options.toml"))
    return Options(**{**before, **changes})


def history(folder) -> list[dict]:
    text = (folder / "history.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_all_its_files_are_there(run):
    folder, _ = run
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "architecture.json",
        "elapsed.json",
        "history.jsonl",
        "identity.json",
        "options.toml",
        "reinforce-remove.policy.pt",
        "reinforce-shrink.policy.pt",
        "report.html",
        "run.json",
        "student.onnx",
        "student.safetensors",
        "students",
        "summary.json",
        "teacher.json",
    ]


def test_the_history_has_a_line_for_each_student_scored(run):
    folder, summary = run
    lines = history(folder)
    searches = [(line["search"], line["stage"]) for line in lines]
    assert searches == (
        [("reinforce", "remove")] * 5
        + [("reinforce", "shrink")] * 5
        + [("the best students", "final")] * 3
        + [("uniform width", "final"), ("magnitude", "final")]
        + [("random", "remove")] * 5
        + [("random", "shrink")] * 5
        + [("random search", "final")] * 3
    )
    assert summary.num_scored == 10
    for line in lines:
        student = Architecture.from_json(line["student"])
        assert student.fingerprint == line["fingerprint"]
        assert student.num_params == line["num_params"]


def test_shrinkage_starts_from_the_best_of_removal(run):
    folder, _ = run
    lines = history(folder)
    best = max(lines[:5], key=lambda line: line["reward"])
    names = set(Architecture.from_json(best["student"]).positions)
    for line in lines[5:10]:
        assert set(Architecture.from_json(line["student"]).positions) == names


def test_the_student_is_one_that_the_search_scored(run):
    folder, summary = run
    lines = history(folder)
    student = Architecture.from_json((folder / "architecture.json").read_text())
    assert student == summary.student.student
    assert student.fingerprint in {line["fingerprint"] for line in lines[:10]}


def test_the_written_weights_are_the_students(run):
    folder, summary = run
    student = build(summary.student.student).eval()
    student.load_state_dict(load_file(folder / "student.safetensors"))
    images = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        expected = summary.student.network.cpu()(images)
        torch.testing.assert_close(student(images), expected)


def test_the_summary_is_written_as_well(run):
    folder, summary = run
    written = json.loads((folder / "summary.json").read_text())
    assert written["student"]["num_params"] == summary.student.score.num_params
    assert written["student"]["test_accuracy"] == summary.student.test_accuracy
    for control in ("uniform", "magnitude"):
        assert written[control]["num_params"] <= written["student"]["num_params"]
        finished = getattr(summary, control)
        assert written[control]["test_accuracy"] == finished.test_accuracy
    assert written.keys() >= {"teacher", "random", "onnx_difference", "seconds"}


def test_a_folder_with_another_run_is_not_overwritten(run):
    folder, _ = run
    before = (folder / "summary.json").read_text()
    arguments = ["compress", "--teacher", "squeezenet1_1", "--output", str(folder)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    error = " ".join(result.stderr.split())
    assert "holds another run" in error
    assert "removal_updates was 1, is 10" in error
    assert (folder / "summary.json").read_text() == before


def test_a_finished_run_is_shown_again(run):
    folder, summary = run
    before = (folder / "history.jsonl").read_text()
    result = CliRunner().invoke(app, ["compress", "--resume", str(folder)])
    assert result.exit_code == 0, result.output
    assert f"{summary.student.score.num_params:,}" in result.stdout
    arguments = ["compress", "--resume", str(folder), "--json"]
    result = CliRunner().invoke(app, arguments)
    found = json.loads(result.stdout)
    assert found["student"]["test_accuracy"] == summary.student.test_accuracy
    assert (folder / "history.jsonl").read_text() == before
    options = Options.read(folder / "options.toml")
    with pytest.raises(FileExistsError, match="holds a finished run"):
        compress(options)


def untimed(folder) -> dict:
    """A summary without measured times."""
    summary = json.loads((folder / "summary.json").read_text())
    del summary["seconds"]
    for place in summary["shelf"]:  # who is the fastest is from the clock, too
        del place["latency_ms"], place["roles"], place["file"]
    for name in ("teacher", "student"):
        del summary["test"][name]["latency_ms"]
    return summary


# Lines after which a run is stopped: at first, in each stage, and in the controls.
STOPS = (0, 3, 10, 11, 14, 17)


class Stopped(BaseException):
    """Ends a run in a test, like a signal."""


def compress_until(num_lines, stop, options, monkeypatch) -> None:
    """A run that is stopped after this many lines of its history."""
    recipe = Recipe(2, 32, largest_gradient=1.0)
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: recipe)
    add = History.add

    def add_or_stop(self, *arguments):
        if self.num_lines == num_lines:
            stop(self)
        add(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(History, "add", add_or_stop)
        compress(options)


def assert_same_end(output, folder) -> None:
    for name in ("history.jsonl", "architecture.json", "student.safetensors"):
        assert (output / name).read_bytes() == (folder / name).read_bytes(), name
    assert untimed(output) == untimed(folder)


@pytest.mark.parametrize(
    "num_lines",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in (3, 14))) for n in STOPS],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_end(
    run, monkeypatch, tmp_path, num_lines
):
    folder, _ = run
    output = tmp_path / "run"

    def stop(history):
        history._file.write('{"search": "rein')  # in the middle of a line
        history._file.flush()
        raise Stopped

    with pytest.raises(Stopped):
        compress_until(num_lines, stop, options_of(run, output=output), monkeypatch)
    (output / "elapsed.json").write_text('{"seconds": 3600}')
    arguments = ["compress", "--resume", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert_same_end(output, folder)
    assert json.loads((output / "summary.json").read_text())["seconds"] > 3600


@pytest.mark.parametrize(
    "num_lines",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (n not in (0, 7)))
        for n in (0, 3, 7, 10, 14)
    ],
)
def test_ctrl_c_leaves_the_best_so_far_as_files_and_the_run_goes_on(
    run, monkeypatch, tmp_path, num_lines, caplog
):
    folder, _ = run
    output = tmp_path / "run"

    def stop(history):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_until(num_lines, stop, options_of(run, output=output), monkeypatch)
    files = ("student.onnx", "student.safetensors", "architecture.json")
    assert [(output / name).exists() for name in files] == [num_lines > 0] * 3
    assert not (output / "summary.json").exists()
    if num_lines:
        found = evaluate_onnx(output / "student.onnx", None, "test")
        assert f"{found.accuracy:.2%}".replace("%", " %") in caplog.text
        scored = {line["fingerprint"] for line in history(folder)}
        student = Architecture.from_json((output / "architecture.json").read_text())
        assert student.fingerprint in scored

    compress(options_of(run, output=output))
    assert_same_end(output, folder)


def test_a_finalist_that_diverges_is_left_out(run, monkeypatch, tmp_path, caplog):
    def evaluate(students, *arguments):
        results = original(students, *arguments)
        return [Failure("the distillation diverged", retryable=False), *results[1:]]

    original = finalists.evaluate
    monkeypatch.setattr(finalists, "evaluate", evaluate)
    recipe = Recipe(2, 32, largest_gradient=1.0)
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: recipe)
    options = options_of(run, output=tmp_path / "run", controls="none")
    summary = compress(replace(options, shrinkage_updates=0))  # removal alone
    assert summary.student.score.accuracy > 0
    assert "a finalist is left out: the distillation diverged" in caplog.text
    assert {line["stage"] for line in history(tmp_path / "run")} == {"remove", "final"}


@pytest.mark.slow
def test_policies_of_another_run_play_on_as_they_are(run, monkeypatch, tmp_path):
    folder, _ = run
    recipe = Recipe(2, 32, largest_gradient=1.0)
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: recipe)
    more = {"init_policy": folder, "frozen": True, "logs": "csv,json"}
    more |= {"output": tmp_path / "run", "controls": "none", "seed": 1}
    compress(options_of(run, **more))
    for stage in ("remove", "shrink"):
        before, after = (
            load_policy(place / f"reinforce-{stage}.policy.pt").state_dict()
            for place in (folder, tmp_path / "run")
        )
        assert all(torch.equal(before[name], after[name]) for name in before)
        logged = tmp_path / "run" / f"reinforce-{stage}.log" / "progress.json"
        (line,) = logged.read_text().splitlines()
        assert json.loads(line)["reinforce/number"] == 1


def aimed_policies(folder, stages):
    """Policies for the small teacher that were trained at targets, in files."""
    folder.mkdir()
    makes = {"remove": RemoveEnv, "shrink": ShrinkEnv}
    for stage in stages:
        env = makes[stage](
            SMALL.teacher,
            "digits",
            evaluator="size",
            constraints={"num_params": 4_000},
        )
        about = {"fits": False, "aims": ["params"], "card": {}}
        policy = make_policy(env, seed=3)
        write_trained(trained_path(folder, stage), policy, stage, **about)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("is_shipped", [False, True])
def test_trained_policies_see_the_limits_and_play_twenty_students_if_frozen(
    is_shipped, monkeypatch, tmp_path
):
    recipe = Recipe(2, 32, largest_gradient=1.0)
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: recipe)
    folder = aimed_policies(tmp_path / "trained", ("remove", "shrink"))
    more = {"frozen": True, "removal_updates": 6, "shrinkage_updates": 5}
    if is_shipped:
        monkeypatch.setattr(kept, "TRAINED", folder)
    else:
        more["init_policy"] = folder
    more |= {"max_params": "2000", "controls": "none", "output": tmp_path / "run"}
    compress(Options(**{**vars(SMALL), **more}))
    lines = [x for x in history(tmp_path / "run") if x["search"] == "reinforce"]
    for stage in ("remove", "shrink"):
        of_stage = [line for line in lines if line["stage"] == stage]
        assert len(of_stage) == 20
        assert all("excess_num_params" in line for line in of_stage)
        before = load_policy(trained_path(folder, stage)).state_dict()
        after = load_policy(tmp_path / "run" / f"reinforce-{stage}.policy.pt")
        assert all(torch.equal(w, before[n]) for n, w in after.state_dict().items())
    # Removal that breaks the limit is not penalised: shrinkage follows.
    removed = [line for line in lines if line["stage"] == "remove"]
    assert any(line["violated"] and line["reward"] > 0 for line in removed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen": True}, "as init_policy"),
        ({"init_policy": Path("nowhere")}, "neither nowhere/reinforce-remove.policy"),
        ({"logs": "xml"}, "unknown format 'xml'; known: csv, json, tensorboard"),
    ],
)
def test_policies_and_logs_are_checked_first(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        compress(Options(**{**vars(SMALL), **options, "output": tmp_path / "run"}))
    assert not (tmp_path / "run").exists()


def test_a_control_that_fails_leaves_the_student(run, monkeypatch, tmp_path, caplog):
    def evaluate(students, *arguments):
        found = original(students, *arguments)
        if (tmp_path / "run" / "student.onnx").exists():  # the controls come last
            found = [Failure("the distillation diverged", False) for _ in students]
        return found

    original = finalists.evaluate
    monkeypatch.setattr(finalists, "evaluate", evaluate)
    recipe = Recipe(2, 32, largest_gradient=1.0)
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: recipe)
    monkeypatch.setattr(Search, "run", controls_find_one(Search.run))
    summary = compress(options_of(run, output=tmp_path / "run"))
    assert (summary.uniform, summary.magnitude, summary.random) == (None, None, None)
    for control in ("uniform width", "magnitude"):
        assert f"{control}: the distillation of every finalist failed" in caplog.text
    assert "random" not in json.loads((tmp_path / "run/summary.json").read_text())


def test_small_students_that_are_as_good_take_turns_with_high_rewards(teacher):
    requirements = Requirements.read(teacher.architecture, {})
    final = finalists.Finalists(
        teacher, Fixed(1), torch.device("cpu"), InProcess(), None, requirements
    )
    bar, start = teacher.score.accuracy, teacher.architecture
    thin = [uniform_student(start, start.num_params // share) for share in (2, 4, 8)]
    large, middle, small = (Scored(0.9, student, bar) for student in thin)
    best = Scored(0.99, start, bar + 0.01)
    poor = Scored(0.95, thin[2], bar - 0.01)
    found = [poor, large, small, best, middle]
    assert final._in_turns(found) == [best, small, poor, middle, large]


def test_the_most_accurate_is_chosen_where_none_has_the_least_accuracy(teacher):
    requirements = Requirements.read(teacher.architecture, {"accuracy": 0.95})
    final = finalists.Finalists(
        teacher, Fixed(1), torch.device("cpu"), InProcess(), None, requirements
    )
    start = teacher.architecture
    students = [uniform_student(start, start.num_params // n) for n in (2, 4, 8)]
    values = [(0.712, 0.949), (0.8, 0.9), (0.928, 0.93)]
    found = [
        Scored(reward, student, accuracy)
        for student, (reward, accuracy) in zip(students, values, strict=True)
    ]
    assert final._as_good(found)[0].accuracy == 0.949
    assert [each.accuracy for each in final._in_turns(found)] == [0.93, 0.949, 0.9]
    enough = found[2]._replace(accuracy=0.95)
    assert final._as_good([*found[:2], enough]) == [enough]


def test_within_limits_finalists_are_the_highest_rewards(teacher):
    requirements = Requirements.read(teacher.architecture, {"num_params": 1e6})
    final = finalists.Finalists(
        teacher, Fixed(1), torch.device("cpu"), InProcess(), None, requirements
    )
    start = teacher.architecture
    small = Scored(0.5, uniform_student(start, start.num_params // 4), 1.0)
    assert final._in_turns([small, Scored(0.9, start, 1.0)])[0].student == start


def test_a_control_that_cannot_be_so_small_is_left_out(teacher, tmp_path, caplog):
    requirements = Requirements.read(teacher.architecture, {})
    final = finalists.Finalists(
        teacher, Fixed(1), torch.device("cpu"), InProcess(), None, requirements
    )
    history = History(tmp_path / "history.jsonl")
    final.tell = history.add
    make = partial(magnitude_student, teacher, 10)
    assert final.compare_sizes({"magnitude": make})["magnitude"] is None
    assert "magnitude: num_params=10 cannot be reached" in caplog.text
    assert history.num_lines == 0
    history.close()


def test_the_history_has_the_students_that_controls_made(run):
    folder, summary = run
    made = {
        line["search"]: line for line in history(folder) if line["stage"] == "final"
    }
    for name, finished in (
        ("uniform width", summary.uniform),
        ("magnitude", summary.magnitude),
    ):
        line = made[name]
        assert Architecture.from_json(line["student"]) == finished.student
        assert line["accuracy"] == finished.score.accuracy
        assert line["reward"] == n2n(finished.score, summary.teacher)


def controls_find_one(search):
    """Random search that offers one student, and not all it found."""

    def run(self, name, agent, *updates):
        removed, shrunk = search(self, name, agent, *updates)
        return (removed[:1], []) if name == "random" else (removed, shrunk)

    return run


# The command line.


def test_help_says_what_each_command_does():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "Turn a teacher into a small student" in result.stdout
    result = CliRunner().invoke(app, ["compress", "--help"])
    for option in ("--teacher", "--task", "--output", "--seed", "--device"):
        assert option in result.stdout


@pytest.mark.parametrize("example", EXAMPLES.values())
def test_examples_are_commands(example):
    name, *arguments = shlex.split(example)
    group = typer.main.get_command(app)
    command = group.commands[name]
    command.make_context(name, arguments)  # reads all options, runs nothing
    shown = CliRunner().invoke(app, [name, "--help"]).stdout
    assert example in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "resnet19"], "unknown teacher 'resnet19'; accepted"),
        (["--task", "digit"], "unknown task 'digit'; known: digits, mnist, cifar10"),
        (["--device", "tpu9"], "unknown device 'tpu9'; available: cpu"),
        (["--task", "[bold]x"], "unknown task '[bold]x'"),
        (["--task", "nothing.npz"], "there is no file nothing.npz"),
        (
            ["--teacher", "alexnet", "--granularity", "block"],
            "'unit' has 4, 'block' has 0",
        ),
        (["--evaluator", "exact"], "unknown evaluator 'exact'; known: size, inherit"),
        (["--evaluator", "x.json"], "x.json holds no calibration"),
        (["--store", "abc://x"], "abc"),
        (["--weights", "x.pt"], "there is no file x.pt with weights"),
        (["--mean", "0.5"], "--mean and --std must be given together"),
        (["--mean", "half", "--std", "1"], "must be numbers separated by commas"),
        (["--mean", "0.5,0.5", "--std", "1,1"], "for each of 1 channels"),
        (["--teacher", "vit_b_16"], "node 'permute' (call method permute)"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments, message, tmp_path):
    output = ["--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["compress", *arguments, *output])
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_wrong_usage_is_told_apart(tmp_path):
    result = CliRunner().invoke(app, ["compress", "--removal-updates", "0"])
    assert result.exit_code == 2


def test_a_teacher_is_trained_by_command(monkeypatch, tmp_path):
    monkeypatch.setenv("N2N_CACHE", str(tmp_path))
    recipe = Recipe(1, 32, largest_gradient=1.0)
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: recipe)
    arguments = ["teachers", "train", "squeezenet1_1", "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "of the validation images" in result.stdout
    assert list((tmp_path / "teachers").glob("squeezenet1_1-digits-*.safetensors"))


def test_files_in_the_current_folder_are_found_but_replace_nothing(
    monkeypatch, tmp_path
):
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_nets.py").write_text(
        "from tests.networks import make_small as make\n"
    )
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('not to be run')\n")
    teacher = load_teacher("my_own_nets:make")
    assert teacher.name == "my_own_nets:make"
    program = (
        "import sys; sys.path.remove('')\n"
        "import n2n_gym.common.plugins as l\n"
        "l.lookup('teacher', 'my_own_nets:make', {})\n"
        "import onnxruntime\n"
        "assert 'site-packages' in onnxruntime.__file__, onnxruntime.__file__\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_teachers_and_tasks_are_listed(monkeypatch, tmp_path):
    monkeypatch.setenv("N2N_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    result = CliRunner().invoke(app, ["teachers"])
    assert result.exit_code == 0
    assert "shufflenet_v2_x2_0" in result.stdout
    assert "No teacher has been trained yet" in result.stdout
    teacher = load_teacher("tests.networks:make_small", device="cpu", epochs=1)
    accuracy = teacher.score.accuracy
    result = CliRunner().invoke(app, ["teachers"])
    assert f"{accuracy:.2%}" in result.stdout
    assert "tests.networks:make_small" in result.stdout

    result = CliRunner().invoke(app, ["tasks"])
    assert result.exit_code == 0
    for name in TASKS:
        assert name in result.stdout


@pytest.mark.slow
def test_own_images_and_an_own_network_are_compressed_from_end_to_end(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("N2N_CACHE", str(tmp_path))
    monkeypatch.setattr(elastic, "STEPS", 300)
    bunch = load_digits()
    images = (bunch.images * 15).astype(np.uint8)
    path = tmp_path / "own.npz"
    np.savez(
        path,
        train_images=images[:900],
        train_labels=bunch.target[:900],
        test_images=images[900:],
        test_labels=bunch.target[900:],
    )
    output = tmp_path / "run"
    arguments = ["compress", "--teacher", "tests.networks:make_small"]
    arguments += ["--task", str(path), "--output", str(output), "--no-controls"]
    arguments += ["--removal-updates", "1", "--shrinkage-updates", "1"]
    arguments += ["--final-epochs", "1", "--granularity", "layer"]
    arguments += ["--mean", "0.5", "--std", "0.25", "--device", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    about = {e.key: e.value for e in onnx.load(output / "student.onnx").metadata_props}
    assert about["task"] == "own"
    assert "mean (0.5,) and std (0.25,)" in about["normalisation"]
    assert about["preprocessing"]


def test_what_is_to_be_kept_is_kept_by_the_student_and_by_its_controls(
    monkeypatch, tmp_path
):
    recipe = Recipe(2, 32, largest_gradient=1.0)
    monkeypatch.setattr(learning, "teacher_recipe", lambda *_: recipe)
    more = {"keep": "block2", "limits": "num_params=7000", "output": tmp_path / "run"}
    compress(Options(**{**vars(SMALL), **more}))
    teacher = Architecture.from_json((tmp_path / "run/teacher.json").read_text())
    kept = [x for x in teacher.layers if x.name.startswith("block2.")]
    assert kept
    for line in history(tmp_path / "run"):
        student = Architecture.from_json(line["student"])
        for layer in kept:
            left = student.layers[student.positions[layer.name]]
            for field in ("width", "kernel"):
                assert getattr(left, field, 0) == getattr(layer, field, 0), line


def test_what_cannot_be_kept_is_said_first(tmp_path):
    more = {"keep": "blok2", "output": tmp_path / "run"}
    with pytest.raises(ValueError, match="keep='blok2' names no layer; there are blo"):
        compress(Options(**{**vars(SMALL), **more}))
    assert not (tmp_path / "run").exists()
