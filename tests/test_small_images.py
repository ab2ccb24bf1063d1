"""Torchvision's networks on images smaller than they were made for."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import models

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import (
    AdaptiveAvgPool,
    Conv,
    DepthwiseConv,
    Linear,
    MaxPool,
)
from n2n_gym.networks.small_images import fit
from n2n_gym.pytorch.build import build
from n2n_gym.pytorch.trace import trace
from tests.networks import TEACHERS

FITTED = (*TEACHERS, "alexnet")


@cache
def traced(name: str) -> Architecture:
    with torch.device("meta"):
        module = models.get_model(name, weights=None, num_classes=10)
    return trace(module, (3, 224, 224))


def fitted(name: str, side: int, channels: int = 3) -> Architecture:
    return fit(traced(name), (channels, side, side))


def sides(architecture: Architecture, kind: type) -> list[int]:
    """The heights of what the layers of a kind emit."""
    return [
        shape[1]
        for layer, shape in zip(architecture.layers, architecture.shapes, strict=True)
        if isinstance(layer, kind)
    ]


def stage_sides(architecture: Architecture) -> dict[str, set[int]]:
    """The heights of the maps in each of a network's top modules."""
    stages: dict[str, set[int]] = {}
    for layer, shape in zip(architecture.layers, architecture.shapes, strict=True):
        if len(shape) == 3:
            stages.setdefault(layer.name.split(".")[0], set()).add(shape[1])
    return stages


@pytest.mark.parametrize(
    ("name", "num_params"),
    [
        # torchvision's with 10 classes, its 7x7 stem 3x3: 64 * 3 * (49 - 9) fewer
        ("resnet18", 11_181_642 - 7_680),
        ("resnet34", 21_289_802 - 7_680),
        # 9 weights for each pair of widths, 3 more parameters for each width: a bias,
        # and the normalisation's two; 512 * 10 + 10 for the classifier
        ("vgg11_bn", 9 * 1_024_192 + 3 * 2_752 + 5_130),
        ("vgg13_bn", 9 * 1_044_672 + 3 * 2_944 + 5_130),
        ("vgg19_bn", 9 * 2_224_320 + 3 * 5_504 + 5_130),
        # its 3x3 stem and its only linear layer stay
        ("mobilenet_v2", 2_236_682),
    ],
)
def test_parameters_on_cifar_images(name, num_params):
    assert fitted(name, 32).num_params == num_params


def test_the_parameters_that_are_known():
    assert fitted("resnet18", 32).num_params == 11_173_962
    assert fitted("resnet34", 32).num_params == 21_282_122
    assert fitted("vgg13_bn", 32).num_params == 9_416_010
    assert fitted("vgg19_bn", 32).num_params == 20_040_522


@pytest.mark.parametrize("name", ["resnet18", "vgg13_bn"])
@pytest.mark.parametrize("side", [8, 28, 64])
def test_the_size_of_the_images_does_not_change_the_parameters(name, side):
    assert fitted(name, side).num_params == fitted(name, 32).num_params
    # one channel: the 64 stem filters lose two slices of 3x3
    gray = fitted(name, side, channels=1).num_params
    assert gray == fitted(name, 32).num_params - 64 * 2 * 9


@pytest.mark.parametrize(
    ("side", "stem", "pool", "stages"),
    [
        (8, 8, None, (8, 4, 2, 2)),
        (28, 28, None, (28, 14, 7, 4)),
        (32, 32, None, (32, 16, 8, 4)),
        (33, 33, 17, (17, 9, 5, 3)),
        (64, 64, 32, (32, 16, 8, 4)),
        (65, 33, 17, (17, 9, 5, 3)),
        (224, 112, 56, (56, 28, 14, 7)),
    ],
)
@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_maps_of_resnets(name, side, stem, pool, stages):
    expected = {name: {stem} for name in ("conv1", "bn1", "relu")}
    expected |= {f"layer{i}": {stage} for i, stage in enumerate(stages, 1)}
    if pool is not None:
        expected["maxpool"] = {pool}
    assert stage_sides(fitted(name, side)) == {**expected, "avgpool": {1}}


@pytest.mark.parametrize(
    ("side", "convs", "pools"),
    [
        (8, [8, 8, 4, 4, 2, 2, 2, 2, 2, 2], [4, 2]),
        (28, [28, 28, 14, 14, 7, 7, 3, 3, 3, 3], [14, 7, 3]),
        (32, [32, 32, 16, 16, 8, 8, 4, 4, 2, 2], [16, 8, 4, 2]),
        (64, [64, 64, 32, 32, 16, 16, 8, 8, 4, 4], [32, 16, 8, 4, 2]),
        (224, [224, 224, 112, 112, 56, 56, 28, 28, 14, 14], [112, 56, 28, 14, 7]),
    ],
)
def test_maps_of_vgg13(side, convs, pools):
    architecture = fitted("vgg13_bn", side)
    assert sides(architecture, Conv) == convs
    assert sides(architecture, MaxPool) == pools


def test_a_pool_after_a_stem_without_stride_stays():
    convs = sides(fitted("vgg11_bn", 32), Conv)
    assert convs == [32, 16, 8, 8, 4, 4, 2, 2]


@pytest.mark.parametrize(
    ("side", "strided"),
    [
        (8, (4, 2, 2, 2)),
        (28, (14, 7, 4, 2)),
        (32, (16, 8, 4, 2)),
        (64, (32, 16, 8, 4)),
    ],
)
def test_maps_of_mobilenet(side, strided):
    depthwise = sides(fitted("mobilenet_v2", side), DepthwiseConv)
    # blocks 1, 2-3, 4-6, 7-13 and 14-17; torchvision's strides are in 2, 4, 7 and 14
    assert depthwise[0] == side
    assert depthwise[1:3] == [strided[0]] * 2
    assert depthwise[3:6] == [strided[1]] * 3
    assert depthwise[6:13] == [strided[2]] * 7
    assert depthwise[13:] == [strided[3]] * 4


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"),
    [(64, (3, 3), (1, 1), (1, 1)), (65, (7, 7), (2, 2), (3, 3))],
)
def test_the_stem_keeps_the_resolution_up_to_64(side, kernel, stride, padding):
    stem = fitted("resnet18", side).layers[0]
    assert isinstance(stem, Conv)
    assert (stem.kernel, stem.stride, stem.padding) == (kernel, stride, padding)


def test_the_larger_side_of_an_image_decides():
    architecture = fit(traced("resnet18"), (3, 16, 65))
    assert architecture.layers[0] == traced("resnet18").layers[0]
    architecture = fit(traced("resnet18"), (3, 64, 16))
    assert architecture.shapes[0] == (64, 64, 16)


@pytest.mark.parametrize("name", ["vgg11_bn", "vgg19_bn", "alexnet"])
def test_hidden_linear_layers_become_global_pooling_up_to_64(name):
    small, large = fitted(name, 64), fitted(name, 65)
    linears = [layer.name for layer in small.layers if isinstance(layer, Linear)]
    assert linears == ["classifier.6"]
    pool, flatten, classifier = small.layers[-3:]
    assert isinstance(pool, AdaptiveAvgPool)
    assert pool.size == (1, 1)
    assert flatten.inputs == (len(small.layers) - 3,)
    assert classifier.inputs == (len(small.layers) - 2,)
    assert sum(isinstance(layer, Linear) for layer in large.layers) == 3


@pytest.mark.parametrize("name", FITTED)
def test_images_it_was_made_for_leave_a_network_as_traced(name):
    assert fitted(name, 224) == traced(name)


@pytest.mark.parametrize("name", FITTED)
@settings(max_examples=40, deadline=None)
@given(size=st.tuples(st.integers(8, 100), st.integers(8, 100)))
def test_no_map_is_under_2x2_before_the_global_pool(name, size):
    architecture = fit(traced(name), (3, *size))
    pool = next(
        position
        for position, layer in enumerate(architecture.layers)
        if isinstance(layer, AdaptiveAvgPool)
    )
    assert min(min(shape[1:]) for shape in architecture.shapes[:pool]) >= 2


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("side", [8, 32, 64])
def test_layers_keep_their_names_and_order(name, side):
    names = [layer.name for layer in traced(name).layers]
    kept = [layer.name for layer in fitted(name, side).layers]
    assert kept == [name for name in names if name in set(kept)]


@pytest.mark.parametrize("side", [8, 28])
def test_vgg_runs_on_digits_and_mnist(side):
    network = build(fitted("vgg13_bn", side, channels=1)).eval()
    with torch.no_grad():
        logits = network(torch.zeros(2, 1, side, side))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()
