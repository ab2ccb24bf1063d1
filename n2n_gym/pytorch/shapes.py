"""Translations of operations that reshape, cut, pad, average or resize tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from math import inf, prod
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import nn

from n2n_gym.networks.layers import (
    AsMap,
    ChannelShuffle,
    ChannelSlice,
    Chunk,
    Flatten,
    Interpolate,
    Layer,
    Pad,
    PadChannels,
    Pair,
    Shape,
    Slice,
    SpatialMean,
)
from n2n_gym.pytorch.arguments import (
    PLAIN,
    PREVIOUS,
    Found,
    Layout,
    Operand,
    Translation,
    Unsupported,
    inputs,
    pair,
    require,
)


def _mean(
    name: str,
    input: Operand,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
) -> Layer | Layout:
    """A mean over a map's height and width, in one call or in one call for each."""
    require(dim is not None, f"a mean over dimensions {dim}")
    dims = dim if isinstance(dim, Sequence) else [dim]
    axes = sorted(int(axis) % input.dim for axis in dims)  # type: ignore[arg-type]
    found = _MEANS.get((input.layout.axes, *axes))
    require(found is not None, f"a mean over dimensions {dim}")
    assert found is not None
    rest, kept, is_kept = found
    if not rest:
        require(is_kept is None or is_kept == keepdim, "a mean that keeps one axis")
        return SpatialMean(name, (input.position,), keepdim)
    return Layout(kept if keepdim else rest)


# Layout and axes of a mean -> the layout after it, without and with the axis kept, and
# whether it must be kept (None: either). No layout is needed for channels only.
_MEANS: Final[Mapping[tuple[str | int, ...], tuple[str, str, bool | None]]] = {
    ("CHW", 2, 3): ("", "", None),
    ("CHW", 3): ("CH", "CH1", None),
    ("CHW", 2): ("CW", "C1W", None),
    ("CH", 2): ("", "", False),
    ("CW", 2): ("", "", False),
    ("CN", 2): ("", "", False),
    ("CH1", 2): ("", "", True),
    ("C1W", 3): ("", "", True),
}


def _permute(
    name: str, input: Operand, *dims: int | Sequence[int], **named: Sequence[int]
) -> Layout | None:
    order = (*dims, *named.values())
    axes = order[0] if isinstance(order[0], Sequence) else order
    return _laid_out(input, [int(axis) % input.dim for axis in axes])  # type: ignore[arg-type]


def _transpose(name: str, input: Operand, dim0: int, dim1: int) -> Layout | None:
    order = list(range(input.dim))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return _laid_out(input, order)


def _laid_out(x: Operand, order: Sequence[int]) -> Layout | None:
    """The layout after a permutation of a tensor's dimensions."""
    require(x.dim in (4, 5) and order[0] == 0, "a permutation of anything but maps")
    axes = "".join(x.layout.axes[axis - 1] for axis in order[1:])
    require(axes in _LAYOUTS, f"a permutation of a map to {'B' + axes}")
    return x.layout._replace(axes=axes)


_LAYOUTS: Final = ("CHW", "HWC", "GCHW", "CGHW")


def reshape(name: str, input: Operand, result: Shape) -> Found:
    """The layers or the new layout of a reshape to ``result``; None for no change."""
    old, layout = input.shape, input.layout
    if result == old:
        return None
    if layout.axes in ("GCHW", "CGHW") and result == _whole(old):
        if layout.axes == "GCHW":
            return PLAIN
        return ChannelShuffle(name, (input.position,), layout.groups)
    if layout == PLAIN and len(result) == 5 and old == _whole(result):
        return Layout("GCHW", result[1])
    if len(old) == 2 and result == (*old, 1):
        return Layout("C1")
    if result == (*old[:2], 1, 1) and (len(old) == 2 or layout.axes == "C1"):
        return AsMap(name, (input.position,))
    if layout.axes == "C1" and result == old[:2]:
        return PLAIN
    if layout == PLAIN and len(old) == 4 and result == (*old[:2], prod(old[2:])):
        return Layout("CN")
    is_one_place = layout.axes == "CN" and old[2] == 1
    if is_one_place and result == (*old[:2], 1, 1):
        return PLAIN
    if result == (old[0], prod(old[1:])) and (layout.axes == "CN" or layout == PLAIN):
        return Flatten(name, (input.position,))
    inputs(input)
    raise Unsupported(
        f"a reshape may flatten all of each image or shuffle its channels, not "
        f"turn {old} into {result}"
    )


def _expand(name: str, input: Operand, *sizes: Any) -> None:
    """An expansion of a 1x1 map to a larger one, which a product does by itself."""
    wanted = sizes[0] if isinstance(sizes[0], Sequence) else sizes
    old, found = input.shape, tuple(int(each) for each in wanted)
    inputs(input)
    is_whole = len(found) == len(old) == 4 and all(
        new in (-1, length) for new, length in zip(found[:2], old[:2], strict=True)
    )
    require(is_whole and old[2:] == (1, 1), f"an expansion of {old} to {found}")


def _expand_as(name: str, input: Operand, other: Operand) -> None:
    _expand(name, input, *other.shape)


def _whole(grouped: Shape) -> Shape:
    """(B, G, C, H, W) -> (B, G * C, H, W)."""
    return (grouped[0], grouped[1] * grouped[2], *grouped[3:])


def _shuffle(name: str, input: Operand, groups: int) -> Layer:
    return ChannelShuffle(name, inputs(input), groups)


def item(name: str, input: Operand, index: Any, result: Shape) -> Found:
    """``x[index]``: a slice of channels, rows or columns, or a new axis."""
    indices = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in indices:
        place = indices.index(Ellipsis)
        count = sum(each is not None and each is not Ellipsis for each in indices)
        indices[place : place + 1] = [slice(None)] * (input.dim - count)
    if None in indices:
        require(
            all(each in (None, slice(None)) for each in indices),
            "new axes and slices together",
        )
        return reshape(name, input, result)
    require(
        all(isinstance(each, slice) for each in indices),
        "an index that is anything but slices",
    )
    whole = [slice(None)] * (input.dim - len(indices))
    bounds = [
        each.indices(length)
        for each, length in zip([*indices, *whole], input.shape, strict=True)
    ]
    # Torch refuses steps below 1.
    batch, channels, *ranges = bounds
    require(batch == (0, input.shape[0], 1), "a slice of the batch")
    found: list[Layer] = []
    if channels != (0, input.shape[1], 1):
        require(channels[2] == 1, "a slice of the channels with a step")
        found.append(_channels(name, input, channels[0], channels[1]))
    read = inputs(input) if not found else (PREVIOUS,)
    if any(each != (0, n, 1) for each, n in zip(ranges, input.shape[2:], strict=True)):
        found += _cropped(f"{name}.places" if found else name, read, input, ranges)
    return found or None


def _channels(name: str, input: Operand, start: int, stop: int) -> Layer:
    require(start < stop, "a slice without channels")
    return ChannelSlice(name, inputs(input), start, stop, input.shape[1])


def _cropped(
    name: str, read: tuple[int, ...], input: Operand, ranges: Sequence[Any]
) -> list[Layer]:
    """A slice of rows and columns: cut off borders, then take every n-th of them.

    Args:
        ranges: Start, stop and step of the rows, and of the columns.
    """
    (top, bottom, down), (left, right, across) = ranges
    height, width = input.shape[2:]
    require(top < bottom and left < right, "a slice without places")
    if (down, across) == (1, 1):
        cut = top - 0, height - bottom, left, width - right
        return [Pad(name, read, *[-each for each in cut])]
    # A slice to the end needs no cut.
    is_whole = height - bottom < 1 and width - right < 1
    if is_whole:
        return [Slice(name, read, (down, across), (top, left))]
    cut_off = Pad(f"{name}.cut", read, 0, bottom - height, 0, right - width)
    return [cut_off, Slice(name, (PREVIOUS,), (down, across), (top, left))]


def _narrow(name: str, input: Operand, dim: int, start: int, length: int) -> Found:
    index = [slice(None)] * input.dim
    index[dim] = slice(start, start + length)
    require(start >= 0, f"a slice from {start}")
    return item(name, input, tuple(index), ())


def chunk(
    name: str, input: Operand, part: int, results: Sequence[Shape]
) -> Layer | None:
    """One of the parts that a tensor was split into.

    Args:
        part: Index of the part; negative indices count from the end.
        results: Shapes of all parts.
    """
    parts, part = len(results), part % len(results)
    batch, channels, *size = input.shape
    widths = [each[1] for each in results]
    require(
        sum(widths) == channels
        and all(each == (batch, each[1], *size) for each in results),
        "a split into anything but parts of the channels",
    )
    if parts == 1:
        return None
    if len(set(widths)) == 1:
        return Chunk(name, inputs(input), part, parts)
    start = sum(widths[:part])
    return _channels(name, input, start, start + widths[part])


def pad(
    name: str,
    input: Operand,
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> Found:
    """``F.pad``."""
    require(mode == "constant", f"padding with mode={mode!r}")
    require(value in (None, 0, -inf), f"padding with {value}")
    require(len(pad) % 2 == 0 and len(pad) <= 6, f"padding by {pad}")
    sides = [int(each) for each in (*pad, *[0] * (6 - len(pad)))]
    left, right, top, bottom, before, after = sides
    found: list[Layer] = []
    if any(sides[:4]):
        around = top, bottom, left, right
        found.append(Pad(name, inputs(input), *around, lowest=value == -inf))
    if before or after:
        require(min(before, after) >= 0, "padding by fewer channels")
        require(value != -inf, f"padding channels with {value}")
        read = (PREVIOUS,) if found else inputs(input)
        called = f"{name}.channels" if found else name
        found.append(PadChannels(called, read, before, after))
    return found or None


def interpolate(
    name: str,
    input: Operand,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Layer:
    """``F.interpolate``."""
    require(mode in ("nearest", "bilinear"), f"interpolation with mode={mode!r}")
    require(not antialias, "interpolation with antialias=True")
    require(input.dim == 4, "interpolation of anything but maps")
    height, width = input.shape[2:]
    how: Any = {"mode": mode, "corners": bool(align_corners)}
    if size is not None:
        return Interpolate(name, inputs(input), size=pair(size), **how)
    assert scale_factor is not None
    scales = scale_factor if isinstance(scale_factor, Sequence) else [scale_factor] * 2
    scale = float(scales[0]), float(scales[1])
    if recompute_scale_factor:
        sizes: Pair = (int(height * scale[0]), int(width * scale[1]))
        return Interpolate(name, inputs(input), size=sizes, **how)
    return Interpolate(name, inputs(input), scale, **how)


# The effect of these is read from their results, not from their arguments.
RESHAPES: Final = frozenset(
    {
        *(nn.Flatten, nn.Unflatten, torch.flatten, torch.reshape),
        *("flatten", "unflatten", "reshape", "view"),
        *(torch.squeeze, torch.unsqueeze, "squeeze", "unsqueeze"),
    }
)
# Operations allowed on a parameter before it multiplies channels.
WEIGHT_RESHAPES: Final = RESHAPES | {operator.getitem}
CHUNKS: Final = frozenset({torch.chunk, torch.split, "chunk", "split"})
SHAPING: Final[Mapping[Callable[..., Any] | str, Translation]] = {
    torch.mean: _mean,
    "mean": _mean,
    torch.permute: _permute,
    "permute": _permute,
    torch.transpose: _transpose,
    "transpose": _transpose,
    "expand": _expand,
    "expand_as": _expand_as,
    torch.channel_shuffle: _shuffle,
    F.channel_shuffle: _shuffle,
    torch.narrow: _narrow,
    "narrow": _narrow,
    F.pad: pad,
    F.interpolate: interpolate,
    F.upsample: interpolate,
}
