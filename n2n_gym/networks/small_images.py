"""Fitting a network to images smaller than it was made for.

Parameter counts hardly change by it: only a large stem kernel becomes 3x3, and the
hidden linear layers of classifiers that expect a large map go.
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

    Up to 64x64 the stem's stride becomes 1 and its kernel at most 3x3; up to 32x32 the
    stem's pool goes. Any later convolution keeps the map's size, and any pool goes,
    where it would leave a map under 2x2. Hidden linear layers after a pool to more than
    1x1 (VGG, AlexNet) become global average pooling.
    """
    side = max(input_shape[1:])
    stem = architecture.first
    if architecture.layers[stem].inputs != (IMAGE,):
        return Architecture(input_shape, architecture.layers)
    gone = _stem_pool(architecture, stem) if side <= TINY else set()
    if side <= SMALL:
        gone |= _hidden_linears(architecture)
    places, shapes = {IMAGE: IMAGE}, {IMAGE: input_shape}
    fitted: list[Layer] = []
    for position, old in enumerate(architecture.layers):
        layer = replace(old, inputs=tuple(places[read] for read in old.inputs))
        inputs = tuple(shapes[read] for read in layer.inputs)
        if side <= SMALL:
            layer = _small(layer, is_stem=position == stem)
        if position not in gone:
            layer = _size_keeping(layer, inputs)
            if not _goes_too_far(layer, inputs):
                places[position] = len(fitted)
                shapes[len(fitted)] = layer.shape(*inputs)
                fitted.append(layer)
                continue
        places[position] = layer.inputs[0]
    return Architecture(input_shape, tuple(fitted))


def _stem_pool(architecture: Architecture, stem: int) -> set[int]:
    """The pool right after a strided stem, before any further convolution."""
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
    """Linear layers before the last, with what follows them, behind a pool to a map."""
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
    """The stem at full resolution; pools to a map become global."""
    if isinstance(layer, AdaptiveAvgPool):
        return replace(layer, size=(1, 1))
    if is_stem and isinstance(layer, Conv):
        layer = replace(layer, stride=(1, 1))
        if max(layer.kernel) > 3:
            layer = replace(layer, kernel=(3, 3), padding=(1, 1), dilation=(1, 1))
    return layer


def _size_keeping(layer: Layer, inputs: tuple[Shape, ...]) -> Layer:
    """A convolution without stride where it would leave too small a map."""
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
    """Whether this is a pool or a slice that leaves too small a map, or none."""
    return isinstance(layer, (MaxPool, AvgPool, Slice)) and _is_too_small(layer, inputs)


def _is_too_small(layer: Layer, inputs: tuple[Shape, ...]) -> bool:
    """Whether what a layer leaves of a map is under 2x2, or nothing."""
    try:
        return min(layer.shape(*inputs)[1:]) < min(SMALLEST_MAP, *inputs[0][1:])
    except ShapeError:
        return True
