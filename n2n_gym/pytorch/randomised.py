"""Fast copies of modules, with random weights in float64.

A large weight is an outer product of one factor per axis. So a convolution is a few
products of small matrices and needs almost no memory, however wide it is. All large
kernels of equal size have one factor along the height and one along the width. These
two factors are random, asymmetric and different, so mirroring or transposing an image
changes its logits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree

from n2n_gym.pytorch.arguments import TraceError
from n2n_gym.pytorch.graph import describe

_LARGEST: Final = 1024  # most numbers in a weight that are drawn one by one
# Functions allowed on a weight that is not stored in full; "__get__" reads attributes.
_HARMLESS: Final = ("__get__", "dim", "size", "numel", "requires_grad_")


def copy_of(
    module: nn.Module, replace: Callable[[str, Tensor], Tensor] | None = None
) -> nn.Module:
    """A deep copy of a module, optionally with other parameters and buffers.

    Args:
        replace: Function that returns the replacement of a parameter or buffer, given
            its name and the tensor.

    Raises:
        TraceError: The module cannot be copied.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach()  # torch refuses to copy these
    if replace is not None:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            memo[id(tensor)] = replace(name, tensor)
    copied = deep_copy(module, memo)
    if copied is module:
        raise TraceError(
            f"{_refusal(module)}: its __deepcopy__ gives the module itself"
        )
    return copied


def deep_copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy by `copy.deepcopy`.

    Args:
        memo: Objects that replace others, by id, as in `copy.deepcopy`.

    Raises:
        TraceError: The module cannot be copied.
    """
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # a user's object may raise anything
        raise TraceError(f"{_refusal(module)}: {describe(error)}") from error


def _refusal(module: nn.Module) -> str:
    return f"{type(module).__name__} cannot be copied, and tracing needs a copy"


def randomised(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy with random weights, scales and statistics, on the CPU, in float64."""

    def drawn(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        shape = tensor.shape
        if isinstance(tensor, nn.Parameter) and len(shape) in (2, 4):
            if tensor.numel() > max(_LARGEST, *shape):
                return _Product(shape, generator)
        new = _uniform(shape, generator)
        if tensor.numel() > max(shape, default=1):
            new *= _gain(shape)
        else:  # a scale, a bias, a mean or a variance: positive, like a variance
            new = 1 + new / 4
        is_parameter = isinstance(tensor, nn.Parameter)
        return nn.Parameter(new, requires_grad=False) if is_parameter else new

    return copy_of(module, drawn)


def _uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform random numbers of mean 0 and standard deviation 1."""
    drawn = torch.rand(*shape, generator=generator, dtype=torch.float64)
    return (drawn - 0.5) * math.sqrt(12)


def _gain(shape: Sequence[int]) -> float:
    """The factor of random weights for which a layer and a ReLU keep values' scale."""
    return math.sqrt(2 * shape[0] / math.prod(shape))


class _Product(nn.Parameter):
    """The weight of a convolution or linear layer, as an outer product of its axes."""

    factors: list[Tensor]

    def __new__(cls, shape: torch.Size, generator: torch.Generator) -> _Product:
        empty = torch.zeros((), dtype=torch.float64).expand(shape)
        self: _Product = Tensor._make_subclass(cls, empty, False)
        self.factors = [_uniform((length,), generator) for length in shape[:2]]
        self.factors += [_kernel(length, axis) for axis, length in enumerate(shape[2:])]
        self.factors[0] *= _gain(shape)
        return self

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _HARMLESS:
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        if func in _QUICKLY and len(args) > 1 and isinstance(args[1], cls):
            return _QUICKLY[func](*args, **kwargs)
        args, kwargs = _pytree.tree_map_only(cls, _in_full, (args, kwargs))
        return func(*args, **kwargs)


def _in_full(weight: _Product) -> Tensor:
    product = weight.factors[0]
    for factor in weight.factors[1:]:
        product = product.unsqueeze(-1) * factor
    return product


def _linear(input: Tensor, weight: _Product, bias: Tensor | None = None) -> Tensor:
    outputs, inputs = weight.factors
    result = (input @ inputs).unsqueeze(-1) * outputs
    return result if bias is None else result + bias


def _conv2d(
    input: Tensor,
    weight: _Product,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    outputs, inputs, vertical, horizontal = weight.factors
    batch, _, height, width = input.shape
    x = inputs @ input.reshape(batch, groups, -1, height * width)
    x = x.reshape(batch, groups, height, width)
    settings = (stride, padding, dilation)
    down = _along(height, 0, len(vertical), *[_of_axis(s, 0) for s in settings])
    across = _along(width, 1, len(horizontal), *[_of_axis(s, -1) for s in settings])
    x = x if across is None else x @ across
    x = x if down is None else (x.mT @ down).mT  # quicker than down.T @ x
    result = (x.unsqueeze(2) * outputs.reshape(groups, -1, 1, 1)).flatten(1, 2)
    return result if bias is None else result + bias.reshape(-1, 1, 1)


def _of_axis(setting: Any, axis: int) -> Any:
    return setting if isinstance(setting, int | str) else setting[axis]


@cache
def _kernel(length: int, axis: int) -> Tensor:
    """A random factor along a kernel's height (axis 0) or width (axis 1).

    A kernel of length 1 has the factor 1.
    """
    drawn = _uniform((length,), torch.Generator().manual_seed(2 * length + axis))
    return drawn if length > 1 else torch.ones(1, dtype=torch.float64)


@lru_cache(1000)
def _along(
    length: int,
    axis: int,
    kernel: int,
    stride: int,
    padding: int | str,
    dilation: int,
) -> Tensor | None:
    """The matrix of a convolution along one axis, (length, positions).

    None stands for the identity.
    """
    if (kernel, stride, padding) == (1, 1, 0):
        return None
    ones = torch.eye(length, dtype=torch.float64).unsqueeze(1)
    weight = _kernel(kernel, axis)[None, None]
    return F.conv1d(ones, weight, None, stride, padding, dilation)[:, 0]


_QUICKLY: Final = {F.conv2d: _conv2d, F.linear: _linear}
