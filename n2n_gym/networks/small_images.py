"""Adaptation of a network to images smaller than those that it was made for.

A large kernel of the stem becomes 3x3. Hidden linear layers of classifiers that expect
a large map are removed. All other kernels, and all widths, stay unchanged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import (
    IMAGE,
    Activation,
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    DepthwiseConv,
    Dropout,
    Layer,
    Linear,
    MaxPool,
    Shape,
    ShapeError,
    Slice,
)

SMALL: Final = 64  # up to this side the stem keeps the resolution
TINY: Final = 32  # up to this side the stem has no pool either
SMALLEST_MAP: Final = 2  # strides and pools that would go below it are left out


def fit(architecture: Architecture, input_shape: Shape) -> Architecture:
    """The architecture for images of this shape, (C, H, W).

    For images up to 64x64, the stem's stride becomes 1 and its kernel at most 3x3.
    Adaptive pools with an output above 1x1 (VGG, AlexNet) become global, and hidden
    linear layers after them are removed. For images up to 32x32, the pool right after
    the stem is removed too. For images of any size, a convolution that would leave a
    map under 2x2 keeps its input's height and width instead. Pools and slices that
    would leave such a map are removed. If the first layer with parameters does not read
    the image, only the input shape changes.
    """
    side = max(input_shape[1:])
    stem = architecture.first
    if architecture.layers[stem].inputs != (IMAGE,):
        return Architecture(input_shape, architecture.layers)
    gone = _stem_pool(architecture, stem) if side <= TINY else set()
    if side <= SMALL:
        gone |= _hidden_linears(architecture)
    moved, shapes = {IMAGE: IMAGE}, {IMAGE: input_shape}
    fitted: list[Layer] = []
    for position, old in enumerate(architecture.layers):
        layer = replace(old, inputs=tuple(moved[read] for read in old.inputs))
        inputs = tuple(shapes[read] for read in layer.inputs)
        if side <= SMALL:
            layer = _small(layer, is_stem=position == stem)
        if position not in gone:
            layer = _size_keeping(layer, inputs)
            if not _goes_too_far(layer, inputs):
                moved[position] = len(fitted)
                shapes[len(fitted)] = layer.shape(*inputs)
                fitted.append(layer)
                continue
        moved[position] = layer.inputs[0]
    return Architecture(input_shape, tuple(fitted))


def _stem_pool(architecture: Architecture, stem: int) -> set[int]:
    """Position of the pool between a strided stem and the next convolution, if any."""
    first = architecture.layers[stem]
    if not isinstance(first, Conv) or max(first.stride) == 1:
        return set()
    for position in range(stem + 1, len(architecture.layers)):
        layer = architecture.layers[position]
        if isinstance(layer, (MaxPool, AvgPool)):
            return {position}
        if isinstance(layer, (Conv, DepthwiseConv)):
            break
    return set()


def _hidden_linears(architecture: Architecture) -> set[int]:
    """Positions of hidden linear layers after a pool to a map, with their activations.

    A pool to a map is an adaptive pool with an output above 1x1.
    """
    pools = [
        position
        for position, layer in enumerate(architecture.layers)
        if isinstance(layer, AdaptiveAvgPool) and layer.size != (1, 1)
    ]
    if not pools:
        return set()
    return {
        position
        for position in range(pools[0], architecture.classifier)
        if isinstance(architecture.layers[position], (Linear, Activation, Dropout))
    }


def _small(layer: Layer, *, is_stem: bool) -> Layer:
    """The layer for small images: a stem gets stride 1, an adaptive pool is global."""
    if isinstance(layer, AdaptiveAvgPool):
        return replace(layer, size=(1, 1))
    if is_stem and isinstance(layer, Conv):
        layer = replace(layer, stride=(1, 1))
        if max(layer.kernel) > 3:
            layer = replace(layer, kernel=(3, 3), padding=(1, 1), dilation=(1, 1))
    return layer


def _size_keeping(layer: Layer, inputs: tuple[Shape, ...]) -> Layer:
    """The layer; a convolution to too small a map keeps its input's size instead."""
    if not isinstance(layer, (Conv, DepthwiseConv)) or not _is_too_small(layer, inputs):
        return layer
    # An even kernel has a centre once it is dilated by 2.
    height, width = layer.kernel
    down = layer.dilation[0] if height % 2 else 2
    across = layer.dilation[1] if width % 2 else 2
    return replace(
        layer,
        stride=(1, 1),
        padding=(down * (height - 1) // 2, across * (width - 1) // 2),
        dilation=(down, across),
    )


def _goes_too_far(layer: Layer, inputs: tuple[Shape, ...]) -> bool:
    """Whether this is a pool or slice that would leave a map under 2x2, or no map."""
    return isinstance(layer, (MaxPool, AvgPool, Slice)) and _is_too_small(layer, inputs)


def _is_too_small(layer: Layer, inputs: tuple[Shape, ...]) -> bool:
    """Whether a layer would leave a map under 2x2, or no map at all."""
    try:
        return min(layer.shape(*inputs)[1:]) < min(SMALLEST_MAP, *inputs[0][1:])
    except ShapeError:
        return True
