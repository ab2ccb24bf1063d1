from dataclasses import FrozenInstanceError, replace

import pytest

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import (
    Activation,
    AdaptiveAvgPool,
    Add,
    Conv,
    Flatten,
    Linear,
    ShapeError,
)


def residual() -> Architecture:
    layers = (
        Conv("stem", (-1,), 4, (3, 3), padding=(1, 1), bias=False),
        Conv("conv", (0,), 4, (1, 1)),
        Add("add", (1, 0)),
        Activation("relu", (2,), "relu"),
        AdaptiveAvgPool("pool", (3,)),
        Flatten("flatten", (4,)),
        Linear("fc", (5,), 10),
    )
    return Architecture((1, 8, 8), layers)


def test_costs_are_what_one_works_out_by_hand():
    architecture = residual()
    # stem 4*1*9, conv 4*4 + 4, fc 4*10 + 10
    assert architecture.params_per_layer == (36, 20, 0, 0, 0, 0, 50)
    assert architecture.num_params == 106
    # stem 36 * 64 places, conv 16 * 64, fc 40
    assert architecture.num_macs == 36 * 64 + 16 * 64 + 40
    assert architecture.shapes[2:] == ((4, 8, 8), (4, 8, 8), (4, 1, 1), (4,), (10,))


def test_what_cannot_exist_is_a_shape_error():
    layers = list(residual().layers)
    layers[1] = replace(layers[1], width=5)
    with pytest.raises(ShapeError, match=r"addition needs equal shapes.*5, 8, 8"):
        Architecture((1, 8, 8), tuple(layers))


def test_a_layer_cannot_read_a_later_one():
    layers = list(residual().layers)
    layers[1] = replace(layers[1], inputs=(2,))
    with pytest.raises(ValueError, match=r"layer 1 \(conv\) reads \(2,\)"):
        Architecture((1, 8, 8), tuple(layers))


def test_names_are_unique():
    layers = list(residual().layers)
    layers[1] = replace(layers[1], name="stem")
    with pytest.raises(ValueError, match="not unique"):
        Architecture((1, 8, 8), tuple(layers))


def test_it_needs_layers_and_an_image():
    with pytest.raises(ValueError, match="at least one layer"):
        Architecture((1, 8, 8), ())
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        Architecture((8, 8), residual().layers)


def test_it_is_immutable():
    with pytest.raises(FrozenInstanceError):
        residual().input_shape = (3, 8, 8)


def test_json_gives_the_same_architecture_back():
    architecture = residual()
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    assert again.fingerprint == architecture.fingerprint


def test_names_are_part_of_the_fingerprint():
    layers = list(residual().layers)
    layers[1] = replace(layers[1], name="other")
    renamed = Architecture((1, 8, 8), tuple(layers))
    assert renamed.fingerprint != residual().fingerprint


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"input_shape": [1, 8, 8], "layers": [{"kind": "Warp"}]}', "nil"],
)
def test_text_that_is_no_architecture_is_refused(text):
    with pytest.raises(ValueError, match=r"architecture|unknown layer kind|Expecting"):
        Architecture.from_json(text)


def test_its_text_names_every_layer_and_the_totals():
    text = str(residual())
    lines = text.splitlines()
    assert len(lines) == 1 + 1 + 7 + 1  # heading, image, layers, totals
    assert "conv, stem" in lines[4]
    assert lines[-1] == "106 parameters, 3,368 MACs"


def test_readers_first_and_classifier():
    architecture = residual()
    assert architecture.readers[0] == (1, 2)
    assert architecture.first == 0
    assert architecture.classifier == 6
    assert architecture.num_outputs == 10


def test_a_removal_that_changes_the_number_of_logits_is_a_shape_error():
    layers = (
        Conv("stem", (-1,), 4, (1, 1)),
        AdaptiveAvgPool("pool", (0,)),
        Flatten("flatten", (1,)),
        Linear("hidden", (2,), 6),
        Linear("fc", (3,), 10),
    )
    with pytest.raises(ShapeError, match=r"\(6,\)"):
        Architecture((1, 8, 8), layers).rewire({4}, set())
