"""Arguments of torch's operations, as the translation to layers sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from n2n_gym.networks.layers import Layer, Pair, Shape


class TraceError(ValueError):
    """A module cannot be translated to layers; the message says why and where."""


class Unsupported(Exception):
    """An operation cannot be translated; the message says why."""


class Layout(NamedTuple):
    """The order of a tensor's dimensions, without the batch."""

    # "CHW" and "HWC" are maps, "GCHW" and "CGHW" have grouped channels. "N" is all
    # positions of a map in one axis. "CH", "CW" and "C1" lack an axis, before or after
    # a reduction.
    axes: str
    groups: int = 1


PLAIN: Final = Layout("CHW")
CHANNELS_LAST: Final = Layout("HWC")
# Layouts between a map and a vector, with only means and reshapes supported.
BETWEEN: Final = ("CN", "C1", "CH", "CW", "CH1", "C1W")


class Operand(NamedTuple):
    """A tensor argument."""

    position: int  # position of the layer that emits it
    shape: Shape  # shape of the tensor, with the batch
    layout: Layout

    @property
    def dim(self) -> int:
        return len(self.shape)

    @property
    def ends_with_features(self) -> bool:
        """Whether the last dimension holds the channels or features."""
        return self.dim == 2 or self.layout == CHANNELS_LAST


class Weight(NamedTuple):
    """A parameter or buffer that an operation uses directly."""

    name: str
    shape: Shape  # shape in use
    stored: Shape  # shape in the state dict
    is_learned: bool = True

    @classmethod
    def of(cls, name: str, shape: Shape, *, is_learned: bool = True) -> Weight:
        """A weight that is used in the shape in which the module stores it."""
        return cls(name, shape, shape, is_learned)


# A translation takes the layer's name and the call's arguments, with tensors as
# Operands and parameters as Weights. It returns one layer or several; in a list,
# PREVIOUS stands for the layer before. It returns None if the operation changes
# nothing, or a layout if only the layout changes.
Found: TypeAlias = Layer | Layout | list[Layer] | None
Translation = Callable[..., Found]
PREVIOUS: Final = -2  # stands for the position of the layer before


def pair(value: int | Sequence[int]) -> Pair:
    """(height, width) from torch's argument: one length for both axes, or two."""
    if isinstance(value, int):
        return value, value
    height, width = value if len(value) == 2 else (*value, *value)  # (3,) is 3
    return int(height), int(width)


def require(condition: bool, what: str) -> None:
    """Raise Unsupported with this description unless the condition holds."""
    if not condition:
        raise Unsupported(f"{what} is not supported")


def inputs(*operands: Any, layouts: Sequence[Layout] = (PLAIN,)) -> tuple[int, ...]:
    """The positions of the layers that emit these operands.

    Args:
        layouts: Accepted layouts; if empty, all except ``BETWEEN``.

    Raises:
        Unsupported: An operand is no computed tensor, or has another layout.
    """
    require(
        all(isinstance(operand, Operand) for operand in operands),
        "arithmetic with anything but two computed tensors",
    )
    for operand in operands:
        is_fit = operand.layout in layouts if layouts else _is_whole(operand.layout)
        require(is_fit, f"this on a map that lies as {'B' + operand.layout.axes}")
    return tuple(operand.position for operand in operands)


def _is_whole(layout: Layout) -> bool:
    return layout.axes not in BETWEEN


def elementwise(operand: Any) -> tuple[int, ...]:
    """The position that an elementwise operation reads.

    Its layout can be any except ``BETWEEN``.
    """
    return inputs(operand, layouts=())


def on_features(operand: Any) -> tuple[int, ...]:
    """The position that an operation on features reads; they must be the last axis."""
    position = inputs(operand, layouts=())
    require(operand.ends_with_features, "this on the width of a map")
    return position


def owner(weight: Any, bias: Any, **more: Any) -> str | None:
    """Name of the module that owns these weights; None if no weights are given.

    Raises:
        Unsupported: The tensors are not one module's own ``weight``, ``bias``, ...
    """
    given = {
        leaf: tensor
        for leaf, tensor in {"weight": weight, "bias": bias, **more}.items()
        if tensor is not None
    }
    owners = {
        tensor.name.rpartition(".")[0]
        if isinstance(tensor, Weight)
        and tensor.name.rpartition(".")[2] == leaf
        and tensor.shape == tensor.stored
        and tensor.is_learned == (leaf in ("weight", "bias"))
        else ""
        for leaf, tensor in given.items()
    }
    require(
        not given or (len(owners) == 1 and "" not in owners),
        f"this with anything but a module's own {' and '.join(given)}",
    )
    return owners.pop() if owners else None
