"""The channels of a teacher that a narrower student keeps behind splits and shuffles.

Behind a split or a shuffle, a layer reads only some channels of a producer. The
itinerary of a channel is the set of layers that read or write it, with the channel's
group in each of these layers. A student's channel can stand for a teacher's channel if
their itineraries are equal. A shuffle of fewer channels is another permutation. So a
student's channels are in general not the teacher's first ones, and not in the teacher's
order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.layers import (
    PARAMETERISED,
    PRODUCERS,
    ChannelShuffle,
    ChannelSlice,
    Chunk,
    Concat,
    Conv,
    Flatten,
    GroupNorm,
    Join,
    Layer,
    PadChannels,
)

Indices = NDArray[np.int64]
NONE: Final = -1  # for channels of the image, or of zeros


def deal(layer: Layer, channels: Indices) -> Indices:
    """The channels that a rearranging layer emits, given those that it reads."""
    match layer:
        case Chunk():
            return np.split(channels, layer.parts)[layer.part]
        case ChannelShuffle():
            return channels.reshape(layer.groups, -1).T.ravel()
        case ChannelSlice():
            return channels[layer.start : layer.stop]
        case PadChannels():
            sides = layer.before, layer.after
            return np.pad(channels, sides, constant_values=NONE)
        case _:
            return channels


def followers(
    student: Architecture,
    teacher: Architecture,
    producers: Sequence[int],
    norms: Mapping[str, NDArray[np.float64]],
) -> dict[int, Indices]:
    """The teacher's channels that a student's layers keep, (C,) each.

    Each of the student's channels gets an unused channel of the teacher with the same
    itinerary or, if there is none, any unused channel of the same group. Channels with
    the largest norms are preferred.

    Args:
        student: The student.
        teacher: The teacher.
        producers: Positions in the student: layers that are narrower than in the
            teacher, and all layers tied to them.
        norms: Norm of each output channel's weights in the teacher, (C,), by layer.

    Returns:
        Channels of the teacher, by position in the student.
    """
    shared = {layer.name for layer in student.layers}
    names = [student.layers[position].name for position in producers]
    wanted = _sorted(student, names, shared, None)
    offered = _sorted(teacher, names, shared, norms)
    kept = {
        name: np.full(student.shape_of(position)[0], NONE)
        for name, position in zip(names, producers, strict=True)
    }
    for itinerary, channels in wanted.items():
        strongest = offered.get(itinerary, [])[: len(channels)]
        pairs = zip(channels, sorted(strongest), strict=False)
        for new, old in pairs:
            for name, index in new.members:
                # Tied channels of one layer correspond in order.
                own = [i for of, i in old.members if of == name]
                place = sum(of == name and i < index for of, i in new.members)
                kept[name][index] = own[place]
    for name, position in zip(names, producers, strict=True):
        layer = student.layers[position]
        groups = layer.groups if isinstance(layer, Conv) else 1
        _fill(kept[name], norms[name], groups)
    return {
        position: kept[name] for name, position in zip(names, producers, strict=True)
    }


class _Channel(NamedTuple):
    """A channel, with all channels tied to it."""

    number: int
    members: list[tuple[str, int]]  # layers and their output channels


def _sorted(
    network: Architecture,
    names: Iterable[str],
    shared: Set[str],
    norms: Mapping[str, NDArray[np.float64]] | None,
) -> dict[int, list[_Channel]]:
    """Channels of the named layers by itinerary, largest norms first.

    Args:
        norms: As for ``followers``; None to sort channels by number.
    """
    found: dict[int, _Channel] = {}
    strength: dict[int, float] = {}
    first, tied_to, itineraries = _followed(network, shared)
    for name in names:
        position = network.positions[name]
        for index in range(network.shape_of(position)[0]):
            number = int(tied_to[first[position] + index])
            channel = found.setdefault(number, _Channel(number, []))
            channel.members.append((name, index))
            if norms is not None:
                strength[number] = strength.get(number, 0.0) + norms[name][index]
    by_itinerary: dict[int, list[_Channel]] = {}
    for number in sorted(found, key=lambda n: (-strength.get(n, 0.0), n)):
        by_itinerary.setdefault(int(itineraries[number]), []).append(found[number])
    return by_itinerary


def _followed(
    network: Architecture, shared: Set[str]
) -> tuple[dict[int, int], Indices, NDArray[np.uint64]]:
    """Channels of all producers, numbered from layer to layer, and their itineraries.

    Args:
        network: The network.
        shared: Names of the layers that belong to itineraries.

    Returns:
        The number of each producer's first channel, by position. For each channel, the
        smallest number of a channel tied to it. For each of these smallest numbers, a
        number that stands for the itinerary.
    """
    first, count = {}, 0
    for position, layer in enumerate(network.layers):
        if isinstance(layer, PRODUCERS):
            first[position] = count
            count += layer.width
    parent = np.arange(count)
    passed = np.zeros(count, np.uint64)  # sum over the groups that read or write it

    def find(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    values = [np.full(network.input_shape[0], NONE)]
    for position, layer in enumerate(network.layers):
        operands = [values[read + 1] for read in layer.inputs]
        value = deal(layer, operands[0])
        if layer.name in shared and isinstance(layer, PARAMETERISED):
            _pass(passed, value, layer, "read")
        if isinstance(layer, PRODUCERS):
            value = np.arange(first[position], first[position] + layer.width)
            if layer.name in shared:
                _pass(passed, value, layer, "written")
        elif isinstance(layer, Concat):
            value = np.concatenate(operands)
        elif isinstance(layer, Flatten):
            area = np.prod(network.shape_of(layer.inputs[0])[1:], dtype=int)
            value = np.repeat(value, area)
        elif isinstance(layer, Join):
            for other in operands[1:]:
                for pair in zip(value, other, strict=True):
                    if NONE not in pair:
                        one, two = sorted(map(find, pair))
                        parent[two] = one
                value = np.where(value == NONE, other, value)
        values.append(value)
    tied_to = np.array([find(number) for number in range(count)], np.int64)
    itineraries = np.zeros(count, np.uint64)
    np.add.at(itineraries, tied_to, passed)
    return first, tied_to, itineraries


def _pass(
    passed: NDArray[np.uint64], channels: Indices, layer: Layer, how: str
) -> None:
    """Record that a layer reads or writes these channels, each in one of its groups.

    Args:
        passed: Sum, for each channel, of the numbers of such records; changed in place.
        how: ``"read"`` or ``"written"``.
    """
    groups = layer.groups if isinstance(layer, (Conv, GroupNorm)) else 1
    numbers = [
        hashlib.blake2b(f"{layer.name} {how} {group}".encode(), digest_size=8).digest()
        for group in range(groups)
    ]
    of_each = np.repeat(
        np.frombuffer(b"".join(numbers), np.uint64), len(channels) // groups
    )
    there = channels != NONE
    np.add.at(passed, channels[there], of_each[there])


def _fill(kept: Indices, norms: NDArray[np.float64], groups: int) -> None:
    """Fill gaps (``NONE``) in each group with its unused channels of largest norms."""
    for new, old in zip(
        np.split(np.arange(len(kept)), groups),
        np.split(np.arange(len(norms)), groups),
        strict=True,
    ):
        missing = new[kept[new] == NONE]
        free = np.setdiff1d(old, kept[new])
        order = np.argsort(-norms[free], kind="stable")[: len(missing)]
        kept[missing] = np.sort(free[order])
