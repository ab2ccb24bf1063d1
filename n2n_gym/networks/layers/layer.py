"""What every layer is: a name, what it reads, the shape it emits and what it costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, TypeAlias

Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, int]  # (height, width) of a kernel, stride, ...

IMAGE: Final = -1  # the position that stands for the network's input


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


class Elementwise(Layer):
    """A layer with one input that emits the shape it takes."""

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != 1:
            raise ShapeError(f"{self.name}: {self.kind} needs one input, got {inputs}")
        return inputs[0]
