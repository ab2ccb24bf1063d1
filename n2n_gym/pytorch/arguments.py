"""What torch's operations are called with, in the terms of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from n2n_gym.networks.layers import Layer, Pair, Shape


class TraceError(ValueError):
    """A module cannot be translated to layers; the message says why and where."""


class Unsupported(Exception):
    """An operation cannot be translated; the message says why."""


class Layout(NamedTuple):
    """How the channels of a map lie in its tensor; the batch comes first."""

    # "CHW", "HWC", or with the channels in groups "GCHW" and "CGHW"; "N" is places in a
    # row, and in "CH", "CW" and "C1" an axis has gone or is yet to come.
    axes: str
    groups: int = 1


PLAIN: Final = Layout("CHW")
CHANNELS_LAST: Final = Layout("HWC")
# Of what is on its way from a map to a vector or back; nothing else may be done to it.
BETWEEN: Final = ("CN", "C1", "CH", "CW", "CH1", "C1W")


class Operand(NamedTuple):
    """A tensor argument."""

    position: int  # of the layer that emits it
    shape: Shape  # of the tensor, the batch included
    layout: Layout

    @property
    def dim(self) -> int:
        return len(self.shape)

    @property
    def ends_with_features(self) -> bool:
        """Whether the last dimension holds the channels or features."""
        return self.dim == 2 or self.layout == CHANNELS_LAST


class Weight(NamedTuple):
    """A parameter or buffer that is used by itself."""

    name: str
    shape: Shape  # as it is used
    stored: Shape  # as it is kept
    is_learned: bool = True

    @classmethod
    def of(cls, name: str, shape: Shape, *, is_learned: bool = True) -> Weight:
        """One used as it is kept."""
        return cls(name, shape, shape, is_learned)


# A translation takes the layer's name and the call's own arguments, tensors as Operands
# and parameters as Weights. It gives the layer, or several, where PREVIOUS stands for
# the one before; None where the operation leaves its input as it is; or the layout
# where it does no more than lay it out anew.
Found: TypeAlias = Layer | Layout | list[Layer] | None
Translation = Callable[..., Found]
PREVIOUS: Final = -2  # stands for the position of the layer before


def pair(value: int | Sequence[int]) -> Pair:
    """A length for both axes, as torch takes it, as (height, width)."""
    if isinstance(value, int):
        return value, value
    height, width = value if len(value) == 2 else (*value, *value)  # (3,) is 3
    return int(height), int(width)


def require(condition: bool, what: str) -> None:
    """Refuse what is described unless the condition holds."""
    if not condition:
        raise Unsupported(f"{what} is not supported")


def inputs(*operands: Any, layouts: Sequence[Layout] = (PLAIN,)) -> tuple[int, ...]:
    """What a layer reads; one that does not care how a map lies gives all layouts."""
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
    """The input of what works on each value by itself, however a map lies."""
    return inputs(operand, layouts=())


def on_features(operand: Any) -> tuple[int, ...]:
    """The input of what works on the last dimension, if that holds the features."""
    position = inputs(operand, layouts=())
    require(operand.ends_with_features, "this on the width of a map")
    return position


def owner(weight: Any, bias: Any, **more: Any) -> str | None:
    """The module whose own weights these are, by their names; None where there is none.

    Raises:
        Unsupported: They are anything but one module's ``weight`` and ``bias``.
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
