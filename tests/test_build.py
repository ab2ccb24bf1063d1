"""Networks that are built run the same everywhere, also where a library would not."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from n2n_gym.pytorch.build import FEW_CHANNELS, build
from n2n_gym.pytorch.trace import trace

STRIDES = [(2, 2), (1, 2), (3, 1), (4, 3)]
stride_of = pytest.mark.parametrize("stride", STRIDES)
channels_of = pytest.mark.parametrize("channels", range(1, 2 * FEW_CHANNELS, 3))


def shortcut(channels: int, stride: tuple[int, int], groups: int = 1) -> nn.Module:
    """A strided 1x1 convolution of this many channels, with a classifier after it."""
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 1, stride, groups=groups),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * channels, 4),
    )


class Convolutions(TorchDispatchMode):
    """Notes the convolutions that torch is asked for: input, kernel, stride."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "convolution" in str(func):
            images, weight, _, stride = args[:4]
            self.seen.append((images.shape[1], tuple(weight.shape[2:]), tuple(stride)))
        return func(*args, **(kwargs or {}))


def gradients(network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    network.zero_grad()
    network(images).square().sum().backward()
    return [parameter.grad.double() for parameter in network.parameters()]


@channels_of
@stride_of
def test_few_channels_are_thinned_before_a_pointwise_convolution_learns(
    channels, stride
):
    """Otherwise oneDNN 3.12 writes past a buffer, and the process may die of it."""
    module = shortcut(channels, stride)
    network = build(trace(module, (3, 9, 8))).to(memory_format=torch.channels_last)
    network.load_state_dict(module.state_dict())
    images = torch.randn(5, 3, 9, 8).to(memory_format=torch.channels_last)
    with Convolutions() as asked:
        found = gradients(network, images)
    strided = [one for one in asked.seen if one[1] == (1, 1) and max(one[2]) > 1]
    assert bool(strided) == (channels >= FEW_CHANNELS)

    expected = gradients(module.double(), images.double().contiguous())
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@stride_of
def test_nothing_is_thinned_where_nothing_learns(stride):
    """So that files and inference have one operation, not two."""
    network = build(trace(shortcut(4, stride, groups=2), (3, 9, 8))).eval()
    images = torch.randn(5, 3, 9, 8)
    with torch.no_grad(), Convolutions() as asked:
        plain = network(images)
    assert asked.seen[-1] == (4, (1, 1), stride)
    torch.testing.assert_close(network(images), plain)

    exported = torch.export.export(network, (images,))
    assert "slice" not in str(exported.graph)


@stride_of
def test_a_network_that_thins_is_traced_again(stride):
    architecture = trace(shortcut(4, stride), (3, 9, 8))
    again = trace(build(architecture), (3, 9, 8))
    unnamed = [
        [replace(layer, name="") for layer in each.layers]
        for each in (architecture, again)
    ]
    assert unnamed[0] == unnamed[1]
