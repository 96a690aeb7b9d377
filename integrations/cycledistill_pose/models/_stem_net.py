"""StemNet: the shallow convolutional backbone of TokenPose-S."""

from __future__ import annotations

from torch import Tensor, nn

from cycledistill._checks import check_count


class Stem(nn.Module):
    """Two strided convolutions of `width` channels and `count` bottlenecks around `planes`."""

    def __init__(self, width: int, planes: int, count: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, momentum=0.1)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, momentum=0.1)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _bottlenecks(width, planes, count)

    def forward(self, images: Tensor) -> Tensor:
        """Return the feature map of `images`."""
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.relu(self.bn2(self.conv2(features)))
        return self.layer1(features)


class StemNet(Stem):
    """Two strided convolutions and a row of bottlenecks: one feature map at a quarter of the size.

    >>> import torch
    >>> StemNet()(torch.zeros(1, 3, 256, 192)).shape
    torch.Size([1, 256, 64, 48])

    Convolution 3x3 with stride 2, batch norm, ReLU, the same again, then `num_blocks`
    bottlenecks with expansion 4. Convolutions start from N(0, 0.001), as in TokenPose
    (https://arxiv.org/abs/2104.03516).

    Args:
        width: Channels of the two convolutions, and inner channels of the bottlenecks.
        num_blocks: Number of bottlenecks.

    Shapes:
        images `[B, 3, H, W]` -> features `[B, 4 * width, ceil(H / 4), ceil(W / 4)]`.

    Raises:
        ValueError: `width` or `num_blocks` is below 1.
    """

    def __init__(self, width: int = 64, num_blocks: int = 4) -> None:
        check_count("width", width)
        check_count("num_blocks", num_blocks)
        super().__init__(width, width, num_blocks)
        init_convolutions(self)


def _bottlenecks(in_channels: int, width: int, count: int) -> nn.Sequential:
    """A row of residual bottlenecks, `in_channels` -> `4 * width` channels, stride 1."""
    # timm takes seconds to import
    from timm.models.resnet import Bottleneck, downsample_conv

    out_channels = 4 * width
    differ = in_channels != out_channels
    shortcut = downsample_conv(in_channels, out_channels, kernel_size=1) if differ else None
    first = Bottleneck(in_channels, width, downsample=shortcut)
    return nn.Sequential(first, *(Bottleneck(out_channels, width) for _ in range(1, count)))


def init_convolutions(module: nn.Module) -> None:
    """Draw every convolution from N(0, 0.001); batch norms start as the identity."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=0.001)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
