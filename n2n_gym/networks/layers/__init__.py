"""The kinds of layers, with their shapes and costs.

A layer stores its output width only. Its input widths follow from shape inference.
Shapes exclude the batch: a map is (C, H, W), a feature vector is (F,).
"""

from n2n_gym.networks.layers.dealt import (
    DEALT,
    ChannelShuffle,
    ChannelSlice,
    Chunk,
    PadChannels,
)
from n2n_gym.networks.layers.elementwise import (
    ACTIVATIONS,
    Activation,
    Affine,
    Clamp,
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
    Flatten,
    MaxPool,
    SpatialMean,
)
from n2n_gym.networks.layers.parameterised import (
    NORMS,
    PARAMETERISED,
    PRODUCERS,
    BatchNorm,
    Conv,
    DepthwiseConv,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Linear,
    PReLU,
    Producer,
    Scale,
)
from n2n_gym.networks.layers.serial import KINDS, from_dict, to_dict
from n2n_gym.networks.layers.sizes import AsMap, Interpolate, Pad, Slice

__all__ = [
    "ACTIVATIONS",
    "DEALT",
    "IMAGE",
    "KINDS",
    "NORMS",
    "PARAMETERISED",
    "PRODUCERS",
    "Activation",
    "AdaptiveAvgPool",
    "Add",
    "Affine",
    "AsMap",
    "AvgPool",
    "BatchNorm",
    "ChannelShuffle",
    "ChannelSlice",
    "Chunk",
    "Clamp",
    "Concat",
    "Conv",
    "DepthwiseConv",
    "Dropout",
    "Elementwise",
    "Flatten",
    "GroupNorm",
    "InstanceNorm",
    "Interpolate",
    "Join",
    "Layer",
    "LayerNorm",
    "Linear",
    "MaxPool",
    "Multiply",
    "PReLU",
    "Pad",
    "PadChannels",
    "Pair",
    "Producer",
    "Scale",
    "Shape",
    "ShapeError",
    "Slice",
    "SpatialMean",
    "StochasticDepth",
    "Window",
    "from_dict",
    "to_dict",
]
