"""N2N-Bench's own tables: whole, right, and equal to the real environments."""

import os
from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
import torch

import n2n_gym  # noqa: F401  registers the ids
from benchmarks.n2n_bench import pages
from benchmarks.n2n_bench.make import (
    FIDELITIES,
    every_student,
    score,
    scored_rows,
    student_of,
)
from benchmarks.n2n_bench.rules import FEWEST_TAU, judge, tau_of_seeds
from benchmarks.n2n_bench.subjects import load_subject, weights_hash
from envs_registry import BENCH, BenchTask
from n2n_gym.bench import load_table
from n2n_gym.bench.env import TableEvaluator, real_env
from n2n_gym.bench.table import FOLDER, SCORED, SPLITS
from n2n_gym.comparison.leaderboard import boards
from n2n_gym.comparison.suite import BUDGETS, perform_suite
from n2n_gym.evaluators.rungs import BENCH_V1
from n2n_gym.resources.machine import processor

MADE = sorted(path.stem for path in FOLDER.glob("*.npz"))  # some in part
TABLES = sorted({task.table for task in BENCH.values()})
EPISODES = 20_000


@pytest.mark.parametrize("name", MADE)
def test_a_table_is_of_the_teacher_that_ships(name):
    table = load_table(name)
    assert len(table.row_of) == len(table) <= 4_096
    assert table.header["teacher"]["sha256"] == weights_hash(name)
    is_scored = (table.status == SCORED).any((1, 2))
    assert (table.block[is_scored] < len(table.header["blocks"])).all()
    assert (table.correct[table.status == SCORED] > 0).all()


@pytest.mark.parametrize("name", MADE)
def test_a_table_has_every_student_that_legal_play_can_reach(name):
    table = load_table(name)
    students = every_student(real_env(table, BenchTask(name, "n2n"), "size"))
    assert np.array(list(students), np.uint8).tolist() == table.decisions.tolist()
    for row, student in enumerate(students.values()):
        assert table.row_of[student.fingerprint] == row
        assert table.num_params[row] == student.num_params
        assert table.num_macs[row] == student.num_macs


@pytest.mark.skipif(not BENCH, reason="no table is complete yet")
def test_the_leaderboard_in_the_docs_is_of_every_task_with_30_seeds():
    runs = pages.read_all()
    assert pages.PAGE.read_text() == pages.page(runs, boards(runs))
    seeds = Counter((one.agent, one.task) for one in runs)
    agents = {one.agent for one in runs}
    assert seeds == {(agent, task): 30 for agent in agents for task in BENCH}


@pytest.mark.slow
@pytest.mark.skipif(not BENCH, reason="no table is complete yet")
def test_the_page_of_the_tables_says_what_they_say():
    assert pages.TABLES.read_text() == pages.tables_page()


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_served_is_whole(name):
    assert load_table(name).is_complete


@pytest.mark.parametrize("name", BENCH)
def test_a_task_keeps_the_rules(name):
    task = BENCH[name]
    table = load_table(task.table)
    assert tau_of_seeds(table) >= FEWEST_TAU
    found = judge(name, task, table)
    assert found.is_kept, found


@pytest.mark.parametrize("name", BENCH)
def test_no_budget_covers_all_students_within_a_limit(name):
    table = load_table(BENCH[name].table)
    assert table.within(BENCH[name]).sum() > BUDGETS[-1]


@pytest.mark.parametrize("name", BENCH)
def test_a_hundred_episodes_are_those_of_the_real_environment(name):
    compare(name, 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_twenty_thousand_episodes_are_those_of_the_real_environment(name):
    compare(next(task for task in BENCH if BENCH[task].table == name), EPISODES)


def compare(name, episodes):
    task = BENCH[name]
    env = gym.make(name).unwrapped
    table = env.table
    real = real_env(table, task, TableEvaluator(table))
    rng = np.random.default_rng(0)
    for _ in range(episodes):
        mine, theirs = env.reset(), real.reset()
        is_over = False
        while not is_over:
            assert np.array_equal(mine[0], theirs[0])
            assert np.array_equal(mine[-1]["action_mask"], theirs[-1]["action_mask"])
            action = int(rng.choice(np.flatnonzero(theirs[-1]["action_mask"])))
            mine, theirs = env.step(action), real.step(action)
            assert mine[1:4] == theirs[1:4]
            is_over = mine[2]
        for key, value in theirs[4].items():
            assert np.array_equal(mine[4][key], value), key


def _minor(version):
    return version.rpartition(".")[0]


@pytest.mark.slow
@pytest.mark.skipif("N2N_DATA" not in os.environ, reason="N2N_DATA names no images")
@pytest.mark.parametrize("name", MADE)
def test_students_that_are_scored_anew_have_their_counts(name):
    """To the digit on a machine of the table's kind, elsewhere within the noise."""
    table, teacher = load_table(name), load_subject(name)
    env = real_env(table, BenchTask(name, "n2n"), "size")
    here = (
        _minor(torch.__version__),
        processor(),
        torch.backends.cpu.get_cpu_capability(),
    )
    rng = np.random.default_rng(2)
    for row in rng.choice(scored_rows(table), 3, replace=False):
        block = table.header["blocks"][table.block[row]]
        made = _minor(block["torch"]), block["processor"], block["instructions"]
        for which, rung in enumerate(FIDELITIES):
            found = score(student_of(table, row, env), teacher, rung, 0)
            noise = table.standard_error() * table.num_seeds() ** 0.5
            for place, split in enumerate(SPLITS):
                kept = int(table.correct[row, 0, which, place])
                allowed = 0 if here == made else 4 * noise * 5_000
                assert abs(found[split] - kept) <= allowed


def test_the_recipe_is_written_down():
    """The recipe that the tables were made with never changes."""
    recipe = BENCH_V1.recipe
    assert (recipe.epochs, recipe.batch_size) == (1 / 9, 128)
    assert recipe.learning_rate == 0.03
    for name in MADE:
        kept = load_table(name).header["recipes"]["bench-v1"]
        assert kept["recipe"]["learning_rate"] == recipe.learning_rate
        assert kept["precision"] == "float32"


def test_runs_are_the_same_in_several_processes(tmp_path):
    task = "N2NBench/Remove-Plain-CIFAR10x16-v0"
    made = [
        perform_suite(
            ["random", "regression"],
            range(2),
            tmp_path / str(workers),
            tasks=[task],
            workers=workers,
        )
        for workers in (1, 2)
    ]
    assert made[0] == made[1]
    assert (tmp_path / "1").read_text() == (tmp_path / "2").read_text()
