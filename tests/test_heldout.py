"""The benchmark of trained policies on teachers that they have not seen."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import heldout
from benchmarks import heldout_tables as tables
from benchmarks.results import Results
from n2n_agents.kept import trained_path, write_trained
from n2n_agents.policies import make_policy
from n2n_agents.rules import Line, Profile, Rule, write_known
from n2n_gym.evaluators.loading import load_evaluator
from n2n_gym.pretraining.suite import Subject
from n2n_gym.teachers.loading import load_teacher

SMALL = "tests.networks:make_small"


@pytest.mark.parametrize(
    ("scores", "least", "expected"),
    [([0.1, 0.5, 0.4], 0.5, 2), ([0.1, 0.5], 0.1, 1), ([0.1], 0.2, math.inf)],
)
def test_the_number_of_students_until_one_matches(scores, least, expected):
    assert tables.first_match(scores, least) == expected


def line(agent, seed, scores, share=0.5, policy=""):
    best = {
        str(budget): {"fingerprint": f"{agent}{int(np.argmax(scores[:budget]))}"}
        for budget in tables.BUDGETS
    }
    named = {"teacher": "t", "task": "k", "share": share, "agent": agent}
    return {**named, "seed": seed, "policy": policy, "scores": scores, "best": best}


def cells(row):
    return [cell.strip().split(" ")[0] for cell in row.strip("|").split("|")]


def test_every_run_is_compared_with_every_start_of_the_policy():
    lines = [
        line("frozen@trained", 0, [0.3, 0.1], policy="a"),
        line("frozen@trained", 1, [0.1, 0.5], policy="a"),
        line("random", 0, [0.1, 0.3, 0.2]),  # 2 and never
        line("random", 1, [0.5]),  # 1 and 1
    ]
    (match,) = tables.to_match(lines, "random")
    assert match.needed["a"].tolist() == [[2, 1], [math.inf, 1]]
    assert tables.mean_needed([match], 200)(None) == (2 + 1 + 200 + 1) / 4
    found = tables.interval(tables.mean_needed([match], 200), ["a"])
    # The second start alone, with the first run alone, is 200.
    assert (found.low, found.high) == (1, 200)
    (row,) = tables.as_table(["a"], [tables._matched(lines, "random")]).splitlines()[2:]
    assert cells(row) == ["random", "51.0", "1", "200", "25%"]


def test_an_agent_that_plays_a_policy_has_to_match_the_same_policy():
    lines = [
        line("frozen@trained", 0, [0.3], policy="a"),
        line("frozen@trained", 0, [0.6], policy="b"),
        line("local@trained", 0, [0.1, 0.3], policy="a"),
        line("local@trained", 0, [0.7], policy="b"),
    ]
    (match,) = tables.to_match(lines, "local@trained")
    assert {p: v.tolist() for p, v in match.needed.items()} == {"a": [[2]], "b": [[1]]}
    found = tables.interval(tables.mean_needed([match], 200), ["a", "b"])
    assert found == (1.5, 1, 2)  # training seeds are drawn


def test_runs_of_other_policies_are_left_out():
    lines = [line("random", 0, [1]), line("frozen@trained", 0, [1], policy="a")]
    assert tables.chosen(lines, ["a"]) == tables.chosen(lines, []) == lines
    assert tables.chosen(lines, ["b"]) == lines[:1]


def test_the_table_shows_the_distilled_best_of_each_budget():
    lines = [line("local", 0, [0.1] * 5 + [0.2])]
    known = {("t", "k", "local0"): {"test": 0.7}, ("t", "k", "local5"): {"test": 0.8}}
    (row,) = tables.table(lines, known).splitlines()[2:]
    assert cells(row) == ["local", "0.7000", "0.8000", "0.8000", "0.8000"]
    (row,) = tables.table(lines, {}).splitlines()[2:]
    assert row.strip("| ") == "local"  # nothing is distilled yet


def test_agents_are_compared_with_local_search_within_each_pair():
    lines = [
        *(line("local", 0, [0.1], 0.5), line("local", 0, [0.9], 0.1)),
        *(line("random", 0, [0.2], 0.5), line("random", 0, [0.8], 0.1)),
        *(line("random", 1, [0.4], 0.5), line("random", 1, [0.8], 0.1)),
        *(line("frozen@trained", 0, [0.3], x, "a") for x in (0.5, 0.1)),
        *(line("frozen@trained", 0, [0.5], x, "b") for x in (0.5, 0.1)),
    ]
    rows = {cells(row)[0]: row for row in tables.table(lines, None).splitlines()[2:]}
    assert cells(rows["local"])[1:] == ["0.5000"] * 4
    # 0.2 and 0.4 less 0.1; 0.8 less 0.9: 0.2 and -0.1 on average.
    assert cells(rows["random"])[1:] == ["+0.0500"] * 4
    assert "[+0.0000, +0.1000]" in rows["random"]
    # It scores 20 students at most. Both policies, or one of them twice.
    assert cells(rows["frozen@trained"])[1:] == ["-0.1000", "-0.1000", "", ""]
    assert "[-0.2000, +0.0000]" in rows["frozen@trained"]


def test_a_missing_run_leaves_the_agent_out():
    lines = [line("local", 0, [0.1], x) for x in (0.5, 0.1)]
    lines += [line("random", 0, [0.2], 0.5)]
    *_, row = tables.table(lines, None).splitlines()
    assert cells(row) == ["random", "", "", "", ""]


@pytest.mark.slow
def test_runs_are_resumed_and_their_best_students_distilled(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(tables, "MOST", 6)
    monkeypatch.setattr(tables, "BUDGETS", (5, 6))
    monkeypatch.setattr(heldout, "SCRATCH", ("local", "bayesian"))
    suite = type("Few", (), {"test": (Subject(SMALL, "digits", "small"),)})
    suite.test_targets = (0.5,)
    teacher = load_teacher(SMALL, "digits", device="cpu")
    env = heldout.environment(teacher, 0.5, load_evaluator("size"))
    path = trained_path(tmp_path, heldout.STAGE)
    policy = make_policy(env, seed=0)
    write_trained(path, policy, "compress", fits=True, aims=["params"], card={})
    files = {"depth-profile": tmp_path / "profile.json", "rule": tmp_path / "rule.json"}
    write_known(files["depth-profile"], Profile({"width": (0.5, 1.0)}))
    write_known(files["rule"], Rule({"width": Line("depth", 0.5, 0.5, 1.0)}))
    results = Results(tmp_path, *heldout.RUN)
    distilled = Results(tmp_path / "distilled", *heldout.STUDENT)
    distilled.path.parent.mkdir()
    for _ in range(2):
        agents = list(heldout.agents_of([path], files))
        heldout.play_all(results, suite, agents, 1, tmp_path / "scores.sqlite")
    lines = list(results.read().values())
    assert [one["agent"] for one in lines] == [
        *("local", "bayesian", "depth-profile", "rule"),
        *(f"{way}@trained" for way in heldout.TRAINED),
    ]
    assert len(Path(results.path).read_text().splitlines()) == len(lines)
    assert all(len(one["scores"]) == 6 for one in lines)
    heldout.distil_all(lines, distilled)
    known = distilled.read()
    assert all(0 < one["test"] <= 1 for one in known.values())
    # A student is distilled as the evaluator ``short`` scores it.
    short = load_evaluator("short", "cpu", store=False, precision="float32")
    best = lines[0]["best"]["5"]
    student = heldout.student_of(env, best["actions"])
    one = known["tests.networks:make_small", "digits", best["fingerprint"]]
    assert one["validation"] == short([student], teacher)[0].accuracy
    tables.show(lines, known)
    shown = capsys.readouterr().out
    assert "Students to match" in shown
    assert shown.count("bayesian") == 3
