"""HRNet up to its third stage, from timm's modules."""

from __future__ import annotations

import warnings

from torch import Tensor, nn

from cycledistill._checks import check_count
from cycledistill_pose.models._stem_net import Stem, init_convolutions


class HRNet(Stem):
    """HRNet up to stage 3; yields the branch of the highest resolution.

    >>> import torch
    >>> HRNet(stage1_width=32)(torch.zeros(1, 3, 64, 48)).shape
    torch.Size([1, 32, 16, 12])

    Stage 2 has two branches and stage 3 three, each with half of the resolution and twice the
    channels of the one above. The last module of stage 3 fuses into the first branch alone, the
    only one that is used. The module names are HRNet's own (Sun et al., 2019,
    https://arxiv.org/abs/1902.09212), and so are timm's, whose modules these are.

    Args:
        width: Channels of the first branch, 32 in HRNet-W32.
        stage1_width: Inner channels of the bottlenecks of stage 1. 64 is HRNet-W32 as published
            and as its ImageNet weights need it. The released SDPose-B was configured with 32, and
            its parameter count includes that; `tokenpose_b` therefore uses 32.
        pretrained: Start from timm's ImageNet weights of `hrnet_w<width>` (downloaded at the
            first use). Where `stage1_width` is not 64, the tensors of other shapes stay
            randomly initialised, as in the reference, and a warning counts them.

    Shapes:
        images `[B, 3, H, W]`, sides divisible by 16 -> features `[B, width, H / 4, W / 4]`.

    Raises:
        ValueError: `width` or `stage1_width` is below 1, timm has no weights for `width`, or images
            (at the call) have other sides.
    """

    def __init__(self, width: int = 32, stage1_width: int = 64, pretrained: bool = False) -> None:
        check_count("width", width)
        check_count("stage1_width", stage1_width)
        super().__init__(64, stage1_width, 4)
        self.width = width
        self.transition1 = nn.ModuleList(
            [_convolution(4 * stage1_width, width), _new_branch(4 * stage1_width, 2 * width)]
        )
        self.stage2 = nn.ModuleList([_fusing_module([width, 2 * width])])
        self.transition2 = nn.ModuleList(
            [nn.Identity(), nn.Identity(), _new_branch(2 * width, 4 * width)]
        )
        branches = [width, 2 * width, 4 * width]
        self.stage3 = nn.ModuleList(
            [_fusing_module(branches, fuse_all=index < 3) for index in range(4)]
        )
        init_convolutions(self)
        if pretrained:
            self._load_imagenet()

    def forward(self, images: Tensor) -> Tensor:
        """Return the feature map of the first branch."""
        height, width = images.shape[-2:]
        if height % 16 or width % 16:
            raise ValueError(
                f"HRNet: expected images whose sides are divisible by 16, got {width} x {height} px"
            )
        stem = super().forward(images)
        maps = [transition(stem) for transition in self.transition1]
        for module in self.stage2:
            maps = module(maps)
        maps = [*maps, self.transition2[2](maps[-1])]
        for module in self.stage3:
            maps = module(maps)
        return maps[0]

    def _load_imagenet(self) -> None:
        import timm

        name = f"hrnet_w{self.width}"
        if not timm.is_model_pretrained(name):
            raise ValueError(
                f"timm has no ImageNet weights for width={self.width} ({name}); it has them "
                "for 18, 30, 32, 40, 44, 48 and 64"
            )
        source = timm.create_model(name, pretrained=True).state_dict()
        own = self.state_dict()
        fitting = {
            key: source[key] for key, value in own.items() if source[key].shape == value.shape
        }
        self.load_state_dict(fitting, strict=False)
        if len(fitting) < len(own):
            left_out = sorted(own.keys() - fitting.keys())
            warnings.warn(
                f"{len(left_out)} of {len(own)} tensors of HRNet have another shape than the "
                f"ImageNet weights of {name} and stay randomly initialised (stage1_width=64 "
                f"fits all): {left_out[0]} ... {left_out[-1]}",
                stacklevel=3,
            )


def _convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels, momentum=0.1),
        nn.ReLU(inplace=True),
    )


def _new_branch(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(_convolution(in_channels, out_channels, stride=2))


def _fusing_module(branches: list[int], fuse_all: bool = True) -> nn.Module:
    from timm.models.hrnet import HighResolutionModule
    from timm.models.resnet import BasicBlock

    return HighResolutionModule(
        num_branches=len(branches),
        block_types=BasicBlock,
        num_blocks=(4,) * len(branches),
        num_in_chs=list(branches),
        num_channels=tuple(branches),
        fuse_method="SUM",
        multi_scale_output=fuse_all,
    )
