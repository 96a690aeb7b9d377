"""SDPose as one writes it with the paper beside, for comparison: clear, and in no hurry.

Einsum attention, one call of the head for each cycle, every cycle at inference (of which the first
is returned, as the released code does).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class StraightAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        split = "b t (h d) -> b h t d"
        q, k, v = (rearrange(p, split, h=self.num_heads) for p in self.qkv(x).chunk(3, dim=-1))
        scores = torch.einsum("bhid,bhjd->bhij", q, k) * self.scale
        mixed = torch.einsum("bhij,bhjd->bhid", scores.softmax(dim=-1), v)
        return self.proj(rearrange(mixed, "b h t d -> b t (h d)"))


class StraightMlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class StraightBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = StraightAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = StraightMlp(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class StraightSDPose(nn.Module):
    """The heatmap model of the paper on any backbone with a 64x48 feature map.

    Its parameters are called as those of `cycledistill_pose.TokenPose`, so that both can have the
    same weights. The fixed position embedding comes with them.
    """

    def __init__(
        self,
        backbone: nn.Module,
        depth: int,
        num_cycles: int,
        num_keypoints: int = 17,
        dim: int = 192,
        num_heads: int = 8,
        mlp_ratio: int = 3,
        patch: tuple[int, int] = (4, 3),
        channels: int = 256,
        heatmap: tuple[int, int] = (64, 48),
    ) -> None:
        super().__init__()
        self.num_cycles, self.num_keypoints = num_cycles, num_keypoints
        self.patch, self.heatmap = patch, heatmap
        cells = heatmap[0] * heatmap[1]
        self.backbone = backbone
        self.patch_embed = nn.Linear(patch[0] * patch[1] * channels, dim)
        self.keypoint_tokens = nn.Parameter(torch.zeros(1, num_keypoints, dim))
        self.register_buffer("position", torch.zeros(1, cells // (patch[0] * patch[1]), dim))
        self.blocks = nn.ModuleList(
            [StraightBlock(dim, num_heads, mlp_ratio * dim) for _ in range(depth)]
        )
        self.head = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, cells // 8),
            nn.LayerNorm(cells // 8),
            nn.Linear(cells // 8, cells),
        )

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]] | Tensor:
        """Heatmaps and tokens of every cycle in training, the first cycle's heatmaps in use."""
        features = self.backbone(images)
        ph, pw = self.patch
        patches = rearrange(features, "b c (h ph) (w pw) -> b (h w) (ph pw c)", ph=ph, pw=pw)
        visual = self.patch_embed(patches) + self.position
        tokens = torch.cat([self.keypoint_tokens.repeat(len(images), 1, 1), visual], dim=1)
        all_heatmaps, all_tokens = [], []
        for _ in range(self.num_cycles):
            tokens = self.transformer(tokens)
            heatmaps = self.head(tokens[:, : self.num_keypoints])
            height, width = self.heatmap
            all_heatmaps.append(rearrange(heatmaps, "b k (h w) -> b k h w", h=height, w=width))
            all_tokens.append(tokens)
        return (all_heatmaps, all_tokens) if self.training else all_heatmaps[0]

    def transformer(self, tokens: Tensor) -> Tensor:
        """One cycle: visual tokens get their position before every block but the first."""
        k = self.num_keypoints
        for index, block in enumerate(self.blocks):
            if index > 0:
                tokens = torch.cat([tokens[:, :k], tokens[:, k:] + self.position], dim=1)
            tokens = block(tokens)
        return tokens
