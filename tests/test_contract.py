"""The contract of rows, actions and students, in all three environments."""

import copy
import inspect
import math
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import n2n_gym  # noqa: F401  registers the ids
from n2n_agents.policies import PAPER_COLUMNS
from n2n_gym.envs import CompressEnv, RemoveEnv, ShrinkEnv
from n2n_gym.envs.arguments import Arguments
from n2n_gym.envs.checks import check_compression_env
from n2n_gym.envs.columns import ABOUT, COLUMNS, KINDS, MAX_KINDS, PLACE
from n2n_gym.envs.compression import CompressionEnv
from n2n_gym.limits.constraints import Limit
from n2n_gym.networks import layers
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import shrink
from n2n_gym.networks.scaling import widest_in_proportion
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.trace import trace
from n2n_gym.resources import predicted
from n2n_gym.resources.computed import peak_bytes
from n2n_gym.resources.latency_table import LatencyTable, PredictedLatency
from tests.networks import (
    DenseNet,
    GatedNet,
    GroupNormNet,
    MixedNet,
    PaddedNet,
    PlainNet,
    ShuffledNet,
    SmallResNet,
    VariedNet,
)

ENVS = {"remove": RemoveEnv, "shrink": ShrinkEnv, "compress": CompressEnv}
ROOT = Path(__file__).parents[1]
NETWORKS = {
    network.__name__: trace(network(), (1, 8, 8))
    for network in (
        *(SmallResNet, DenseNet, GatedNet, ShuffledNet, PlainNet),
        *(PaddedNet, VariedNet, MixedNet, GroupNormNet),
    )
}


def play(env, rng, options=None) -> tuple[list[int], dict]:
    """A random episode by the mask: its actions, and the last info."""
    _, info = env.reset(options=options)
    actions, is_over = [], False
    while not is_over:
        actions.append(int(rng.choice(np.flatnonzero(info["action_mask"]))))
        _, _, is_over, _, info = env.step(actions[-1])
    return actions, info


# Rows.


def test_columns_and_kinds_are_those_of_the_page_in_its_order():
    """docs/columns.md is what was promised: rows are appended to it, none changes."""
    lines = (ROOT / "docs" / "columns.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    columns = [row[1:] for row in rows if len(row) == 3 and row[0].isdigit()]
    kinds = [row[1] for row in rows if len(row) == 2 and row[0].isdigit()]
    assert columns == [[f"`{name}`", about] for name, about in ABOUT.items()]
    assert kinds == [f"`{kind}`" for kind in KINDS]
    numbers = [int(row[0]) for row in rows if row[0].isdigit()]
    assert numbers == [*range(len(columns)), *range(len(kinds))]


def test_the_table_of_columns_is_frozen():
    assert COLUMNS[: len(PAPER_COLUMNS)] == PAPER_COLUMNS
    assert (PLACE["is_row"], PLACE["current"], PLACE["left"]) == (19, 20, 23)
    assert (PLACE["taken_params"], PLACE["least_params"]) == (24, 31)
    assert (PLACE["target_params"], PLACE["is_Conv"]) == (38, 45)
    assert PLACE["is_Concat"] == 63
    assert len(COLUMNS) == 75


def test_every_kind_of_layer_has_its_place():
    assert set(KINDS) == set(layers.KINDS)
    assert len(KINDS) < MAX_KINDS
    assert COLUMNS[-len(KINDS) :] == tuple(f"is_{kind}" for kind in KINDS)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("stage", ENVS)
def test_what_is_taken_is_the_students_and_the_least_never_falls(stage, network):
    env = ENVS[stage](NETWORKS[network], evaluator="size")
    whole, rng = NETWORKS[network], np.random.default_rng(0)
    for _ in range(5):
        observation, info = env.reset()
        least, is_over = 0.0, False
        while not is_over:
            student = env.student
            row = observation[0]
            assert row[PLACE["taken_params"]] == np.float32(
                student.num_params / whole.num_params
            )
            assert row[PLACE["taken_macs"]] == np.float32(
                student.num_macs / whole.num_macs
            )
            assert least <= row[PLACE["least_params"]] <= row[PLACE["taken_params"]]
            least = row[PLACE["least_params"]]
            action = rng.choice(np.flatnonzero(info["action_mask"]))
            observation, _, is_over, _, info = env.step(action)
        assert least <= np.float32(info["num_params"] / whole.num_params)
        assert observation[0, PLACE["left"]] == 0
        assert (
            observation[0, PLACE["least_params"]]
            == (observation[0, PLACE["taken_params"]])
        )


def test_limits_are_shown_as_shares_of_the_teacher(teacher):
    whole = teacher.architecture
    limits = [
        Limit("small", {"num_params": 1.0}, whole.num_params / 4),
        Limit("both", {"num_params": 1.0, "num_macs": 1.0}, 1e9),
    ]
    env = ShrinkEnv(teacher, evaluator="size", constraints=limits)
    observation, _ = env.reset()
    assert observation[0, PLACE["target_params"]] == 0.25
    assert observation[0, PLACE["target_macs"]] == 1
    assert observation[0, PLACE["target_other"]] == 1


# Actions.


@pytest.mark.parametrize(
    ("length", "offered", "kernels"),
    [  # each rate's nearest odd length, ties up, worked by hand
        (3, [5, 9], [1, 1, 1, 1, 1, 1, 3, 3, 3, 3]),
        (5, [2, 6, 9], [1, 1, 1, 3, 3, 3, 3, 5, 5, 5]),
        (7, [1, 4, 7, 9], [1, 1, 3, 3, 3, 5, 5, 5, 7, 7]),
    ],
)
def test_of_equal_kernels_one_action_is_offered_and_the_others_do_what_they_say(
    length, offered, kernels
):
    stem = nn.Conv2d(1, 4, length, padding=length // 2)
    net = nn.Sequential(stem, nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), *ends(4))
    start = trace(net, (1, 16, 16))
    env = ShrinkEnv(start, evaluator="size", variables=("kernel",))
    _, info = env.reset()
    assert np.flatnonzero(info["action_mask"]).tolist() == offered
    for action, kernel in enumerate(kernels):
        env.reset()
        _, _, _, _, info = env.step(action)
        assert info["illegal"] is False
        assert env.student.layers[0].kernel == (kernel, kernel)
        masked = env.student
        env.reset(options={"decisions": [action]})
        assert env.student == masked


def ends(width):
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)


def test_rates_are_a_subset_of_the_ten(teacher):
    env = ShrinkEnv(teacher, evaluator="size", rates=(0.2, 0.5, 1.0))
    assert env.action_space.n == 10
    actions, _ = play(env, np.random.default_rng(0))
    assert set(actions) <= {1, 4, 9}
    with pytest.raises(ValueError, match=r"rates must be some of .*, got \(0\.25,\)"):
        ShrinkEnv(teacher, evaluator="size", rates=(0.25,))


@pytest.mark.parametrize(
    "rates", [1.0, None, {0.5, 1.0}, np.array([0.5, 1.0]), "1", ([1.0], 1.0)], ids=repr
)
@pytest.mark.parametrize("make", [ShrinkEnv, CompressEnv])
def test_rates_that_are_no_sequence_of_numbers_are_refused(teacher, make, rates):
    with pytest.raises(ValueError, match="rates must be some of"):
        make(teacher, evaluator="size", rates=rates)


@pytest.mark.parametrize("rate", [0, 2, 5, 8])
@pytest.mark.parametrize("make", [ShrinkEnv, CompressEnv])
def test_a_rate_that_is_not_offered_is_illegal(teacher, make, rate):
    """So that no student is below what ``least_params`` says."""
    env = make(teacher, evaluator="size", rates=(0.2, 0.5, 1.0))
    _, info = env.reset()
    while info["action_mask"][[0, 9]].all():  # removals
        _, _, _, _, info = env.step(9)
    _, _, _, _, info = env.step(rate)
    assert info["illegal"]
    assert env.student == env.start


def test_stages_shrink_together():
    env = ShrinkEnv("resnet18", evaluator="size", granularity="stage")
    shown = [(each.variable, len(each.layers)) for each in env.decisions]
    assert [width for width in shown if width[0] == "width"] == [
        *(("width", 5), ("width", 5), ("width", 5), ("width", 5))
    ]
    assert len(shown) < 12
    env.reset()
    for _ in env.decisions:
        env.step(4)
    student, start = env.student, env.start
    for before, after in zip(start.layers, student.layers, strict=True):
        if isinstance(before, layers.Conv):
            assert after.width == before.width // 2


@pytest.mark.parametrize("stage", ENVS)
@pytest.mark.parametrize("keep", ["block2", ["block2.*", "conv1"], "*.conv2"])
def test_what_is_kept_is_touched_by_neither_stage(stage, keep, teacher):
    env = ENVS[stage](teacher, evaluator="size", keep=keep)
    whole = teacher.architecture
    patterns = [keep] if isinstance(keep, str) else keep
    names = {"block2": "block2.", "block2.*": "block2.", "conv1": "conv1"}
    rng = np.random.default_rng(0)
    for _ in range(30):
        _, info = play(env, rng)
        student = Architecture.from_json(info["student"])
        for layer in whole.layers:
            is_kept = any(
                layer.name.endswith(".conv2")
                if pattern == "*.conv2"
                else layer.name.startswith(names[pattern])
                for pattern in patterns
            )
            if is_kept:
                left = student.layers[student.positions[layer.name]]
                for field in ("width", "kernel", "padding"):
                    assert getattr(left, field, 0) == getattr(layer, field, 0)


def test_spaces_around_names_mean_nothing(teacher):
    def legal(keep) -> list[str]:
        env = ShrinkEnv(teacher, evaluator="size", keep=keep)
        return [decision.name for decision in env.decisions]

    wanted = legal(["conv1", "block2"])
    for keep in ("conv1, block2", " conv1 ,block2 ", ["conv1 ", " block2"]):
        assert legal(keep) == wanted


def test_a_pattern_that_names_nothing_is_refused(teacher):
    with pytest.raises(ValueError, match=r"keep='blok2' names no layer; there are"):
        RemoveEnv(teacher, evaluator="size", keep="blok2")


# Students on the surface of their limits.


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("stage", ENVS)
def test_fitted_students_keep_their_limits_and_leave_less_than_a_step(stage, network):
    whole = NETWORKS[network]
    ranges = {
        "num_params": (whole.num_params / 50, whole.num_params / 1.5),
        "num_macs": (whole.num_macs / 50, whole.num_macs / 1.5),
        "peak_bytes": (500.0, 1e6),
    }
    arguments = {"constraints": ranges, "limits": "sample", "fit": True}
    env = ENVS[stage](whole, evaluator="size", **arguments)
    again = ENVS[stage](whole, evaluator="size", **arguments)
    rng = np.random.default_rng(0)
    for _ in range(10):
        actions, info = play(env, rng)
        student = Architecture.from_json(info["student"])
        bounds = {limit.name: limit.bound for limit in env.limits}
        _, rates = env.episode.rates_of_widths()
        if info["violated"]:
            narrow = {d: 0.0 if d.variable == "width" else r for d, r in rates.items()}
            assert student == shrink(env.episode.rates_of_widths()[0], narrow)
        else:
            assert widest_next(env, student, rates, bounds)
        limits = {name: info[f"limit_{name}"] for name in ranges}
        assert limits == bounds
        again.reset(options={"limits": limits, "decisions": actions[:-1]})
        assert again.step(actions[-1])[-1]["fingerprint"] == info["fingerprint"]
        unfitted = Architecture.from_json(info["start"])
        assert unfitted == env.episode.student
        assert sum(p.numel() for p in build(student).parameters()) == student.num_params


def widest_next(env, student, rates, bounds) -> bool:
    """Whether the next wider student breaks a limit, or there is none."""
    start, _ = env.episode.rates_of_widths()
    seen = []

    def is_within(wider) -> bool:
        takes = {n: env.meter.functions[n](wider, start) for n in bounds}
        seen.append((wider.num_params, all(takes[n] <= bounds[n] for n in bounds)))
        return seen[-1][1]

    assert widest_in_proportion(start, rates, is_within) == student
    wider = [is_kept for size, is_kept in seen if size > student.num_params]
    return not any(wider)


def test_what_has_to_be_measured_cannot_be_fitted_to(teacher):
    with pytest.raises(
        ValueError, match="latency_ms, which has to be measured; give res"
    ):
        ShrinkEnv(teacher, evaluator="size", constraints={"latency_ms": 1.0}, fit=True)
    with pytest.raises(ValueError, match="fit=True needs a limit on a resource"):
        ShrinkEnv(teacher, evaluator="size", fit=True)


def test_predicted_sizes_of_files_can(teacher):
    whole = teacher.architecture
    size = predicted(whole, {"onnx_bytes": 1.0})
    env = ShrinkEnv(
        teacher,
        evaluator="size",
        constraints={"onnx_bytes": 20_000},
        resources=size,
        fit=True,
    )
    _, info = play(env, np.random.default_rng(0))
    assert 0.8 * 20_000 < info["onnx_bytes"] <= 20_000


def test_limits_are_drawn_from_the_environments_generator(teacher):
    ranges = {"num_params": (1e2, 1e4)}
    env = ShrinkEnv(teacher, evaluator="size", constraints=ranges, limits="sample")
    drawn = []
    for seed in range(300):
        observation, info = env.reset(seed=seed)
        drawn.append(info["limit_num_params"])
        share = drawn[-1] / teacher.architecture.num_params
        assert observation[0, PLACE["target_params"]] == np.float32(min(1, share))
    assert len(set(drawn)) == 300
    assert 1e2 <= min(drawn) < 130
    assert 7e3 < max(drawn) <= 1e4
    assert 2.8 < np.mean(np.log10(drawn)) < 3.2  # log-uniform
    assert env.reset(seed=7)[1]["limit_num_params"] == drawn[7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limits": "sample"}, "needs ranges"),
        ({"limits": "drawn"}, "unknown limits='drawn'; known: fixed, sample"),
        (
            {"limits": "sample", "constraints": {"num_params": 1e3}},
            "limits='sample' needs ranges",
        ),
        ({"constraints": {"num_params": (1e3, 1e4)}}, "limits='sample' needs ranges"),
        (
            {"limits": "sample", "constraints": {"num_params": (1e4, 1e3)}},
            "with least <= most",
        ),
        (
            {"limits": "sample", "constraints": {"num_params": (0, 1e3)}},
            "must be a positive number, got 0",
        ),
    ],
)
def test_ranges_that_make_no_sense_are_refused(arguments, message, teacher):
    with pytest.raises(ValueError, match=message):
        ShrinkEnv(teacher, evaluator="size", **arguments)


def test_a_limit_that_there_is_none_of_cannot_be_given(teacher):
    env = ShrinkEnv(teacher, evaluator="size", constraints={"num_params": 1e3})
    env.reset(options={"limits": {"num_params": 2e3}})
    assert [limit.bound for limit in env.limits] == [2e3]
    with pytest.raises(ValueError, match="no limit on 'num_macs'; known: num_params"):
        env.reset(options={"limits": {"num_macs": 2e3}})
    env.reset()
    assert [limit.bound for limit in env.limits] == [1e3]


@pytest.mark.parametrize(
    ("limit", "given"),
    [
        (Limit("small", {"num_params": 1}, 2000), 1500),
        (Limit("num_macs", {"num_params": 1}, 2000), 1500),
        (Limit("both", {"num_params": 1, "num_macs": 0.01}, 9000), 4000),
        (Limit("num_params", {"num_params": 2}, 9000), 4000),
    ],
)
def test_a_bound_given_of_a_limit_of_ones_own_keeps_its_weights(limit, given, teacher):
    env = ShrinkEnv(teacher, evaluator="size", constraints=[limit], fit=True)
    options = {"limits": {limit.name: given}}
    env.reset(options=options)
    (drawn,) = env.limits
    assert drawn == Limit(limit.name, limit.weights, given)
    _, info = play(env, np.random.default_rng(0), options)
    takes = {name: info[name] for name in ("num_params", "num_macs")}
    assert drawn.excess(takes) <= 0 or info["violated"]
    assert info[f"limit_{limit.name}"] == given


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("stage", ENVS)
def test_strict_and_fitted_students_keep_their_limits_or_it_is_said(
    stage, share, network
):
    whole = NETWORKS[network]
    bound = {"num_params": share * whole.num_params}
    env = ENVS[stage](whole, evaluator="size", constraints=bound, fit=True, strict=True)
    rng = np.random.default_rng(0)
    for _ in range(10):
        _, info = env.reset()
        was_said, is_over = info["infeasible"], False
        while not is_over:
            action = rng.choice(np.flatnonzero(info["action_mask"]))
            _, _, is_over, _, info = env.step(action)
            was_said |= info["infeasible"]
        assert was_said or info["num_params"] <= bound["num_params"]


@pytest.mark.parametrize("network", NETWORKS)
def test_no_factor_of_all_widths_leaves_a_larger_student_within_the_limits(network):
    """Against every factor on a fine grid, each tried by itself."""
    whole = NETWORKS[network]
    bound = {"num_params": 0.4 * whole.num_params, "num_macs": 0.4 * whole.num_macs}
    env = ShrinkEnv(whole, evaluator="size", constraints=bound, fit=True)
    _, info = play(env, np.random.default_rng(1))
    start, rates = env.episode.rates_of_widths()
    best = 0
    for factor in np.linspace(0, 10, 4001):
        tried = {
            each: min(1.0, factor * rate) if each.variable == "width" else rate
            for each, rate in rates.items()
        }
        student = shrink(start, tried)
        if all(getattr(student, name) <= most for name, most in bound.items()):
            best = max(best, student.num_params)
    assert info["num_params"] == best > 0


# Both stages in one episode.


def test_both_stages_leave_what_one_after_the_other_leaves():
    whole = NETWORKS["PlainNet"]
    env = CompressEnv(whole, evaluator="size")
    rng = np.random.default_rng(0)
    for _ in range(20):
        actions, info = play(env, rng)
        first = RemoveEnv(whole, evaluator="size")
        first.reset()
        removals = len(first.decisions)
        for action in actions[:removals]:
            _, _, _, _, left = first.step({9: 0, 0: 1}[action])
        second = ShrinkEnv(whole, start=left["student"], evaluator="size")
        rates = {
            (each.variable, each.name): action
            for each, action in zip(
                env.decisions[removals:], actions[removals:], strict=True
            )
        }
        second.reset()
        for each in second.decisions:
            _, _, _, _, last = second.step(rates[each.variable, each.name])
        assert last["fingerprint"] == info["fingerprint"]


def test_decisions_about_what_has_gone_have_one_legal_action():
    env = CompressEnv(NETWORKS["SmallResNet"], evaluator="size")
    count = sum(hasattr(each, "form") for each in env.decisions)
    _, info = env.reset()
    for _ in range(count):
        mask = info["action_mask"]
        assert set(np.flatnonzero(mask)) <= {0, 9}
        _, _, _, _, info = env.step(0 if mask[0] else 9)
    singles = 0
    for _ in range(len(env.decisions) - count):
        singles += info["action_mask"].sum() == 1
        assert info["action_mask"][9]
        _, _, is_over, _, info = env.step(9)
    assert is_over
    assert singles > 0


@pytest.mark.parametrize("stage", ENVS)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"keep": "block2"},
        {"constraints": {"num_params": 2e3}, "fit": True},
        {
            "constraints": {"num_params": (1e3, 4e3)},
            "limits": "sample",
            "fit": True,
            "strict": True,
        },
    ],
    ids=["plain", "keep", "fit", "sample"],
)
def test_all_environments_keep_the_contract(stage, arguments, teacher):
    env = ENVS[stage](teacher, evaluator="size", **arguments)
    check_compression_env(env, episodes=2)


@pytest.mark.parametrize("stage", ["shrink", "compress"])
def test_stages_keep_the_contract(stage, teacher):
    name = "granularity" if stage == "shrink" else "shrink_granularity"
    env = ENVS[stage](teacher, evaluator="size", **{name: "stage"})
    check_compression_env(env, episodes=2)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_vector_of_both_stages_is_what_its_rows_are(mode, teacher):
    arguments = {
        "teacher": teacher,
        "evaluator": "size",
        "constraints": {"num_params": (1e3, 4e3)},
        "limits": "sample",
        "fit": True,
    }
    envs = gym.make_vec(
        "N2NCompress-v0",
        num_envs=3,
        autoreset_mode=mode,
        **arguments,
    )
    singles = [gym.make("N2NCompress-v0", **arguments).unwrapped for _ in range(3)]
    _, infos = envs.reset(seed=5)
    rows = [env.reset(seed=5 + i) for i, env in enumerate(singles)]
    rng = np.random.default_rng(0)
    for _ in range(len(singles[0].decisions)):
        masks = infos["action_mask"]
        actions = [int(rng.choice(np.flatnonzero(mask))) for mask in masks]
        _, rewards, _, _, infos = envs.step(np.array(actions))
        rows = [env.step(a) for env, a in zip(singles, actions, strict=True)]
    ends = infos.get("final_info", infos)
    assert rewards.tolist() == [row[1] for row in rows]
    assert list(ends["fingerprint"]) == [row[4]["fingerprint"] for row in rows]
    assert list(ends["limit_num_params"]) == [
        row[4]["limit_num_params"] for row in rows
    ]


@pytest.mark.parametrize("stage", ENVS)
def test_a_fork_goes_its_own_way(stage, teacher):
    env = ENVS[stage](teacher, evaluator="size")
    _, info = env.reset()
    for _ in range(3):
        action = int(np.flatnonzero(info["action_mask"])[0])
        _, _, _, _, info = env.step(action)
    twin = copy.deepcopy(env)
    rng = np.random.default_rng(0)
    mask, is_over = twin.action_masks(), False
    while not is_over:
        _, _, is_over, _, other = twin.step(int(rng.choice(np.flatnonzero(mask))))
        mask = twin.action_masks()
    expected = env.student
    assert env.position == 3
    assert math.isclose(env.episode.taken.num_params, expected.num_params)
    assert other["fingerprint"] != expected.fingerprint


# What a second look found.


class Unpadded(nn.Module):
    """Convolutions without padding: a smaller kernel would leave a larger map."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, stride=2)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8 * 15 * 15, 10)

    def forward(self, x):
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.head(torch.flatten(x, 1))


class Depthwise(nn.Module):
    """A depthwise convolution, whose width is that of the convolution before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = F.relu(self.last(F.relu(self.depthwise(F.relu(self.first(x))))))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize("stage", ENVS)
def test_the_floor_holds_where_kernels_shrink_maps(stage, fit):
    whole = trace(Unpadded(), (1, 32, 32))
    env = ENVS[stage](
        whole,
        evaluator="size",
        fit=fit,
        constraints={"num_params": whole.num_params / 4},
    )
    rng = np.random.default_rng(0)
    for _ in range(30):
        env.reset()
        floors = []
        for _ in env.decisions:
            floors.append(env.episode.floor.num_params)
            action = int(rng.choice(np.flatnonzero(env.action_masks())))
            env.step(action)
        assert max(floors) <= env.student.num_params


@pytest.mark.parametrize("stage", ["shrink", "compress"])
def test_kernels_alone_are_decided_and_widths_fit_all_the_same(stage, teacher):
    bound = teacher.architecture.num_params / 5
    env = ENVS[stage](
        teacher,
        evaluator="size",
        variables=("kernel",),
        fit=True,
        strict=True,
        constraints={"num_params": bound},
    )
    for seed in range(10):
        _, info = play(env, np.random.default_rng(seed))
        assert info["violated"] == ""
    env.reset()
    assert env.action_masks()[9]


def test_a_kept_depthwise_convolution_keeps_its_channels():
    whole = trace(Depthwise(), (1, 8, 8))
    env = ShrinkEnv(whole, evaluator="size", keep="depthwise")
    shown = {(each.variable, each.name) for each in env.decisions}
    assert ("width", "first") not in shown
    assert ("kernel", "depthwise") not in shown
    assert ("width", "last") in shown


def test_shares_are_one_at_most():
    env = RemoveEnv(NETWORKS["PlainNet"], evaluator="size", granularity="layer")
    rng = np.random.default_rng(0)
    for _ in range(20):
        _, info = env.reset()
        is_over = False
        while not is_over:
            action = int(rng.choice(np.flatnonzero(info["action_mask"])))
            observation, _, is_over, _, info = env.step(action)
            assert env.observation_space.contains(observation)


def test_a_drawn_accuracy_is_said_as_it_was_asked_for(teacher):
    arguments = {"constraints": {"accuracy": (0.5, 0.9)}, "limits": "sample"}
    env = ShrinkEnv(teacher, evaluator="size", **arguments)
    _, info = env.reset(seed=0)
    assert 0.5 <= info["limit_accuracy"] <= 0.9
    env.reset(options={"limits": {"accuracy": info["limit_accuracy"]}})
    assert env.limits[0].bound == -info["limit_accuracy"]


def test_each_row_of_a_vector_can_have_its_own_limits(teacher):
    envs = gym.make_vec(
        "N2NShrink-v0",
        num_envs=2,
        teacher=teacher,
        evaluator="size",
        constraints={"num_params": (1e3, 4e3)},
        limits="sample",
    )
    limits = [{"num_params": 1500}, {"num_params": 2500.5}]
    _, infos = envs.reset(options={"limits": limits})
    assert infos["limit_num_params"].tolist() == [1500.0, 2500.5]
    with pytest.raises(ValueError, match="there must be 2 limits, one for each row"):
        envs.reset(options={"limits": limits[:1]})
    with pytest.raises(
        ValueError, match="limits must be a mapping of bounds by name, got 5"
    ):
        envs.reset(options={"limits": 5})


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_a_resource_that_fails_is_too_much_for_a_fit(share, teacher):
    most = share * teacher.architecture.num_params

    def moody(student, whole) -> float:
        if most < student.num_params < whole.num_params:
            raise RuntimeError("the board did not answer")
        return student.num_params

    moody.is_computed = True
    env = ShrinkEnv(
        teacher,
        evaluator="size",
        fit=True,
        resources={"moody": moody},
        constraints={"moody": teacher.architecture.num_params - 1},
    )
    sizes = [play(env, np.random.default_rng(i))[1]["num_params"] for i in range(5)]
    assert 0.5 * most < max(sizes) <= most


def test_a_limit_that_mixes_accuracy_with_size_cannot_be_fitted_to(teacher):
    mixed = [Limit("mixed", {"num_params": 1.0, "accuracy": -1e3}, 500.0)]
    with pytest.raises(ValueError, match="the limit mixed: it includes"):
        ShrinkEnv(teacher, evaluator="size", fit=True, constraints=mixed)


def test_rates_keep_the_one_that_changes_nothing(teacher):
    with pytest.raises(ValueError, match=r"include 1\.0"):
        ShrinkEnv(teacher, evaluator="size", rates=(0.5,))
    with pytest.raises(ValueError, match=r"include 1\.0, got \(0\.5,\)"):
        ShrinkEnv(teacher, evaluator="size", rates=0.5)
    with pytest.raises(ValueError, match="rates= needs discrete actions"):
        ShrinkEnv(teacher, evaluator="size", rates=(0.5, 1.0), action="continuous")


def test_strict_masks_know_the_rates_that_are_offered(teacher):
    bound = {"num_params": 0.1 * teacher.architecture.num_params}
    arguments = {"evaluator": "size", "constraints": bound, "strict": True}
    _, info = ShrinkEnv(teacher, **arguments).reset()
    assert info["infeasible"] is False
    _, info = ShrinkEnv(teacher, rates=(0.9, 1.0), **arguments).reset()
    assert info["infeasible"] is True


def test_new_ties_have_the_rate_of_a_decision_about_any_of_them():
    class Ties(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.p, self.q = (
                nn.Conv2d(1, width, 3, padding=1) for width in (8, 4, 4)
            )
            self.b = nn.Conv2d(8, 8, 3, padding=1)
            self.u = nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Linear(8, 10)

        def forward(self, x):
            a = self.a(x)
            k = torch.cat([self.p(x), self.q(x)], 1)
            s = a + k
            return self.head((self.u(a) + self.b(s)).mean((2, 3)))

    whole = trace(Ties(), (1, 8, 8))
    env = CompressEnv(whole, evaluator="size")
    rng = np.random.default_rng(0)
    for _ in range(200):
        _, info = play(env, rng)
        removals = len(RemoveEnv(whole, evaluator="size").decisions)
        left = env.episode.rates_of_widths()[0]
        singles = ShrinkEnv(left, evaluator="size")
        free = {each.name for each in singles.decisions if each.variable == "width"}
        said = {
            each.name
            for each in env.episode.rates_of_widths()[1]
            if each.variable == "width"
        }
        offered = {d.layers for d in env.decisions[removals:] if d.variable == "width"}
        known = {whole.layers[p].name for layers in offered for p in layers}
        for each in singles.decisions:
            names = {left.layers[p].name for p in each.layers}
            if each.variable == "width" and names & known:
                assert each.name in said
        assert said <= free
        assert info["fingerprint"] == env.student.fingerprint


# What limits show of an episode.


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize("stage", ENVS)
def test_limits_on_what_is_computed_show_what_is_taken_and_the_least(
    stage, fit, network
):
    whole = NETWORKS[network]
    most = peak_bytes(whole, whole)
    bound = {"peak_bytes": most / 2}
    env = ENVS[stage](whole, evaluator="size", constraints=bound, fit=fit)
    rng = np.random.default_rng(0)
    for _ in range(4):
        observation, info = env.reset()
        assert observation[0, PLACE["target_peak"]] == 0.5
        least, is_over = [], False
        while not is_over:
            taken, floor = (
                observation[0, PLACE[f"{a}_peak"]] for a in ("taken", "least")
            )
            left = env.episode.student
            assert taken == np.float32(min(1, peak_bytes(left, whole) / most))
            least.append(floor)
            action = int(rng.choice(np.flatnonzero(info["action_mask"])))
            observation, _, is_over, _, info = env.step(action)
        assert least == sorted(least)
        assert max(least) <= np.float32(info["peak_bytes"] / most)
        if stage == "shrink":
            assert least[0] > 0
        last = observation[0]
        if not fit:
            # Without a branch more may be alive together than in the teacher.
            taken = np.float32(min(1, info["peak_bytes"] / most))
            assert last[PLACE["taken_peak"]] == taken
            assert last[PLACE["least_peak"]] == last[PLACE["taken_peak"]]
        assert np.array_equal(
            observation[0, PLACE["left"] : PLACE["target_params"]],
            observation[-1, PLACE["left"] : PLACE["target_params"]],
        )


def test_what_has_to_be_measured_is_not_shown(teacher):
    env = ShrinkEnv(teacher, evaluator="size", constraints={"onnx_bytes": 9_000})
    observation, info = env.reset()
    assert observation[0, PLACE["target_bytes"]] < 1
    assert observation[0, PLACE["taken_bytes"]] == 0
    assert not any(name.startswith("table_") for name in info)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (2.0, 3.0), (1e-3, 5.0)])
def test_a_weighted_sum_is_shown_as_other(weights, teacher):
    whole = teacher.architecture
    sums = dict(zip(("num_params", "num_macs"), weights, strict=True))

    def of(student: Architecture) -> float:
        return sum(weight * getattr(student, name) for name, weight in sums.items())

    env = ShrinkEnv(
        teacher, evaluator="size", constraints=[Limit("sum", sums, of(whole) / 4)]
    )
    observation, _ = env.reset()
    assert observation[0, PLACE["taken_other"]] == 1
    for _ in range(3):
        observation, *_ = env.step(2)
        shown = observation[0, PLACE["taken_other"]]
        assert shown == np.float32(of(env.student) / of(whole))
        assert 0 < observation[0, PLACE["least_other"]] < shown


def test_a_resource_that_fails_on_the_way_is_shown_as_too_much(teacher):
    def moody(student, whole) -> float:
        if student.num_params < whole.num_params:
            raise RuntimeError("the board did not answer")
        return student.num_params

    moody.is_computed = True
    env = ShrinkEnv(
        teacher,
        evaluator="size",
        resources={"moody": moody},
        constraints={"moody": 1e9},
    )
    env.reset()
    observation, *_ = env.step(2)
    assert observation[0, PLACE["taken_other"]] == 1
    assert observation[0, PLACE["least_other"]] == 0


COSTS = {"Conv 8": 2e-6, "Gemm": 1e-6}


@pytest.mark.parametrize("stage", ENVS)
@pytest.mark.parametrize(
    ("costs", "batch", "threads", "whole"),
    [
        ({**COSTS, "Gemm": 2e-6}, 1, 1, 3.0),
        (COSTS, 2, 1, 3.0),
        (COSTS, 1, 2, 3.0),
        (COSTS, 1, 1, 3.5),
    ],
    ids=["costs", "batch", "threads", "whole"],
)
def test_predicted_latency_names_its_table(
    costs, batch, threads, whole, stage, teacher
):
    def infos(latency: PredictedLatency) -> list[dict]:
        env = ENVS[stage](
            teacher,
            evaluator="size",
            resources={"latency_ms": latency},
            constraints={"latency_ms": 2.0},
            fit=True,
        )
        _, first = env.reset()
        return [first, play(env, np.random.default_rng(0))[1]]

    usual = PredictedLatency(LatencyTable(COSTS, 1, 1), 3.0)
    same = PredictedLatency(LatencyTable(dict(reversed(COSTS.items())), 1, 1), 3.0)
    other = PredictedLatency(LatencyTable(costs, batch, threads), whole)
    for info in infos(usual):
        assert info["table_latency_ms"] == usual.fingerprint == same.fingerprint
    for info in infos(other):
        assert info["table_latency_ms"] == other.fingerprint != usual.fingerprint


def test_predicted_sizes_name_what_they_were_fitted_to(teacher):
    size = predicted(teacher.architecture, {"onnx_bytes": 1.0})
    env = ShrinkEnv(
        teacher, evaluator="size", constraints={"onnx_bytes": 9_000}, resources=size
    )
    observation, info = env.reset()
    assert len(info["table_onnx_bytes"]) == 64
    taken, least = (observation[0, PLACE[f"{a}_bytes"]] for a in ("taken", "least"))
    assert 0 < least < taken == 1


# Arguments.


def test_the_arguments_that_all_take_are_written_alike():
    given = inspect.signature(CompressionEnv.__init__).parameters
    named = {
        name: each.annotation
        for name, each in given.items()
        if each.kind is inspect.Parameter.KEYWORD_ONLY
    }
    hints = {
        name: hint.__forward_arg__ for name, hint in Arguments.__annotations__.items()
    }
    assert named == hints
    for name in hints:
        assert re.search(rf"\b{name}\b", RemoveEnv.__doc__.split("Args:")[1])


@pytest.mark.parametrize("stage", ENVS)
@pytest.mark.parametrize("name", ["granularty", "max_row", "storage", "kept"])
def test_an_argument_that_there_is_none_of_is_refused(stage, name, teacher):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        ENVS[stage](teacher, **{name: None})
