"""The kinds of layer a network is made of, and what each one costs.

A layer stores what it emits, never what it takes: its input widths follow from shape
inference. Shapes leave the batch out: a map is (C, H, W), a feature vector is (F,).
"""

from n2n_gym.networks.layers.elementwise import (
    ACTIVATIONS,
    Activation,
    Dropout,
    StochasticDepth,
)
from n2n_gym.networks.layers.joins import Add, Concat, Join, Multiply
from n2n_gym.networks.layers.layer import (
    IMAGE,
    Elementwise,
    Layer,
    Pair,
    Shape,
    ShapeError,
    Window,
)
from n2n_gym.networks.layers.maps import (
    AdaptiveAvgPool,
    AvgPool,
    ChannelShuffle,
    Chunk,
    Flatten,
    MaxPool,
    SpatialMean,
)
from n2n_gym.networks.layers.parameterised import (
    PARAMETERISED,
    PRODUCERS,
    BatchNorm,
    Conv,
    DepthwiseConv,
    LayerNorm,
    Linear,
    Producer,
    Scale,
)
from n2n_gym.networks.layers.serial import KINDS, from_dict, to_dict

__all__ = [
    "ACTIVATIONS",
    "IMAGE",
    "KINDS",
    "PARAMETERISED",
    "PRODUCERS",
    "Activation",
    "AdaptiveAvgPool",
    "Add",
    "AvgPool",
    "BatchNorm",
    "ChannelShuffle",
    "Chunk",
    "Concat",
    "Conv",
    "DepthwiseConv",
    "Dropout",
    "Elementwise",
    "Flatten",
    "Join",
    "Layer",
    "LayerNorm",
    "Linear",
    "MaxPool",
    "Multiply",
    "Pair",
    "Producer",
    "Scale",
    "Shape",
    "ShapeError",
    "SpatialMean",
    "StochasticDepth",
    "Window",
    "from_dict",
    "to_dict",
]
