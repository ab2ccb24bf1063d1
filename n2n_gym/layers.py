"""The kinds of layer a network is made of, and what each one costs.

A layer stores what it emits, never what it takes: its input widths follow from shape
inference. Shapes leave the batch out: a map is (C, H, W), a feature vector is (F,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from math import prod
from typing import Any, Final, TypeAlias, final

Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, int]  # (height, width) of a kernel, stride, ...

IMAGE: Final = -1  # the position that stands for the network's input

ACTIVATIONS: Final = (
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "gelu",
    "silu",
    "mish",
    "sigmoid",
    "tanh",
    "hardswish",
    "hardsigmoid",
)


class ShapeError(ValueError):
    """The architecture cannot exist: a layer cannot take the shapes it is given."""


@dataclass(frozen=True)
class Layer(ABC):
    """One operation of a network.

    Attributes:
        name: The teacher's own name for it ("layer1.0.conv1"). It is the layer's
            identity: it says whose weights a student's layer inherits.
        inputs: Positions of the layers it reads; ``IMAGE`` (-1) is the image.
    """

    name: str
    inputs: tuple[int, ...]

    @abstractmethod
    def shape(self, *inputs: Shape) -> Shape:
        """The shape it emits.

        Raises:
            ShapeError: It cannot take these inputs.
        """

    def num_params(self, *inputs: Shape) -> int:
        """Trainable parameters, given legal input shapes."""
        return 0

    def num_macs(self, *inputs: Shape) -> int:
        """Multiply-accumulates for one image, without biases.

        It is half of what torch's ``FlopCounterMode`` counts.
        """
        return 0

    @property
    def kind(self) -> str:
        return type(self).__name__

    def _map(self, inputs: tuple[Shape, ...]) -> Shape:
        """The only input, which must be a map (C, H, W)."""
        if len(inputs) != 1 or len(inputs[0]) != 3:
            raise ShapeError(f"{self.name}: {self.kind} needs one map, got {inputs}")
        return inputs[0]

    def _pooled(
        self, size: Shape, window: Window, *, ceil_mode: bool
    ) -> tuple[int, int]:
        """As ``_window``; torch lets pools pad by half their kernel at most."""
        if any(2 * p > k for p, k in zip(window.padding, window.kernel, strict=True)):
            raise ShapeError(
                f"{self.name}: a pool's padding is at most half its kernel, got "
                f"padding {window.padding} and kernel {window.kernel}"
            )
        return self._window(size, window, ceil_mode=ceil_mode)

    def _window(
        self, size: Shape, window: Window, *, ceil_mode: bool = False
    ) -> tuple[int, int]:
        """Height and width that a sliding window leaves of a map of this size."""
        height, width = (
            _slide(size[axis], axis, window, ceil_mode=ceil_mode) for axis in (0, 1)
        )
        if height < 1 or width < 1:
            raise ShapeError(
                f"{self.name}: a {window.kernel} window with padding {window.padding} "
                f"does not fit a {size} map"
            )
        return height, width


@dataclass(frozen=True)
class Window:
    """A sliding window, as convolutions and pools have it."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair


def _slide(length: int, axis: int, window: Window, *, ceil_mode: bool) -> int:
    """How many places a window finds along one axis (torch's rule for pools)."""
    stride, padding = window.stride[axis], window.padding[axis]
    room = length + 2 * padding - window.dilation[axis] * (window.kernel[axis] - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    # The last window must start inside the map or its left padding.
    return count - 1 if (count - 1) * stride >= length + padding else count


@final
@dataclass(frozen=True)
class Conv(Layer):
    """2-D convolution with its own output width."""

    width: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        channels, *size = self._map(inputs)
        if channels % self.groups or self.width % self.groups:
            raise ShapeError(
                f"{self.name}: {channels} -> {self.width} channels do not divide into "
                f"{self.groups} groups"
            )
        window = Window(self.kernel, self.stride, self.padding, self.dilation)
        return (self.width, *self._window(tuple(size), window))

    def num_params(self, *inputs: Shape) -> int:
        filters = self.width * (inputs[0][0] // self.groups) * prod(self.kernel)
        return filters + self.bias * self.width

    def num_macs(self, *inputs: Shape) -> int:
        each = (inputs[0][0] // self.groups) * prod(self.kernel)
        return each * prod(self.shape(*inputs))


@final
@dataclass(frozen=True)
class DepthwiseConv(Layer):
    """Convolution of each channel by itself: it has no width, it follows its input."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    bias: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        channels, *size = self._map(inputs)
        window = Window(self.kernel, self.stride, self.padding, self.dilation)
        return (channels, *self._window(tuple(size), window))

    def num_params(self, *inputs: Shape) -> int:
        return inputs[0][0] * (prod(self.kernel) + self.bias)

    def num_macs(self, *inputs: Shape) -> int:
        return prod(self.kernel) * prod(self.shape(*inputs))


@final
@dataclass(frozen=True)
class Linear(Layer):
    """Fully connected layer on a feature vector."""

    width: int
    bias: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != 1 or len(inputs[0]) != 1:
            raise ShapeError(f"{self.name}: Linear needs one vector, got {inputs}")
        return (self.width,)

    def num_params(self, *inputs: Shape) -> int:
        return self.width * (inputs[0][0] + self.bias)

    def num_macs(self, *inputs: Shape) -> int:
        return self.width * inputs[0][0]


class Elementwise(Layer):
    """A layer with one input that emits the shape it takes."""

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != 1:
            raise ShapeError(f"{self.name}: {self.kind} needs one input, got {inputs}")
        return inputs[0]


@final
@dataclass(frozen=True)
class BatchNorm(Elementwise):
    """Batch normalisation of maps or of feature vectors, whichever it reads."""

    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = True

    def num_params(self, *inputs: Shape) -> int:
        return 2 * inputs[0][0] * self.affine


@final
@dataclass(frozen=True)
class Activation(Elementwise):
    """A nonlinearity from ``ACTIVATIONS``; ``slope`` is leaky_relu's alone."""

    function: str
    slope: float = 0.01

    def __post_init__(self) -> None:
        if self.function not in ACTIVATIONS:
            raise ValueError(
                f"unknown activation {self.function!r}; known: {', '.join(ACTIVATIONS)}"
            )


@final
@dataclass(frozen=True)
class Dropout(Elementwise):
    """Dropout of single values, or of whole channels."""

    rate: float = 0.5
    channelwise: bool = False


@final
@dataclass(frozen=True)
class MaxPool(Layer):
    """Maximum over a sliding window."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    def shape(self, *inputs: Shape) -> Shape:
        channels, *size = self._map(inputs)
        window = Window(self.kernel, self.stride, self.padding, self.dilation)
        kept = self._pooled(tuple(size), window, ceil_mode=self.ceil_mode)
        return (channels, *kept)


@final
@dataclass(frozen=True)
class AvgPool(Layer):
    """Mean over a sliding window."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True

    def shape(self, *inputs: Shape) -> Shape:
        channels, *size = self._map(inputs)
        window = Window(self.kernel, self.stride, self.padding, (1, 1))
        kept = self._pooled(tuple(size), window, ceil_mode=self.ceil_mode)
        return (channels, *kept)


@final
@dataclass(frozen=True)
class AdaptiveAvgPool(Layer):
    """Average pooling to a map of a given size."""

    size: Pair = (1, 1)

    def shape(self, *inputs: Shape) -> Shape:
        channels, *_ = self._map(inputs)
        return (channels, *self.size)


@final
@dataclass(frozen=True)
class SpatialMean(Layer):
    """Mean over height and width, written ``x.mean((2, 3))``."""

    keepdim: bool = False

    def shape(self, *inputs: Shape) -> Shape:
        channels, *_ = self._map(inputs)
        return (channels, 1, 1) if self.keepdim else (channels,)


@final
@dataclass(frozen=True)
class Flatten(Layer):
    """A map read as one vector, channel by channel."""

    def shape(self, *inputs: Shape) -> Shape:
        return (prod(self._map(inputs)),)


class Join(Layer):
    """A layer that only brings several values together."""


@final
@dataclass(frozen=True)
class Add(Join):
    """Sum of values of one shape."""

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs) < 2 or any(shape != inputs[0] for shape in inputs):
            raise ShapeError(f"{self.name}: addition needs equal shapes, got {inputs}")
        return inputs[0]


@final
@dataclass(frozen=True)
class Multiply(Join):
    """Product of a value and its gate; a map may be gated by one value a channel."""

    def shape(self, *inputs: Shape) -> Shape:
        largest = max(inputs, key=prod, default=())
        gates = {largest, largest[:1] + (1,) * (len(largest) - 1)}
        if len(inputs) < 2 or any(shape not in gates for shape in inputs):
            raise ShapeError(
                f"{self.name}: a gate needs the shape of what it gates, or one value "
                f"a channel, got {inputs}"
            )
        return largest


@final
@dataclass(frozen=True)
class Concat(Join):
    """Concatenation along the channels."""

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs) < 2 or any(shape[1:] != inputs[0][1:] for shape in inputs):
            raise ShapeError(
                f"{self.name}: concatenation needs equal height and width, got {inputs}"
            )
        return (sum(shape[0] for shape in inputs), *inputs[0][1:])


Producer: TypeAlias = Conv | Linear  # the layers that have a width
PRODUCERS: Final = (Conv, Linear)
PARAMETERISED: Final = (Conv, DepthwiseConv, Linear, BatchNorm)

KINDS: Final[Mapping[str, type[Layer]]] = {
    kind.__name__: kind
    for kind in (
        Conv,
        DepthwiseConv,
        Linear,
        BatchNorm,
        Activation,
        Dropout,
        MaxPool,
        AvgPool,
        AdaptiveAvgPool,
        SpatialMean,
        Flatten,
        Add,
        Multiply,
        Concat,
    )
}


def to_dict(layer: Layer) -> dict[str, Any]:
    """A JSON-ready form; fields at their defaults are left out."""
    entries: dict[str, Any] = {"kind": layer.kind}
    for field in fields(layer):
        value = getattr(layer, field.name)
        if field.default is MISSING or value != field.default:
            entries[field.name] = list(value) if isinstance(value, tuple) else value
    return entries


def from_dict(entries: Mapping[str, Any]) -> Layer:
    """The layer that ``to_dict`` wrote.

    Raises:
        ValueError: An unknown kind, or fields that this kind does not have.
    """
    values = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in entries.items()
        if key != "kind"
    }
    kind: Callable[..., Layer] | None = KINDS.get(entries.get("kind", ""))
    if kind is None:
        raise ValueError(
            f"unknown layer kind {entries.get('kind')!r}; known: {', '.join(KINDS)}"
        )
    for field, value in values.items():
        lowest = 0 if field == "padding" else 1
        if field in _LENGTHS and not _is_pair(value, lowest):
            raise ValueError(f"{field} must be two from {lowest} on, got {value!r}")
        if field in ("width", "groups") and not _is_whole(value, 1):
            raise ValueError(f"{field} must be a number from 1 on, got {value!r}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"not a {entries['kind']} layer: {dict(entries)}") from error


_LENGTHS: Final = ("kernel", "stride", "padding", "dilation", "size")


def _is_whole(value: Any, lowest: int) -> bool:
    return isinstance(value, int) and value >= lowest


def _is_pair(value: Any, lowest: int) -> bool:
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    return all(_is_whole(length, lowest) for length in value)
