"""A user's module in the form that tracing knows: torch's own layers, unwrapped."""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel
from torchvision.ops import FrozenBatchNorm2d

from n2n_gym.pytorch.modules import MODULES

_WRAPPERS: Final = (
    nn.DataParallel,
    nn.parallel.DistributedDataParallel,
    AveragedModel,
)
_LAYERS: Final = (*MODULES, nn.Flatten, FrozenBatchNorm2d)
# What keeps one number for each number of a weight.
_NUMBERS: Final = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# What a subclass may define anew without computing anything else.
_HARMLESS: Final = ("extra_repr", "reset_parameters")
_READ_AT_CALLS: Final = ("__call__", "__getattr__", "__getattribute__")


def plain(module: nn.Module) -> nn.Module:
    """The same network without wrappers, made of torch's own layers where it can be.

    Frozen batch normalisation becomes batch normalisation, and a subclass that changes
    nothing of a layer becomes that layer. The module is left as it is; what is given
    shares its tensors.
    """
    module = unwrapped(module)
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    memo: dict[int, Any] = dict(tensors)  # what `deepcopy` takes in place of a copy
    for part in reversed(list(module.modules())):  # what is inside comes first
        inner, layer = _wrapped(part), _layer_of(type(part))
        if inner is not None:
            memo[id(part)] = copy.deepcopy(inner, memo)
        elif layer is FrozenBatchNorm2d:
            memo[id(part)] = _batch_norm(part)
        elif layer is not type(part):
            copy.deepcopy(part, memo).__class__ = layer  # the copy is in the memo
    return module if len(memo) == len(tensors) else copy.deepcopy(module, memo)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that torch's wrappers around it call, one in another perhaps."""
    while (inner := _wrapped(module)) is not None:
        module = inner
    return module


def _wrapped(module: nn.Module) -> nn.Module | None:
    """The module that one of torch's wrappers only calls."""
    if type(module).__module__.startswith("torch._dynamo"):  # is imported if so
        return module._modules.get("_orig_mod")
    for wrapper in _WRAPPERS:
        if isinstance(module, wrapper) and type(module).forward is wrapper.forward:
            return module._modules["module"]
    return None


def _layer_of(kind: type[nn.Module]) -> type[nn.Module]:
    """The layer that a class is or inherits everything from, or else the class."""
    line = kind.__mro__
    layer = next((each for each in line if each in _LAYERS), kind)
    for each in line[: line.index(layer)]:
        for name, value in vars(each).items():
            if name.startswith("__"):
                is_changed = name in _READ_AT_CALLS
            else:
                is_property = hasattr(type(value), "__set__")
                is_new = not hasattr(layer, name) or name in _HARMLESS
                is_changed = is_property or not is_new
            if is_changed:
                return kind
    return layer


def _batch_norm(frozen: Any) -> nn.BatchNorm2d:
    weight = frozen.weight
    norm = nn.BatchNorm2d(len(weight), frozen.eps, device=weight.device)
    norm.weight, norm.bias = nn.Parameter(weight), nn.Parameter(frozen.bias)
    norm.running_mean, norm.running_var = frozen.running_mean, frozen.running_var
    return norm.train(frozen.training)


def encoding(tensor: Tensor) -> str | None:
    """How a weight is kept, where that is not one float for each of its numbers."""
    if is_lazy(tensor):
        return "not initialised; call the module once with images"
    if tensor.is_quantized or tensor.dtype not in _NUMBERS:
        return str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return type(tensor).__name__  # a subclass that computes in its own way
    return None


def removal(part: nn.Module, path: str) -> str | None:
    """Which weight is computed anew at each call, and the one call that ends that."""
    owner = f"network.get_submodule({path!r})" if path else "network"
    utils = "torch.nn.utils"
    if parametrize.is_parametrized(part):
        name, steps = next(part.get_submodule("parametrizations").named_children())
        what = f"parametrised by {type(next(steps.children())).__name__}"
        call = f"{utils}.parametrize.remove_parametrizations({owner}, {name!r})"
        return _advice(path, name, what, call)
    for hook in part._forward_pre_hooks.values():
        match hook:
            case prune.BasePruningMethod():
                name, what = hook._tensor_name, "under a pruning mask"
                call = f"{utils}.prune.remove({owner}, {name!r})"
            case WeightNorm():
                name, what = hook.name, "under weight_norm"
                call = f"{utils}.remove_weight_norm({owner}, {name!r})"
            case SpectralNorm():
                name, what = hook.name, "under spectral_norm"
                call = f"{utils}.remove_spectral_norm({owner}, {name!r})"
            case _:
                continue
        return _advice(path, name, what, call)
    return None


def _advice(path: str, name: str, what: str, call: str) -> str:
    weight = f"{path}.{name}" if path else name
    return f"{weight} is {what}; {call} makes it a weight of its own"
