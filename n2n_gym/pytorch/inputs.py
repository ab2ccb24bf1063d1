"""Inputs of a network: normalised images, and augmented ones with logits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from n2n_gym.tasks.augmentation import Augmentation


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
