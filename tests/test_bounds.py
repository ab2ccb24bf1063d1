"""No student that can still be reached is below the bounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pytest
from torch import nn

from n2n_gym.envs import CompressEnv
from n2n_gym.envs.limits import feasible
from n2n_gym.envs.shrinking import ShrinkageEpisode
from n2n_gym.limits.bounds import Least, least_removed, least_shrunk
from n2n_gym.limits.constraints import read_limits
from n2n_gym.limits.floor import Floor
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import (
    RATES,
    Removal,
    legal_removal,
    removals,
    shrink,
    shrinkages,
)
from n2n_gym.networks.layers import Add, Conv, Linear, SpatialMean
from n2n_gym.pytorch.trace import trace
from tests.networks import NETWORKS
from tests.test_edits import STARTS, start_of

SMALL = [network.__name__ for network in NETWORKS]


def played(
    start: Architecture, decisions: Sequence[Removal], wanted: Sequence[bool]
) -> tuple[list[list[Removal]], Architecture]:
    """The choices before each decision of an episode, and its student."""
    left = start.rewire(frozenset(), frozenset())
    taken: list[Removal] = []
    states = [taken]
    for removal, is_wanted in zip(decisions, wanted, strict=True):
        wiring = legal_removal(start, taken, left, removal) if is_wanted else None
        if wiring is not None:
            taken, left = [*taken, removal], wiring
        states.append(taken)
    return states, start.keep(left)


def assert_below(
    start: Architecture, decisions: Sequence[Removal], wanted: Sequence[bool]
) -> None:
    states, student = played(start, decisions, wanted)
    exact = Least(student.num_params, student.num_macs)
    for position, taken in enumerate(states):
        least = least_removed(start, taken, decisions[position:])
        assert least.num_params <= exact.num_params
        assert least.num_macs <= exact.num_macs
    assert least == exact  # with nothing left to decide


def all_or_some(length: int) -> Iterator[tuple[bool, ...]]:
    """Every episode of a short one, 256 of a long one."""
    if length <= 8:
        yield from product((False, True), repeat=length)
    else:
        rng = np.random.default_rng(0)
        for share in np.linspace(0, 1, 256):
            yield tuple(rng.random(length) < share)


@pytest.mark.parametrize("granularity", ["unit", "block", "layer"])
@pytest.mark.parametrize("name", SMALL)
def test_removal_of_small_networks(name, granularity):
    start = start_of(name)
    decisions = removals(start, granularity)
    for wanted in all_or_some(len(decisions)):
        assert_below(start, decisions, wanted)


@pytest.mark.parametrize("granularity", ["unit", "layer"])
@pytest.mark.parametrize("name", sorted(set(STARTS) - set(SMALL)))
def test_removal_of_teachers(name, granularity):
    start = start_of(name)
    decisions = removals(start, granularity)
    rng = np.random.default_rng(1)
    for share in (0.2, 0.8):
        wanted = tuple(rng.random(len(decisions)) < share)
        states, student = played(start, decisions, wanted)
        for position in np.linspace(0, len(decisions), 6, dtype=int):
            least = least_removed(start, states[position], decisions[position:])
            assert least.num_params <= student.num_params
            assert least.num_macs <= student.num_macs
        assert least == Least(student.num_params, student.num_macs)


def test_a_bound_of_removal_says_something():
    # Of a ResNet-18 whose last stage is kept, most of the parameters stay.
    start = start_of("resnet18")
    decisions = removals(start)
    last = [r for r in decisions if r.name.startswith("layer4")]
    others = [r for r in decisions if not r.name.startswith("layer4")]
    least = least_removed(start, [], others)
    assert least.num_params > 0.6 * start.num_params
    assert least_removed(start, [], decisions).num_params < 0.2 * start.num_params
    assert last


@pytest.mark.parametrize(
    "variables",
    [("width", "kernel"), ("width", "padding"), ("width", "kernel", "padding")],
)
@pytest.mark.parametrize("name", STARTS)
def test_shrinkage(name, variables):
    start = start_of(name)
    decisions = shrinkages(start, variables)
    rng = np.random.default_rng(2)
    for _ in range(3):
        rates = dict(zip(decisions, rng.choice(RATES, len(decisions)), strict=True))
        try:
            student = shrink(start, rates)
        except ValueError:  # paddings that do not go together
            continue
        for position in np.linspace(0, len(decisions), 4, dtype=int):
            made = {d: rates[d] for d in decisions[:position]}
            least = least_shrunk(start, made, decisions[position:])
            assert least.num_params <= student.num_params
            assert least.num_macs <= student.num_macs
        assert least == Least(student.num_params, student.num_macs)


def test_a_large_kernel_may_cost_less_than_a_small_one():
    # Its padding gone, it leaves a smaller map for what comes after.
    network = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 8 * 8, 10)),
    )
    start = trace(network, (1, 8, 8))
    decisions = shrinkages(start, ("kernel", "padding"))
    students = [
        (shrink(start, rates), rates)
        for choice in product((0.1, 1.0), repeat=len(decisions))
        for rates in [dict(zip(decisions, choice, strict=True))]
    ]
    smallest, rates = min(students, key=lambda pair: pair[0].num_params)
    assert {rates[d] for d in decisions if d.variable == "kernel"} == {0.1, 1.0}
    least = least_shrunk(start, {}, decisions)
    assert 0 < least.num_params <= smallest.num_params
    for student, rates in students:
        for position in range(len(decisions) + 1):
            made = {d: rates[d] for d in decisions[:position]}
            least = least_shrunk(start, made, decisions[position:])
            assert least.num_params <= student.num_params
            assert least.num_macs <= student.num_macs


@pytest.mark.parametrize("name", SMALL)
def test_a_bound_of_shrinkage_is_reached(name):
    start = start_of(name)
    decisions = shrinkages(start)
    half = dict.fromkeys(decisions[: len(decisions) // 2], 1.0)
    rest = decisions[len(decisions) // 2 :]
    student = shrink(start, {**half, **dict.fromkeys(rest, RATES[0])})
    least = least_shrunk(start, half, rest)
    assert least == Least(student.num_params, student.num_macs)


@pytest.mark.parametrize("kernels", ["nearest", "floor"])
@pytest.mark.parametrize("name", STARTS)
def test_a_higher_rate_never_lowers_a_bound(name, kernels):
    """So the feasible actions of a mask are the lowest ones."""
    start, rng = start_of(name), np.random.default_rng(3)
    decisions = shrinkages(start, kernels=kernels)
    episode = ShrinkageEpisode(start, decisions)
    assert episode.is_monotone
    checked = set(rng.choice(len(decisions), min(8, len(decisions)), False).tolist())
    for position in range(len(decisions)):
        if position in checked:
            bounds = np.array([episode.least(a) for a in range(len(RATES))])
            assert (np.diff(bounds, axis=0) >= 0).all()
            # Costs updated layer by layer are those of the whole network.
            for action in (0, int(rng.integers(len(RATES)))):
                made = zip(decisions, (*episode.choices, RATES[action]), strict=False)
                least = least_shrunk(start, dict(made), decisions[position + 1 :])
                assert tuple(bounds[action]) == least
        episode.decide(int(rng.integers(len(RATES))))


@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", *SMALL])
def test_after_removals_a_higher_rate_never_lowers_a_bound(name, fit):
    start, rng = start_of(name), np.random.default_rng(4)
    env = CompressEnv(start, evaluator="size", constraints={"num_params": 1}, fit=fit)
    for _ in range(2):
        env.reset()
        episode = env.episode
        while not episode.is_complete:
            legal = np.flatnonzero(episode.mask())
            least = episode.least_fitted if fit else episode.least
            if episode.is_monotone and rng.random() < 0.2:
                bounds = np.array([least(int(action)) for action in legal])
                assert (np.diff(bounds, axis=0) >= 0).all()
            episode.decide(int(rng.choice(legal)))


@pytest.mark.parametrize("name", SMALL)
def test_what_an_environment_remembers_changes_no_episode(name):
    start, rng = start_of(name), np.random.default_rng(5)
    given = {"evaluator": "size", "constraints": {"num_params": 300}, "fit": True}
    one = CompressEnv(start, **given)
    for _ in range(6):
        other = CompressEnv(start, **given)
        seen = [env.reset() for env in (one, other)]
        is_over = False
        while not is_over:
            (observation, info), (same, also) = seen
            np.testing.assert_array_equal(observation, same)
            np.testing.assert_array_equal(info["action_mask"], also["action_mask"])
            # Mostly the first of the legal actions, so that episodes begin alike.
            legal = np.flatnonzero(info["action_mask"])
            action = int(legal[0] if rng.random() < 0.8 else rng.choice(legal))
            steps = [env.step(action) for env in (one, other)]
            seen, is_over = [(step[0], step[-1]) for step in steps], steps[0][2]
        assert seen[0][1]["student"] == seen[1][1]["student"]


def test_bounds_with_undecided_paddings_are_not_monotone():
    start = start_of("resnet18")
    decisions = shrinkages(start, ("kernel", "padding"))
    assert not ShrinkageEpisode(start, decisions).is_monotone


@pytest.mark.parametrize("is_monotone", [False, True])
def test_feasible_actions_are_those_whose_bound_keeps_the_limit(is_monotone):
    (limit,) = read_limits({"num_params": 50})
    for offered in product((0, 1), repeat=5):
        for feasible_up_to in range(6):
            asked = []

            def least(action, up_to=feasible_up_to, asked=asked):
                asked.append(action)
                return Least(50 if action < up_to else 51, 0)

            mask = np.array(offered, np.int8)
            if not mask.any():
                continue
            found = feasible(mask, [limit], least, is_monotone=is_monotone)
            expected = mask * (np.arange(5) < feasible_up_to)
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == np.int8
            if is_monotone:  # usually all actions are feasible
                assert len(asked) <= (1 if found.sum() == mask.sum() else 4)


@pytest.mark.parametrize("joins", [10, 500, 1_500])
@pytest.mark.parametrize("narrow", [False, True])
def test_a_floor_is_told_of_any_number_of_joins_in_a_row(joins, narrow):
    layers = [Conv("stem", (-1,), width=8, kernel=(3, 3), padding=(1, 1))]
    for number in range(joins):
        last = len(layers) - 1
        layers.append(Conv(f"conv{number}", (last,), width=8, kernel=(1, 1)))
        layers.append(Add(f"add{number}", (last, last + 1)))
    layers.append(SpatialMean("mean", (len(layers) - 1,)))
    layers.append(Linear("head", (len(layers) - 1,), width=10))
    start = Architecture((1, 4, 4), tuple(layers))
    decisions = [
        Removal("branch", f"conv{number}", (2 * number + 1,)) for number in range(joins)
    ]
    floor = Floor(start, decisions, narrow=narrow)
    stem, head, each = 9 * 8 + 8, 8 * 10 + 10, 8 * 8 + 8
    if narrow:
        stem, head, each = 1 + 1, 1 * 10 + 10, 1 + 1
    assert floor.without((1 << len(decisions)) - 1).num_params == stem + head
    assert floor.without(0).num_params == stem + head + joins * each
