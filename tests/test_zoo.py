"""All of torchvision's classification networks: what becomes of each."""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from benchmarks.random_edits import BLOCK, FAMILIES, TEACHERS, play_block
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import (
    GRANULARITIES,
    removals,
    shrinkages,
    without,
)
from n2n_gym.networks.layers import (
    AdaptiveAvgPool,
    Multiply,
    SpatialMean,
)
from n2n_gym.networks.small_images import fit
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.trace import TraceError, trace
from n2n_gym.teachers.zoo import torchvision_network
from tests.test_trace import assert_same

NAMES = tuple(models.list_models(module=models))
ATTENTION = tuple(n for n in NAMES if n.startswith(("maxvit", "swin", "vit")))
CNNS = tuple(name for name in NAMES if name not in ATTENTION)
TABLE = Path(__file__).parent.parent / "docs" / "teachers.md"
SIDES = (8, 9, 15, 16, 28, 32, 33, 48, 64)


# One of each family answers at once, the others take minutes together.
SMALL = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0"),
    *("efficientnet_v2_s", "googlenet", "inception_v3", "mnasnet0_5", "mobilenet_v2"),
    *("mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18"),
    *("resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "vgg11_bn"),
)
EACH = [
    pytest.param(name, marks=[pytest.mark.exhaustive] * (name not in SMALL))
    for name in CNNS
]


def make(name: str, classes: int = 10) -> nn.Module:
    """The network on the meta device, without auxiliary heads."""
    has_heads = name in ("googlenet", "inception_v3")
    options = {"aux_logits": False, "init_weights": False} if has_heads else {}
    return torchvision_network(name, classes, **options).to("meta")


@cache
def traced(name: str) -> Architecture | TraceError:
    try:
        return trace(make(name), (3, 224, 224))
    except TraceError as error:
        return error


@cache
def fitted(name: str, side: int = 32) -> Architecture:
    return fit(traced(name), (3, side, side))


@pytest.mark.exhaustive
def test_68_of_the_80_names_are_traced():
    outcomes = Counter(type(traced(name)) for name in NAMES)
    assert outcomes == {Architecture: 68, TraceError: 12}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_is_refused_with_the_node(name):
    assert re.match(r"node '[\w.]+' (\((get attr|call)|of type)", str(traced(name)))


@pytest.mark.parametrize("name", EACH)
def test_parameters_and_logits_are_torchvisions(name):
    whole = trace(make(name, classes=1000), (3, 224, 224))
    if name not in ("googlenet", "inception_v3"):  # counted with auxiliary heads there
        published = models.get_model_weights(name).DEFAULT.meta["num_params"]
        assert whole.num_params == published
    side = 80 if name == "inception_v3" else 32 if "gf" in name else 64
    assert_same(make(name).to_empty(device="cpu"), (3, side, side))


@pytest.mark.parametrize("name", EACH)
def test_every_traced_network_fits_images_from_8_to_64(name):
    whole = traced(name)
    stem = whole.layers[whole.first]
    for side in SIDES:
        small = fitted(name, side)
        names = [layer.name for layer in small.layers]
        assert names == [x.name for x in whole.layers if x.name in set(names)]
        assert small.layers[small.first].stride == (1, 1)
        assert last_map(small) >= 2
        kernel = small.layers[small.first].kernel
        fewer = stem.width * 3 * (stem.kernel[0] ** 2 - kernel[0] ** 2)
        if not name.startswith(("vgg", "alexnet")):  # their hidden layers go as well
            assert small.num_params == whole.num_params - fewer
    student = build(fitted(name, 8), "meta").eval()
    assert student(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 10)


def last_map(architecture: Architecture) -> int:
    """The smaller side of the map that the last global pool averages."""
    pools = [
        layer.inputs[0]
        for layer in architecture.layers
        if isinstance(layer, (AdaptiveAvgPool, SpatialMean))
    ]
    return min(architecture.shape_of(pools[-1])[1:])


@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_convolutions_beside_a_pool_that_went_keep_the_size_too(side):
    # Inception halves a map by unpadded convolutions beside a pool, and joins them.
    small = fitted("inception_v3", side)
    joined = small.positions["Mixed_7a.cat"]
    read = {small.shape_of(p)[1:] for p in small.layers[joined].inputs}
    assert len(read) == 1
    assert ("Mixed_7a.max_pool2d" in small.positions) == (side == 64)


def test_an_even_kernel_is_dilated_where_it_must_keep_the_size():
    # ConvNeXt halves 8x8 maps three times: the third time there are 2x2 places
    down = fitted("convnext_tiny", 8).layers
    (kept,) = (x for x in down if x.name == "features.6.1")
    assert (kept.kernel, kept.stride) == ((2, 2), (1, 1))
    assert (kept.padding, kept.dilation) == ((1, 1), (2, 2))


def test_auxiliary_heads_are_off():
    for name in ("googlenet", "inception_v3"):
        assert not [x for x in fitted(name).layers if "aux" in x.name.lower()]


def test_a_gate_can_be_dropped():
    start = fitted("efficientnet_b0")
    gates = [
        removal
        for removal in removals(start, "block")
        if isinstance(start.layers[start.readers[removal.layers[-1]][0]], Multiply)
    ]
    assert len(gates) == 16  # one in each block
    left = start.rewire(frozenset(), gates[0].dropped)
    assert set(gates[0].layers).isdisjoint(left.inputs)


@pytest.mark.slow
def test_a_thousand_random_sequences_are_all_well():
    # the full run is a script under benchmarks
    blocks = [play_block(number) for number in range(1000 // BLOCK)]
    assert not [block["failures"] for block in blocks if block["failures"]]
    assert sum(b["built"] for b in blocks) >= 40
    teachers = sum((b["teachers"] for b in blocks), Counter())
    assert len(teachers) == len(TEACHERS) == 42
    assert len(FAMILIES) == 25


# The table in the documentation


def take_all(start: Architecture, granularity: str) -> float:
    """How many times smaller the network is after all legal removals."""
    left = without(start, removals(start, granularity))
    return start.num_params / left.num_params


def row(name: str) -> str:
    start = fitted(name)
    decisions = [str(len(removals(start, g))) for g in GRANULARITIES]
    widths = len(shrinkages(start, ("width",)))
    times = take_all(start, "unit")
    cells = [
        f"`{name}`",
        str(len(start.layers)),
        *decisions,
        str(widths),
        f"{start.num_params / 1e6:.2f} M",
        f"{start.num_macs / 1e6:,.0f} M",
        f"{times:,.0f}x" if times >= 10 else f"{times:.1f}x",
    ]
    return f"| {' | '.join(cells)} |"


def page() -> str:
    header = [
        "layers",
        *(f"removals, {granularity}" for granularity in GRANULARITIES),
        "widths",
        "parameters",
        "MACs",
        "removal alone",
    ]
    return "\n".join(
        [
            "# Teachers by name",
            "",
            "The classification networks of torchvision that can be teachers, here "
            "adapted to 32x32 colour images of 10 classes.",
            "",
            "- **layers**: the number of layers, including joins and pools.",
            "- **removals**: the number of decisions of `N2NRemove-v0` at each "
            "`granularity`; 0 means that nothing can be removed.",
            "- **widths**: the number of groups of tied widths that `N2NShrink-v0` can "
            "shrink.",
            "- **removal alone**: how many times smaller the network is after every "
            "legal removal, in order, at granularity `unit`.",
            "",
            f"| name | {' | '.join(header)} |",
            f"|---|{'---:|' * len(header)}",
            *(row(name) for name in CNNS),
            "",
            f"The other {len(ATTENTION)} names use attention and raise a `TraceError` "
            f"that names the node: {', '.join(f'`{name}`' for name in ATTENTION)}.",
            "",
            "This page is written by `N2N_WRITE_DOCS=1 pytest -m exhaustive "
            "tests/test_zoo.py -k table`, and the test fails when it is out of date.",
            "",
        ]
    )


@pytest.mark.exhaustive
def test_the_table_of_teachers_is_up_to_date():
    expected = page()
    if os.environ.get("N2N_WRITE_DOCS"):
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(expected)
    assert TABLE.read_text() == expected
