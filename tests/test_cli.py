"""The command line as a whole: its smaller commands, its exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from n2n_agents.library import ABOUT, AGENTS, TRAINED, WRITTEN
from n2n_agents.reinforce import load_policy
from n2n_gym.cli import app, errors
from n2n_gym.compression.assessment import wilson

ROOT = Path(__file__).parent.parent
SMALL = ["--teacher", "tests.networks:make_small", "--device", "cpu"]


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


# Agents.


def test_every_agent_is_listed():
    forms = {f"{name}@policy.pt" for name in TRAINED}
    forms |= {f"{name}@file.json" for name in WRITTEN}
    assert ABOUT.keys() == AGENTS.keys() | forms
    result = invoke("agents")
    assert result.exit_code == 0
    for name in ABOUT:
        assert name in result.stdout


def test_a_policy_is_trained_and_trained_further(tmp_path):
    arguments = ["train", "remove", *SMALL, "--evaluator", "size"]
    arguments += ["--logs", "csv", "--output", tmp_path]
    result = invoke(*arguments, "--updates", 2)
    assert result.exit_code == 0, result.output
    assert "2 updates" in result.stdout
    result = invoke(*arguments, "--updates", 4)
    assert result.exit_code == 0, result.output
    path = tmp_path / "reinforce-remove.policy.pt"
    assert load_policy(path) is not None
    assert len((tmp_path / "remove.log" / "progress.csv").read_text().splitlines()) == 5
    whole = tmp_path / "whole"
    arguments[arguments.index(tmp_path)] = whole
    assert invoke(*arguments, "--updates", 4).exit_code == 0
    assert path.read_bytes() == (whole / path.name).read_bytes()


def test_shrinkage_is_trained_from_a_start_and_removal_is_not(tmp_path, teacher):
    start = tmp_path / "architecture.json"
    start.write_text(teacher.architecture.to_json())
    arguments = [*SMALL, "--evaluator", "size", "--updates", 1, "--output", tmp_path]
    result = invoke("train", "shrink", *arguments, "--start", start)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "reinforce-shrink.policy.pt").exists()
    result = invoke("train", "remove", *arguments, "--start", start)
    assert result.exit_code == 1
    assert "leave out --start" in result.stderr


# Students.


def test_the_interval_of_a_share():
    # Worked by hand: 8 of 10, z = 1.96.
    low, high = wilson(8, 10)
    assert (low, high) == (
        pytest.approx(0.4902, abs=1e-4),
        pytest.approx(0.9433, abs=1e-4),
    )
    assert wilson(10, 10)[1] == pytest.approx(1)


def test_a_run_and_its_file_are_evaluated(finished_run):
    summary = json.loads((finished_run / "summary.json").read_text())
    result = invoke("evaluate", finished_run, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["accuracy"] == pytest.approx(summary["student"]["test_accuracy"])
    assert found["low"] < found["accuracy"] < found["high"]
    path = finished_run / "student.onnx"
    assert found["bytes"] == path.stat().st_size
    result = invoke("evaluate", path, "--split", "validation")  # its task is in it
    assert result.exit_code == 0, result.output
    assert "validation images (95 % interval" in " ".join(result.stdout.split())


def test_what_cannot_be_evaluated_is_said(finished_run, tmp_path):
    result = invoke("evaluate", tmp_path)
    assert result.exit_code == 1
    assert "there is no file" in result.stderr
    other = ROOT / "tests" / "networks.py"
    assert other.is_file()
    result = invoke("evaluate", other, "--task", "digits")
    assert result.exit_code == 1
    assert "networks.py cannot be read as ONNX" in result.stderr
    result = invoke("evaluate", finished_run / "student.onnx", "--split", "holiday")
    assert result.exit_code == 2


# What machines read.


def commands(group, *names):
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, *names, name)
        yield [*names, name]


COMMANDS = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_command_has_a_form_for_machines(names):
    command = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    assert "--json" in {option for it in command.params for option in it.opts}


def document(*arguments):
    """The one JSON document on the standard output."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_listings_are_documents(tmp_path, monkeypatch):
    monkeypatch.setenv("N2N_CACHE", str(tmp_path))
    assert document("agents") == ABOUT
    assert document("tasks")["digits"]["is_here"] is True
    teachers = document("teachers")
    assert "resnet18" in teachers["networks"]
    assert teachers["kept"] == []
    result = invoke("teachers", "--json", "train", "resnet18")
    assert result.exit_code == 2
    assert "go after 'train'" in result.stderr


def test_a_training_is_a_document_with_all_its_updates(tmp_path):
    arguments = ["train", "remove", *SMALL, "--evaluator", "size", "--updates", 2]
    found = document(*arguments, "--output", tmp_path)
    assert found["policy"] == str(tmp_path / "reinforce-remove.policy.pt")
    assert [update["number"] for update in found["updates"]] == [1, 2]


def test_a_comparison_and_its_validation_are_documents(tmp_path):
    arguments = ["--teacher", "vgg11_bn", "--evaluator", "size", "--seeds", 2]
    arguments += ["--env", "N2NRemove-v0", "--agents", "random,uniform"]
    arguments += ["--evaluations", 3, "--workers", 1, "--output", tmp_path]
    found = document("compare", *arguments)
    assert found["output"] == str(tmp_path)
    assert {row["agent"] for row in found["agents"]} == {"random", "uniform"}
    reached = found["agents"][0]["by_env"]["N2NRemove-v0 vgg11_bn digits"]
    assert reached["low"] <= reached["value"] <= reached["high"]
    found = document("validate", tmp_path / "results.jsonl")
    assert (found["runs"], found["rescored"]) == (4, [])


def test_a_run_that_is_done_and_its_report_are_documents(finished_run):
    found = document("compress", "--resume", finished_run)
    summary = json.loads((finished_run / "summary.json").read_text())
    assert found == {**summary, "output": str(finished_run)}
    path = document("report", finished_run)["path"]
    assert path == str(finished_run / "report.html")


# The rest.


def start(*arguments):
    program = "from n2n_gym.cli import app; app()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={key: v for key, v in os.environ.items() if key != "TQDM_DISABLE"},
    )


@pytest.mark.slow
def test_quiet_is_quiet_and_debug_has_a_traceback(tmp_path):
    arguments = ["train", "remove", *SMALL, "--evaluator", "size", "--updates", "1"]
    result = start(*arguments, "--output", str(tmp_path / "loud"))
    assert "Training to remove" in result.stderr
    result = start("--quiet", *arguments, "--output", str(tmp_path / "quiet"))
    assert result.returncode == 0
    assert result.stderr == ""
    bad = ["compress", "--teacher", "resnet19", "--output", str(tmp_path / "run")]
    assert "Traceback" not in start(*bad).stderr
    assert "Traceback" in start("--debug", *bad).stderr


def test_exit_codes():
    assert errors.INTERRUPTED == 130
    assert invoke("agents").exit_code == 0
    assert invoke("compress", "--teacher", "resnet19").exit_code == 1
    assert invoke("compress", "--seed", "three").exit_code == 2
    assert invoke("compres").exit_code == 2


def test_a_second_ctrl_c_ends_at_once():
    program = (
        "import time\n"
        "from n2n_gym.cli.errors import stoppable\n"
        "with stoppable(lambda: 'never said'):\n"
        "    try:\n"
        "        print('at work', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('tidying up', flush=True)\n"
        "        time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        for said in ("at work", "tidying up"):
            assert process.stdout.readline().strip() == said
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == errors.INTERRUPTED
        assert process.stderr.read() == ""


def test_completion_is_offered():
    environment = {**os.environ, "_N2N_GYM_COMPLETE": "complete_bash"}
    environment |= {"COMP_WORDS": "n2n-gym te", "COMP_CWORD": "1"}
    result = subprocess.run(
        [Path(sys.executable).parent / "n2n-gym"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "teachers" in result.stdout


def test_the_version_is_said():
    result = invoke("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"n2n-gym \d+\.\d+.*", result.stdout.strip())


@pytest.mark.parametrize("stage", ["remove", "shrink"])
def test_a_training_keeps_what_it_is_told_to_and_goes_on_with_no_other(stage, tmp_path):
    arguments = ["train", stage, *SMALL, "--evaluator", "size", "--output", tmp_path]
    found = invoke(*arguments, "--updates", 1, "--keep", "block2,conv1")
    assert found.exit_code == 0, found.output
    other = invoke(*arguments, "--updates", 2, "--keep", "block2")
    assert other.exit_code == 1
    assert "keeping block2,conv1" in " ".join(other.stderr.split())
    unknown = invoke(*arguments, "--updates", 2, "--keep", "blok2")
    assert "names no layer" in " ".join(unknown.stderr.split())
