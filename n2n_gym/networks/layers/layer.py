"""The base of every layer: its name, its inputs, its output shape and its cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, TypeAlias

Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, int]  # (height, width) of a kernel, stride, ...

IMAGE: Final = -1  # the position that stands for the network's input


class ShapeError(ValueError):
    """The architecture is impossible: a layer cannot take its input shapes."""


@dataclass(frozen=True)
class Layer(ABC):
    """One operation of a network.

    Attributes:
        name: The teacher's name for it ("layer1.0.conv1"). It identifies the layer: a
            student's layer inherits the weights of the teacher's layer of this name.
        inputs: Positions of the layers it reads; ``IMAGE`` (-1) is the image.
    """

    name: str
    inputs: tuple[int, ...]

    @abstractmethod
    def shape(self, *inputs: Shape) -> Shape:
        """The output shape.

        Raises:
            ShapeError: The layer cannot take these inputs.
        """

    def num_params(self, *inputs: Shape) -> int:
        """Number of trainable parameters, given legal input shapes."""
        return 0

    def num_macs(self, *inputs: Shape) -> int:
        """Multiply-accumulates for one image, without biases.

        This is half the number of operations that torch's ``FlopCounterMode`` counts.
        """
        return 0

    @property
    def kind(self) -> str:
        return type(self).__name__

    def _map(self, inputs: tuple[Shape, ...]) -> Shape:
        """Shape of the only input, which must be a map, (C, H, W)."""
        if len(inputs) != 1 or len(inputs[0]) != 3:
            raise ShapeError(f"{self.name}: {self.kind} needs one map, got {inputs}")
        return inputs[0]

    def _pooled(
        self, size: Shape, window: Window, *, ceil_mode: bool
    ) -> tuple[int, int]:
        """Like ``_window``; as in torch, padding above half the kernel is refused."""
        if any(2 * p > k for p, k in zip(window.padding, window.kernel, strict=True)):
            raise ShapeError(
                f"{self.name}: a pool's padding is at most half its kernel, got "
                f"padding {window.padding} and kernel {window.kernel}"
            )
        return self._window(size, window, ceil_mode=ceil_mode)

    def _window(
        self, size: Shape, window: Window, *, ceil_mode: bool = False
    ) -> tuple[int, int]:
        """Output height and width of a sliding window on a map of this size."""
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
    """The sliding window of a convolution or pool."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair


def _slide(length: int, axis: int, window: Window, *, ceil_mode: bool) -> int:
    """Number of window positions along one axis (torch's rule for pools)."""
    stride, padding = window.stride[axis], window.padding[axis]
    room = length + 2 * padding - window.dilation[axis] * (window.kernel[axis] - 1) - 1
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    # The last window must start inside the map or its left padding.
    return count - 1 if (count - 1) * stride >= length + padding else count


class Elementwise(Layer):
    """A layer with one input, whose output has the shape of the input."""

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != 1:
            raise ShapeError(f"{self.name}: {self.kind} needs one input, got {inputs}")
        return inputs[0]
