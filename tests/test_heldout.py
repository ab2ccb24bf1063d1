"""The benchmark of trained policies on teachers that they have not seen."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import heldout
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
    [([0.1, 0.5, 0.4], 0.5, 2), ([0.1, 0.5], 0.1, 1), ([0.1], 0.2, heldout.MOST)],
)
def test_the_number_of_students_until_one_matches(scores, least, expected):
    assert heldout.first_match(scores, least) == expected


def line(agent, seed, scores, share=0.5):
    best = {
        str(budget): {"fingerprint": f"{agent}{int(np.argmax(scores[:budget]))}"}
        for budget in heldout.BUDGETS
    }
    named = {"teacher": "t", "task": "k", "share": share, "agent": agent}
    return {**named, "seed": seed, "scores": scores, "best": best}


def test_every_seed_is_compared_with_every_start_of_the_policy():
    lines = [
        line("frozen@trained", 0, [0.3, 0.1]),
        line("frozen@trained", 1, [0.1, 0.5]),
        line("random", 0, [0.1, 0.3, 0.2]),  # 2 and never
        line("random", 1, [0.5]),  # 1 and 1
    ]
    (group,) = heldout.to_match(lines, "random")
    assert sorted(group) == [1, 1, 2, heldout.MOST]
    assert heldout.mean_of_all([group, np.zeros(1)]) == group.mean() / 2


def test_the_table_shows_the_distilled_best_of_each_budget():
    lines = [line("random", 0, [0.1] * 5 + [0.2])]
    known = {("t", "k", "random0"): {"test": 0.7}, ("t", "k", "random5"): {"test": 0.8}}
    (row,) = heldout.table(lines, known).splitlines()[2:]
    cells = [cell.strip().split(" ")[0] for cell in row.strip("|").split("|")]
    assert cells == ["random", "0.7000", "0.8000", "0.8000", "0.8000"]
    (row,) = heldout.table(lines, {}).splitlines()[2:]
    assert row.strip("| ") == "random"  # nothing is distilled yet


@pytest.mark.slow
def test_runs_are_resumed_and_their_best_students_distilled(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(heldout, "MOST", 6)
    monkeypatch.setattr(heldout, "BUDGETS", (5, 6))
    monkeypatch.setattr(heldout, "SCRATCH", ("random", "bayesian"))
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
        *("random", "bayesian", "depth-profile", "rule"),
        *(f"{way}@trained" for way in heldout.TRAINED),
    ]
    assert len(Path(results.path).read_text().splitlines()) == len(lines)
    assert all(len(one["scores"]) == 6 for one in lines)
    heldout.distil_all(results, distilled)
    known = distilled.read().values()
    assert all(0 < one["test"] <= 1 for one in known)
    heldout.show(results, distilled)
    shown = capsys.readouterr().out
    assert "Students to match" in shown
    assert shown.count("bayesian") == 3
