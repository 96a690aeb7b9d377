"""SDPose as one writes it with the paper beside, for comparison: clear, and in no hurry.

Einsum attention, one call of the head for each cycle, every cycle at inference (of which the first
is returned, as the released code does).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

KEYPOINTS, DIM, HEADS, HIDDEN, CHANNELS = 17, 192, 8, 576, 256
PATCH, HEATMAP = (4, 3), (64, 48)
PATCHES = HEATMAP[0] * HEATMAP[1] // (PATCH[0] * PATCH[1])


class StraightAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = (DIM // HEADS) ** -0.5
        self.qkv = nn.Linear(DIM, 3 * DIM, bias=False)
        self.proj = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        split = "b t (h d) -> b h t d"
        q, k, v = (rearrange(part, split, h=HEADS) for part in self.qkv(x).chunk(3, dim=-1))
        scores = torch.einsum("bhid,bhjd->bhij", q, k) * self.scale
        mixed = torch.einsum("bhij,bhjd->bhid", scores.softmax(dim=-1), v)
        return self.proj(rearrange(mixed, "b h t d -> b t (h d)"))


class StraightMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(DIM, HIDDEN), nn.Linear(HIDDEN, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class StraightBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(DIM), StraightAttention()
        self.norm2, self.mlp = nn.LayerNorm(DIM), StraightMlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class StraightSDPose(nn.Module):
    """The heatmap model of the paper on any backbone with a 64x48 feature map.

    Its parameters are called as those of `cycledistill_pose.TokenPose`, so that both can have the
    same weights. The fixed position embedding comes with them.
    """

    def __init__(self, backbone: nn.Module, depth: int, num_cycles: int) -> None:
        super().__init__()
        self.num_cycles = num_cycles
        cells = HEATMAP[0] * HEATMAP[1]
        self.backbone = backbone
        self.patch_embed = nn.Linear(PATCH[0] * PATCH[1] * CHANNELS, DIM)
        self.keypoint_tokens = nn.Parameter(torch.zeros(1, KEYPOINTS, DIM))
        self.register_buffer("position", torch.zeros(1, PATCHES, DIM))
        self.blocks = nn.ModuleList([StraightBlock() for _ in range(depth)])
        self.head = nn.Sequential(
            nn.LayerNorm(DIM),
            nn.Linear(DIM, cells // 8),
            nn.LayerNorm(cells // 8),
            nn.Linear(cells // 8, cells),
        )

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]] | Tensor:
        """Heatmaps and tokens of every cycle in training, the first cycle's heatmaps in use."""
        ph, pw = PATCH
        features = self.backbone(images)
        patches = rearrange(features, "b c (h ph) (w pw) -> b (h w) (ph pw c)", ph=ph, pw=pw)
        visual = self.patch_embed(patches) + self.position
        tokens = torch.cat([self.keypoint_tokens.repeat(len(images), 1, 1), visual], dim=1)
        all_heatmaps, all_tokens = [], []
        for _ in range(self.num_cycles):
            tokens = self.transformer(tokens)
            heatmaps = self.head(tokens[:, :KEYPOINTS])
            all_heatmaps.append(rearrange(heatmaps, "b k (h w) -> b k h w", h=HEATMAP[0]))
            all_tokens.append(tokens)
        return (all_heatmaps, all_tokens) if self.training else all_heatmaps[0]

    def transformer(self, tokens: Tensor) -> Tensor:
        """One cycle: visual tokens get their position before every block but the first."""
        for index, block in enumerate(self.blocks):
            if index > 0:
                visual = tokens[:, KEYPOINTS:] + self.position
                tokens = torch.cat([tokens[:, :KEYPOINTS], visual], dim=1)
            tokens = block(tokens)
        return tokens
