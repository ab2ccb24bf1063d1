"""Controls: networks to compare an agent's student with.

This module has magnitude pruning: the teacher without its weakest filters. Uniform
width is in ``networks/scaling.py``. Networks designed by people are in
``hand_designed.py``.
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
    """The teacher without its weakest filters, pruned to a number of parameters.

    Magnitude filter pruning (Li et al., 2017, "Pruning filters for efficient ConvNets",
    arXiv 1608.08710): a filter's importance is the L1 norm of its trained weights. All
    layers are pruned at once. Filters with tied outputs are removed together, ranked by
    the sum of their norms. A grouped convolution loses one filter from each group at a
    time, ranked by the mean norm of these filters. The remaining filters are those that
    ``Inheritance`` gives a student of these widths.

    To compare filters of different layers, each norm is divided by the mean norm of its
    layer; norms of tied layers are summed first. This ignores a layer's scale, which
    batch normalisation cancels. Norms divided by fan-in would mostly reflect widths,
    because initial weights are smaller with more inputs. With such norms, a ResNet-18
    would lose all but one filter of its widest layers before any filter of its first.

    The order of removal does not depend on the size, so no layer of a smaller student
    is wider than in a larger one. Each layer keeps at least one channel.

    Args:
        num_params: Upper limit on the student's parameters. As few filters as possible
            are removed.
        keep: Names of layers that lose no filters.

    Raises:
        OutOfReach: Even with all widths at their minimum, the teacher has more than
            ``num_params`` parameters.
    """
    start = teacher.architecture
    norms = teacher.inheritance(torch.device("cpu")).norms
    groups = shrinkages(start, ("width",), keep=keep)
    order = _weakest_first(start, groups, norms)

    def without(count: int) -> Architecture:
        """The teacher without this number of its weakest filters."""
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
    """The order in which width groups lose channels, from the weakest channels on.

    Each entry stands for ``group.multiple`` channels of its group, which are removed
    together. The strongest channels of each group have no entry, so they stay.

    Args:
        norms: L1 norm of each output channel's weights, (C,), by layer.
    """
    ranked: list[tuple[float, Shrinkage]] = []
    for group in groups:
        each = [norms[start.layers[position].name].cpu() for position in group.layers]
        summed = torch.stack(each).sum(0).double()
        # A layer of zeros has importance 0, not 0 / 0.
        share = summed / summed.mean().clamp(min=torch.finfo(summed.dtype).tiny)
        blocks = share.view(group.multiple, -1).sort(1).values.mean(0)
        ranked += [(worth, group) for worth in blocks[:-1].tolist()]
    ranked.sort(key=lambda pair: pair[0])
    return [group for _, group in ranked]
