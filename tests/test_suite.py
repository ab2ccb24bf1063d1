"""N2N-Bench's protocol: runs, their file, and what they say."""

import gzip
import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.n2n_bench import pages, rules
from envs_registry import BENCH
from n2n_agents import reinforce
from n2n_gym.bench import find_task
from n2n_gym.bench.env import regrets
from n2n_gym.bench.rivals import regression_search
from n2n_gym.cli import app
from n2n_gym.comparison import leaderboard, suite
from n2n_gym.comparison.leaderboard import standings
from n2n_gym.comparison.suite import (
    BUDGETS,
    perform_suite,
    read_suite,
)
from tests.bench_tables import AIMS, installed, small_table

AGENTS = ["random", "evolution", "regression"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    made = small_table("remove")
    with installed(made, tmp_path_factory.mktemp("tables")):
        yield made


@pytest.fixture(scope="module")
def results(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "results.jsonl"
    perform_suite(AGENTS, range(4), path, tasks=list(AIMS))
    return path


def test_every_agent_runs_every_task_with_every_seed(results):
    runs = list(read_suite(results))
    assert len({(one.task, one.agent, one.seed) for one in runs}) == len(runs) == 24


def test_a_stopped_suite_goes_on_with_the_same_runs(table, results, tmp_path):
    lines = results.read_text().splitlines(keepends=True)
    path = tmp_path / "results.jsonl"
    path.write_text("".join(lines[:7]))
    perform_suite(AGENTS, range(4), path, tasks=list(AIMS))
    assert sorted(path.read_text().splitlines()) == sorted(map(str.strip, lines))


def test_a_run_holds_the_best_of_its_rewards(table, results):
    for one in read_suite(results):
        rewards = table.values(BENCH[one.task])
        for budget in BUDGETS:
            rows = list(one.rows[:budget])
            assert one.best[str(budget)] == max(rewards[rows])


def test_regrets_are_normalised_by_those_of_a_random_student(table, results):
    """A run that finds the best on validation at once, worked by hand."""
    task = next(iter(AIMS))
    what = BENCH[task]
    best = int(table.values(what).argmax())
    one = suite.SuiteRun(task, "own", 0, [best], {})
    lost = regrets(what, "test")
    expected = lost[best] / lost[table.within(what)].mean()
    assert leaderboard.normalised(task, [one], 5) == pytest.approx([expected])


def test_the_leaderboard_has_agents_from_scratch_first(table, results):
    runs = list(read_suite(results))
    trained = [
        replace(one, agent="trained", seen=["small"])
        for one in runs
        if one.agent == "random"
    ]
    found = standings(runs + trained)
    assert [bool(one.seen) for one in found] == [False, False, False, True]
    random = next(one for one in found if one.agent == "random")
    assert random.better is None
    assert found[-1].better.value == pytest.approx(0.5)  # it is random search
    board = leaderboard.as_markdown(found)
    assert board.splitlines()[-1].startswith("| trained (small) |")
    for one in found:
        values = [one.at[n].value for n in BUDGETS]
        assert all(v >= 0 for v in values)


def changed(line, **change):
    return json.dumps(json.loads(line) | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"best": {str(n): 0.99 for n in BUDGETS}},
            "best reward of the first 5 students",
        ),
        ({"rows": [1, 1]}, "row 1, a student, is listed twice"),
        ({"rows": [100_000]}, "got row 100000"),
        ({"rows": list(range(400))}, "students of 300|rows must be"),
        ({"rows": []}, "rows must be"),
        ({"seen": "small"}, "seen must be a list of words, got 'small'"),
        ({"seen": [""]}, "seen must be a list of words"),
        ({"seen": None}, "seen must be a list of words"),
        ({"scores": "0" * 16}, "other scores of the table small: their hash is '000"),
        ({"task": "N2NBench/Smal-v0"}, "unknown task"),
        ({"version": 9}, "is of n2n-bench 9"),
        ({"colour": "red"}, "is not a run"),
    ],
)
def test_a_run_that_is_not_so_is_refused(results, tmp_path, change, message):
    lines = results.read_text().splitlines()
    line = next(line for line in lines if '"random"' in line)
    path = tmp_path / "results.jsonl"
    path.write_text(changed(line, **change) + "\n")
    with pytest.raises(ValueError, match=message):
        list(read_suite(path))


def test_one_agent_has_one_file_and_has_seen_one_thing(results, tmp_path):
    lines = results.read_text().splitlines()
    path = tmp_path / "results.jsonl"
    for change in ({"source": "abc"}, {"seen": ["small"]}):
        path.write_text("\n".join([*lines[:5], changed(lines[5], **change)]))
        with pytest.raises(ValueError, match=r"line 6: '.*' has another file, or has"):
            list(read_suite(path))


def test_another_version_of_an_agent_is_refused(table, tmp_path, monkeypatch):
    own, path = tmp_path / "climbing.py", tmp_path / "results.jsonl"
    own.write_text(
        "from n2n_agents import search as searches\n"
        "def search(env, *, seed):\n    searches.random_search(env, seed=seed)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = (["climbing:search"], range(1), path)
    (first, _) = perform_suite(*arguments, tasks=list(AIMS))
    assert first.source == hashlib.sha256(own.read_bytes()).hexdigest()[:16]
    own.write_text(own.read_text() + "# better\n")
    with pytest.raises(ValueError, match="made with another file of the agent"):
        perform_suite(*arguments, tasks=list(AIMS))


def test_a_pretrained_agent_says_what_it_has_seen(table, tmp_path):
    env = gym.make("N2NBench/Small-v0")
    policy = tmp_path / "policy.pt"
    reinforce.save_policy(reinforce.make_policy(env, seed=0), policy)
    agents, path = [f"frozen@{policy}"], tmp_path / "results.jsonl"
    with pytest.raises(ValueError, match="was trained before; name what it has seen"):
        perform_suite(agents, range(1), path, tasks=list(AIMS))
    made = perform_suite(agents, range(1), path, tasks=list(AIMS), seen=["small"])
    assert {tuple(one.seen) for one in made} == {("small",)}
    with pytest.raises(ValueError, match="made with another --seen: "):
        perform_suite(agents, range(2), path, tasks=list(AIMS), seen=["other"])
    both = perform_suite(
        ["random", *agents], range(1), path, tasks=list(AIMS), seen=["small"]
    )
    assert {tuple(one.seen) for one in both if one.agent == "random"} == {()}
    assert len(both) == 2 * len(made)
    reinforce.save_policy(reinforce.make_policy(env, seed=1), policy)
    with pytest.raises(ValueError, match="made with another file of the agent"):
        perform_suite(agents, range(2), path, tasks=list(AIMS), seen=["small"])


def peeking(env, *, seed):
    """Random search that looks for what an agent must not see."""
    env.action_space.seed(seed)
    while True:
        _, info = env.reset()
        over = False
        while not over:
            *_, over, _, info = env.step(env.action_space.sample(info["action_mask"]))
        assert not [name for name in info if "regret" in name]


def test_agents_do_not_see_how_good_the_best_student_is(table, tmp_path):
    name = f"{__name__}:peeking"
    made = perform_suite([name], range(1), tmp_path / "x.jsonl", tasks=list(AIMS))
    assert all(len(one.rows) > 5 for one in made)


def test_the_regression_scores_distinct_students_within_the_limit(table):
    task = AIMS["N2NBench/Small-Params2-v0"]
    within = np.flatnonzero(table.within(task))
    rows = regression_search(table, task, 300, np.random.default_rng(0))
    assert sorted(rows) == within.tolist()
    shorter = regression_search(table, task, 7, np.random.default_rng(0))
    assert shorter == rows[:7]  # more budget changes nothing of what came before


def test_a_run_may_be_there_once_and_what_is_missing_is_said(
    results, tmp_path, monkeypatch
):
    lines = results.read_text().splitlines(keepends=True)
    path = tmp_path / "results.jsonl"
    path.write_text("".join([*lines, lines[3]]))
    with pytest.raises(ValueError, match=r"line 25: the run of .* is there twice"):
        list(read_suite(path))
    assert len(suite.lacking(list(read_suite(results)))) == 3 * 2 * (30 - 4)
    monkeypatch.setattr(suite, "SEEDS", 4)
    assert suite.lacking(list(read_suite(results))) == []
    whole = CliRunner().invoke(app, ["validate", str(results)])
    assert "Whole: every task of n2n-bench with every seed." in whole.stdout
    path.write_text("".join(lines[1:]))
    (missing,) = suite.lacking(list(read_suite(path)))
    assert missing == next(iter(read_suite(results))).name
    done = CliRunner().invoke(app, ["validate", str(path)])
    assert (
        f"Not whole: for n2n-bench, 1 runs are missing, first {missing}." in done.stdout
    )
    document = CliRunner().invoke(app, ["validate", str(path), "--json"])
    assert json.loads(document.stdout)["missing"] == [missing]


def test_two_files_of_the_leaderboard_need_agents_of_other_names(
    results, tmp_path, monkeypatch
):
    monkeypatch.setattr(suite, "SEEDS", 4)
    for name in ("mine.jsonl", "yours.jsonl"):
        (tmp_path / name).write_text(results.read_text())
    with pytest.raises(ValueError, match=r"is in mine\.jsonl and in yours\.jsonl"):
        pages.read_all(tmp_path)
    (tmp_path / "yours.jsonl").unlink()
    assert pages.read_all(tmp_path) == list(read_suite(results))
    whole = results.read_text().splitlines(keepends=True)
    (tmp_path / "mine.jsonl").write_text("".join(whole[:-2]))
    with pytest.raises(ValueError, match="2 runs are missing, first the run of"):
        pages.read_all(tmp_path)
    monkeypatch.setattr(pages, "SEEDS", 3)
    with pytest.raises(ValueError, match=r"seed 3 on .*; the leaderboard has seeds 0"):
        pages.read_all(tmp_path)


def test_a_suite_is_of_all_tasks_or_of_those_for_development(table, monkeypatch):
    assert suite.tasks_of_suite("n2n-bench") == list(AIMS)
    assert suite.tasks_of_suite("n2n-bench-development") == []
    monkeypatch.setattr(suite, "DEVELOPMENT", ("small",))
    assert suite.tasks_of_suite("n2n-bench-development") == list(AIMS)


def test_a_file_without_runs_is_not_valid(tmp_path):
    path = tmp_path / "results.jsonl.gz"
    path.write_bytes(gzip.compress(b""))
    done = CliRunner().invoke(app, ["validate", str(path)])
    assert done.exit_code != 0
    assert "has no runs" in done.output


def test_a_compressed_file_holds_the_same_runs(results, tmp_path):
    path = tmp_path / "results.jsonl.gz"
    path.write_bytes(gzip.compress(results.read_bytes()))
    assert suite.is_suite(path)
    assert list(read_suite(path)) == list(read_suite(results))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"results\.jsonl\.gz cannot be read"):
        list(read_suite(path))


def test_the_page_lists_each_agent_with_its_command(table, results):
    runs = list(read_suite(results))
    made = [replace(one, command="n2n-gym compare", commit="abc") for one in runs]
    written = pages.page(made, leaderboard.boards(made))
    agents = ", ".join(sorted(AGENTS))
    assert f"| {agents} | `n2n-gym compare` | abc |" in written
    assert leaderboard.as_markdown(standings(runs)).strip() in written
    assert f"| `small` | {len(table):,} | headline |" in written


def test_tables_for_development_have_a_leaderboard_of_their_own(
    table, results, monkeypatch
):
    runs = list(read_suite(results))
    found = leaderboard.boards(runs)
    board = leaderboard.as_markdown(standings(runs)).strip()
    assert leaderboard.boards_as_markdown(found) == f"## Headline tables\n\n{board}"
    monkeypatch.setattr(leaderboard, "DEVELOPMENT", ("small",))
    other = leaderboard.boards_as_markdown(leaderboard.boards(runs))
    assert other == f"## Development tables\n\n{board}"


def test_the_page_of_tables_has_the_figures_of_the_rules(table, monkeypatch):
    monkeypatch.setattr(rules, "DRAWS", 5)
    written = pages.tables_page()
    found = rules.judge("N2NBench/Small-v0", AIMS["N2NBench/Small-v0"], table)
    (row,) = [x for x in written.splitlines() if x.startswith("| `Small-v0`")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == str(found.legal) == str(len(table))
    assert float(cells[3]) == pytest.approx(found.perfect, abs=1e-4)
    assert float(cells[4]) == pytest.approx(found.regression, abs=1e-4)
    assert float(cells[6]) == pytest.approx(found.play, abs=1e-4)
    assert float(cells[8]) == pytest.approx(
        max(table.values(AIMS["N2NBench/Small-v0"])), abs=1e-4
    )


def test_the_command_writes_a_leaderboard_and_validates_it(table, tmp_path):
    runner, output = CliRunner(), tmp_path / "bench"
    arguments = ["compare", "--suite", "n2n-bench", "--agents", "random,regression"]
    arguments += ["--workers", "1"]  # only this process has the small table
    made = runner.invoke(app, [*arguments, "--seeds", "2", "--output", str(output)])
    assert made.exit_code == 0, made.output
    assert (output / "leaderboard.md").read_text().count("| regression |") == 1
    one = next(read_suite(output / "results.jsonl"))
    head = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(head, capture_output=True, text=True)
    assert one.commit.rstrip("+") == done.stdout.strip()[:10]  # "" where there is none
    assert (output / "curves.png").read_bytes().startswith(b"\x89PNG")
    again = runner.invoke(app, [*arguments, "--output", str(output)])
    assert again.exit_code != 0
    assert "--resume" in again.output
    valid = runner.invoke(app, ["validate", str(output / "results.jsonl"), "--json"])
    assert json.loads(valid.output)["runs"] == 2 * 2 * len(BENCH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "nas-bench"], "n2n-bench"),
        (["--suite", "n2n-bench", "--teacher", "resnet18"], "--teacher"),
        (["--suite", "n2n-bench", "--budget", "3"], "--budget"),
        (["--suite", "n2n-bench", "--keep", "layer4.*"], "--keep"),
        (["--suite", "n2n-bench", "--device", "cpu"], "--device"),
        (["--suite", "n2n-bench", "--agents", "nobody"], "nobody"),
    ],
)
def test_bad_commands_are_named(table, tmp_path, options, message):
    made = CliRunner().invoke(app, ["compare", *options, "--output", str(tmp_path)])
    assert made.exit_code != 0
    assert message in made.output
    assert np.all([path.suffix != ".jsonl" for path in tmp_path.iterdir()])


def test_without_a_whole_table_there_is_nothing_to_compare(monkeypatch, tmp_path):
    for name in list(BENCH):
        monkeypatch.delitem(BENCH, name)
    with pytest.raises(ValueError, match="no table of N2N-Bench is complete yet"):
        perform_suite(["random"], range(1), tmp_path / "results.jsonl")
    with pytest.raises(ValueError, match="no table of N2N-Bench is complete yet"):
        find_task("N2NBench/Remove-Residual-CIFAR10x16-v0")
