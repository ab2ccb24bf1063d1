"""The benchmark of what a policy knows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.knowledge import __main__ as knowledge
from benchmarks.knowledge import low_bits, show
from benchmarks.knowledge.__main__ import KEY, main
from benchmarks.knowledge.decisions import (
    STAGE,
    WHOLE_ROW,
    Table,
    decisions_of,
    divergence,
    groups_of,
    importance,
    permuted,
    places_on_maps,
)
from benchmarks.knowledge.fitting import explained, fit_profile, fit_rule, gather
from benchmarks.results import Results
from n2n_agents.kept import trained_path, write_trained
from n2n_agents.policies import make_policy
from n2n_agents.rules import Line, read_profile, read_rule
from n2n_gym.envs.columns import COLUMNS, PLACE
from n2n_gym.networks.decisions import removals, remove
from n2n_gym.pretraining.suite import Subject, read_suite

RESOURCES = ("num_params", "num_macs")


@pytest.fixture(scope="module")
def table(teacher) -> Table:
    return Table(teacher, RESOURCES, rows=3)


@pytest.fixture(scope="module")
def policy(table):
    return make_policy(table.vector.envs[0], uniformity=0.9, level=0.5, seed=0)


@pytest.fixture(scope="module")
def played(table, policy):
    return list(table.play(policy, [0.5, 0.1], seed=0))


# The decisions.


def test_episodes_are_played_at_each_target(played, teacher):
    assert [one.share for one in played] == [0.5, 0.1]
    for one in played:
        assert one.observation[0, PLACE["target_params"]] == pytest.approx(one.share)
        assert len(one.episodes) == len(one.students) == 3
        whole = teacher.architecture.num_params
        assert all(s.num_params <= one.share * whole for s in one.students)


def test_decisions_are_the_policys_mean_probabilities(played, policy, table):
    found = decisions_of(policy, played)
    json.dumps(found)
    kinds = {each["kind"] for each in found}
    assert kinds == {"removal", "width", "kernel"}
    # Each decision is open in some episode at each target, and has its own row.
    assert len({(d["target"], str(d["row"])) for d in found}) == len(found)
    assert len(found) <= 2 * len(table.vector.envs[0].decisions)
    for target in (0.5, 0.1):
        mine = [d for d in found if d["target"] == target]
        relative = [d["relative"] for d in mine if d["kind"] == "width"]
        assert np.mean(relative) == pytest.approx(1)
    # A fresh policy keeps with a probability of 0.9, and gives widths half.
    removed = [d["kept"] for d in found if d["kind"] == "removal"]
    assert np.mean(removed) == pytest.approx(0.9, abs=0.05)
    rates = [d["kept"] for d in found if d["kind"] == "width"]
    assert np.mean(rates) == pytest.approx(0.5, abs=0.1)
    whole = [d["whole"] for d in found if d["kind"] == "kernel"]
    assert np.mean(whole) == pytest.approx(0.9, abs=0.05)


def test_a_policy_that_removes_everything_is_seen(table):
    policy = make_policy(table.vector.envs[0], uniformity=0.9, level=0.5, seed=0)
    with torch.no_grad():
        policy.bias[policy.kinds.index("decides_unit"), 0] = 50.0
    found = decisions_of(policy, list(table.play(policy, [0.5], seed=0)))
    units = [d["kept"] for d in found if "decides_unit" in d["row"]]
    assert max(units) < 1e-6


def test_places_on_maps_are_those_between_changes_of_the_size():
    rows = np.zeros((7, len(COLUMNS)), np.float32)
    # The last row is a shrinkage of the second layer: rows need not be in order.
    rows[:, PLACE["depth"]] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.9, 0.1]
    rows[:, PLACE["size"]] = [0.5, 0.5, 0.5, 0.3, 0.2, 0.0, 0.5]
    expected = ["first", "middle", "last", "only", "only", "no map", "middle"]
    assert places_on_maps(rows) == expected


# The columns.


def test_the_divergence_by_hand():
    before = torch.tensor([0.5, 0.5, 0.0]).log()
    after = torch.tensor([0.25, 0.75, 0.0]).log()
    expected = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    assert float(divergence(before, after)) == pytest.approx(expected)
    assert float(divergence(before, before)) == 0


def test_every_column_is_in_a_group(policy):
    groups = groups_of(policy)
    assert groups.pop(WHOLE_ROW) == policy.columns
    every = [name for names in groups.values() for name in names]
    assert sorted(every) == sorted([*policy.columns, *policy.states])
    assert groups["depth"] == ["depth"]
    assert groups["target_*"][:2] == ["target_params", "target_macs"]
    assert {"type", "is_Conv"} <= set(groups["is_*"])


def test_only_the_columns_named_are_permuted(policy, played):
    episodes = [episode for one in played for episode in one.episodes]
    generator = torch.Generator().manual_seed(0)
    depth = policy.columns.index("depth")
    changed = permuted(policy, episodes, ["depth"], generator)
    for old, new in zip(episodes, changed, strict=True):
        assert not new.rows[:, depth].equal(old.rows[:, depth])
        assert new.rows[:, depth].sort()[0].equal(old.rows[:, depth].sort()[0])
        others = [i for i in range(old.rows.shape[1]) if i != depth]
        assert new.rows[:, others].equal(old.rows[:, others])
        assert new.states.equal(old.states)
        for kind in ("decides_unit", "decides_width"):
            mine = old.rows[:, policy.columns.index(kind)] == 1
            assert (
                new.rows[mine, depth].sort()[0].equal(old.rows[mine, depth].sort()[0])
            )
    # No energy is limited, so its column is constant.
    assert permuted(policy, episodes, ["target_energy"], generator) is None


def test_kinds_of_decisions_are_permuted_among_all_rows(policy, played):
    episodes = played[0].episodes
    names = [name for name in policy.columns if name.startswith("decides_")]
    places = [policy.columns.index(name) for name in names]
    changed = permuted(policy, episodes, names, torch.Generator().manual_seed(0))
    old, new = (each[0].rows[:, places] for each in (episodes, changed))
    assert not new.equal(old)
    assert new.sum(0).equal(old.sum(0))


def test_targets_are_permuted_among_episodes(policy, played):
    episodes = [episode for one in played for episode in one.episodes]
    place = policy.states.index("target_params")
    changed = permuted(
        policy, episodes, ["target_params"], torch.Generator().manual_seed(1)
    )
    found = []
    for old, new in zip(episodes, changed, strict=True):
        decided = old.actions >= 0
        (value,) = set(new.states[decided, place].tolist())
        found.append(value)
        assert not new.states[~decided].any()
    old = [float(e.states[e.actions >= 0, place][0]) for e in episodes]
    assert sorted(found) == sorted(old)
    assert found != old


def test_a_column_matters_if_the_policy_reads_it(table, played):
    policy = make_policy(table.vector.envs[0], kind="bidirectional", seed=0)
    episodes = [episode for one in played for episode in one.episodes]
    depth = policy.columns.index("depth")
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.head.weight[0, 2 * 30 + depth] = 3.0  # after the LSTM's outputs
    found = importance(policy, episodes, seed=0)
    assert found["depth"] > 0.01
    assert found[WHOLE_ROW] > 0.01
    others = {k: v for k, v in found.items() if k not in ("depth", WHOLE_ROW)}
    assert set(others.values()) == {0.0}


# What is fitted.


def decision(kind, depth, kept, **row):
    relative = {"relative": kept / 0.5} if kind == "width" else {}
    known = {"target": 0.5, "kind": kind, "kept": kept, "whole": kept, "map": "only"}
    row = {"depth": depth, "is_Conv": 1.0, f"decides_{kind}": 1.0, **row}
    return {**known, **relative, "row": row}


def lines_of(*teachers):
    return [
        {"group": group, "teacher": str(n), "decisions": list(decisions)}
        for n, (group, decisions) in enumerate(teachers)
    ]


def test_all_teachers_weigh_the_same():
    lines = lines_of(
        ("seen", [decision("removal", 0.1, 1.0)] * 3),
        ("seen", [decision("removal", 0.1, 0.0)]),
    )
    data = gather(lines, "removal")
    assert data.weights.tolist() == pytest.approx([1 / 6] * 3 + [1 / 2])
    assert fit_profile(lines).shares["removal"] == (0.5,) * 10
    assert gather(lines, "kernel") is None


def test_a_profile_has_means_by_depth_and_fills_gaps():
    decisions = [
        *(decision("removal", 0.02, 0.8), decision("removal", 0.08, 0.6)),
        decision("removal", 0.45, 0.3),
    ]
    profile = fit_profile(lines_of(("seen", decisions)))
    expected = [0.7, 0.6, 0.5, 0.4, *[0.3] * 6]
    assert profile.shares["removal"] == pytest.approx(expected)


def test_a_rule_finds_the_column_that_decides():
    rng = np.random.default_rng(0)
    decisions = [
        decision("width", depth, 0.8 if stride > 0.3 else 0.4, stride=stride)
        for depth, stride in rng.random((40, 2))
    ]
    mean = np.mean([d["kept"] for d in decisions])
    for each in decisions:
        each["relative"] = each["kept"] / mean
    lines = lines_of(("seen", decisions))
    rule = fit_rule(lines)
    (line,) = rule.lines.values()
    assert line.column == "stride"
    assert line.threshold == pytest.approx(0.3, abs=0.1)
    assert (line.below, line.above) == pytest.approx((0.4, 0.8), abs=1e-4)
    assert explained(rule, lines, "width") == pytest.approx(1)
    assert explained(fit_profile(lines), lines, "width") < 0.6


def test_decisions_that_are_all_alike_have_a_rule_too():
    rule = fit_rule(lines_of(("seen", [decision("removal", 0.3, 0.5)] * 3)))
    assert rule.lines == {"removal": Line("depth", 1.0, 0.5, 0.5)}


# What is shown.


def test_means_are_over_teachers_and_groups_apart():
    lines = lines_of(
        ("seen", [decision("removal", 0.1, 1.0), decision("removal", 0.15, 0.8)]),
        ("seen", [decision("removal", 0.1, 0.5)]),
        ("unseen", [decision("removal", 0.9, 0.0)]),
    )
    found = {s[:4]: s for s in show.summarise(lines)}
    first = found["relative depth", "0.0 to 0.2", "removed", "seen"]
    assert first.mean == pytest.approx((0.1 + 0.5) / 2)
    assert first.deviation == pytest.approx(0.4 / np.sqrt(2))
    assert (first.teachers, first.decisions) == (2, 3)
    other = found["relative depth", "0.8 to 1.0", "removed", "unseen"]
    assert (other.mean, other.teachers) == (1.0, 1)
    assert ("relative depth", "0.8 to 1.0", "removed", "seen") not in found
    text = show.tables(list(found.values()))
    assert "| 0.0 to 0.2 | 0.30 ± 0.28 (2) |" in text


def test_facts_of_a_row():
    row = {"is_row": 1.0, "is_Conv": 1.0, "outputs": np.log2(65) / 16, "depth": 0.5}
    each = {"row": row, "map": "last", "target": 1 / 7}
    facts = {name: find(each) for name, find in show.FACTS.items()}
    assert facts == {
        "relative depth": "0.4 to 0.6",
        "layer": "Conv",
        "channels": "17 to 64",
        "place in the skip": "outside",
        "place on maps of one size": "last",
        "target": "1/7",
    }
    inside = {"row": {**row, "skip_start": 1.0, "skip_end": 0.5, "decides_branch": 1.0}}
    assert show.by_skip(inside) == "first"
    assert show.by_layer(inside) == "branch, Conv"
    wide = {"row": {"outputs": np.log2(513) / 16}}
    assert show.by_width(wide) == "257 to 1024"


# Few bits.


def test_weights_are_rounded_to_one_scale():
    weights = torch.tensor([-0.3, 0.1, 0.02, 0.24])
    expected = torch.tensor([-0.3, 0.1, 0.0, 0.2])  # 3 bits: steps of 0.1
    assert torch.allclose(low_bits.quantised(weights, 3), expected)
    assert not low_bits.quantised(torch.zeros(3), 4).any()


def test_only_what_is_not_kept_loses_bits(teacher):
    rounded = low_bits.Rounded(teacher, bits=3, images=100)
    own = teacher.network(torch.device("cpu")).state_dict()
    first, second, *_ = rounded.names
    rounded.keep([second])
    found = rounded.network.state_dict()
    changed = [name for name in own if not own[name].equal(found[name])]
    assert f"{first}.weight" in changed
    assert f"{second}.weight" not in changed
    assert set(changed) == {f"{n}.weight" for n in rounded.names if n != second}
    whole = rounded.accuracy(rounded.names)
    assert whole > 0.8  # all in float: the teacher's own accuracy
    assert rounded.accuracy([]) < whole
    assert len(rounded.test) == 100
    assert rounded.share(rounded.names) == 1


def test_a_removed_convolution_keeps_nothing(teacher):
    whole = teacher.architecture
    removal = next(r for r in removals(whole) if r.form == "unit")
    student = remove(whole, [removal])
    shares = low_bits.shares_kept(whole, [whole, student])
    gone = {name for name, share in shares.items() if share < 1}
    assert gone == {
        whole.layers[p].name for p in removal.layers if whole.layers[p].name in shares
    }
    assert all(shares[name] == 0.5 for name in gone)


@pytest.mark.parametrize("order", ["first", "small", "sensitivity", "random"])
def test_orders_are_of_all_convolutions(order, teacher, table, policy):
    rounded = low_bits.Rounded(teacher, bits=2, images=100)
    whole = teacher.architecture
    found = low_bits.find_order(order, 0, rounded, whole, table, policy, [0.5])
    assert sorted(found) == sorted(rounded.names)
    if order == "first":
        assert found == rounded.names
    if order == "small":
        counts = [rounded.whole[name].numel() for name in found]
        assert counts == sorted(counts)
    if order == "sensitivity":
        losses = [rounded.loss(set(found) - {name}) for name in (found[0], found[-1])]
        assert losses[0] > losses[1]


def test_agreement_of_orders():
    assert low_bits.agreement("abc", "abc") == pytest.approx(1)
    assert low_bits.agreement("abc", "cba") == pytest.approx(-1)


# The whole command.

SUITE = """
stages = ["compress"]
students = 10
corrections = 0
fresh = 1
groups = 1
rollouts = 2
test = []
[updates]
compress = 1
[seeds]
compress = [0]
[targets]
resources = ["num_params", "num_macs"]
training = ["1/20", "1/2"]
test = ["1/3"]
[[training]]
teacher = "tests.networks:make_small"
task = "digits"
family = "one"
[[training]]
teacher = "alexnet"
task = "digits"
family = "one"
"""


@pytest.fixture
def command(tmp_path, teacher, policy, monkeypatch) -> list[str]:
    """Options of the command, for a tiny suite with one unseen teacher."""
    path = trained_path(tmp_path, STAGE)
    write_trained(path, policy, STAGE, fits=True, aims=["params", "macs"], card={})
    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE)
    held_out = type("Held", (Subject,), {"load": lambda self: teacher})
    read = _with_test(held_out("small", "digits", "two"))
    monkeypatch.setattr(knowledge, "read_suite", read)
    options = ["--suite", suite, "--policy", path, "--output", tmp_path / "runs"]
    options += ["--episodes", 2, "--images", 50, "--seeds", 2, "--bits", 2]
    return [str(option) for option in options]


def _with_test(subject):
    return lambda path: replace(read_suite(path), test=(subject,))


def test_the_whole_command_and_its_resumption(command, tmp_path, capsys):
    main(command)
    shown = capsys.readouterr().out
    folder = tmp_path / "runs"
    lines = list(Results(folder, *KEY).read().values())
    assert [line["group"] for line in lines] == ["seen", "seen", "unseen"]
    for name in ("summary.csv", "decisions.png", "columns.png"):
        assert (folder / name).stat().st_size > 1_000
    profile, rule = (
        read_profile(folder / "profile.json"),
        read_rule(folder / "rule.json"),
    )
    assert profile == fit_profile(lines[:2])  # nothing is fitted to unseen teachers
    assert set(rule.lines) == {"removal", "width", "kernel"}
    assert "| depth-profile | removal |" in shown
    before = (folder / "results.jsonl").read_text()
    # A stop after the first teacher: the others are played again, with equal results.
    first = before.splitlines(keepends=True)[0]
    (folder / "results.jsonl").write_text(first)
    main(command)
    assert (folder / "results.jsonl").read_text() == before
    assert capsys.readouterr().out == shown


def test_orders_are_measured_once_each(command, tmp_path, capsys):
    main([*command, "--low-bits"])
    path = tmp_path / "runs" / "low_bits" / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    orders = [(line["order"], line["seed"]) for line in lines]
    assert orders == low_bits.wanted(2)
    assert {line["policy"] for line in lines if line["order"] == "random"} == {""}
    before = path.read_text()
    main([*command, "--low-bits"])
    assert path.read_text() == before
    shown = capsys.readouterr().out
    assert "small on digits, 2 bits, at most 50 images" in shown
    assert shown.count("| policy |") == 2
    main([*command, "--show", "--episodes", "3"])  # other episodes of the policy
    assert "| policy |" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bits", "1"], "--bits must be at least 2, got 1"),
        (["--episodes", "0"], "--episodes must be at least 1"),
        (["--policy", "none.safetensors"], "none.safetensors"),
        (["--targets", "2"], "--targets"),
    ],
)
def test_bad_options_are_refused(options, message, command, capsys):
    with pytest.raises(SystemExit):
        main([*command, *options])
    assert message in capsys.readouterr().err
