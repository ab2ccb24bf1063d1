"""Inheritance: the teacher's weights that a student starts from.

Every channel of a student corresponds to one of the teacher's. A layer takes the slice
of the teacher's weights for the channels it still reads and writes. Weights without a
counterpart are newly initialised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from n2n_gym.networks.architecture import Architecture
from n2n_gym.networks.channels import Channels, Segment
from n2n_gym.networks.itineraries import deal, followers
from n2n_gym.networks.layers import (
    IMAGE,
    PARAMETERISED,
    PRODUCERS,
    ChannelShuffle,
    Chunk,
    Conv,
    DepthwiseConv,
    Layer,
    PReLU,
    Scale,
)
from n2n_gym.pytorch.build import Network, build, weights_of

Weights = Mapping[str, Tensor]
Indices = NDArray[np.int64]
FRESH: Final = -1  # stands for none of the teacher's channels


class _Span(NamedTuple):
    """Consecutive channels of a value, expressed as channels of the teacher."""

    group: int  # the teacher's width group
    width: int  # the group's width in the teacher
    spread: int  # features that each channel became in a flatten
    kept: Indices  # the channels of that group


class Inheritance:
    """The weights that a teacher passes on to its students.

    Args:
        weights: The teacher's state dict.
        ranked_by: Weights that rank channels: a narrower layer keeps the channels whose
            weights have the largest norms. By default, this is ``weights``.
    """

    def __init__(
        self,
        teacher: Architecture,
        weights: Weights,
        ranked_by: Weights | None = None,
    ) -> None:
        self.teacher = teacher
        self.weights = weights
        self.ranked_by = weights if ranked_by is None else ranked_by
        self._channels = Channels(teacher)

    def build(self, student: Architecture) -> Network:
        """The student's module with its inherited weights, on the teacher's device.

        Weights without a counterpart are initialised with torch's global generator.

        Args:
            student: The student. Each of its layers has the name of a layer of the
                teacher and is not wider than that layer.
        """
        network = self.blank(student)
        for layer, written, read in self._counterparts(student):
            if (read == FRESH).all():
                continue
            with torch.no_grad():
                for key, new in weights_of(network, layer).items():
                    new.copy_(_slice(layer, new, self.weights[key], written, read))
        return network

    def blank(self, student: Architecture) -> Network:
        """The student's module, before it inherits any weights.

        Grouped convolutions are initialised, and so are layers that read channels
        without a counterpart. The weights of other layers are not set.
        """
        device = next(iter(self.weights.values())).device
        network = build(student, "meta").to_empty(device=device)
        for layer, _, read in self._counterparts(student):
            # Shrinkage before a concatenation can move channels to another group of the
            # next convolution. Weights of these channels have no counterpart either.
            is_grouped = isinstance(layer, Conv) and layer.groups > 1
            if is_grouped or (read == FRESH).any():
                _reset(network, layer)
        return network

    def written(self, student: Architecture) -> dict[str, Indices]:
        """The teacher's channels that each convolution and linear layer writes."""
        return {
            layer.name: written
            for layer, written, _ in self._counterparts(student)
            if isinstance(layer, PRODUCERS)
        }

    def slices(self, student: Architecture, network: Network) -> dict[str, Tensor]:
        """The student's parameters as functions of the teacher's weights, by name.

        Gradients flow back to the teacher's weights. Weights without a counterpart are
        taken from the network as constants.

        Args:
            network: The student's module.
        """
        found = {}
        for layer, written, read in self._counterparts(student):
            for key, own in weights_of(network, layer).items():
                if isinstance(own, nn.Parameter):
                    if (read == FRESH).all():
                        found[key] = own.detach()
                    else:
                        old = self.weights[key]
                        found[key] = _slice(layer, own.detach(), old, written, read)
        return found

    def _counterparts(
        self, student: Architecture
    ) -> Iterator[tuple[Layer, Indices, Indices]]:
        """Each layer with weights, and the teacher's channels it writes and reads."""
        values = _Values(self, student)
        for position, layer in enumerate(student.layers):
            if isinstance(layer, PARAMETERISED):
                old = self.teacher.positions[layer.name]
                read = _align(
                    values.runs(layer.inputs[0]),
                    values.teacher_runs(self.teacher.layers[old].inputs[0]),
                )
                yield layer, values.kept.get(position, read), read

    @cached_property
    def norms(self) -> dict[str, Tensor]:
        """L1 norm of each output channel's weights, (C,), by layer."""
        return {
            layer.name: self.ranked_by[f"{layer.name}.weight"].abs().flatten(1).sum(1)
            for layer in self.teacher.layers
            if isinstance(layer, PRODUCERS)
        }


def _reset(network: Network, layer: Layer) -> None:
    """Initialise a layer with torch's defaults; the factors of a ``Scale`` are one."""
    if isinstance(layer, Scale):
        nn.init.ones_(weights_of(network, layer)[layer.name])
    else:
        network.get_submodule(layer.name).reset_parameters()  # type: ignore[operator]


class _Values:
    """Output channels of the student's and teacher's layers, as teacher's channels."""

    def __init__(self, inheritance: Inheritance, student: Architecture) -> None:
        self._teacher = inheritance.teacher
        self._teacher_channels = inheritance._channels
        self._student = student
        self._channels = Channels(student)
        # The output channels of the teacher that each producer keeps, and that each
        # split or shuffle of narrower producers keeps.
        self.kept: dict[int, Indices] = {}
        grouped: dict[int, list[int]] = {}
        narrower: list[int] = []
        for position, layer in enumerate(student.layers):
            if not isinstance(layer, PRODUCERS):
                continue
            if self._is_dealt_narrower(position):
                narrower.append(position)
            else:
                (segment,) = self._channels.of(position)
                grouped.setdefault(segment.group, []).append(position)
        for producers in grouped.values():
            group = self._channels.width_of(self._channels.of(producers[0])[0])
            multiple = 1 if group is None else group.multiple
            norms = [inheritance.norms[student.layers[p].name] for p in producers]
            if len({len(norm) for norm in norms}) == 1:
                norms = [torch.stack(norms).sum(0)] * len(norms)
            for position, norm in zip(producers, norms, strict=True):
                width = student.shape_of(position)[0]
                self.kept[position] = _largest(norm, width, multiple)
        if narrower:
            strengths = {
                student.layers[p].name: inheritance.norms[student.layers[p].name]
                for p in narrower
            }
            self.kept |= followers(
                student,
                inheritance.teacher,
                narrower,
                {name: norm.cpu().double().numpy() for name, norm in strengths.items()},
            )
            self._deal()

    def _is_dealt_narrower(self, position: int) -> bool:
        """Whether a layer's channels are fewer than the teacher's and rearranged.

        Splits and shuffles rearrange channels.
        """
        group = self._channels.width_of(self._channels.of(position)[0])
        if group is None or not group.is_dealt or group.is_fixed:
            return False
        old = self._teacher.positions[self._student.layers[group.producers[0]].name]
        return group.width < self._teacher.shape_of(old)[0]

    def _deal(self) -> None:
        """Set the output channels of the teacher that each split and shuffle keeps."""
        for position, layer in enumerate(self._student.layers):
            is_even = isinstance(layer, (Chunk, ChannelShuffle))
            if not is_even or not self._is_dealt_narrower(position):
                continue
            old = self._teacher.layers[self._teacher.positions[layer.name]]
            read = _align(self.runs(layer.inputs[0]), self.teacher_runs(old.inputs[0]))
            count = self._teacher.shape_of(old.inputs[0])[0]
            emitted = deal(old, np.arange(count))
            place = np.full(count + 1, FRESH)  # the last entry is for FRESH
            place[emitted] = np.arange(len(emitted))
            self.kept[position] = place[deal(layer, read)]

    def runs(self, position: int) -> list[_Span]:
        """The output channels of a layer of the student, as channels of the teacher."""
        return [self._in_teachers_terms(s) for s in self._channels.of(position)]

    def teacher_runs(self, position: int) -> list[_Span]:
        """The output channels of a layer of the teacher."""
        return [
            _Span(s.group, s.width, s.spread, np.arange(s.width))
            for s in self._teacher_channels.of(position)
        ]

    def _in_teachers_terms(self, segment: Segment) -> _Span:
        if segment.group == IMAGE:
            return _Span(IMAGE, segment.width, segment.spread, np.arange(segment.width))
        origin = self._teacher.positions[self._student.layers[segment.group].name]
        group = self._teacher_channels.of(origin)[0].group
        width = self._teacher.shape_of(origin)[0]
        kept = self.kept.get(segment.group)
        if kept is None:  # rearranged; they correspond if equally many
            kept, width = np.arange(segment.width), segment.width
        return _Span(group, width, segment.spread, kept)


def _largest(norms: Tensor, count: int, multiple: int) -> Indices:
    """The channels with the largest norms, ascending, equally many from each block.

    Args:
        count: Number of channels in the result.
        multiple: Number of blocks, which have equally many channels.
    """
    if count == len(norms):
        return np.arange(count)
    blocks = norms.cpu().double().numpy().reshape(multiple, -1)
    order = np.argsort(-blocks, axis=1, kind="stable")[:, : count // multiple]
    offsets = np.arange(multiple)[:, None] * blocks.shape[1]
    return np.asarray((np.sort(order, axis=1) + offsets).ravel(), np.int64)


def _align(student: list[_Span], teacher: list[_Span]) -> Indices:
    """The teacher's feature that corresponds to each feature of a student's value.

    Runs of the same width group correspond. After a bypass, other runs correspond by
    position if their widths are equal: channel i to channel i. Other features of the
    student have ``FRESH`` as their counterpart.
    """
    offsets = np.cumsum([0, *(run.width * run.spread for run in teacher)])
    found = [np.full(len(run.kept) * run.spread, FRESH) for run in student]
    for i, j in _pairs(student, teacher):
        run = student[i]
        if (run.width, run.spread) == (teacher[j].width, teacher[j].spread):
            kept = run.kept[:, None]
            features = offsets[j] + kept * run.spread + np.arange(run.spread)
            found[i] = np.where(kept == FRESH, FRESH, features).ravel()
    return np.concatenate(found)


def _pairs(student: list[_Span], teacher: list[_Span]) -> Iterator[tuple[int, int]]:
    matcher = SequenceMatcher(
        None,
        [run.group for run in student],
        [run.group for run in teacher],
        autojunk=False,
    )
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag in ("equal", "replace"):
            yield from zip(range(i1, i2), range(j1, j2), strict=False)


def _crop(kernel: Tensor, size: torch.Size) -> Tensor:
    """The centre of each filter, of this height and width."""
    top, left = (
        (old - new) // 2 for old, new in zip(kernel.shape[2:], size, strict=True)
    )
    return kernel[:, :, top : top + size[0], left : left + size[1]]


def _slice(
    layer: Layer, new: Tensor, old: Tensor, written: Indices, read: Indices
) -> Tensor:
    """A tensor of a student's layer, taken from the teacher's tensor ``old``.

    Args:
        new: Tensor of the student's shape, with initial values for the entries without
            a counterpart.
        written, read: The teacher's channel for each output and input channel of the
            layer, or ``FRESH``.
    """
    if isinstance(layer, Scale):
        return _pick(new.view(-1), old.view(-1), written).view(new.shape)
    is_one = isinstance(layer, PReLU) and not layer.channelwise
    if new.dim() == 0 or is_one:  # batch norm's count of batches; one slope for all
        return old
    if new.dim() == 1:
        return _pick(new, old, written)
    if isinstance(layer, DepthwiseConv):
        return _pick(new, _crop(old, new.shape[2:]), written)
    if isinstance(layer, Conv):
        return _pick_groups(new, _crop(old, new.shape[2:]), written, read, layer.groups)
    return _pick(new, old, written, read)


def _pick_groups(
    new: Tensor, old: Tensor, written: Indices, read: Indices, groups: int
) -> Tensor:
    """As ``_slice``, by groups; inputs from another group keep initial values."""
    if groups == 1:
        return _pick(new, old, written, read)
    reads = old.shape[1]  # input channels of each group of the teacher
    writes = old.shape[0] // groups
    parts = zip(
        new.chunk(groups),
        np.split(written, groups),
        np.split(read, groups),
        strict=True,
    )
    found = []
    for part, outputs, inputs in parts:
        group = outputs[0] // writes
        inside = (inputs != FRESH) & (inputs // reads == group)
        within = np.where(inside, inputs - group * reads, FRESH)
        found.append(_pick(part, old, outputs, within))
    return torch.cat(found)


def _pick(
    new: Tensor, old: Tensor, written: Indices, read: Indices | None = None
) -> Tensor:
    """``old[written[i], read[j]]`` where both have a counterpart, otherwise ``new``."""
    picked = _select(old, 0, written[written != FRESH])
    if read is not None:
        picked = _select(picked, 1, read[read != FRESH])
    if picked.shape == new.shape:
        return picked
    rows = torch.from_numpy(np.flatnonzero(written != FRESH)).to(new.device)
    if read is None:
        return new.index_put((rows,), picked)
    columns = torch.from_numpy(np.flatnonzero(read != FRESH)).to(new.device)
    return new.index_put((rows[:, None], columns), picked)


def _select(tensor: Tensor, axis: int, indices: Indices) -> Tensor:
    if len(indices) == tensor.shape[axis] and (np.diff(indices) == 1).all():
        return tensor  # all of them, in their order
    return tensor.index_select(axis, torch.from_numpy(indices).to(tensor.device))
