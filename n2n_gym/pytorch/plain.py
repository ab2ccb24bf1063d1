"""A user's module as tracing needs it: torch's own layers, without wrappers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel
from torchvision.ops import FrozenBatchNorm2d

from n2n_gym.pytorch.arguments import TraceError
from n2n_gym.pytorch.modules import MODULES
from n2n_gym.pytorch.randomised import deep_copy

_WRAPPERS: Final = (
    nn.DataParallel,
    nn.parallel.DistributedDataParallel,
    AveragedModel,
)
_LAYERS: Final = (*MODULES, nn.Flatten, FrozenBatchNorm2d)
# Data types that store each number of a weight separately.
_NUMBERS: Final = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Buffers that are used in arithmetic, whatever their type.
_COMPUTED_WITH: Final = ("running_mean", "running_var", "weight", "bias")
# Attributes that a subclass may redefine without changing what it computes.
_HARMLESS: Final = ("extra_repr", "reset_parameters")
_READ_AT_CALLS: Final = ("__call__", "__getattr__", "__getattribute__")
# Packages of torch with modules that pack their weights.
_QUANTISED: Final = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")

# Advice for tensors that a network uses twice.
ADVICE: Final = "with a copy for each use (copy.deepcopy) the network computes the same"


def plain(module: nn.Module) -> nn.Module:
    """The same network without wrappers, made of torch's own layers where possible.

    Frozen batch normalisation becomes batch normalisation. A layer of a subclass that
    changes nothing becomes a layer of torch's class. The module itself is not changed;
    the result uses the tensors of the module.

    Raises:
        TraceError: The module has hooks, weights of unsupported types, weights that
            are computed at each call, or wrapped parts that cannot be copied.
    """
    for name, tensor in _floats(module):
        if (how := encoding(tensor)) is not None:
            raise TraceError(
                f"{name} is {how}: weights of float32, float64, float16 and bfloat16 "
                f"are supported"
            )
    for name, part in module.named_modules():
        if (why := _refusal(part, name)) is not None:
            raise TraceError(why)
    module = unwrapped(module)
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    memo: dict[int, Any] = dict(tensors)  # `deepcopy` uses these instead of copies
    for part in reversed(list(module.modules())):  # inner modules first
        inner, layer = _wrapped(part), _layer_of(type(part))
        if inner is not None:
            memo[id(part)] = deep_copy(inner, memo)
        elif layer is FrozenBatchNorm2d:
            memo[id(part)] = _batch_norm(part)
        elif _has_compiled_forward(part):
            del deep_copy(part, memo).__dict__["forward"]
        elif layer is not type(part):
            deep_copy(part, memo).__class__ = layer  # the copy is in the memo
    return module if len(memo) == len(tensors) else deep_copy(module, memo)


def _floats(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A module's parameters, and those of its buffers that arithmetic can use."""
    yield from module.named_parameters()
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point() or name.rpartition(".")[2] in _COMPUTED_WITH:
            yield name, buffer


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers by name, with the values that its forward uses.

    ``state_dict()`` is meant for files: hooks and subclasses may change its values.
    """
    tensors: dict[str, Tensor] = dict(module.named_buffers(remove_duplicate=False))
    tensors.update(module.named_parameters(remove_duplicate=False))
    return tensors


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside torch's wrappers, which may be nested."""
    while (inner := _wrapped(module)) is not None:
        module = inner
    return module


def _wrapped(module: nn.Module) -> nn.Module | None:
    """The module inside one wrapper of torch; None if the module is no wrapper."""
    if type(module).__module__.startswith("torch._dynamo"):  # so it is imported
        return module._modules.get("_orig_mod")
    for wrapper in _WRAPPERS:
        if isinstance(module, wrapper) and type(module).forward is wrapper.forward:
            return module._modules["module"]
    return None


def _has_compiled_forward(module: nn.Module) -> bool:
    """Whether a module's ``forward`` was replaced by a compiled version of itself."""
    replaced: Any = vars(module).get("forward")
    compiled: Any = getattr(replaced, "_torchdynamo_orig_callable", None)
    written = getattr(inspect.unwrap(compiled), "__func__", None)
    return written is not None and written is type(module).forward


def _layer_of(kind: type[nn.Module]) -> type[nn.Module]:
    """The torch layer that a class equals, as it changes nothing; else the class."""
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
    """How a weight is stored, in words; None if it is an ordinary tensor of floats."""
    if is_lazy(tensor):
        return "not initialised; call the module once with images"
    if tensor.is_quantized or tensor.dtype not in _NUMBERS:
        return str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return type(tensor).__name__  # a subclass that computes in its own way
    return None


def _refusal(part: nn.Module, path: str) -> str | None:
    """A reason not to trace a part, whatever the part's forward does, or None."""
    name = path or "the module"
    if type(part).__module__.startswith(_QUANTISED):
        return f"{name} is quantised: give the network before that"
    if (advice := _ending(part, path)) is not None:
        return advice
    if part._forward_hooks or part._forward_pre_hooks:
        return f"{name} has hooks: they are not supported"
    return None


def _ending(part: nn.Module, path: str) -> str | None:
    """Advice on a part's weight that is computed at each call, or None.

    The advice names torch's function that makes it an ordinary weight.
    """
    if parametrize.is_parametrized(part):
        name, steps = next(part.get_submodule("parametrizations").named_children())
        what = f"parametrised by {type(next(steps.children())).__name__}"
        return _advice(path, name, what, "parametrize.remove_parametrizations")
    for hook in part._forward_pre_hooks.values():
        match hook:
            case prune.BasePruningMethod(_tensor_name=name):
                return _advice(path, name, "under a pruning mask", "prune.remove")
            case WeightNorm(name=name):
                return _advice(path, name, "under weight_norm", "remove_weight_norm")
            case SpectralNorm(name=name):
                what, function = "under spectral_norm", "remove_spectral_norm"
                return _advice(path, name, what, function)
    return None


def _advice(path: str, name: str, what: str, function: str) -> str:
    weight = f"{path}.{name}" if path else name
    owner = f"network.get_submodule({path!r})" if path else "network"
    call = f"torch.nn.utils.{function}({owner}, {name!r})"
    return f"{weight} is {what}; {call} makes it a weight of its own"


def refuse_scripts(module: nn.Module) -> None:
    """Raise a TraceError if a part is TorchScript."""
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise TraceError(
                f"{name or 'the module'} is TorchScript, which torch.fx cannot trace: "
                f"give the module that it was made from"
            )


def refuse_shared_tensors(module: nn.Module) -> None:
    """Raise a TraceError if two names stand for the same parameter or buffer."""
    owners: dict[int, str] = {}
    tensors = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    for name, tensor in tensors:
        other = owners.setdefault(id(tensor), name)
        if other != name:
            raise TraceError(
                f"{other} and {name} are one tensor, which is not supported; {ADVICE}"
            )
