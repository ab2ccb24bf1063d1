"""N2N-Bench: tables, and the environments that ask them."""

import copy
import subprocess
import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import n2n_gym  # noqa: F401  registers the ids
from benchmarks.n2n_bench.rules import part_of, tau_at_fixed_size
from n2n_gym.bench import BenchEnv, load_table, read_table, write_table
from n2n_gym.bench import table as tables
from n2n_gym.bench.env import TableEvaluator, real_env
from n2n_gym.bench.table import DamagedTable
from n2n_gym.networks.architecture import Architecture
from tests.bench_tables import AIMS, ARGUMENTS, installed, small_table


@pytest.fixture(params=ARGUMENTS)
def table(request, tmp_path):
    made = small_table(request.param)
    with installed(made, tmp_path):
        yield made


def play(env, rng):
    """A random legal episode: what each step gave."""
    observation, info = env.reset()
    steps = [(observation, 0.0, False, False, info)]
    while not steps[-1][2]:
        action = int(rng.choice(np.flatnonzero(steps[-1][4]["action_mask"])))
        steps.append(env.step(action))
    return steps


def same(mine, theirs):
    return mine.keys() == theirs.keys() and all(
        np.array_equal(mine[key], theirs[key]) for key in mine
    )


@pytest.mark.parametrize("name", AIMS)
def test_episodes_are_those_of_the_real_environment(table, name):
    env = gym.make(name).unwrapped
    real = real_env(table, AIMS[name], TableEvaluator(table))
    for seed in range(300):
        mine = play(env, np.random.default_rng(seed))
        theirs = play(real, np.random.default_rng(seed))
        for got, wanted in zip(mine, theirs, strict=True):
            assert np.array_equal(got[0], wanted[0])
            assert got[1:4] == wanted[1:4]
            for added in ("regret", "test_regret", "seconds"):
                assert got[2] == (added in got[4])
                got[4].pop(added, None)
            assert same(got[4], wanted[4])


def test_rewards_of_a_table_are_those_of_its_episodes(table):
    rng = np.random.default_rng(0)
    for name, task in AIMS.items():
        values = {split: table.values(task, split) for split in tables.SPLITS}
        env = gym.make(name)
        for _ in range(100):
            *_, (_, reward, _, _, info) = play(env, rng)
            row = table.row_of[info["fingerprint"]]
            assert reward == values["validation"][row]
            assert info["regret"] == values["validation"].max() - reward
            assert info["test_regret"] == values["test"].max() - values["test"][row]


def test_a_reward_is_the_papers_worked_by_hand(table):
    """C(2 - C) times accuracy over the teacher's .9, from counts of 100 images."""
    row = 5
    whole = Architecture.from_json(table.header["architecture"]).num_params
    c = 1 - int(table.num_params[row]) / whole
    accuracy = table.correct[row, :, 0, 0].sum() / 300
    found = table.values(AIMS["N2NBench/Small-v0"])[row]
    assert found == pytest.approx(c * (2 - c) * accuracy / 0.9)


def test_every_row_is_what_its_decisions_lead_to(table):
    real = real_env(table, AIMS["N2NBench/Small-v0"], TableEvaluator(table))
    assert len(table.row_of) == len(table)
    for row, decisions in enumerate(table.decisions.tolist()):
        real.reset()
        for action in decisions:
            assert real.episode.is_legal(action)
            real.episode.decide(action)
        student = real.episode.student
        assert table.row_of[student.fingerprint] == row
        assert table.num_params[row] == student.num_params


def test_both_checkers_pass(table):
    check_env(gym.make("N2NBench/Small-v0").unwrapped)
    flat = gym.wrappers.FlattenObservation(gym.make("N2NBench/Small-v0"))
    sb3_check_env(flat, warn=True)


def test_a_seeds_score_is_drawn_by_the_environments_generator(table):
    env = gym.make("N2NBench/Small-v0", noise="seed").unwrapped
    task = AIMS["N2NBench/Small-v0"]
    by_seed = [table.values(task, seed=seed) for seed in range(3)]
    decisions = table.decisions[7].tolist()

    def scores(seed):
        found = []
        env.reset(seed=seed)
        for _ in range(20):
            env.reset()
            for action in decisions:
                _, reward, *_ = env.step(action)
            found.append(reward)
        return found

    first = scores(1)
    assert first == scores(1)
    assert first != scores(2)
    assert set(first) == {values[7] for values in by_seed}


def test_the_cheaper_fidelity_has_its_own_scores_and_cost(table):
    env = gym.make("N2NBench/Small-v0", fidelity="inherit")
    *_, (_, _, _, _, info) = play(env, np.random.default_rng(0))
    row = table.row_of[info["fingerprint"]]
    assert info["accuracy"] == table.correct[row, 0, 1, 0] / 100  # of its one seed
    assert info["cost"] == 0.125


def test_a_fork_and_a_restored_prefix_go_on_alike(table):
    env = gym.make("N2NBench/Small-v0").unwrapped
    _, info = env.reset(seed=0)
    first = int(np.flatnonzero(info["action_mask"])[-1])
    _, _, _, _, info = env.step(first)
    fork = copy.deepcopy(env)
    other = gym.make("N2NBench/Small-v0").unwrapped
    _, restored = other.reset(options={"decisions": [first]})
    assert same(restored, {"action_mask": info["action_mask"]})
    last = int(np.flatnonzero(info["action_mask"])[0])
    (mine, *_, of_mine), (theirs, *_, of_theirs) = (
        each.step(last) for each in (fork, other)
    )
    assert np.array_equal(mine, theirs)
    assert same(of_mine, of_theirs)
    assert env.position == 1


def test_a_vector_plays_what_single_ones_play(table):
    vector = gym.make_vec("N2NBench/Small-v0", num_envs=3, vectorization_mode="sync")
    _, info = vector.reset(seed=0)
    single = gym.make("N2NBench/Small-v0")
    single.reset()
    for _ in range(2):
        mask = info["action_mask"][0]
        action = int(np.flatnonzero(mask)[0])
        observations, *_, info = vector.step(np.full(3, action))
        single_row, *_ = single.step(action)
        assert np.array_equal(observations[1], single_row)
    vector.close()


@pytest.mark.parametrize("damage", ["cut", "byte", "array", "pickle", "version"])
def test_a_damaged_table_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "small.npz"
    table = small_table()
    write_table(path, table)
    assert (read_table(path).correct == table.correct).all()
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "byte":
        middle = len(content) // 2
        path.write_bytes(
            content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        )
    else:
        with np.load(path) as file:
            arrays = dict(file)
        if damage == "array":
            arrays["correct"][0, 0, 0, 0] += 1
        if damage == "pickle":
            arrays["correct"] = np.array([{}], object)
        if damage == "version":
            del arrays["sha256"]
        np.savez_compressed(path, **arrays)
    with pytest.raises(DamagedTable, match=r"small\.npz"):
        read_table(path)


def test_what_is_missing_is_never_filled_in(tmp_path):
    table = small_table()
    table.status[3, 1, 0] = tables.MISSING
    table.status[4, :, 0] = tables.FAILED
    assert np.isnan(table.accuracy()[[3, 4]]).all()
    assert not table.is_complete
    assert table.values(AIMS["N2NBench/Small-v0"])[4] == -1


def test_an_incomplete_table_makes_no_environment(table, tmp_path):
    table.status[3, 1, 0] = tables.MISSING
    write_table(tmp_path / "small.npz", table)
    tables._load.cache_clear()
    with pytest.raises(ValueError, match="table small is not complete"):
        gym.make("N2NBench/Small-v0")


@pytest.mark.parametrize("name", ["N2NBench/Smal-v0", "N2NBench/Small-v1"])
def test_an_unknown_task_names_the_nearest(table, name):
    with pytest.raises(ValueError, match=r"nearest is 'N2NBench/Small-v0'"):
        BenchEnv(name)
    with pytest.raises(ValueError, match=r"nearest is 'N2NBench/Small-v0'"):
        load_table(name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise": "none"},
        {"fidelity": "full"},
        {"render_mode": "human"},
    ],
)
def test_bad_arguments_are_named(table, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        BenchEnv("N2NBench/Small-v0", **wrong)


def test_bad_questions_to_a_table_are_named(table):
    with pytest.raises(ValueError, match="split 'train'"):
        table.accuracy("train")
    with pytest.raises(ValueError, match="seed 3"):
        table.accuracy(seed=3)
    with pytest.raises(ValueError, match="fidelity 'short'"):
        table.accuracy(fidelity="short")


def test_the_pareto_front_has_what_none_beats(table):
    front, accuracy = table.pareto(), table.accuracy()
    for row in range(len(table)):
        beaten = (accuracy >= accuracy[row]) & (
            table.num_params <= table.num_params[row]
        )
        strictly = beaten & (
            (accuracy > accuracy[row]) | (table.num_params < table.num_params[row])
        )
        if row in front:
            assert not strictly.any()
        elif not strictly.any():  # an equal stands for it
            assert any(accuracy[f] == accuracy[row] for f in front)


def test_the_standard_error_is_worked_by_hand():
    table = small_table()
    counts = table.correct[:, :, 0, 0] / 100
    expected = np.sqrt(counts.var(1, ddof=1).mean() / 3)
    assert table.standard_error() == pytest.approx(expected)


def test_tau_counts_pairs_of_a_size_alone():
    """Two students of similar size agree, the third is ten times as large."""
    table = part_of(small_table(), np.arange(3))
    table = replace(table, num_params=np.array([100, 110, 1000], np.uint32))
    values = np.array([1.0, 2.0, 0.0])
    assert tau_at_fixed_size(table, values, np.array([1.0, 2.0, 9.0])) == 1
    assert tau_at_fixed_size(table, values, np.array([2.0, 1.0, -9.0])) == -1


def test_a_search_that_is_compared_does_not_see_how_good_the_best_is(table):
    env = BenchEnv("N2NBench/Small-v0", shows_regret=False)
    for each in (env, copy.deepcopy(env)):
        _, info = each.reset(seed=0)
        over = False
        while not over:
            action = int(info["action_mask"].argmax())
            *_, over, _, info = each.step(action)
        assert "seconds" in info
        assert not [name for name in info if "regret" in name]


def test_no_torch_is_imported(tmp_path):
    write_table(tmp_path / "small.npz", small_table())
    program = (
        "import sys, pathlib, gymnasium, numpy as np\n"
        "from n2n_gym.bench import BenchEnv, table\n"
        "from envs_registry import BENCH\n"
        "from envs_registry.bench import BenchTask\n"
        "table.FOLDER = pathlib.Path(sys.argv[1])\n"
        "BENCH['N2NBench/Small-v0'] = BenchTask('small', 'n2n')\n"
        "env = BenchEnv('N2NBench/Small-v0')\n"
        "_, info = env.reset(seed=0)\n"
        "over = False\n"
        "while not over:\n"
        "    action = env.action_space.sample(info['action_mask'])\n"
        "    _, reward, over, _, info = env.step(action)\n"
        "assert 'test_regret' in info\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
