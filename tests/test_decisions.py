import pytest
import torch
from torch import nn

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import (
    RATES,
    Removal,
    legal_removal,
    removals,
    remove,
    shrink,
    shrinkages,
    units,
    without,
)
from n2n_gym.networks.decisions.shrinkage import shrunk_length, shrunk_width
from n2n_gym.networks.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    ChannelShuffle,
    Chunk,
    Concat,
    Conv,
    Flatten,
    Linear,
    MaxPool,
    ShapeError,
    SpatialMean,
)
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.trace import trace
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.zoo import teacher_architecture
from tests.networks import (
    IMAGE,
    DealtNet,
    DenseNet,
    GatedNet,
    MixedNet,
    PaddedNet,
    PlainNet,
    ScaledNet,
    ShuffledNet,
    SmallResNet,
)

IMAGENET_SMALL = Task("none", (3, 32, 32), 10, dict)


def resnet18() -> Architecture:
    return teacher_architecture("resnet18", IMAGENET_SMALL)


def find(start: Architecture, form: str, name: str) -> Removal:
    return next(
        r for r in removals(start) if r.form == form and r.name.startswith(name)
    )


def names(found) -> list[tuple[str, str]]:
    return [(removal.form, removal.name) for removal in found]


def test_resnet18_has_13_units_and_11_branches():
    forms = [removal.form for removal in removals(resnet18())]
    assert forms.count("unit") == 13
    assert forms.count("branch") == 11


def test_all_removals_taken_make_resnet18_62_times_smaller():
    start = resnet18()
    left = without(start, removals(start))
    assert start.num_params / left.num_params == pytest.approx(61.8, abs=0.05)


def test_a_unit_is_a_convolution_with_what_follows_it_alone():
    start = trace(SmallResNet(), IMAGE)
    named = [[start.layers[p].name for p in unit] for unit in units(start)]
    assert named[1] == ["block1.conv1", "block1.bn1", "block1.relu"]
    assert named[2] == ["block1.conv2", "block1.bn2"]  # the addition reads it


def test_removing_a_strided_convolution_in_a_branch_is_illegal():
    found = names(removals(resnet18()))
    assert ("unit", "layer2.0.conv1") not in found
    assert ("unit", "layer2.0.conv2") in found


def test_the_first_layer_and_the_classifier_stay():
    for network in (SmallResNet, DenseNet, GatedNet, PlainNet):
        start = trace(network(), IMAGE)
        for removal in removals(start):
            assert start.first not in removal.layers
            assert start.classifier not in removal.layers


def test_both_units_of_a_block_removed_is_its_branch_dropped():
    start = resnet18()
    conv1 = find(start, "unit", "layer1.0.conv1")
    conv2 = find(start, "unit", "layer1.0.conv2")
    branch = find(start, "branch", "layer1.0.bn2")
    assert remove(start, [conv1, conv2]) == remove(start, [branch])


def test_dropping_a_residual_branch_leaves_the_skip_and_what_reads_it():
    start = trace(SmallResNet(), IMAGE)
    student = remove(start, [find(start, "branch", "block3.bn2")])
    gone = {layer.name for layer in start.layers} - set(student.positions)
    inside = {"conv1", "bn1", "relu", "conv2", "bn2", "add"}
    assert gone == {f"block3.{name}" for name in inside}


def test_dropping_both_branches_of_an_addition_is_illegal():
    start = resnet18()
    main = find(start, "branch", "layer2.0.bn2")
    skip = find(start, "branch", "layer2.0.downsample.1")
    wiring = legal_removal(start, (), start.rewire(set(), set()), main)
    assert wiring is not None
    assert legal_removal(start, (main,), wiring, skip) is None
    with pytest.raises(ShapeError, match="no branch is left"):
        remove(start, [main, skip])


def test_what_is_gone_already_cannot_be_removed():
    start = resnet18()
    branch = find(start, "branch", "layer1.0.bn2")
    unit = find(start, "unit", "layer1.0.conv1")
    wiring = legal_removal(start, (), start.rewire(set(), set()), branch)
    assert wiring is not None
    assert legal_removal(start, (branch,), wiring, unit) is None


def test_one_producer_of_many_concatenations_is_one_branch():
    start = trace(DenseNet(), IMAGE)
    branches = [r for r in removals(start) if r.form == "branch"]
    assert [b.name for b in branches] == ["grow1", "grow2"]
    student = remove(start, branches[:1])
    concats = [layer for layer in student.layers if isinstance(layer, Concat)]
    assert len(concats) == 1  # the first joined but two values
    assert student.shape_of(student.positions["norm2"]) == (8, 8, 8)


def test_a_gate_can_be_dropped():
    start = trace(GatedNet(), IMAGE)
    student = remove(start, [find(start, "branch", "sigmoid")])
    assert "squeeze" not in student.positions
    assert "excite" not in student.positions
    assert "depthwise" in student.positions


def test_a_removal_that_adds_parameters_is_illegal():
    # Without the bottleneck, "wide" would read 32 channels instead of 4.
    layers = (
        Conv("stem", (-1,), 32, (1, 1)),
        Conv("narrow", (0,), 4, (1, 1)),
        Conv("wide", (1,), 32, (3, 3), padding=(1, 1)),
        AdaptiveAvgPool("pool", (2,)),
        Flatten("flatten", (3,)),
        Linear("fc", (4,), 10),
    )
    start = Architecture((1, 8, 8), layers)
    assert names(removals(start)) == [("unit", "wide")]


def test_a_removal_that_adds_multiply_accumulates_is_illegal():
    # The strided convolution has nearly all parameters, but what follows it would run
    # on 16 times as many places.
    layers = (
        Conv("stem", (-1,), 8, (1, 1)),
        Conv("strided", (0,), 8, (4, 4), stride=(4, 4)),
        Conv("last", (1,), 8, (3, 3), padding=(1, 1)),
        AdaptiveAvgPool("pool", (2,)),
        Flatten("flatten", (3,)),
        Linear("fc", (4,), 10),
    )
    start = Architecture((1, 16, 16), layers)
    assert names(removals(start)) == [("unit", "last")]


def test_an_addition_of_a_value_to_itself_disappears():
    layers = (
        Conv("stem", (-1,), 8, (1, 1)),
        Conv("a", (0,), 8, (1, 1)),
        Add("add", (0, 1)),
        Activation("relu", (2,), "relu"),
        AdaptiveAvgPool("pool", (3,)),
        Flatten("flatten", (4,)),
        Linear("fc", (5,), 10),
    )
    start = Architecture((1, 8, 8), layers)
    (unit,) = removals(start)  # its branch leaves the same network: one decision
    assert unit.form == "unit"
    assert "add" not in remove(start, [unit]).positions


def test_single_layers_are_decisions_but_those_the_paper_fixes():
    start = trace(PlainNet(), IMAGE)
    found = removals(start, "layer")
    assert {removal.form for removal in found} == {"layer"}
    # conv1 is the first layer; hidden and fc are linear
    expected = ["relu", "conv2", "relu_1", "conv3", "relu_2", "max_pool2d", "relu_3"]
    assert [removal.name for removal in found] == expected
    assert [removal.name for removal in found if not removal.must_save] == [
        name for name in expected if not name.startswith("conv")
    ]


def test_strided_convolutions_are_fixed_and_normalisations_are_not():
    start = trace(SmallResNet(), IMAGE)
    found = {removal.name for removal in removals(start, "layer")}
    assert "block2.conv1" not in found
    assert "block2.shortcut.0" not in found
    assert {"bn1", "block1.conv1", "block2.shortcut.1", "block3.relu"} <= found
    assert "adaptive_avg_pool2d" not in found


def test_a_max_pool_may_go_though_that_adds_parameters():
    start = trace(PlainNet(), IMAGE)
    (pool,) = [r for r in removals(start, "layer") if r.name == "max_pool2d"]
    student = remove(start, [pool])
    # hidden reads maps of 8x8 instead of 4x4
    assert student.num_params == start.num_params + 24 * 10 * (64 - 16)
    build(student, "meta")


def test_blocks_are_the_branches_alone():
    start = resnet18()
    blocks = removals(start, "block")
    assert blocks == tuple(r for r in removals(start) if r.form == "branch")
    assert removals(trace(PlainNet(), IMAGE), "block") == ()


def test_a_layer_scale_goes_with_its_unit():
    start = trace(ScaledNet(), IMAGE)
    named = [[start.layers[p].name for p in unit] for unit in units(start)]
    assert ["block1.narrow", "block1.scale", "block1.depth"] in named
    assert ["block1.depthwise", "block1.norm"] in named


def test_half_of_the_channels_can_be_dropped_before_a_shuffle():
    start = trace(ShuffledNet(), IMAGE)
    branches = [r.name for r in removals(start) if r.form == "branch"]
    # earlier halves would leave 9 channels to shuffle in 2 groups
    assert branches == ["chunk_2", "relu_4"]
    student = remove(start, [find(start, "branch", "relu_4")])
    (read,) = student.layers[student.positions["last"]].inputs
    assert student.shape_of(read) == (6, 8, 8)
    build(student, "meta")


def test_an_unknown_granularity_is_refused():
    with pytest.raises(ValueError, match=r"unknown granularity 'atom'; known: unit"):
        removals(resnet18(), "atom")


# Shrinkage.


def test_an_addition_ties_widths():
    start = resnet18()
    widths = [s for s in shrinkages(start) if s.variable == "width"]
    tied = next(s for s in widths if s.name == "conv1")
    assert [start.layers[p].name for p in tied.layers] == [
        "conv1",
        "layer1.0.conv2",
        "layer1.1.conv2",
    ]
    assert len(widths) == 12  # 4 stages, 8 insides of blocks; the classifier is fixed


def test_a_gate_ties_widths_and_depthwise_convolutions_follow():
    start = trace(GatedNet(), IMAGE)
    widths = {s.name: s for s in shrinkages(start) if s.variable == "width"}
    tied = [start.layers[p].name for p in widths["grouped"].layers]
    assert tied == ["grouped", "excite"]
    assert widths["grouped"].multiple == 4  # lcm of groups 4 (writes) and 2 (reads)
    assert widths["stem"].multiple == 4  # read in 4 groups
    assert "depthwise" not in widths
    student = shrink(start, {widths["grouped"]: 0.5})
    assert student.shape_of(student.positions["depthwise"])[0] == 8  # 6, ties up


def test_widths_are_multiples_of_a_block_where_layers_are_wider():
    decisions = shrinkages(resnet18(), ("width",), block=128)
    multiples = {each.name: each.multiple for each in decisions}
    assert multiples["conv1"] == 1  # 64 channels
    assert multiples["layer2.0.conv1"] == 1  # 128
    assert multiples["layer3.0.conv1"] == 128  # 256
    gated = shrinkages(trace(GatedNet(), IMAGE), ("width",), block=3)
    multiples = {s.name: s.multiple for s in gated}
    # The first two layers, of 8 and 12 channels, are of 4 groups.
    assert multiples == {"stem": 4, "grouped": 4, "squeeze": 3, "grouped2": 6}


def test_widths_that_reach_an_addition_through_a_concatenation_are_fixed():
    layers = (
        Conv("stem", (-1,), 8, (1, 1)),
        Conv("a", (0,), 4, (1, 1)),
        Conv("b", (0,), 4, (1, 1)),
        Concat("cat", (1, 2)),
        Add("add", (0, 3)),
        AdaptiveAvgPool("pool", (4,)),
        Flatten("flatten", (5,)),
        Linear("fc", (6,), 10),
    )
    assert shrinkages(Architecture((1, 8, 8), layers)) == ()


def test_unequal_widths_that_are_split_or_shuffled_together_are_fixed():
    start = trace(ShuffledNet(), IMAGE)  # 12 channels, then 6
    found = [s.name for s in shrinkages(start, ("width",))]
    assert found == ["inner1", "inner2", "last"]


def test_equal_widths_that_are_split_or_shuffled_together_shrink_alike():
    start = trace(DealtNet(), IMAGE)
    widths = {s.name: s for s in shrinkages(start, ("width",))}
    assert list(widths) == ["stem", "left", "inner1", "inner2", "last", "squeeze"]
    tied = [start.layers[p].name for p in widths["left"].layers]
    assert tied == ["left", "right", "outer1", "outer2"]
    assert widths["left"].multiple == 1  # 2 n channels, shuffled and split in 2
    assert widths["squeeze"].multiple == 3  # shuffled in 3 groups
    thin = shrink(start, {widths["left"]: 0.4})  # 8 to 3
    assert thin.shape_of(thin.positions["cat"]) == (6, 8, 8)
    assert thin.shape_of(thin.positions["chunk"]) == (3, 8, 8)


@pytest.mark.parametrize(
    ("parts", "groups", "multiple"),
    [
        (2, 1, 2),
        (3, 1, 3),
        # a third is split in 2
        (3, 2, 6),
        (4, 3, 12),
        # a half is shuffled in 4 groups: of 8
        (2, 4, 8),
    ],
)
def test_a_part_of_a_width_divides_as_often_as_it_is_split(parts, groups, multiple):
    layers = (
        Conv("wide", (-1,), 24, (1, 1)),
        Chunk("part", (0,), 0, parts),
        ChannelShuffle("shuffle", (1,), groups),
        SpatialMean("mean", (2,)),
        Linear("fc", (3,), 10),
    )
    (width,) = shrinkages(Architecture((1, 8, 8), layers))
    assert width.multiple == multiple


def test_what_is_not_allowed_to_shrink_holds_all_that_it_is_dealt_out_with():
    start = trace(DealtNet(), IMAGE)
    held = {s.name for s in shrinkages(start, ("width",), keep={"outer1"})}
    assert "left" not in held
    assert "inner1" in held


def test_a_layer_scale_has_the_width_of_what_it_scales():
    start = trace(ScaledNet(), IMAGE)
    rates = dict.fromkeys(shrinkages(start, ("width",)), 0.5)
    thin = shrink(start, rates)
    assert thin.shape_of(thin.positions["block1.scale"]) == (4, 8, 8)
    assert thin.params_per_layer[thin.positions["block1.scale"]] == 4


def test_widths_that_feed_a_concatenation_shrink_freely():
    start = trace(DenseNet(), IMAGE)
    widths = [s.name for s in shrinkages(start) if s.variable == "width"]
    assert widths == ["stem", "grow1", "grow2"]


@pytest.mark.parametrize(
    ("width", "rate", "multiple", "expected"),
    [
        (64, 0.1, 1, 6),  # 6.4
        (64, 0.5, 1, 32),
        (45, 0.7, 1, 32),  # 31.5 exactly, which binary makes 31.4999...
        (5, 0.1, 1, 1),  # 0.5, ties up
        (3, 0.1, 1, 1),  # 0.3, but positive
        (12, 0.5, 4, 8),  # 6 lies between 4 and 8
        (12, 0.4, 4, 4),
        (8, 1.0, 3, 8),  # never above the old width
        (512, 1.0, 1, 512),
    ],
)
def test_widths_become_the_nearest_multiple(width, rate, multiple, expected):
    assert shrunk_width(width, rate, multiple) == expected


@pytest.mark.parametrize(
    ("length", "rate", "expected"),
    [(3, 0.9, 1), (3, 1.0, 3), (5, 0.6, 3), (5, 0.5, 1), (7, 0.8, 5), (7, 0.1, 1)],
)
def test_by_the_old_rule_kernels_become_the_largest_odd_length(length, rate, expected):
    assert shrunk_length(length, rate, "floor") == expected


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        # At 0.1, 0.2, ..., 1: the nearest odd length, 2 and 4 go up.
        (3, [1, 1, 1, 1, 1, 1, 3, 3, 3, 3]),
        (5, [1, 1, 1, 3, 3, 3, 3, 5, 5, 5]),
        (7, [1, 1, 3, 3, 3, 5, 5, 5, 7, 7]),
        (1, [1] * 10),
    ],
)
def test_kernels_become_the_nearest_odd_length(length, expected):
    assert [shrunk_length(length, rate) for rate in RATES] == expected


def test_a_kernel_takes_its_padding_along():
    start = trace(PlainNet(), IMAGE)
    kernel = next(
        s for s in shrinkages(start) if (s.variable, s.name) == ("kernel", "conv3")
    )
    student = shrink(start, {kernel: 0.6})
    conv = student.layers[student.positions["conv3"]]
    assert (conv.kernel, conv.padding) == ((3, 3), (1, 1))
    assert student.shapes == start.shapes


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(1, 4, 4, 1, 1),  # even
        nn.Conv2d(1, 4, 3, 1, 0),  # the map would grow
        nn.Conv2d(1, 4, 1),  # nothing to shrink
        nn.Conv2d(1, 4, 3, 1, 1, dilation=2),  # padding of another dilation
    ],
)
def test_kernels_whose_shrinkage_changes_the_map_are_no_decision(conv):
    network = nn.Sequential(
        conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    found = shrinkages(trace(network, IMAGE), ("kernel",))
    assert found == ()


def test_a_padding_can_be_shrunk_illegally():
    start = trace(SmallResNet(), IMAGE)
    found = shrinkages(start, ("width", "kernel", "padding"))
    conv2 = next(
        s for s in found if (s.variable, s.name) == ("padding", "block1.conv2")
    )
    with pytest.raises(ShapeError, match="addition needs equal shapes"):
        shrink(start, {conv2: 0.5})
    stem = next(s for s in found if (s.variable, s.name) == ("padding", "conv1"))
    assert shrink(start, {stem: 0.5}).shapes[0] == (8, 6, 6)


def test_an_unknown_variable_is_refused():
    with pytest.raises(ValueError, match=r"unknown variable 'depth'; known: width"):
        shrinkages(resnet18(), ("width", "depth"))


def test_rates_of_one_change_nothing():
    start = resnet18()
    assert shrink(start, dict.fromkeys(shrinkages(start), 1.0)) == start


def test_the_smallest_of_everything_still_runs():
    start = trace(GatedNet(), IMAGE)
    student = shrink(start, dict.fromkeys(shrinkages(start), 0.1))
    assert build(student).eval()(torch.zeros(2, *IMAGE)).shape == (2, 10)


def test_arithmetic_with_numbers_is_no_part_of_a_unit():
    """Without ``right``, ``left / 3 - right(x)`` is ``left / 3 - x``."""
    start = trace(MixedNet(), IMAGE)
    (unit,) = [r for r in removals(start) if (r.form, r.name) == ("unit", "right")]
    assert [start.layers[position].name for position in unit.layers] == ["right"]
    names = [layer.name for layer in remove(start, [unit]).layers]
    assert "sub.negated" in names


def test_a_max_pool_over_padding_of_minus_infinity_stays():
    """Without it the student's logits would not be finite."""
    start = trace(PaddedNet(), IMAGE)
    pool = next(layer for layer in start.layers if isinstance(layer, MaxPool))
    assert pool.name not in [removal.name for removal in removals(start, "layer")]
