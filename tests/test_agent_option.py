"""Runs of ``n2n-gym compress --agent``: any agent plays the stages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from n2n_gym.compression.pipeline import compress
from n2n_gym.runs.folder import resumed
from n2n_gym.runs.options import Options

SMALL = Options(
    teacher="tests.networks:make_small",
    evaluator="inherit",
    removal_updates=1,
    shrinkage_updates=2,
    final_epochs=1,
    controls="none",
    device="cpu",
)


def lines_of(folder: Path) -> list[dict]:
    text = (folder / "history.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(
    scope="module",
    params=[
        ("local", "2500"),  # in all rows at once
        ("evolution", None),  # in one row
        pytest.param(("bayesian", "2500"), marks=pytest.mark.slow),
        pytest.param(("imitation", None), marks=pytest.mark.slow),
        pytest.param(("greedy", "2500"), marks=pytest.mark.slow),
        pytest.param(("beam", None), marks=pytest.mark.slow),
    ],
    ids=lambda param: param[0],
)
def run(request, tmp_path_factory) -> Path:
    agent, size = request.param
    folder = tmp_path_factory.mktemp("runs") / agent
    compress(replace(SMALL, agent=agent, max_params=size, output=folder))
    return folder


def test_both_stages_are_played_by_the_agent(run):
    agent, lines = run.name, lines_of(run)
    played = [line["stage"] for line in lines if line["search"] == agent]
    assert played == ["remove"] * 5 + ["shrink"] * 10
    mine = [line for line in lines if line["search"] == agent]
    if agent in ("local", "bayesian", "imitation"):
        assert len({line["fingerprint"] for line in mine[5:]}) >= 8
        assert sum(bool(line["violated"]) for line in mine[5:]) <= 1
    assert (run / "student.onnx").is_file()
    assert agent in (run / "report.html").read_text()


def test_a_run_that_was_stopped_goes_on_with_its_agent(run):
    path = run / "history.jsonl"
    before = path.read_text()
    (run / "summary.json").unlink()
    path.write_text("".join(before.splitlines(keepends=True)[:8]))
    options = resumed(run, {})
    assert options.agent == run.name
    compress(options)
    assert path.read_text() == before


def test_a_folder_of_another_agent_is_refused(run):
    other = replace(Options.read(run / "options.toml"), agent="random")
    with pytest.raises(FileExistsError, match=r"agent was '.*', is 'random'"):
        compress(replace(other, output=run))
    (run / "summary.json").rename(run / "kept")
    with pytest.raises(FileExistsError, match=r"agent was '.*', is 'random'"):
        compress(replace(other, output=run))
    (run / "kept").rename(run / "summary.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent": "localy"}, "unknown agent 'localy'; known: reinforce"),
        ({"agent": "sac"}, "'sac' needs continuous actions"),
        ({"agent": "local@policy.pt"}, "folder with both policies"),
        ({"agent": "local", "logs": "csv"}, "logs='csv' needs the agent"),
        (
            {"agent": "local", "init_policy": Path("x")},
            "init_policy='x' needs the agent",
        ),
        ({"agent": "no_such_module:search"}, "cannot be imported"),
    ],
)
def test_agents_that_cannot_play_are_refused_before_anything_is_done(
    options, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        compress(replace(SMALL, output=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_minutes_are_spent_by_the_agent_too(tmp_path):
    folder = tmp_path / "run"
    options = Options(
        teacher="tests.networks:make_small",
        minutes="45s",
        max_params="2500",
        agent="local",
        device="cpu",
        output=folder,
    )
    compress(options)
    decided = json.loads((folder / "plan.json").read_text())["decisions"]
    names = [what for what, _, _ in decided]
    for stage in ("local: remove", "local: shrink", "local search: shrink"):
        assert f"updates of {stage}" in names
        assert f"seconds left after {stage}" in names
    assert {line["search"] for line in lines_of(folder)} >= {"local", "local search"}
