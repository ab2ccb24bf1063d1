"""The images of a split, in batches on a device."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor


class Batch(NamedTuple):
    """Some images of a split."""

    images: Tensor  # (B, C, H, W) uint8
    labels: Tensor  # (B,) int64
    positions: Tensor  # (B,) int64, of the images in the split


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels, for use on the labels' device.

    Attributes:
        is_streamed: Whether images stay in a memory map or in the CPU's memory, and are
            copied to the device batch by batch.
    """

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64
    is_streamed: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images, (N, H, W, C), and labels, as `Task.read` returns them."""
        return self.images.permute(0, 2, 3, 1).cpu().numpy(), self.labels.cpu().numpy()

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[Batch]:
        """Batches of at most ``size`` images on the device, streamed or not.

        Args:
            order: Positions of the images, (M,) int64; by default all images in order.
        """
        if self.is_streamed:
            everything = torch.arange(len(self))
            return self._streamed(size, everything if order is None else order)
        if order is None:
            return self._consecutive(size)
        rows = torch.split(order.to(self.device), size)
        return (Batch(self.images[row], self.labels[row], row) for row in rows)

    def _consecutive(self, size: int) -> Iterator[Batch]:
        positions = torch.arange(len(self), device=self.device)
        columns = (self.images, self.labels, positions)
        parts = zip(*(torch.split(column, size) for column in columns), strict=True)
        return (Batch(*part) for part in parts)

    def _streamed(self, size: int, order: Tensor) -> Iterator[Batch]:
        rows = torch.split(order.cpu(), size)
        with ThreadPoolExecutor(1, "batches") as reader:
            reading = reader.submit(self._gather, rows[0])
            for row, following in zip_longest(rows, rows[1:]):
                images = reading.result()
                if following is not None:  # is read while the caller uses this batch
                    reading = reader.submit(self._gather, following)
                positions = row.to(self.device)
                images = images.to(self.device, non_blocking=self._pins)
                yield Batch(images, self.labels[positions], positions)

    def _gather(self, row: Tensor) -> Tensor:
        images = self.images[row]
        return images.pin_memory() if self._pins else images

    @property
    def _pins(self) -> bool:
        """Whether copies to the device run in parallel, from pinned memory."""
        return self.device.type == "cuda"

    def on(self, device: torch.device, resident_bytes: int | None = None) -> Split:
        """The split on a device; images that do not fit there are streamed.

        Args:
            resident_bytes: Largest size of images that are not streamed. By default
                half of the device's free memory; on a CPU, images already in memory
                stay there.
        """
        labels = self.labels.to(device)
        if resident_bytes is None:
            if device.type == "cpu" and not self.is_streamed:
                return self
            resident_bytes = _free_memory(device) // 2
        if self.images.nbytes > resident_bytes:
            return Split(self.images, labels, is_streamed=True)
        return Split(self.images.to(device, copy=self.is_streamed), labels)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def as_split(images: NDArray[Any], labels: NDArray[Any]) -> Split:
    """A split of (N, H, W) or (N, H, W, C) uint8 images; a memory map is streamed."""
    integers = torch.from_numpy(labels.astype(np.int64))
    if images.ndim == 3:
        images = images[..., None]
    maps = images.transpose(0, 3, 1, 2)
    if isinstance(images, np.memmap):
        if not images.flags.writeable:  # torch takes no others
            raise ValueError(
                "images in a memory map must be opened copy-on-write, with "
                'mmap_mode="c"'
            )
        return Split(torch.from_numpy(maps), integers, is_streamed=True)
    # A copy, because torch takes no read-only arrays.
    return Split(torch.from_numpy(np.array(maps, order="C")), integers)
