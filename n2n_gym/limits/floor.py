"""A fast lower bound on the cost of students after further removals.

The bound takes microseconds, so that an episode can compute it at every step. It is
looser than ``bounds.least_removed``. It counts the layers that the logits need even
after all possible removals. Each layer counts at its least cost in any student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from n2n_gym.limits.bounds import least_of_each
from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.decisions import Removal, has_free_kernel
from n2n_gym.networks.layers import IMAGE, Conv, DepthwiseConv, Layer, Linear
from n2n_gym.networks.tally import Counts

_NOTHING: Final = -2
_MOST_KNOWN: Final = 100_000  # bounds that are remembered


class Floor:
    """Lower bounds on the students of one start architecture, by possible removals.

    Args:
        decisions: All removals of the episode, in order.
        narrow: Whether the bounds also hold for students with narrower layers.
    """

    def __init__(
        self,
        start: Architecture,
        decisions: Sequence[Removal],
        *,
        narrow: bool = False,
    ) -> None:
        self._start = start
        layers = list(start.layers)
        if narrow:
            layers[: start.classifier] = map(_narrowest, layers[: start.classifier])
        self._costs = least_of_each(start, decisions, layers)
        self._bypasses = [_bits(each.bypassed) for each in decisions]
        self._drops = [_bits(each.dropped) for each in decisions]
        self._known: dict[int, Counts] = {}

    def without(self, removable: int) -> Counts:
        """The bound for all students that take any of these removals and no others.

        Args:
            removable: Bit mask of the removals that are taken or still possible.
        """
        found = self._known.get(removable)
        if found is None:
            found = self._count(removable)
            if len(self._known) < _MOST_KNOWN:
                self._known[removable] = found
        return found

    def _count(self, removable: int) -> Counts:
        bypassed = dropped = 0
        for place, bypass in enumerate(self._bypasses):
            if removable >> place & 1:
                bypassed |= bypass
                dropped |= self._drops[place]
        wiring = self._start.wiring
        source = [IMAGE] * len(wiring)  # position that readers of each layer read

        def operands(position: int) -> list[int]:
            """The layers that a join reads, without the operands that it loses."""
            return [
                source[read] if read >= 0 else IMAGE
                for read in wiring[position][0]
                if read < 0 or not dropped >> read & 1
            ]

        for position, (inputs, is_join, adds_several) in enumerate(wiring):
            source[position] = position
            if bypassed >> position & 1:
                source[position] = source[inputs[0]] if inputs[0] >= 0 else IMAGE
            elif is_join:
                reads = operands(position)
                if not reads:
                    source[position] = _NOTHING
                elif len(reads) == 1 or (adds_several and len(set(reads)) == 1):
                    source[position] = reads[0]

        num_params = num_macs = seen = 0
        waiting = [source[-1]]
        while waiting:
            position = waiting.pop()
            if position < 0 or seen >> position & 1:
                continue
            seen |= 1 << position
            params, macs = self._costs[position]
            num_params += params
            num_macs += macs
            inputs, is_join, _ = wiring[position]
            if is_join:
                waiting += operands(position)
            elif inputs[0] >= 0:
                waiting.append(source[inputs[0]])
        return Counts(num_params, num_macs)


def _narrowest(layer: Layer) -> Layer:
    """The layer with one channel, and with a 1x1 kernel if the kernel can shrink.

    Only kernels that leave the map's size unchanged can shrink.
    """
    if isinstance(layer, (Conv, DepthwiseConv)) and has_free_kernel(layer):
        layer = replace(layer, kernel=(1, 1), padding=(0, 0))
    if isinstance(layer, Conv):
        return replace(layer, width=1, groups=1)
    return replace(layer, width=1) if isinstance(layer, Linear) else layer


def _bits(positions: Sequence[int]) -> int:
    return sum(1 << position for position in positions)
