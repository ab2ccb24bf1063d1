"""Inputs of a network: normalised, smaller, blanked and augmented images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from n2n_gym.tasks.augmentation import Augmentation

SIDE_STEP: Final = 4  # pixels; sides of smaller images are multiples of it


@dataclass(frozen=True)
class Normalisation:
    """Turns pixels into network inputs: (pixel / 255 - mean) / std, by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> float32, channels last."""
        mean, std = tuple(self.mean), tuple(self.std)
        shift, scale = _shift_and_scale(mean, std, images.device)
        inputs = images.to(torch.float32, memory_format=torch.channels_last)
        return torch.addcmul(shift, inputs, scale)


@lru_cache(maxsize=64)  # an accelerator would wait for these at each batch
def _shift_and_scale(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The shift and scale that normalise pixels from 0 to 255, (C, 1, 1) each."""
    shift = -torch.tensor(mean) / torch.tensor(std)
    scale = torch.tensor(std).mul_(255).reciprocal_()
    return shift.view(-1, 1, 1).to(device), scale.view(-1, 1, 1).to(device)


@dataclass(frozen=True)
class Variants:
    """Each image of a split in several augmented forms, with a teacher's logits.

    With variants, students learn from augmented images, and the teacher need not
    compute logits for each batch.
    """

    augmentation: Augmentation
    changes: Tensor  # (V, 3, N) int64
    logits: Tensor  # (V, N, classes)

    def pick(
        self, images: Tensor, positions: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """A random form of each image of a batch, and the logits of these forms.

        Args:
            images: Images of the split, (B, C, H, W).
            positions: Positions of these images in the split, (B,) int64.
        """
        count = len(self.changes)
        chosen = torch.randint(count, (len(images),), generator=generator)
        chosen = chosen.to(positions.device)
        changes = self.changes[chosen, :, positions].T
        logits = self.logits[chosen, positions]
        return self.augmentation.apply(images, changes), logits


def resized(inputs: Tensor, share: float) -> Tensor:
    """Images at a fraction of their size: (B, C, H, W) -> (B, C, h, w).

    Sides are rounded to multiples of ``SIDE_STEP`` pixels, so a training has only a few
    sizes.

    Args:
        share: The new sides divided by the old ones, at most 1, which changes nothing.
    """
    height, width = inputs.shape[2:]
    sides = [_rounded(share * side, side) for side in (height, width)]
    if sides == [height, width]:
        return inputs
    return F.interpolate(inputs, sides, mode="bilinear", antialias=True)


def _rounded(wanted: float, most: int) -> int:
    return min(most, max(1, round(wanted / SIDE_STEP)) * SIDE_STEP)


def cut_out(inputs: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Images with a square of zeros at a random place, (B, C, H, W).

    A square's centre is any pixel, so the square may lie partly outside of the image.

    Args:
        inputs: Normalised images, of which 0 is the mean.
        share: The square's side divided by the image's shorter side.
        generator: Generator on the CPU, so that a batch is the same on every device.
    """
    count, _, *sides = inputs.shape
    side = round(share * min(sides))
    inside = []
    for most in sides:
        first = torch.randint(most, (count, 1), generator=generator) - side // 2
        place = torch.arange(most)
        inside.append(((place >= first) & (place < first + side)).to(inputs.device))
    rows, columns = inside  # (B, H), (B, W)
    blank = rows[:, None, :, None] & columns[:, None, None, :]  # (B, 1, H, W)
    return inputs.masked_fill(blank, 0.0)
