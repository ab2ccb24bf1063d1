"""The help of every command on a terminal of 60, 80 and 120 columns."""

import re
from dataclasses import fields

import pytest
import typer
from typer import rich_utils
from typer.testing import CliRunner

from n2n_agents.library import AGENTS, CONTINUOUS
from n2n_gym.cli import app
from n2n_gym.runs.options import Options

FEWEST = 40  # columns of a help text, on a terminal of 80
MOST = 12  # options that are shown first


def names_of(command, before=()):
    """The words of every command under one."""
    yield before
    for name, one in getattr(command, "commands", {}).items():
        yield from names_of(one, (*before, name))


COMMANDS = list(names_of(typer.main.get_command(app)))


@pytest.fixture
def panels(monkeypatch):
    """The lines of each panel, without their frame, by its title."""

    def read(arguments, columns):
        # Typer reads this variable at its import, and COLUMNS where it had none.
        monkeypatch.setattr(rich_utils, "MAX_WIDTH", columns)
        result = CliRunner().invoke(app, [*arguments, "--help"])
        assert result.exit_code == 0, result.output
        found, title = {}, ""
        for line in result.stdout.splitlines():
            assert len(line.rstrip()) <= columns
            if match := re.match("╭─ (.*?) ─*╮", line):
                title = match[1]
                found[title] = []
            elif line.startswith("│"):
                found[title].append(line[2:-2])
        return found

    return read


def test_there_are_all_the_commands():
    assert {(), ("compress",), ("scores", "merge"), ("teachers", "train")} <= set(
        COMMANDS
    )


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_help_text_is_squeezed_or_cut(arguments, panels):
    for lines in panels(arguments, 80).values():
        for line in lines:
            assert "…" not in line
            indent = len(line) - len(line.lstrip())
            assert len(line) - indent >= FEWEST or not line.strip()


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_few_options_come_first_at_any_width(arguments, columns, panels):
    lines = panels(arguments, columns).get("Options", [])
    assert sum(line.startswith("--") for line in lines) <= MOST


def test_compress_shows_first_what_people_use(panels):
    first, *others = panels(["compress"], 80).values()
    named = [line.split()[0] for line in first if line.startswith("--")]
    assert named[:5] == ["--teacher", "--task", "--weights", "--minutes", "--output"]
    limits = {"--max-params", "--max-macs", "--max-size", "--max-latency"}
    assert limits | {"--min-accuracy", "--keep"} <= set(named)
    shown = {n for lines in (first, *others) for line in lines for n in line.split()}
    command = typer.main.get_command(app).commands["compress"]
    hidden = {"train_teacher"}  # which does nothing
    for parameter in command.params:
        assert parameter.name in hidden or parameter.opts[0] in shown


@pytest.mark.parametrize("option", ["removal-updates", "final-epochs", "workers"])
def test_counts_below_the_least_are_refused(option):
    result = CliRunner().invoke(app, ["compress", f"--{option}", "0"])
    assert result.exit_code == 2
    assert "0 is not in the range x>=1" in result.output


def test_no_shrinkage_is_accepted_and_less_is_not():
    command = typer.main.get_command(app).commands["compress"]
    context = command.make_context("compress", ["--shrinkage-updates", "0"])
    assert context.params["shrinkage_updates"] == 0
    result = CliRunner().invoke(app, ["compress", "--shrinkage-updates", "-1"])
    assert result.exit_code == 2
    assert "-1 is not in the range x>=0" in result.output


def test_compress_has_an_option_for_each_field_with_its_default():
    command = typer.main.get_command(app).commands["compress"]
    shown = {parameter.name: parameter.default for parameter in command.params}
    for field in fields(Options):
        assert shown.pop(field.name) == field.default
    assert shown.keys() == {"config", "resume", "no_controls", "as_json"}


def test_what_does_nothing_is_hidden_and_accepted():
    command = typer.main.get_command(app).commands["compress"]
    assert command.make_context("compress", ["--train-teacher"]).params["train_teacher"]


def test_compare_names_every_agent_that_takes_its_environments():
    """Others take continuous actions, and run from Python alone."""
    command = typer.main.get_command(app).commands["compare"]
    (option,) = [each for each in command.params if each.name == "agents"]
    named = re.findall(r"[\w@-]+", option.help.partition(":")[2])
    assert set(AGENTS) - set(CONTINUOUS) <= set(named)
