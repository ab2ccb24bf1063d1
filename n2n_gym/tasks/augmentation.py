"""Random changes of training images that do not change the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Random crops of zero-padded images, and random mirroring.

    Attributes:
        padding: Pixels of padding on each side; 0 for no crop.
        flip: Whether each image is mirrored left to right with probability 1/2.
    """

    padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"padding must be at least 0, got {self.padding}")

    @property
    def is_none(self) -> bool:
        """Whether no image is ever changed."""
        return not self.padding and not self.flip

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Change each image independently: (B, C, H, W) uint8 -> same shape and type.

        Args:
            generator: Generator on the CPU, so that a batch is the same on every
                device.
        """
        if self.is_none:
            return images
        return self.apply(images, self.draw(len(images), generator))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw random changes of B images, (3, B) int64.

        The first two rows are the top and the left edge of the crop in the padded
        image; the third row is 1 for mirrored images.
        """
        import torch

        most = (2 * self.padding, 2 * self.padding, int(self.flip))
        return torch.stack(
            [torch.randint(m + 1, (count,), generator=generator) for m in most]
        )

    def apply(self, images: Tensor, changes: Tensor) -> Tensor:
        """Apply drawn changes to images: (B, C, H, W) uint8 -> same shape and type."""
        import torch
        import torch.nn.functional as F

        count, channels, height, width = images.shape
        top, left, is_flipped = changes.to(images.device)[..., None]  # (B, 1) each
        rows = top + torch.arange(height, device=images.device)  # (B, H)
        columns = torch.arange(width, device=images.device)
        columns = left + torch.where(is_flipped > 0, width - 1 - columns, columns)
        # One gather of flattened pixels was the fastest variant on a CPU: half the time
        # of indexing unfolded windows.
        padded = F.pad(images, (self.padding,) * 4)
        pixels = rows[:, :, None] * padded.shape[3] + columns[:, None, :]  # (B, H, W)
        pixels = pixels.view(count, 1, -1).expand(-1, channels, -1)
        return padded.flatten(2).gather(2, pixels).view(images.shape)

    def unchanged(self, count: int) -> Tensor:
        """Changes that leave this many images unchanged, (3, B) int64."""
        import torch

        changes = torch.zeros(3, count, dtype=torch.int64)
        changes[:2] = self.padding
        return changes
