"""The baselines that know without learning: a profile by depth, and a rule."""

from __future__ import annotations

import json

import numpy as np
import pytest

from n2n_agents.library import WRITTEN, find_agent
from n2n_agents.proposals import Proposer
from n2n_agents.rules import (
    Line,
    Profile,
    Rule,
    actor,
    choose,
    kind_of,
    read_profile,
    read_rule,
    search_around,
    write_known,
)
from n2n_gym.comparison.budget import Ledger, run
from n2n_gym.envs import CompressionVectorEnv
from n2n_gym.networks.decisions import Removal
from tests.test_proposals import ENVS, make

PROFILE = Profile({"removal": (0.9, 0.8), "width": (0.3, 0.9), "kernel": (1.0, 0.7)})
RULE = Rule(
    {"removal": Line("depth", 0.5, 0.95, 0.6), "width": Line("stride", 0, 1, 1)}
)
KNOWN = {"depth-profile": PROFILE, "rule": RULE}


def likeliest(env, known) -> dict[str, list[float]]:
    """The choices of the first student, by kind of decision."""
    proposer = Proposer(env, seed=0)
    proposed = proposer.propose(actor(proposer, known, None))
    env.reset(options={"decisions": list(proposed.actions[:-1])})
    env.advance(proposed.actions[-1])
    found: dict[str, list[float]] = {}
    for decision, choice in zip(env.decisions, env.episode.choices, strict=True):
        is_removal = isinstance(decision, Removal)
        kind = "removal" if is_removal else decision.variable
        found.setdefault(kind, []).append(choice)
    return found


def test_a_profile_has_equal_intervals_of_depth():
    assert PROFILE.share("width", {"depth": 0.49}) == 0.3
    assert PROFILE.share("width", {"depth": 0.5}) == 0.9
    assert PROFILE.share("width", {"depth": 1.0}) == 0.9
    assert PROFILE.share("padding", {"depth": 0.5}) == 1.0


def test_a_rule_compares_its_column_with_its_threshold():
    assert RULE.share("removal", {"depth": 0.5, "stride": 0.0}) == 0.95
    assert RULE.share("removal", {"depth": 0.51, "stride": 0.0}) == 0.6
    assert RULE.share("kernel", {"depth": 0.0}) == 1.0
    assert RULE.columns == {"depth", "stride"}


def test_the_kind_of_a_decision_is_in_its_row():
    assert kind_of({"depth": 1.0, "decides_unit": 0.0, "decides_branch": 1.0}) == (
        "removal"
    )
    assert kind_of({"decides_unit": 0.0, "decides_width": 1.0}) == "width"


WIDTH = {"kind": "width", "keep": 9, "num_actions": 10}
REMOVAL = {"kind": "removal", "keep": 9, "num_actions": 10}


def test_the_likeliest_action_is_the_nearest_to_the_share():
    ten, ends = np.arange(10), np.array([0, 9])
    assert choose(0.42, ten, **WIDTH, rng=None) == 3  # the rate 0.4
    assert choose(1.0, ten, **WIDTH, rng=None) == 9
    assert choose(0.51, ends, **REMOVAL, rng=None) == 9
    assert choose(0.49, ends, **REMOVAL, rng=None) == 0
    assert choose(0.1, np.array([9]), **REMOVAL, rng=None) == 9
    # In N2NRemove-v0, action 0 keeps.
    removal = REMOVAL | {"keep": 0, "num_actions": 2}
    assert choose(0.9, np.array([0, 1]), **removal, rng=None) == 0


@pytest.mark.parametrize(
    ("share", "chance"), [(0.6, 0.02), (0.7, 0.25), (0.9, 0.75), (1.0, 0.98)]
)
def test_draws_between_two_actions_have_the_share_as_their_mean(share, chance):
    """The rates are 0.6 and 1, as for a kernel of 3; extreme ones stay possible."""
    rng = np.random.default_rng(0)
    kernel = WIDTH | {"kind": "kernel"}
    drawn = [choose(share, np.array([5, 9]), **kernel, rng=rng) for _ in range(4_000)]
    assert set(drawn) == {5, 9}
    assert np.mean(np.array(drawn) == 9) == pytest.approx(chance, abs=0.03)


def test_drawn_rates_spread_around_the_share():
    rng = np.random.default_rng(0)
    drawn = [choose(0.5, np.arange(10), **WIDTH, rng=rng) for _ in range(2_000)]
    logs = np.log((np.array(drawn) + 1) / 10)
    assert np.exp(logs.mean()) == pytest.approx(0.5, abs=0.02)
    assert logs.std() == pytest.approx(0.25, abs=0.05)


# The agents.


def test_the_first_student_is_the_known_one(teacher):
    env = make("compress", teacher, 0.3, fit=True)
    found = likeliest(env, Profile({"removal": (0.9,), "width": (0.3, 0.8)}))
    assert set(found["removal"]) == {0.0}
    assert set(found["kernel"]) == {1.0}
    assert found["width"][0] == 0.3
    assert found["width"][-1] == 0.8
    assert set(found["width"]) == {0.3, 0.8}
    removed = likeliest(env, Rule({"removal": Line("depth", 1.0, 0.1, 0.9)}))
    assert 1.0 in removed["removal"]


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("stage", ENVS)
def test_a_file_is_an_agent_for_every_stage(stage, name, teacher, tmp_path):
    path = tmp_path / "file.json"
    write_known(path, KNOWN[name])
    runs = []
    for _ in range(2):
        ledger = Ledger(evaluations=6)
        run(make(stage, teacher, 0.5), find_agent(f"{name}@{path}"), ledger, seed=1)
        assert (len(ledger.found), ledger.reason) == (6, "budget")
        runs.append(list(ledger.found))
    assert runs[0] == runs[1]


def test_students_keep_the_limits_after_the_first(teacher):
    env = make("shrink", teacher, 0.3)
    ledger = Ledger(evaluations=6)
    run(env, lambda env, seed: search_around(env, PROFILE, seed=seed), ledger, seed=0)
    broken = [bool(each.info.get("violated")) for each in ledger.found.values()]
    assert sum(broken) <= 1  # the last decision's share is an estimate


def test_a_vector_scores_as_many_students_at_once(teacher):
    class Enough(Exception):
        pass

    vector = CompressionVectorEnv(make("compress", teacher, 0.5, fit=True), 3)
    found = []
    original = vector.step

    def step(actions):
        result = original(actions)
        if result[2].all():
            found.extend(result[-1]["fingerprint"])
        if len(found) == 6:
            raise Enough
        return result

    vector.step = step
    with pytest.raises(Enough):
        search_around(vector, PROFILE, seed=0)
    assert len(set(found)) == 6


# Files.


def test_files_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "file.json"
    write_known(path, PROFILE)
    assert read_profile(path) == PROFILE
    write_known(path, RULE)
    assert read_rule(path) == RULE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "does not hold a profile"),
        ("[]", "does not hold a profile"),
        ('{"rule": {}}', "does not hold a profile: 'profile'"),
        ('{"profile": {}}', "accepted are removal, width, kernel"),
        ('{"profile": {"depth": [1]}}', r"kernel, got \['depth'\]"),
        ('{"profile": {"width": []}}', "has no shares"),
        ('{"profile": {"width": [1.5]}}', r"a share must be in \[0, 1\], got 1.5"),
        ('{"profile": {"width": 1}}', "does not hold a profile"),
    ],
)
def test_other_files_are_no_profiles(text, message, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        find_agent(f"depth-profile@{path}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"column": "depth"}, "does not hold a rule"),
        ({"column": 3, "threshold": 0, "below": 0, "above": 1}, "by its name, got 3"),
        ({"column": "depth", "threshold": 0, "below": 0, "above": 2}, "got 2"),
        ({"column": "depth", "threshold": "x", "below": 0, "above": 1}, "'x'"),
    ],
)
def test_other_lines_are_no_rules(line, message, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"rule": {"width": line}}))
    with pytest.raises(ValueError, match=message):
        find_agent(f"rule@{path}")


def test_missing_files_and_columns_are_named(teacher, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        find_agent(f"rule@{tmp_path / 'none.json'}")
    with pytest.raises(ValueError, match=r"'rule@file\.json', 'module:function'"):
        find_agent("rule")
    rule = Rule({"width": Line("hue", 0.5, 0.1, 0.9)})
    with pytest.raises(ValueError, match="reads the columns hue"):
        search_around(make("shrink", teacher), rule, seed=0)
