"""Layers that act only in training mode: dropout and stochastic depth."""

from __future__ import annotations

import inspect
import math
from typing import Final

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, fx, nn

from n2n_gym.pytorch.determinism import seeded
from n2n_gym.pytorch.randomised import copy_of

_FUNCTIONS: Final = (F.dropout, F.dropout2d, torchvision.ops.stochastic_depth)
_MAPS: Final = (2048, 2, 8, 8)  # enough to see a rate of 1 %, and blocks of 7x7


def as_in_eval_mode(graph: fx.GraphModule) -> None:
    """Convert a graph traced in training mode to eval mode, and keep its dropout.

    Calls of dropout that act in training mode are switched off, as in eval mode. Calls
    that do nothing even in training mode are removed.
    """
    for node in list(graph.graph.nodes):
        if node.target not in _FUNCTIONS:
            continue
        call = inspect.signature(node.target).bind(*node.args, **node.kwargs)
        call.apply_defaults()
        if call.arguments["training"]:
            call.arguments["training"] = False
            node.args, node.kwargs = call.args, call.kwargs
        else:
            node.replace_all_uses_with(call.arguments["input"])
            graph.graph.erase_node(node)


def with_known_parts(module: nn.Module) -> nn.Module:
    """A copy with torch's dropout instead of other modules that act like it.

    Modules that act like stochastic depth are replaced in the same way.
    """
    module = copy_of(module)
    for name, part in list(module.named_modules(remove_duplicate=False)):
        has_more = next(part.children(), None) or part.state_dict()
        is_torchs = type(part).__module__.startswith("torch.nn.")
        if not name or has_more or is_torchs:
            continue
        known = _acts_as(part)
        if known is not None:
            path, _, leaf = name.rpartition(".")
            module.get_submodule(path)._modules[leaf] = known
    return module


def _acts_as(part: nn.Module) -> nn.Module | None:
    """The dropout layer that acts like a module, judged by its outputs for random maps.

    None if the module does not act like dropout.
    """
    with torch.no_grad(), seeded(0, torch.device("cpu")) as generator:
        maps = 1 + torch.rand(_MAPS, generator=generator, dtype=torch.float64)
        try:
            off, on = part.eval()(maps.clone()), part.train()(maps.clone())
        except Exception:  # the user's own code, which may want anything else
            return None
    if not isinstance(off, Tensor) or not isinstance(on, Tensor):
        return None
    if on.shape != maps.shape or not torch.equal(off, maps):
        return None
    kept = on != 0
    if kept.all() or not kept.any():
        return None
    scale = (on / maps).max().item()
    rate = round(1 - 1 / scale, 9)
    if not torch.allclose(on, kept * maps * scale) or not 0 < rate < 1:
        return None
    by_channel = kept.double().flatten(2).mean(2)
    by_row = by_channel.mean(1)
    if _is_drawn(by_row, rate):
        depth: nn.Module = torchvision.ops.StochasticDepth(rate, "row")
        return depth
    if _is_drawn(by_channel, rate):
        return nn.Dropout2d(rate)
    beside = (kept[..., 1:] & kept[..., :-1]).double().mean().item()
    is_each = abs(beside - (1 - rate) ** 2) < 0.01 and _is_near(kept.double(), rate)
    return nn.Dropout(rate) if is_each else None


def _is_drawn(kept: Tensor, rate: float) -> bool:
    """Whether all values are 0 or 1, and the fraction of zeros is about ``rate``."""
    return bool(((kept == 0) | (kept == 1)).all()) and _is_near(kept, rate)


def _is_near(kept: Tensor, rate: float) -> bool:
    deviation = math.sqrt(rate * (1 - rate) / kept.numel())
    return abs(1 - float(kept.mean()) - rate) < 5 * deviation
