"""Networks designed by people, adapted to the images and classes of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import nn

from n2n_gym.evaluators.rungs import FULL
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import Shape
from n2n_gym.networks.small_images import SMALLEST_MAP
from n2n_gym.pytorch.trace import trace
from n2n_gym.tasks.task import Task
from n2n_gym.teachers.zoo import teacher_architecture

# Hand-designed networks cannot inherit weights from the teacher. They are distilled
# like students, but from initial weights like a teacher's. From torch's default
# weights, SqueezeNet, which has no normalisation, stays at chance accuracy.
FULL_FRESH: Final = replace(FULL, name="full-fresh", start="he")


# The networks that Ashok et al. (2018) compare with. Parameter counts are for 3x32x32
# images of 10 classes.
def squeezenet(task: Task) -> Architecture:
    """SqueezeNet 1.1 (Iandola et al., 2016) from torchvision: 0.73 M parameters.

    It is adapted to small images in the same way as teachers given by name.
    """
    return teacher_architecture("squeezenet1_1", task)


def fitnet4(task: Task) -> Architecture:
    """FitNet 4 for CIFAR-10 (Romero et al., 2015): 17 convolutions, 1.21 M parameters.

    Ashok et al. give the same size (1.2 M). Unlike the original, this network has ReLU
    units instead of maxout, and the logits follow right after the last pool. The
    original is trained in two stages, with hints; batch normalisation takes the place
    of this. The last pool is over the whole map. The other pools are 2x2; a pool is
    left out if it would leave a map under 2x2.
    """
    first, second, third = (32, 32, 32, 48, 48), (80,) * 6, (128,) * 6
    with torch.device("meta"):  # no weights are drawn
        layers, (channels, height, width) = _stages(task.input_shape, (first, second))
        network = nn.Sequential(
            *layers,
            *_convolutions(channels, third),
            nn.MaxPool2d((height, width)),
            nn.Flatten(),
            nn.Linear(third[-1], task.num_classes),
        )
    return trace(network, task.input_shape)


def vgg_small(task: Task) -> Architecture:
    """A small VGG: 1.07 M parameters, close to the 1.06 M of Ashok et al.

    Ashok et al. do not publish the layers of their small VGG. This one has the first
    five convolutions of VGG-11 (Simonyan and Zisserman, 2015, column A) at half their
    widths, with batch normalisation. A 2x2 max pool follows the last convolution of
    each width, and there is one hidden linear layer of 512 units. A pool is left out if
    it would leave a map under 2x2. The last map is averaged to 2x2, so the network's
    size does not depend on the images' size.
    """
    side = SMALLEST_MAP
    with torch.device("meta"):
        layers, (channels, *_) = _stages(
            task.input_shape, ((32,), (64,), (128, 128), (256,))
        )
        network = nn.Sequential(
            *layers,
            nn.AdaptiveAvgPool2d(side),
            nn.Flatten(),
            nn.Linear(channels * side * side, 512),
            nn.ReLU(),
            nn.Linear(512, task.num_classes),
        )
    return trace(network, task.input_shape)


HAND_DESIGNED: Final[Mapping[str, Callable[[Task], Architecture]]] = {
    "squeezenet": squeezenet,
    "fitnet4": fitnet4,
    "vgg_small": vgg_small,
}


def _stages(
    input_shape: Shape, stages: Sequence[Sequence[int]]
) -> tuple[list[nn.Module], Shape]:
    """Convolutions of these widths, with a 2x2 max pool after each stage.

    A pool is left out if it would leave a map under 2x2.

    Returns:
        The modules, and the shape of their output.
    """
    channels, height, width = input_shape
    layers: list[nn.Module] = []
    for widths in stages:
        layers += _convolutions(channels, widths)
        channels = widths[-1]
        if min(height, width) // 2 >= SMALLEST_MAP:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    return layers, (channels, height, width)


def _convolutions(channels: int, widths: Sequence[int]) -> list[nn.Module]:
    """3x3 convolutions, each with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for width in widths:
        convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return layers
