"""What a student found by an agent is compared with.

Here: the teacher with narrower layers by the norms of its filters (magnitude). Uniform
width, one rate for all layers, is in ``networks/scaling.py``; students that people have
designed are in ``hand_designed.py``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence, Set

import torch
from torch import Tensor

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import Shrinkage, shrinkages
from n2n_gym.networks.scaling import refuse_below
from n2n_gym.teachers.teacher import Teacher


def magnitude_student(
    teacher: Teacher, num_params: int, *, keep: Set[str] = frozenset()
) -> Architecture:
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
        keep: Names of layers that lose nothing.

    Raises:
        OutOfReach: The teacher with all widths at their least has more parameters.
    """
    start = teacher.architecture
    norms = teacher.inheritance(torch.device("cpu")).norms
    groups = shrinkages(start, ("width",), keep=keep)
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
