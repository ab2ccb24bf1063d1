import importlib.util
import json
import sys
from dataclasses import asdict

import gymnasium as gym
import numpy as np
import pytest
from typer.testing import CliRunner

from envs_registry import BENCH, MODULE
from n2n_agents import reinforce
from n2n_agents.library import find_agent
from n2n_agents.policies import NO_ACTION
from n2n_gym.cli import app
from n2n_gym.comparison.budget import Budgeted, Ledger, run
from n2n_gym.comparison.runner import AgentRun, Results, compare, perform, plan
from n2n_gym.envs import RemoveEnv

ENV = ("n2n_gym:N2NRemove-v0", {"teacher": "vgg11_bn", "evaluator": "size"})


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Runs, and the file with their results."""
    path = tmp_path_factory.mktemp("comparison") / "results.jsonl"
    runs = plan([ENV], ["random", "uniform", "evolution"], range(2), evaluations=6)
    compare(runs, path, workers=2)
    return runs, path


def by_run(path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for line in Results(path).lines():
        found.setdefault(line["run"], []).append({**line, "seconds": None})
    return found


def test_every_run_is_there_to_its_end(compared):
    runs, path = compared
    found = by_run(path)
    assert found.keys() == {one.key for one in runs}
    for one in runs:
        *evaluations, end = found[one.key]
        assert end["kind"] == "end"
        assert end["students"] == len(evaluations)
        assert [line["number"] for line in evaluations] == [
            *range(1, len(evaluations) + 1)
        ]
        expected = (2, "finished") if one.agent == "uniform" else (6, "budget")
        assert (len(evaluations), end["reason"]) == expected


def test_a_run_is_the_same_anywhere(compared):
    runs, path = compared
    here = [{**line, "seconds": None} for line in perform(runs[0])]
    assert json.loads(json.dumps(here)) == by_run(path)[runs[0].key]


def test_it_goes_on_where_it_was_killed(compared, tmp_path):
    runs, path = compared
    text = path.read_text()
    for cut in (0, 1, len(text) // 3, len(text) // 2, len(text) - 1):
        killed = tmp_path / f"{cut}.jsonl"
        killed.write_text(text[:cut])
        was_done = Results(killed).done()
        compare(runs[:2], killed)
        assert Results(killed).done() == was_done | {one.key for one in runs[:2]}
        whole = by_run(path)
        assert all(whole[key] == lines for key, lines in by_run(killed).items())


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    for text, why in (
        ("student,accuracy\n", "line 1 is not a result"),
        ("[1]\n", "line 1 is not a result"),
        ('{"version": 99}\n', "has version 99 of the format"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=why):
            compare([], path)
        assert path.read_text() == text


def test_bad_plans_are_refused():
    with pytest.raises(ValueError, match=r"unknown agent 'ppo2'; known: reinforce"):
        plan([ENV], ["ppo2"], [0], epochs=1)
    with pytest.raises(ValueError, match="epochs must be a positive number, got 0"):
        plan([ENV], ["random"], [0], epochs=0)
    with pytest.raises(ValueError, match="cannot be imported"):
        find_agent("nowhere:agent")


def test_an_own_agent_is_a_function():
    one = AgentRun(ENV[0], "n2n_agents.search:greedy", 0, ENV[1], evaluations=3)
    *evaluations, end = perform(one)
    assert len(evaluations) == end["evaluations"] == 3


def invoke(*arguments):
    options = ["--teacher", "vgg11_bn", "--evaluator", "size", "--seeds", "2"]
    options += ["--env", "N2NRemove-v0", "--agents", "random,uniform"]
    return CliRunner().invoke(app, ["compare", *options, *map(str, arguments)])


@pytest.mark.slow
def test_the_command_writes_results_and_a_report(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    folder = tmp_path / "compare"
    result = invoke("--evaluations", 5, "--output", folder)
    assert result.exit_code == 0, result.stderr
    report = (folder / "report.md").read_text()
    for text in ("N2NRemove-v0 vgg11_bn digits", "random", "uniform"):
        assert text in result.stdout
        assert text in report
    before = (folder / "results.jsonl").read_text()

    result = invoke("--evaluations", 5, "--output", folder)
    assert result.exit_code == 1
    assert "resume it with --resume" in " ".join(result.stderr.split())
    assert (folder / "results.jsonl").read_text() == before
    assert invoke("--evaluations", 5, "--output", folder, "--resume").exit_code == 0
    assert (folder / "results.jsonl").read_text() == before


def test_an_own_agent_may_be_a_file_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "stubborn.py").write_text(
        "def keep_all(env, *, seed):\n"
        "    _, is_over = env.reset(seed=seed), False\n"
        "    while not is_over:\n"
        "        is_over = env.step(0)[2]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    options = ["--agents", "stubborn:keep_all", "--evaluations", 3, "--workers", 1]
    result = invoke(*options, "--output", tmp_path / "x")
    assert result.exit_code == 0, result.stderr
    lines = list(Results(tmp_path / "x" / "results.jsonl").lines())
    rewards = [line["reward"] for line in lines if line["kind"] == "evaluation"]
    assert rewards == [0.0, 0.0]  # of two seeds: nothing is removed


def test_an_agent_starts_from_a_policy(tmp_path):
    small = RemoveEnv("vgg11_bn", evaluator="size")
    policy, path = reinforce.make_policy(small), tmp_path / "policy.pt"
    reinforce.train(small, policy, reinforce.MODERN, updates=2)
    reinforce.save_policy(policy, path)
    env = ("N2NRemove-v0", {"teacher": "resnet18", "evaluator": "size"})
    names = [f"reinforce@{path}", f"frozen@{path}"]
    trained, frozen = (
        perform(one)[:-1] for one in plan([env], names, [0], evaluations=20)
    )
    assert len(trained) == len(frozen) == 20
    # Frozen, it plays its likeliest student first, and draws as before until it learns.
    likeliest = reinforce.play(RemoveEnv("resnet18", evaluator="size"), policy)
    decided = likeliest.actions[likeliest.actions != NO_ACTION]
    assert list(frozen[0]["actions"]) == decided.tolist()
    first = [
        {
            tuple(x["actions"])
            for x in found
            if 1 < x["episodes"] <= reinforce.MODERN.rollouts
        }
        for found in (trained, frozen)
    ]
    assert len(first[0] & first[1]) > 1
    assert [x["actions"] for x in trained] != [x["actions"] for x in frozen]
    (tmp_path / "wrong.pt").write_text("nothing")
    with pytest.raises(ValueError, match=r"wrong\.pt does not hold a policy"):
        plan([env], [f"frozen@{tmp_path}/wrong.pt"], [0], evaluations=1)


def test_the_command_plays_a_task_of_the_bench_and_refuses_unknown_ones(tmp_path):
    task = next(iter(BENCH))
    alike = ["--agents", "random", "--evaluations", "3", "--seeds", "1"]
    alike += ["--workers", "1"]

    def invoke(env, *more):
        options = ["compare", "--env", env, *alike, *more]
        return CliRunner().invoke(app, [*options, "--output", str(tmp_path / env)])

    done = invoke(task)
    assert done.exit_code == 0, done.stderr
    for env, more, why in (
        (MODULE + task, ("--device", "cpu"), "leave out --device"),
        (MODULE + task, ("--teacher", "resnet18"), "leave out --teacher"),
        (task.replace("-v0", "9-v0"), (), "Did you mean"),
        ("N2NFold-v0", (), "there is no environment 'N2NFold-v0'"),
    ):
        refused = invoke(env, *more)
        assert refused.exit_code == 1
        assert why in " ".join(refused.stderr.split())


def test_the_command_refuses_a_budget_that_makes_no_sense(tmp_path):
    for arguments, why in (
        ((), "a budget must limit the epochs, the evaluations"),
        (("--budget", 0), "epochs must be a positive number, got 0.0"),
        (("--evaluations", -1), "evaluations must be a positive number, got -1"),
        (("--budget", 5), "cost no epochs"),
    ):
        result = invoke("--workers", 1, "--output", tmp_path / "x", *arguments)
        assert result.exit_code == 1
        assert why in " ".join(result.stderr.split())


@pytest.mark.slow
def test_reinforce_begins_anew_where_it_has_settled(monkeypatch):
    """On a task of few students, one policy would repeat its own for ever."""
    made = []
    make_policy = reinforce.make_policy

    def make(env, *, seed, **options):
        made.append(seed)
        return make_policy(env, seed=seed, **options)

    monkeypatch.setattr(reinforce, "make_policy", make)
    env = RemoveEnv("vgg11_bn", evaluator="size")
    ledger = Ledger(evaluations=10**6, patience=120)
    run(gym.Wrapper(env), find_agent("reinforce"), ledger, seed=3)
    assert ledger.reason == "nothing new"
    assert len(made) == len(set(made)) >= 2
    assert made[0] == 3


def test_a_file_holds_runs_of_one_budget_and_one_evaluator(tmp_path):
    path = tmp_path / "results.jsonl"
    size = {"teacher": "vgg11_bn", "evaluator": "size"}

    def planned(arguments, evaluations):
        envs = [("N2NRemove-v0", arguments)]
        return plan(envs, ["random"], [0], evaluations=evaluations)

    compare(planned(size, 2), path)
    with pytest.raises(ValueError, match="has runs with evaluations 2; runs with 3"):
        compare(planned(size, 3), path)
    with pytest.raises(ValueError, match=r"has runs with arguments .*'size'"):
        compare(planned({**size, "evaluator": "inherit"}, 2), path)
    compare(planned({**size, "teacher": "resnet18"}, 2), path)  # another task


def test_a_budget_pays_for_a_student_at_least():
    ledger = Ledger(epochs=0.5)
    info = {"fingerprint": "x", "cost": 0.4, "cost_once": 2.0}
    with pytest.raises(ValueError, match=r"0\.5 epochs .* student costs 2\.4"):
        ledger.add(1.0, (0,), info)


def test_decisions_of_numpy_are_kept_as_numbers():
    env = gym.make("N2NRemove-v0", teacher="vgg11_bn", evaluator="size")
    ledger = Ledger(evaluations=5)
    budgeted = Budgeted(env, ledger)
    count = len(env.unwrapped.decisions)
    budgeted.reset(options={"decisions": list(np.zeros(count - 1, np.int64))})
    budgeted.step(np.int64(0))
    (found,) = ledger.found.values()
    assert json.dumps(found.actions) == json.dumps([0] * count)


def test_agents_of_other_actions_are_refused_before_any_run():
    with pytest.raises(ValueError, match="sac needs continuous actions, and n2n_gym"):
        plan([ENV], ["random", "sac"], [0], evaluations=2)
    continuous = ("N2NShrink-v0", {**ENV[1], "action": "continuous"})
    assert len(plan([continuous], ["sac", "td3"], [0], evaluations=2)) == 2


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"'ppo' needs pip install 'n2n-gym\[sb3\]'"):
        plan([ENV], ["ppo"], [0], evaluations=2)


def test_arguments_that_json_writes_otherwise_are_the_same_when_it_goes_on(tmp_path):
    arguments = {**ENV[1], "variables": ("width",)}  # a list in the file
    runs = plan([("N2NShrink-v0", arguments)], ["random"], [0], evaluations=1)
    path = tmp_path / "results.jsonl"
    compare(runs, path)
    before = path.read_text()
    compare(runs, path)
    assert path.read_text() == before


@pytest.mark.parametrize("agent", ["random", "uniform"])
@pytest.mark.parametrize("name", ["N2NShrink-v0", "N2NCompress-v0"])
def test_runs_from_before_kernels_had_the_nearest_length_are_not_gone_on_with(
    name, agent, tmp_path
):
    path = tmp_path / "results.jsonl"
    arguments = dict(ENV[1])
    old = AgentRun(MODULE + name, agent, 0, arguments, evaluations=3)
    Results(path).add([{"version": 1, "run": old.key, **asdict(old), "kind": "end"}])
    before = path.read_text()
    new = plan([(old.env, arguments)], [agent], range(2), evaluations=3)
    assert {one.arguments["kernels"] for one in new} == {"nearest"}
    with pytest.raises(ValueError, match=r"has runs with arguments .*'kernels'"):
        compare(new, path)
    assert path.read_text() == before


def test_a_rule_that_was_given_stays_and_tasks_have_their_own():
    given = {**ENV[1], "kernels": "floor"}
    (one,) = plan([("n2n_gym:N2NShrink-v0", given)], ["random"], [0], evaluations=1)
    assert one.arguments == given
    for env in ("n2n_gym:N2NRemove-v0", "n2n_gym:N2N/Shrink-Digits-ResNet18-v0"):
        (one,) = plan([(env, {})], ["random"], [0], evaluations=1)
        assert one.arguments == {}


def test_what_is_kept_is_an_argument_of_every_run(tmp_path):
    folder, keep = tmp_path / "compare", "features.4,features.0"
    options = ["--evaluations", 2, "--seeds", 1, "--workers", 1]
    result = invoke(*options, "--output", folder, "--keep", keep)
    assert result.exit_code == 0, result.stderr
    lines = list(Results(folder / "results.jsonl").lines())
    assert {line["arguments"]["keep"] for line in lines} == {keep}
    asked = RemoveEnv(**ENV[1], keep=["features.4", "features.0"]).decisions
    assert len(asked) < len(RemoveEnv(**ENV[1]).decisions)
    played = [line["actions"] for line in lines if line["kind"] == "evaluation"]
    assert {len(actions) for actions in played} == {len(asked)}
    result = invoke(*options, "--output", folder, "--resume")
    assert "has runs with arguments" in " ".join(result.stderr.split())
    result = invoke(*options, "--output", tmp_path / "no", "--keep", "featurs")
    assert "names no layer" in " ".join(result.stderr.split())
