"""Networks that tests compress: small, and between them of every structure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth


class Block(nn.Module):
    """Two convolutions and a skip, as in ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu(y)


class SmallResNet(nn.Module):
    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.block1 = Block(8, 8)
        self.block2 = Block(8, 16, 2)
        self.block3 = Block(16, 16)
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class DenseNet(nn.Module):
    """Concatenations that later ones read again, normalisation before convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1)
        self.norm1 = nn.BatchNorm2d(8)
        self.grow1 = nn.Conv2d(8, 6, 3, 1, 1)
        self.norm2 = nn.BatchNorm2d(14)
        self.grow2 = nn.Conv2d(14, 6, 3, 1, 1)
        self.norm3 = nn.BatchNorm2d(20)
        self.fc = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x0 = self.stem(x)
        x1 = self.grow1(F.relu(self.norm1(x0)))
        x2 = self.grow2(F.relu(self.norm2(torch.cat([x0, x1], 1))))
        y = F.relu(self.norm3(torch.cat([x0, x1, x2], 1)))
        return self.fc(y.mean((2, 3)))


class GatedNet(nn.Module):
    """Depthwise and grouped convolutions, and a squeeze-and-excitation gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1)
        self.grouped = nn.Conv2d(8, 12, 3, 1, 1, groups=4)
        self.norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.squeeze = nn.Conv2d(12, 4, 1)
        self.excite = nn.Conv2d(4, 12, 1)
        self.grouped2 = nn.Conv2d(12, 8, 1, groups=2)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.grouped(F.relu(self.stem(x))))
        x = F.relu(self.depthwise(x))
        gate = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))
        x = self.grouped2(x * torch.sigmoid(gate))
        return self.fc(F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1))


class PlainNet(nn.Module):
    """Convolutions in a row, and a flatten of whole maps before linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, 1, 1)
        self.conv2 = nn.Conv2d(6, 6, 3, 1, 1)
        self.conv3 = nn.Conv2d(6, 10, 5, 1, 2)
        self.hidden = nn.Linear(10 * 4 * 4, 24)
        self.fc = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = F.max_pool2d(F.relu(self.conv3(x)), 2)
        x = F.relu(self.hidden(x.view(x.size(0), -1)))
        return self.fc(x)


class GroupedJoinNet(nn.Module):
    """A grouped convolution that reads a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(1, 8, 3, 1, 1)
        self.right = nn.Conv2d(1, 8, 3, 1, 1)
        self.grouped = nn.Conv2d(16, 8, 3, 1, 1, groups=2)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        return self.fc(F.relu(self.grouped(x)).mean((2, 3)))


class ShuffledNet(nn.Module):
    """Half of the channels convolved, joined and shuffled, as in ShuffleNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, 1, 1)
        self.inner1 = nn.Conv2d(6, 10, 1)
        self.outer1 = nn.Conv2d(10, 6, 3, 1, 1)
        self.inner2 = nn.Conv2d(6, 8, 1)
        self.outer2 = nn.Conv2d(8, 6, 1)
        self.last = nn.Conv2d(12, 16, 1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for inner, outer in ((self.inner1, self.outer1), (self.inner2, self.outer2)):
            kept, taken = x.chunk(2, dim=1)
            x = torch.cat([kept, F.relu(outer(F.relu(inner(taken))))], 1)
            batch, channels, height, width = x.size()
            x = x.view(batch, 2, channels // 2, height, width)
            x = x.transpose(1, 2).contiguous().view(batch, channels, height, width)
        return self.fc(F.relu(self.last(x)).mean((2, 3)))


class DealtNet(nn.Module):
    """Branches of one width, joined, shuffled and split, as in ShuffleNet's stages.

    Behind them a shuffle between grouped convolutions, as in its first version.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, 1, 1)
        self.left = nn.Conv2d(6, 8, 1, bias=False)
        self.left_norm = nn.BatchNorm2d(8)
        self.right = nn.Conv2d(6, 8, 3, 1, 1)
        self.inner1 = nn.Conv2d(8, 10, 1)
        self.outer1 = nn.Conv2d(10, 8, 3, 1, 1)
        self.inner2 = nn.Conv2d(8, 6, 1)
        self.outer2 = nn.Conv2d(6, 8, 1)
        self.last = nn.Conv2d(16, 18, 1)
        self.squeeze = nn.Conv2d(18, 12, 1, groups=3)
        self.squeeze_norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.expand = nn.Conv2d(12, 18, 1, groups=3)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(18, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(torch.cat([self.left_norm(self.left(x)), self.right(x)], 1))
        x = F.channel_shuffle(x, 2)
        for inner, outer in ((self.inner1, self.outer1), (self.inner2, self.outer2)):
            kept, taken = x.chunk(2, dim=1)
            x = torch.cat([kept, F.relu(outer(F.relu(inner(taken))))], 1)
            x = F.channel_shuffle(x, 2)
        x = F.relu(self.last(x))
        y = F.channel_shuffle(F.relu(self.squeeze_norm(self.squeeze(x))), 3)
        x = x + self.expand(self.depthwise(y))
        return self.fc(self.dropout(F.relu(x).mean((2, 3))))


class ScaledBlock(nn.Module):
    """Normalised over the channels, linear at each place, scaled, as in ConvNeXt."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, 1, 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide = nn.Linear(channels, 3 * channels)
        self.narrow = nn.Linear(3 * channels, channels)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, channels).view(-1, 1, 1))
        self.depth = StochasticDepth(0.1, "row")

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)
        return x + self.depth(self.scale * y)


class ScaledNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1)
        self.block1 = ScaledBlock(8)
        self.down = nn.Conv2d(8, 12, 2, 2)
        self.block2 = ScaledBlock(12)
        self.norm = nn.LayerNorm(12)
        self.fc = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.down(self.block1(self.stem(x))))
        return self.fc(self.norm(x.mean((2, 3))))


class PaddedNet(nn.Module):
    """Shortcuts without weights (He et al., 2016, option A), padding at one side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 10, 3, 2)
        self.outer = nn.Conv2d(10, 12, 3, 1, 1)
        self.wide = nn.Conv2d(12, 16, 3, 1, 1)
        self.wider = nn.Conv2d(16, 12, 1)
        self.fc = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        y = self.outer(F.relu(self.inner(F.pad(x, (0, 1, 0, 1)))))
        x = F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        x = x + self.wider(F.relu(self.wide(x)))
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-float("inf")), 3, 2)
        return self.fc(F.relu(x).mean((2, 3)))


class VariedNet(nn.Module):
    """Uneven slices, arithmetic with numbers, enlarged maps, a gate made of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, 1, 1)
        self.norm = nn.InstanceNorm2d(12, affine=True)
        self.slopes = nn.PReLU(12)
        self.left = nn.Conv2d(5, 8, 3, 1, 1)
        self.right = nn.Conv2d(7, 8, 3, 1, 1)
        self.coarse = nn.Conv2d(8, 8, 3, 1, 1)
        self.slope = nn.PReLU()
        self.squeeze = nn.Linear(8, 4)
        self.excite = nn.Linear(4, 8)
        self.last = nn.Conv2d(8, 10, 1)
        self.fc = nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(self.norm(self.stem(x)))
        left, right = torch.split(x, [5, 7], 1)
        x = 0.5 * self.left(left) - self.right(right)
        coarse = self.slope(self.coarse(F.avg_pool2d(x, 2)))
        x = x + F.interpolate(coarse, scale_factor=2, mode="bilinear")
        gate = self.excite(F.relu6(self.squeeze(x.mean((2, 3)))))
        x = x * (F.hardtanh(gate).view(-1, 8, 1, 1) + 1)
        return self.fc(self.last(x.clamp(-2, 2)).mean((2, 3)))


class MixedNet(nn.Module):
    """Layers that follow their channels: all become narrower with them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, 1, 1)
        self.norm = nn.InstanceNorm2d(12, affine=True)
        self.slopes = nn.PReLU(12)
        self.down = nn.Conv2d(12, 10, 3, 2)
        self.wide = nn.Conv2d(10, 16, 3, 1, 1)
        self.wide_norm = nn.InstanceNorm2d(16, affine=True)
        self.back = nn.Conv2d(16, 8, 3, 1, 1)
        self.left = nn.Conv2d(8, 8, 3, 1, 1)
        self.right = nn.Conv2d(8, 8, 1)
        self.squeeze = nn.Linear(8, 6)
        self.excite = nn.Linear(6, 8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(self.norm(self.stem(x)))
        x = F.elu(self.down(F.pad(x, (0, 1, 0, 1))))
        x = F.interpolate(x, scale_factor=2.0)[:, :, ::2, 1::2]
        x = self.wide_norm(self.wide(x)).clamp(-2, 2)
        x = self.back(F.interpolate(x, size=(5, 5), mode="bilinear"))
        x = self.left(x) / 3 - self.right(x)
        gate = F.gelu(self.squeeze(x.mean((2, 3))), approximate="tanh")
        gate = self.excite(gate)[:, :, None, None]
        return self.fc((x * gate.expand_as(x)).mean((2, 3)))


class GroupNormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1)
        self.norm1 = nn.GroupNorm(4, 8)
        self.inner = nn.Conv2d(8, 12, 3, 1, 1)
        self.norm2 = nn.GroupNorm(3, 12, affine=False)
        self.outer = nn.Conv2d(12, 8, 3, 1, 1)
        self.norm3 = nn.GroupNorm(1, 8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.stem(x)))
        x = x + self.outer(F.relu(self.norm2(self.inner(x))))
        return self.fc(self.norm3(x).mean((2, 3)))


def make_small(task) -> nn.Module:
    """A network for a task, as users write theirs for ``teacher="module:function"``."""
    return SmallResNet(task.input_shape[0], task.num_classes)


# torchvision's, by name.
TEACHERS = (
    "resnet18",
    "resnet34",
    "vgg11_bn",
    "vgg13_bn",
    "vgg19_bn",
    "mobilenet_v2",
)
NETWORKS = (
    SmallResNet,
    DenseNet,
    GatedNet,
    PlainNet,
    GroupedJoinNet,
    ShuffledNet,
    DealtNet,
    ScaledNet,
    PaddedNet,
    VariedNet,
    MixedNet,
    GroupNormNet,
)
IMAGE = (1, 8, 8)
# timm's, small, and between them of every kind of layer that torchvision's have not.
OF_TIMM = (
    "fastvit_t8",
    "hrnet_w18_small",
    "inception_next_atto",
    "mixnet_s",
    "repvgg_a0",
    "resnetv2_50d_gn",
    "rexnetr_100",
    "starnet_s1",
)


def awake(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode, its normalisation far from doing nothing."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
        elif isinstance(module, (nn.GroupNorm, nn.InstanceNorm2d, nn.LayerNorm)):
            for parameter in module.parameters():
                parameter.data.normal_(generator=generator)
        elif isinstance(module, nn.PReLU):
            module.weight.data.uniform_(0.1, 0.4, generator=generator)
    return network.eval()
