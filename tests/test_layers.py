"""Every kind of layer against the torch operation that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import (
    ACTIVATIONS,
    KINDS,
    Activation,
    AdaptiveAvgPool,
    Add,
    Affine,
    AsMap,
    AvgPool,
    BatchNorm,
    ChannelShuffle,
    ChannelSlice,
    Chunk,
    Clamp,
    Concat,
    Conv,
    DepthwiseConv,
    Dropout,
    Flatten,
    GroupNorm,
    InstanceNorm,
    Interpolate,
    Layer,
    LayerNorm,
    Linear,
    MaxPool,
    Multiply,
    Pad,
    PadChannels,
    PReLU,
    Scale,
    Shape,
    ShapeError,
    Slice,
    SpatialMean,
    StochasticDepth,
    from_dict,
    to_dict,
)
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.operations import OPERATIONS
from n2n_gym.resources.operators import NODES

IMAGE_SHAPE = (3, 8, 8)
EXAMPLES = settings(max_examples=200, deadline=None)


class Case(NamedTuple):
    """A layer, what it reads, and what it costs, worked out by hand."""

    layer: Layer
    inputs: tuple[Shape, ...]
    shape: Shape
    num_params: int = 0
    num_macs: int = 0


MAP, HALF, GATE, VECTOR = (6, 8, 8), (6, 4, 4), (6, 1, 1), (6,)
ONE, TWO = (0,), (0, 1)
CASES = (
    # 4 filters of 6*3*5 and a bias each, at 4*3 places
    Case(
        Conv("layer", ONE, 4, (3, 5), (2, 3), (1, 2)),
        (MAP,),
        (4, 4, 3),
        4 * 6 * 15 + 4,
        4 * 6 * 15 * 12,
    ),
    # 4 filters of 3*3*3: each group reads half of the 6 channels
    Case(
        Conv("layer", ONE, 4, (3, 3), padding=(1, 1), groups=2, bias=False),
        (MAP,),
        (4, 8, 8),
        4 * 3 * 9,
        4 * 3 * 9 * 64,
    ),
    # a dilated 3x3 window reaches over 5x5
    Case(
        Conv("layer", ONE, 1, (3, 3), dilation=(2, 2)),
        (MAP,),
        (1, 4, 4),
        6 * 9 + 1,
        6 * 9 * 16,
    ),
    Case(
        DepthwiseConv("layer", ONE, (3, 3), (2, 2), (1, 1)),
        (MAP,),
        HALF,
        6 * 9 + 6,
        6 * 9 * 16,
    ),
    Case(
        DepthwiseConv("layer", ONE, (5, 1), padding=(2, 0), bias=False),
        (MAP,),
        MAP,
        6 * 5,
        6 * 5 * 64,
    ),
    Case(Linear("layer", ONE, 10), (VECTOR,), (10,), 60 + 10, 60),
    Case(Linear("layer", ONE, 10, bias=False), (VECTOR,), (10,), 60, 60),
    Case(BatchNorm("layer", ONE), (MAP,), MAP, 12),
    Case(BatchNorm("layer", ONE), (VECTOR,), VECTOR, 12),
    Case(BatchNorm("layer", ONE, affine=False), (MAP,), MAP),
    Case(LayerNorm("layer", ONE), (MAP,), MAP, 12),
    Case(LayerNorm("layer", ONE), (VECTOR,), VECTOR, 12),
    Case(LayerNorm("layer", ONE, affine=False), (MAP,), MAP),
    Case(Scale("layer", ONE), (MAP,), MAP, 6),
    Case(Scale("layer", ONE, 1, 0), (VECTOR,), VECTOR, 6),
    # a matrix of 4 * 6 at each of 64 places
    Case(Linear("layer", ONE, 4), (MAP,), (4, 8, 8), 4 * 6 + 4, 4 * 6 * 64),
    *(Case(Activation("layer", ONE, name), (MAP,), MAP) for name in ACTIVATIONS),
    Case(Dropout("layer", ONE), (VECTOR,), VECTOR),
    Case(Dropout("layer", ONE, channelwise=True), (MAP,), MAP),
    Case(StochasticDepth("layer", ONE, 0.2), (MAP,), MAP),
    Case(MaxPool("layer", ONE, (3, 3), (2, 2), (1, 1)), (MAP,), HALF),
    Case(MaxPool("layer", ONE, (3, 3), (2, 2)), (MAP,), (6, 3, 3)),
    Case(MaxPool("layer", ONE, (3, 3), (2, 2), ceil_mode=True), (MAP,), HALF),
    Case(AvgPool("layer", ONE, (2, 4), (2, 4)), (MAP,), (6, 4, 2)),
    Case(AvgPool("layer", ONE, (3, 3), (2, 2), ceil_mode=True), (MAP,), HALF),
    Case(AdaptiveAvgPool("layer", ONE), (MAP,), GATE),
    Case(AdaptiveAvgPool("layer", ONE, (3, 5)), (MAP,), (6, 3, 5)),
    Case(SpatialMean("layer", ONE), (MAP,), VECTOR),
    Case(SpatialMean("layer", ONE, keepdim=True), (MAP,), GATE),
    Case(Flatten("layer", ONE), (HALF,), (6 * 16,)),
    Case(Chunk("layer", ONE, 1, 2), (MAP,), (3, 8, 8)),
    Case(Chunk("layer", ONE, 0, 3), (VECTOR,), (2,)),
    Case(ChannelShuffle("layer", ONE, 3), (MAP,), MAP),
    Case(GroupNorm("layer", ONE, 3), (MAP,), MAP, 12),
    Case(GroupNorm("layer", ONE, 2, affine=False), (MAP,), MAP),
    Case(InstanceNorm("layer", ONE), (MAP,), MAP),
    Case(InstanceNorm("layer", ONE, affine=True), (MAP,), MAP, 12),
    Case(PReLU("layer", ONE), (MAP,), MAP, 6),
    Case(PReLU("layer", ONE, channelwise=False), (MAP,), MAP, 1),
    Case(Clamp("layer", ONE, -1.0, 2.0), (MAP,), MAP),
    Case(Affine("layer", ONE, 0.5, 3.0), (VECTOR,), VECTOR),
    Case(Pad("layer", ONE, 1, 2, 0, 3), (MAP,), (6, 11, 11)),
    Case(Pad("layer", ONE, -1, 0, -3, 1), (MAP,), (6, 7, 6)),
    Case(Pad("layer", ONE, bottom=1, lowest=True), (MAP,), (6, 9, 8)),
    Case(PadChannels("layer", ONE, 1, 2), (MAP,), (9, 8, 8)),
    # of rows 1 to 7 every third, of columns every second
    Case(Slice("layer", ONE, (3, 2), (1, 0)), (MAP,), (6, 3, 4)),
    Case(ChannelSlice("layer", ONE, 1, 5, 6), (MAP,), (4, 8, 8)),
    Case(ChannelSlice("layer", ONE, 0, 1, 6), (VECTOR,), (1,)),
    Case(Interpolate("layer", ONE, (2.0, 1.5)), (MAP,), (6, 16, 12)),
    Case(Interpolate("layer", ONE, size=(3, 9), mode="bilinear"), (MAP,), (6, 3, 9)),
    Case(AsMap("layer", ONE), (VECTOR,), GATE),
    Case(Add("layer", TWO), (MAP, MAP), MAP),
    Case(Add("layer", (0, 1, 2)), (VECTOR, VECTOR, VECTOR), VECTOR),
    Case(Multiply("layer", TWO), (MAP, MAP), MAP),
    Case(Multiply("layer", TWO), (MAP, GATE), MAP),
    Case(Multiply("layer", TWO), (GATE, MAP), MAP),
    Case(Multiply("layer", TWO), (VECTOR, VECTOR), VECTOR),
    Case(Concat("layer", TWO), (MAP, (2, 8, 8)), (8, 8, 8)),
    Case(Concat("layer", (0, 1, 0)), (VECTOR, (4,)), (16,)),
)


def describe(case: Case) -> str:
    return f"{case.layer.kind}-{case.inputs}"


def read_by(case: Case) -> tuple[Shape, ...]:
    return tuple(case.inputs[position] for position in case.layer.inputs)


def feeders(shapes: tuple[Shape, ...]) -> tuple[list[Layer], list[int]]:
    """Layers that make values of these shapes from the image, and where they stand."""
    layers: list[Layer] = []
    positions = []
    for i, shape in enumerate(shapes):
        layers.append(Conv(f"width{i}", (-1,), shape[0], (1, 1)))
        last = (len(layers) - 1,)
        if len(shape) == 3:
            layers.append(AdaptiveAvgPool(f"size{i}", last, shape[1:]))
        else:
            layers.append(SpatialMean(f"size{i}", last))
        positions.append(len(layers) - 1)
    return layers, positions


def network_of(case: Case) -> Architecture:
    layers, positions = feeders(case.inputs)
    entries = to_dict(case.layer)
    entries["inputs"] = [positions[position] for position in case.layer.inputs]
    return Architecture(IMAGE_SHAPE, (*layers, from_dict(entries)))


def count_macs(architecture: Architecture) -> tuple[Shape, int]:
    """The shape of what comes out, and half of torch's count of operations."""
    network = build(architecture, "meta").eval()
    with FlopCounterMode(display=False) as counter:
        output = network(torch.empty(1, *IMAGE_SHAPE, device="meta"))
    return tuple(output.shape[1:]), counter.get_total_flops() // 2


def test_every_kind_has_a_case():
    assert {case.layer.kind for case in CASES} == set(KINDS)
    assert set(KINDS.values()) == final_classes(Layer)
    assert set(KINDS.values()) == set(OPERATIONS) == set(NODES)


def final_classes(of: type) -> set[type]:
    """The subclasses that have none themselves."""
    below = of.__subclasses__()
    return set().union(*map(final_classes, below)) if below else {of}


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_costs_are_what_one_works_out_by_hand(case):
    inputs = read_by(case)
    assert case.layer.shape(*inputs) == case.shape
    assert case.layer.num_params(*inputs) == case.num_params
    assert case.layer.num_macs(*inputs) == case.num_macs


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_costs_are_what_torch_counts(case):
    architecture = network_of(case)
    parameters = build(architecture, "meta").named_parameters()
    num_params = sum(p.numel() for name, p in parameters if name.startswith("layer"))
    assert num_params == case.num_params

    shape, num_macs = count_macs(architecture)
    _, before = count_macs(Architecture(IMAGE_SHAPE, architecture.layers[:-1]))
    assert shape == case.shape
    assert num_macs - before == case.num_macs


# Sliding windows


def pairs(smallest: int, largest: int) -> st.SearchStrategy[tuple[int, int]]:
    sides = st.integers(smallest, largest)
    return st.tuples(sides, sides)


def torch_shape(module: nn.Module, shape: Shape) -> Shape | None:
    """The shape of torch's output for a map of this shape; None if torch refuses it."""
    try:
        return tuple(module(torch.zeros(1, *shape)).shape[1:])
    except RuntimeError:
        return None


def own_shape(layer: Layer, shape: Shape) -> Shape | None:
    try:
        return layer.shape(shape)
    except ShapeError:
        return None


WINDOWS = {
    "size": pairs(1, 12),
    "kernel": pairs(1, 5),
    "stride": pairs(1, 4),
    "padding": pairs(0, 3),
}


@EXAMPLES
@given(**WINDOWS, dilation=pairs(1, 3))
def test_convolutions_agree_with_torch(size, kernel, stride, padding, dilation):
    module = nn.Conv2d(2, 3, kernel, stride, padding, dilation)
    layer = Conv("conv", (-1,), 3, kernel, stride, padding, dilation)
    assert own_shape(layer, (2, *size)) == torch_shape(module, (2, *size))


@EXAMPLES
@given(**WINDOWS, dilation=pairs(1, 3))
def test_depthwise_convolutions_agree_with_torch(
    size, kernel, stride, padding, dilation
):
    module = nn.Conv2d(2, 2, kernel, stride, padding, dilation, groups=2)
    layer = DepthwiseConv("conv", (-1,), kernel, stride, padding, dilation)
    assert own_shape(layer, (2, *size)) == torch_shape(module, (2, *size))


@EXAMPLES
@given(**WINDOWS, dilation=pairs(1, 3))
@example((8, 8), (2, 2), (2, 2), (2, 2), (1, 1))  # padded by more than half a window
def test_max_pools_agree_with_torch(size, kernel, stride, padding, dilation):
    module = nn.MaxPool2d(kernel, stride, padding, dilation)
    layer = MaxPool("pool", (-1,), kernel, stride, padding, dilation)
    assert own_shape(layer, (2, *size)) == torch_shape(module, (2, *size))


@EXAMPLES
@given(**WINDOWS)
@example((8, 8), (2, 2), (2, 2), (2, 2))
def test_average_pools_agree_with_torch(size, kernel, stride, padding):
    module = nn.AvgPool2d(kernel, stride, padding)
    layer = AvgPool("pool", (-1,), kernel, stride, padding)
    assert own_shape(layer, (2, *size)) == torch_shape(module, (2, *size))


@EXAMPLES
@given(**WINDOWS, dilation=pairs(1, 3), is_max=st.booleans())
@example((2, 2), (3, 3), (2, 2), (0, 0), (1, 1), True)  # the window is the larger one
@example((6, 6), (1, 1), (4, 4), (0, 0), (1, 1), True)  # the last one starts outside
def test_ceil_mode_pools_agree_with_torch(
    size, kernel, stride, padding, dilation, is_max
):
    module: nn.Module
    layer: Layer
    if is_max:
        module = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=True)
        layer = MaxPool("pool", (-1,), kernel, stride, padding, dilation, True)
    else:
        module = nn.AvgPool2d(kernel, stride, padding, ceil_mode=True)
        layer = AvgPool("pool", (-1,), kernel, stride, padding, ceil_mode=True)
    assert own_shape(layer, (2, *size)) == torch_shape(module, (2, *size))


# What cannot exist


@pytest.mark.parametrize(
    ("layer", "inputs", "message"),
    [
        (
            Add("add", TWO),
            ((64, 8, 8), (128, 4, 4)),
            "addition needs equal shapes, got ((64, 8, 8), (128, 4, 4))",
        ),
        (Add("add", ONE), (MAP,), "addition needs equal shapes, got ((6, 8, 8),)"),
        (Add("add", TWO), (MAP, GATE), "addition needs equal shapes"),
        (Multiply("mul", TWO), (MAP, (1, 8, 8)), "got ((6, 8, 8), (1, 8, 8))"),
        (Multiply("mul", TWO), (MAP, (5, 1, 1)), "got ((6, 8, 8), (5, 1, 1))"),
        (Multiply("mul", TWO), (MAP, VECTOR), "got ((6, 8, 8), (6,))"),
        (Multiply("mul", ONE), (MAP,), "a gate must have the shape of its map"),
        (Concat("cat", TWO), (MAP, HALF), "got ((6, 8, 8), (6, 4, 4))"),
        (Concat("cat", TWO), (MAP, VECTOR), "got ((6, 8, 8), (6,))"),
        (
            Conv("conv", ONE, 4, (1, 1), groups=4),
            (MAP,),
            "6 -> 4 channels do not divide into 4 groups",
        ),
        (
            Conv("conv", ONE, 4, (1, 1), groups=3),
            (MAP,),
            "6 -> 4 channels do not divide into 3 groups",
        ),
        (Conv("conv", ONE, 4, (9, 9)), (MAP,), "(9, 9) window with padding (0, 0)"),
        (Conv("conv", ONE, 4, (1, 1)), (VECTOR,), "Conv needs one map, got ((6,),)"),
        (DepthwiseConv("conv", ONE, (9, 1)), (MAP,), "does not fit a (8, 8) map"),
        (Linear("fc", TWO, 4), (MAP, MAP), "Linear needs one input"),
        (Chunk("chunk", ONE, 0, 4), (MAP,), "does not split into 4 equal parts"),
        (ChannelShuffle("mix", ONE, 4), (MAP,), "6 channels do not divide into 4"),
        (ChannelShuffle("mix", ONE, 2), (VECTOR,), "ChannelShuffle needs one map"),
        (BatchNorm("norm", TWO), (MAP, MAP), "BatchNorm needs one input"),
        (MaxPool("pool", ONE, (2, 2), (2, 2)), (VECTOR,), "MaxPool needs one map"),
        (AvgPool("pool", ONE, (9, 9), (1, 1)), (MAP,), "does not fit a (8, 8) map"),
        (AdaptiveAvgPool("pool", ONE), (VECTOR,), "AdaptiveAvgPool needs one map"),
        (SpatialMean("mean", ONE), (VECTOR,), "SpatialMean needs one map"),
        (Flatten("flatten", ONE), (VECTOR,), "Flatten needs one map"),
        (GroupNorm("norm", ONE, 4), (MAP,), "6 channels do not divide into 4"),
        (GroupNorm("norm", ONE, 6), (GATE,), "a map of more than one place"),
        (InstanceNorm("norm", ONE), (GATE,), "a map of more than one place"),
        (PadChannels("pad", ONE, 1), (VECTOR,), "PadChannels needs one map"),
        (Pad("pad", ONE, top=-8), (MAP,), "nothing is left of a (6, 8, 8) map"),
        (Pad("pad", ONE, top=-5, bottom=-3), (MAP,), "nothing is left"),
        (Pad("pad", ONE, top=-9, bottom=4), (MAP,), "nothing is left"),
        (Slice("cut", ONE, (2, 2), (8, 0)), (MAP,), "nothing is left"),
        (ChannelSlice("cut", ONE, 0, 2, 5), (MAP,), "some of 5 channels"),
        (Interpolate("up", ONE, (0.1, 1.0)), (MAP,), "nothing is left"),
        (AsMap("map", ONE), (MAP,), "AsMap needs one vector"),
    ],
)
def test_what_a_layer_cannot_take_is_named_with_the_layer(layer, inputs, message):
    with pytest.raises(ShapeError) as error:
        layer.shape(*inputs)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{layer.name}: ")


# The stored form


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_the_stored_form_gives_the_layer_back(case):
    assert from_dict(to_dict(case.layer)) == case.layer


@pytest.mark.parametrize("part", [-1, 2])
def test_there_is_no_part_beyond_the_last(part):
    with pytest.raises(ValueError, match=f"no part {part} of 2"):
        Chunk("chunk", ONE, part, 2)


def test_fields_at_their_defaults_are_left_out():
    assert to_dict(Conv("conv", (-1,), 8, (3, 3), padding=(1, 1))) == {
        "kind": "Conv",
        "name": "conv",
        "inputs": [-1],
        "width": 8,
        "kernel": [3, 3],
        "padding": [1, 1],
    }
    assert to_dict(Add("add", (1, 0))) == {
        "kind": "Add",
        "name": "add",
        "inputs": [1, 0],
    }


def test_fields_away_from_their_defaults_are_all_stored():
    layer = Conv("conv", (-1,), 8, (3, 3), (2, 2), (1, 1), (2, 2), 4, False)
    assert set(to_dict(layer)) == {"kind"} | {field.name for field in fields(layer)}


@pytest.mark.parametrize(
    ("entries", "offending"),
    [
        ({"kind": "Warp", "name": "a", "inputs": [-1]}, "'Warp'"),
        ({"name": "a", "inputs": [-1]}, "None"),
        ({"kind": "Layer", "name": "a", "inputs": [-1]}, "'Layer'"),
        ({"kind": "Add", "name": "a", "inputs": [-1], "colour": "red"}, "colour"),
        ({"kind": "Conv", "name": "a", "inputs": [-1]}, "not a Conv layer"),
        (
            {"kind": "Activation", "name": "a", "inputs": [-1], "function": "swoosh"},
            "'swoosh'",
        ),
    ],
)
def test_entries_that_are_no_layer_are_refused_by_name(entries, offending):
    with pytest.raises(ValueError, match=offending):
        from_dict(entries)


@pytest.mark.parametrize(
    ("make", "known"),
    [
        (lambda: from_dict({"kind": "Warp"}), tuple(KINDS)),
        (lambda: Activation("a", (-1,), "swoosh"), ACTIVATIONS),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(
    make: Callable[[], Layer], known
):
    with pytest.raises(ValueError, match="unknown") as error:
        make()
    assert all(name in str(error.value) for name in known)
