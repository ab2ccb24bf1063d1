"""Decisions at the keyboard, through a real terminal and through a pipe."""

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from n2n_gym.cli import app
from n2n_gym.cli.play import near
from n2n_gym.envs import RemoveEnv, ShrinkEnv
from n2n_gym.envs.render import LayerBar, lines
from n2n_gym.networks.architecture import Architecture
from n2n_gym.teachers.loading import load_teacher

ROOT = Path(__file__).parent.parent
ARGUMENTS = ["play", "--teacher", "tests.networks:make_small", "--evaluator", "size"]


@pytest.fixture(scope="module")
def network():
    return load_teacher("tests.networks:make_small", "digits", device="cpu")


@pytest.fixture(scope="module")
def counts(network):
    """The number of decisions in each stage of a play that keeps everything."""
    remove = RemoveEnv(network, evaluator="size")
    shrink = ShrinkEnv(network, start=network.architecture, evaluator="size")
    return len(remove.decisions), len(shrink.decisions)


def test_keeping_everything_leaves_the_teacher(network, counts, tmp_path):
    path = tmp_path / "student.json"
    keys = "k\n" * counts[0] + "0\n" * counts[1]
    result = CliRunner().invoke(app, [*ARGUMENTS, "--output", str(path)], input=keys)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("reward 0.0000: 1.0x smaller") == 2
    assert Architecture.from_json(path.read_text()) == network.architecture


def test_what_was_undone_is_as_if_it_had_not_been(network, counts, tmp_path):
    path = tmp_path / "student.json"
    keys = "r\nu\nx\nk\nk\nu\nk\n" + "k\n" * (counts[0] - 2) + "0\n" * counts[1]
    result = CliRunner().invoke(app, [*ARGUMENTS, "--output", str(path)], input=keys)
    assert result.exit_code == 0, result.output
    assert "'x' is no choice" in result.stdout
    assert Architecture.from_json(path.read_text()) == network.architecture


def test_undo_leads_from_the_first_shrinkage_back_to_the_last_removal(
    network, counts, tmp_path
):
    path = tmp_path / "student.json"
    whole = "k\n" * (counts[0] - 1)
    keys = f"u\n{whole}r\n1\nu\nu\nk\n" + "0\n" * counts[1]
    result = CliRunner().invoke(app, [*ARGUMENTS, "--output", str(path)], input=keys)
    assert result.exit_code == 0, result.output
    assert Architecture.from_json(path.read_text()) == network.architecture


def test_machines_get_the_student_and_people_the_rest(network, counts):
    keys = "k\n" * counts[0] + "0\n" * counts[1]
    result = CliRunner().invoke(app, [*ARGUMENTS, "--json"], input=keys)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["reward"], found["compression"]) == (0, 0)
    assert Architecture.from_json(found["student"]) == network.architecture
    assert "q quit" in result.stderr


def test_removals_and_rates_are_the_environments(network, counts, tmp_path):
    path = tmp_path / "student.json"
    keys = "r\n" + "k\n" * (counts[0] - 1) + "5\n" * 40
    result = CliRunner().invoke(app, [*ARGUMENTS, "--output", str(path)], input=keys)
    assert result.exit_code == 0, result.output
    remove = RemoveEnv(network, evaluator="size")
    remove.reset()
    for action in [1] + [0] * (counts[0] - 1):
        remove.step(action)
    shrink = ShrinkEnv(network, start=remove.student, evaluator="size")
    shrink.reset()
    for _ in shrink.decisions:
        shrink.step(4)
    assert Architecture.from_json(path.read_text()) == shrink.student


@pytest.mark.parametrize(
    ("current", "most", "expected"),
    [(0, 4, "0123"), (5, 4, "3456"), (9, 4, "6789"), (None, 4, "0123"), (5, 0, "5")],
)
def test_a_low_screen_shows_the_layers_about_the_decision(current, most, expected):
    whole = [LayerBar(str(i), 8, 8, "8", i == current) for i in range(10)]
    shown = lines(whole)
    assert "".join(line.name for line in near(shown, most)) == expected
    assert near(shown, 10) == shown


def test_the_end_of_the_input_is_one_clear_line():
    result = CliRunner().invoke(app, ARGUMENTS, input="k\n")
    assert result.exit_code == 1
    assert "there is no more input" in result.stderr


@pytest.mark.slow
def test_a_terminal_of_forty_columns_is_enough(counts, tmp_path):
    path = tmp_path / "student.json"
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "40", "LINES": "40", "TERM": "xterm"}
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from n2n_gym.cli import app; app()"),
            *(*ARGUMENTS, "--output", str(path)),
        ],
        cwd=ROOT,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = ""

    def read_until(text: str) -> None:
        nonlocal seen
        while text not in seen:
            seen += os.read(ours, 65_536).decode(errors="replace")

    read_until("q quit")
    os.write(ours, b"r")  # a key alone: nobody presses return
    seen = ""
    read_until("q quit")
    rows = [line for line in seen.splitlines() if "█" in line or "░" in line]
    assert "removed" in "".join(rows)
    os.write(ours, b"q")
    with suppress(OSError):  # the other end is closed
        while os.read(ours, 65_536):
            pass
    assert process.wait(timeout=60) == 130
    os.close(ours)


@pytest.mark.parametrize(
    "keep", ["block2", "block2.*,block1", "*.conv2", "block1,*.bn1"]
)
def test_neither_stage_asks_about_what_is_kept(keep, network, counts, tmp_path):
    path = tmp_path / "student.json"
    remove = RemoveEnv(network, evaluator="size", keep=keep)
    shrink = ShrinkEnv(network, evaluator="size", keep=keep)
    asked = len(remove.decisions), len(shrink.decisions)
    assert sum(asked) < sum(counts)
    keys = "k\n" * asked[0] + "1\n" * asked[1]
    arguments = [*ARGUMENTS, "--keep", keep, "--output", str(path)]
    result = CliRunner().invoke(app, arguments, input=keys)
    assert result.exit_code == 0, result.output
    student = Architecture.from_json(path.read_text())
    for name in remove.kept:
        layer = network.architecture.layers[network.architecture.positions[name]]
        left = student.layers[student.positions[name]]
        for field in ("width", "kernel", "padding"):
            assert getattr(left, field, 0) == getattr(layer, field, 0)
