"""Removals compared with silencing: a student's logits without a branch or a unit.

They must equal those of the original module with forward hooks that silence the part. A
silenced branch adds zeros or multiplies by ones; the modules of a silenced unit return
their input.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import Removal, removals, remove
from n2n_gym.networks.layers import Add, Multiply
from n2n_gym.pytorch.inheritance import Inheritance
from n2n_gym.pytorch.trace import trace
from n2n_gym.teachers.cifar import cifar_resnet
from tests.networks import (
    IMAGE,
    OF_TIMM,
    DealtNet,
    GroupNormNet,
    MixedNet,
    PaddedNet,
    ScaledNet,
    VariedNet,
    awake,
)

SMALL = (DealtNet, GroupNormNet, MixedNet, PaddedNet, ScaledNet, VariedNet)


def silent(
    module: nn.Module, start: Architecture, removal: Removal
) -> dict[str, Callable[..., Tensor]] | None:
    """A hook for each module to silence, by name; None where hooks cannot do it."""
    names = dict(module.named_modules())
    if removal.form == "branch":
        end = removal.layers[-1]
        joins = {type(start.layers[reader]) for reader in start.readers[end]}
        fill = {Add: torch.zeros_like, Multiply: torch.ones_like}
        name = start.layers[end].name
        if len(joins) != 1 or not joins <= set(fill) or name not in names:
            return None
        give = fill[joins.pop()]
        return {name: lambda _module, _inputs, output: give(output)}
    hooks = {}
    for position in removal.layers:
        name = start.layers[position].name
        outer = [each for each in hooks if name.startswith(f"{each}.")]
        if name in names:
            hooks[name] = lambda _module, inputs, _output: inputs[0]
        elif not outer:
            return None
    return hooks


def num_equal(module: nn.Module, image: tuple[int, int, int], most: int) -> int:
    """The number of removals with equal logits, among those that hooks can do.

    Other logits fail the test.
    """
    start = trace(module, image)
    inheritance = Inheritance(start, module.state_dict())
    module = module.double()
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, *image, generator=generator, dtype=torch.float64)
    count = 0
    found = removals(start)
    for removal in found[:: 1 + len(found) // most]:
        hooks = silent(module, start, removal)
        if hooks is None:
            continue
        student = inheritance.build(remove(start, [removal])).double().eval()
        with torch.no_grad(), ExitStack() as stack:
            for name, hook in hooks.items():
                part = module.get_submodule(name)
                stack.callback(part.register_forward_hook(hook).remove)
            try:
                expected = module(images)
            except RuntimeError:  # what was bypassed gave maps of another shape
                continue
        assert torch.equal(student(images), expected), removal.name
        count += 1
    return count


@pytest.mark.parametrize("make", [*SMALL, lambda: cifar_resnet("resnet20")])
def test_in_small_networks_of_every_kind_of_layer(make):
    torch.manual_seed(0)
    image = IMAGE if make in SMALL else (3, 32, 32)
    assert num_equal(awake(make()), image, most=100) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TIMM)
def test_in_networks_of_timm(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    module = awake(timm.create_model(name, num_classes=10))
    assert num_equal(module, (3, 64, 64), most=24) > 2
