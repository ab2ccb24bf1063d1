"""ResNets for CIFAR (He et al., 2016, section 4.2): 6n + 2 layers, widths 16, 32, 64.

Their shortcuts have no weights (option A): they take every other row and column, and
fill new channels with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTHS: Final[Mapping[str, int]] = {
    f"resnet{6 * n + 2}": n for n in (3, 5, 7, 9, 18)
}  # 20, 32, 44, 56 and 110 layers
MADE_FOR: Final = (3, 32, 32)
WIDTHS: Final = (16, 32, 64)


class _Block(nn.Module):
    """Two convolutions and a shortcut without weights."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.new_channels = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            before = self.new_channels // 2
            x = F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """A stem, three stages of blocks, global average pooling and a linear layer.

    Args:
        num_blocks: Number of blocks in each stage.
        num_classes: Number of logits.
        channels: Number of channels of the images.
        block: Function that makes a block from its input width, output width and
            stride.
    """

    def __init__(
        self,
        num_blocks: int,
        num_classes: int = 10,
        channels: int = 3,
        block: Callable[[int, int, int], nn.Module] = _Block,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        read = WIDTHS[0]
        for stage, width in enumerate(WIDTHS):
            strides = [1 if stage == 0 else 2] + [1] * (num_blocks - 1)
            blocks = []
            for stride in strides:
                blocks.append(block(read, width, stride))
                read = width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(WIDTHS[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        for stage in range(len(WIDTHS)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def cifar_resnet(name: str, num_classes: int = 10) -> CifarResNet:
    """The network of ``DEPTHS`` with this name, with torch's initial weights."""
    return CifarResNet(DEPTHS[name], num_classes)
