"""Policies that come with the package: their files, and who starts from them."""

import json

import pytest
import torch
from safetensors.torch import save_file

from n2n_agents import kept
from n2n_agents.kept import (
    card_path,
    find_trained,
    load_policy,
    load_trained,
    read_trained,
    trained_path,
    write_trained,
)
from n2n_agents.library import ENDLESS, find_agent
from n2n_agents.policies import make_policy
from n2n_gym.compression.policies import (
    BEGAN,
    NONE,
    begun_as,
    is_aimed,
    load,
    policy_files,
)
from n2n_gym.envs import CompressEnv, RemoveEnv, ShrinkEnv
from n2n_gym.runs.folder import HISTORY
from n2n_gym.runs.options import Options

LIMIT = {"constraints": {"num_params": 3_000}}


def make(kind, teacher, **arguments):
    return kind(teacher, evaluator="size", **arguments)


@pytest.fixture
def removal(teacher):
    return make(RemoveEnv, teacher, **LIMIT)


def write(folder, env, **given):
    """A policy for an environment's stage, with large weights."""
    policy = make_policy(env, seed=5)
    for parameter in policy.parameters():
        parameter.data.mul_(1.5)
    about = {
        "stage": env.metadata["stage"],
        "fits": bool(env.metadata.get("fits")),
        "aims": ["params", "macs"],
        "card": {"saw": ["a teacher"]},
    }
    path = trained_path(folder, about["stage"])
    write_trained(path, policy, **{**about, **given})
    return path, policy


@pytest.fixture
def shipped(monkeypatch, tmp_path, teacher):
    """What would come with the package: a policy for each stage."""
    folder = tmp_path / "trained"
    folder.mkdir()
    monkeypatch.setattr(kept, "TRAINED", folder)
    for env in (
        make(RemoveEnv, teacher, **LIMIT),
        make(ShrinkEnv, teacher, **LIMIT),
        make(CompressEnv, teacher, **LIMIT, fit=True),
    ):
        write(folder, env)
    return folder


def are_equal(one, other):
    """Whether two policies have the same weights."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(mine[name], theirs[name]) for name in mine
    )


def test_a_policy_comes_back_from_its_file(removal, tmp_path):
    path, policy = write(tmp_path, removal)
    found = read_trained(path)
    assert are_equal(found.policy, policy)
    assert found[1:] == ("remove", False, ("params", "macs"))
    assert are_equal(load_policy(path), policy)
    card = json.loads(card_path(path).read_text())
    assert card["saw"] == ["a teacher"]
    assert path.stat().st_size < 1_000_000


def test_the_same_policy_is_the_same_file(removal, tmp_path):
    contents = []
    for k in range(3):
        (tmp_path / str(k)).mkdir()
        contents.append(write(tmp_path / str(k), removal)[0].read_bytes())
    assert len(set(contents)) == 1


def test_a_file_that_its_card_does_not_vouch_for_is_refused(removal, tmp_path):
    path, _ = write(tmp_path, removal)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"SHA-256 .*, but its card has"):
        read_trained(path)
    card_path(path).write_text("{}")
    with pytest.raises(ValueError, match="is not a policy's card"):
        read_trained(path)


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "remove.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="does not hold a policy"):
        read_trained(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="does not hold a policy"):
        load_policy(path)


def test_a_policy_for_another_stage_is_refused_by_name(removal, teacher, tmp_path):
    path, _ = write(tmp_path, removal)
    with pytest.raises(ValueError, match=r"stage 'remove', but the env.* 'shrink'"):
        load_trained(path, make(ShrinkEnv, teacher))


def test_columns_that_are_not_shown_are_named(removal, tmp_path):
    path, _ = write(tmp_path, removal)
    columns = list(removal.metadata["columns"])
    columns[columns.index("depth")] = "height"
    removal.metadata = removal.metadata | {"columns": tuple(columns)}
    with pytest.raises(ValueError, match="reads the columns depth, which"):
        load_trained(path, removal)


def test_a_policy_of_another_contract_is_refused(removal, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "VERSION", 0)
    path, _ = write(tmp_path, removal)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="of another contract"):
        read_trained(path)


def test_large_files_are_not_written(teacher, removal, tmp_path):
    policy = make_policy(removal, hidden=200)
    with pytest.raises(ValueError, match="accepts at most 1,000,000"):
        write_trained(
            tmp_path / "a.safetensors", policy, "remove", fits=False, aims=[], card={}
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "arguments", "is_found"),
    [
        (RemoveEnv, LIMIT, True),
        (RemoveEnv, {}, False),  # nothing to aim at
        (RemoveEnv, {**LIMIT, "fit": True}, False),
        (RemoveEnv, {"constraints": {"peak_bytes": 900}}, False),
        (ShrinkEnv, LIMIT, True),
        (CompressEnv, LIMIT, False),
        (CompressEnv, {**LIMIT, "fit": True}, True),
    ],
)
def test_only_environments_of_its_kind_find_it(
    shipped, teacher, kind, arguments, is_found
):
    env = make(kind, teacher, **arguments)
    found = find_trained(env)
    assert (found is not None) == is_found
    if is_found:
        path = trained_path(shipped, env.metadata["stage"])
        assert are_equal(found, read_trained(path).policy)


def test_nothing_is_found_where_nothing_came(teacher, monkeypatch, tmp_path):
    monkeypatch.setattr(kept, "TRAINED", tmp_path / "none")
    assert find_trained(make(RemoveEnv, teacher, **LIMIT)) is None


def first_policy(name, env, monkeypatch):
    """What an agent begins to train with."""
    begun = []

    def train(env, policy, *_, updates, **__):
        assert updates == ENDLESS
        begun.append(policy)
        raise KeyboardInterrupt

    monkeypatch.setattr("n2n_agents.reinforce.train", train)
    with pytest.raises(KeyboardInterrupt):
        find_agent(name)(env, seed=0)
    return begun[0]


def test_the_agent_starts_from_what_came_unless_it_is_told_not_to(
    shipped, teacher, monkeypatch
):
    env = make(RemoveEnv, teacher, **LIMIT)
    path = trained_path(shipped, "remove")
    before = read_trained(path).policy
    assert are_equal(first_policy("reinforce", env, monkeypatch), before)
    fresh = first_policy("reinforce@none", env, monkeypatch)
    assert not are_equal(fresh, before)
    assert are_equal(first_policy(f"frozen@{path}", env, monkeypatch), before)
    path.unlink()
    assert are_equal(first_policy("reinforce", env, monkeypatch), fresh)
    other = trained_path(shipped, "shrink")
    with pytest.raises(ValueError, match="for the stage 'shrink'"):
        first_policy(f"reinforce@{other}", env, monkeypatch)


# Runs.


def options(folder, **given):
    return Options(output=folder, **given)


def test_runs_start_from_what_came_with_the_package(shipped, tmp_path, removal):
    found = policy_files(options(tmp_path))
    assert set(found) == {"remove", "shrink"}
    assert is_aimed(found["remove"])
    assert load(found["remove"], removal, is_asked_for=False) is not None
    assert policy_files(options(tmp_path, init_policy=NONE)) == {}
    assert policy_files(options(tmp_path, agent="random")) == {}
    assert set(policy_files(options(tmp_path, frozen=True))) == set(found)


def test_runs_start_fresh_where_nothing_came(monkeypatch, tmp_path):
    monkeypatch.setattr(kept, "TRAINED", tmp_path / "none")
    assert policy_files(options(tmp_path)) == {}
    with pytest.raises(ValueError, match="frozen=True needs trained policies"):
        policy_files(options(tmp_path, frozen=True))


def test_a_folder_of_trained_policies_can_be_named(shipped, tmp_path, teacher):
    given = options(tmp_path, init_policy=shipped)
    assert set(policy_files(given)) == {"remove", "shrink"}
    unlimited = make(RemoveEnv, teacher)
    path = policy_files(given)["remove"]
    assert load(path, unlimited, is_asked_for=True) is not None
    assert load(path, unlimited, is_asked_for=False) is None
    shrink, remove = (trained_path(shipped, s) for s in ("shrink", "remove"))
    for place in (card_path, lambda path: path):
        place(remove).write_bytes(place(shrink).read_bytes())
    with pytest.raises(ValueError, match="for the stage 'shrink', not for 'remove'"):
        policy_files(given)


def test_a_run_goes_on_as_it_began(shipped, tmp_path, teacher, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    began = begun_as(options(run), run)
    assert set(began) == {"remove", "shrink"}
    assert begun_as(options(run), run) == began
    write(shipped, make(RemoveEnv, teacher, **LIMIT), card={"another": 1})
    assert begun_as(options(run), run) == began  # the weights are the same
    (path, policy) = write(shipped, make(RemoveEnv, teacher, **LIMIT))
    policy.head.bias.data.add_(1)
    write_trained(path, policy, "remove", fits=False, aims=["params"], card={})
    with pytest.raises(ValueError, match=r"'remove' in .* started from a file with"):
        begun_as(options(run), run)


def test_a_run_that_began_fresh_goes_on_fresh(tmp_path, teacher, monkeypatch):
    run, folder = tmp_path / "run", tmp_path / "trained"
    run.mkdir()
    folder.mkdir()
    monkeypatch.setattr(kept, "TRAINED", folder)
    assert begun_as(options(run), run) == {}
    assert not (run / BEGAN).exists()
    line = {"search": "reinforce", "stage": "remove", "reward": 0.5}
    line |= {"accuracy": 0.5, "num_params": 1, "num_macs": 1, "cost": 1.0}
    line |= {"cost_once": 0.0, "fingerprint": "0"}
    (run / HISTORY).write_text(json.dumps(line) + "\n")
    write(folder, make(RemoveEnv, teacher, **LIMIT))
    assert begun_as(options(run), run) == {}
    assert set(begun_as(options(tmp_path), tmp_path)) == {"remove"}
