"""ResNets for CIFAR as Torch-Pruning's examples have them, with projections.

He et al. (2016) pad new channels with zeros (option A; ``n2n_gym.teachers.cifar``).
Torch-Pruning cannot follow a padding of channels, and n2n-gym does not shrink such
widths. With a 1x1 convolution in each shortcut that changes the shape (option B), every
method can prune every layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from n2n_gym.common.plugins import lookup
from n2n_gym.pytorch.build import FEW_CHANNELS
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.cifar import DEPTHS, CifarResNet, cifar_resnet
from tests.networks import Block


def resnet56(task: Task) -> CifarResNet:
    """ResNet-56 with projections: 0.86 M parameters."""
    return _projected("resnet56", task)


def resnet20(task: Task) -> CifarResNet:
    """ResNet-20 with projections, for quick trials."""
    return _projected("resnet20", task)


def _projected(name: str, task: Task) -> CifarResNet:
    channels = task.input_shape[0]
    return CifarResNet(DEPTHS[name], task.num_classes, channels, Block)


def module_of(name: str, task: Task, weights: Mapping[str, Tensor]) -> nn.Module:
    """The teacher as an ordinary module, which other libraries prune, in eval mode.

    Args:
        name: ``"module:function"``, a function of the task, or one of CIFAR's ResNets.

    Raises:
        ValueError: The name is neither.
    """
    if name in DEPTHS:
        module: nn.Module = cifar_resnet(name, task.num_classes)
    else:
        also = ("a function of the task that returns a module",)
        module = lookup("teacher", name, dict.fromkeys(DEPTHS), also=also)(task)
    module.load_state_dict(weights)
    return module.eval()


@contextmanager
def thinned(network: nn.Module) -> Iterator[None]:
    """Context in which strided 1x1 convolutions get inputs without skipped positions.

    oneDNN can write past a buffer in the gradients of such a convolution if it reads
    few channels. The networks that n2n-gym builds avoid this themselves; modules that
    other libraries prune do not. The results stay the same.
    """
    changed: list[tuple[nn.Conv2d, Any, Any]] = []
    for module in network.modules():
        if (
            isinstance(module, nn.Conv2d)
            and tuple(module.kernel_size) == (1, 1)
            and tuple(module.stride) != (1, 1)
            and module.padding in (0, (0, 0))
            and module.in_channels < FEW_CHANNELS
        ):
            hook = partial(_without_skipped, stride=module.stride)
            handle = module.register_forward_pre_hook(hook)
            changed.append((module, module.stride, handle))
            module.stride = (1, 1)
    try:
        yield
    finally:
        for module, stride, handle in changed:
            module.stride = stride
            handle.remove()


def _without_skipped(
    module: nn.Module, inputs: tuple[Tensor], *, stride: tuple[int, int]
) -> tuple[Tensor]:
    (images,) = inputs
    down, right = stride
    return (images[:, :, ::down, ::right],)
