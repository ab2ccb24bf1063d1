"""What a student found by an agent is compared with.

The teacher itself with narrower layers, by one rate for all of them (uniform width) or
by the norms of its filters (magnitude); and students that people have designed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from n2n_gym.evaluators import FULL
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import Shrinkage, shrinkages
from n2n_gym.networks.layers import Shape
from n2n_gym.networks.scaling import refuse_below
from n2n_gym.networks.small_images import SMALLEST_MAP
from n2n_gym.pytorch import trace
from n2n_gym.tasks import Task
from n2n_gym.teachers import Teacher, teacher_architecture

# Hand-designed students have no layer of the teacher's to inherit from: the same
# distillation, starting as teachers do. From torch's default weights, SqueezeNet, which
# does not normalise, is still at chance after all of it.
FULL_FRESH: Final = replace(FULL, name="full-fresh", start="he")


def magnitude_student(teacher: Teacher, num_params: int) -> Architecture:
    """The teacher without its weakest filters, as few of them as make it so small.

    Magnitude filter pruning (Li et al., 2017, "Pruning filters for efficient ConvNets",
    arXiv 1608.08710): a filter is worth the L1 norm of its trained weights; in one shot
    over all layers, to a size. Filters whose outputs are tied go together, worth their
    sum; where a grouped convolution needs equally many in each of its groups, one of
    each goes, worth their mean. So what is left are the filters that ``Inheritance``
    gives a student of these widths.

    Between layers, norms are compared as shares of the mean norm of their layer (of the
    tied layers' sums). That is blind to a layer's scale, which batch normalisation
    cancels. Divided by fan-in, they would mostly tell wide layers from narrow ones:
    weights are drawn the smaller the more inputs they have, so that a ResNet-18 would
    lose its widest layers down to one filter before it lost any of the first.

    The order in which filters go does not depend on the size, so that no layer of a
    smaller student is wider than in a larger one. One channel of each remains.

    Args:
        num_params: The most that the student may have; with the filter that went last
            it would have more.

    Raises:
        OutOfReach: The teacher with all widths at their least has more parameters.
    """
    start = teacher.architecture
    norms = teacher.inheritance(torch.device("cpu")).norms
    groups = shrinkages(start, ("width",))
    order = _weakest_first(start, groups, norms)

    def without(count: int) -> Architecture:
        """The teacher without so many of the weakest."""
        gone = Counter(order[:count])
        widths = {
            position: start.shape_of(position)[0] - group.multiple * gone[group]
            for group in groups
            for position in group.layers
        }
        return start.shrink(widths=widths)

    refuse_below(without(len(order)), num_params)
    counts = range(len(order) + 1)
    fewest = bisect_left(counts, -num_params, key=lambda n: -without(n).num_params)
    return without(fewest)


def _weakest_first(
    start: Architecture, groups: Sequence[Shrinkage], norms: Mapping[str, Tensor]
) -> list[Shrinkage]:
    """Which group loses a channel (of each block) first, second, ...; each keeps one.

    Args:
        norms: L1 norm of each output channel's weights, (C,), by layer.
    """
    ranked: list[tuple[float, Shrinkage]] = []
    for group in groups:
        each = [norms[start.layers[position].name].cpu() for position in group.layers]
        summed = torch.stack(each).sum(0).double()
        # A layer of zeros is worth nothing: its share is 0, not 0 / 0.
        share = summed / summed.mean().clamp(min=torch.finfo(summed.dtype).tiny)
        blocks = share.view(group.multiple, -1).sort(1).values.mean(0)
        ranked += [(worth, group) for worth in blocks[:-1].tolist()]
    ranked.sort(key=lambda pair: pair[0])
    return [group for _, group in ranked]


# Hand-designed students, for the images and classes of a task. Those that Ashok et al.
# (2018) compare with; the parameter counts are for 3x32x32 images of 10 classes.


def squeezenet(task: Task) -> Architecture:
    """SqueezeNet 1.1 (Iandola et al., 2016), torchvision's: 0.73 M parameters.

    Fitted to small images as teachers by name are.
    """
    return teacher_architecture("squeezenet1_1", task)


def fitnet4(task: Task) -> Architecture:
    """FitNet 4 for CIFAR-10 (Romero et al., 2015): 17 convolutions, 1.21 M parameters.

    As Ashok et al. count it (1.2 M): with plain ReLU units for maxout's, and logits
    right after the last pool. Batch normalisation takes the place of training in two
    stages with hints. The last pool is over the whole map; others, 2x2, are left out
    where less than 2x2 would remain.
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
    """A small VGG: 1.07 M parameters, as that of Ashok et al. (1.06 M).

    They do not publish its layers. These are the first five of VGG-11 (Simonyan and
    Zisserman, 2015, column A) at half their widths, normalised, a 2x2 max pool after
    each width and one hidden linear layer of 512. Pools are left out where less than
    2x2 would remain; larger maps are averaged to 2x2, so that the size of the images
    does not change that of the network.
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
    """Convolutions of these widths, a pool after each stage if the map allows it.

    Returns:
        The modules, and the shape of the map that they leave.
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
    """3x3, each with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for width in widths:
        convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return layers
