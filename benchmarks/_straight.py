"""SDPose as one writes it with the paper beside, for comparison: clear, and in no hurry.

Einsum attention, one call of the head for each cycle, every cycle at inference (of which the first
is returned, as the released code does).
"""

from __future__ import annotations

import copy

import torch
from einops import rearrange
from torch import Tensor, nn

from cycledistill import CycleWrapper


class StraightSDPose(nn.Module):
    """The heatmap model of the paper, with the same weights and cycles as one of ours.

    Only the weights, norms and backbone are ours; how they are put together is written here.
    """

    def __init__(self, cycled: CycleWrapper) -> None:
        super().__init__()
        self.parts = copy.deepcopy(cycled).unwrap()
        self.num_cycles = cycled.num_cycles

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]] | Tensor:
        """Heatmaps and tokens of every cycle in training, the first cycle's heatmaps in use."""
        parts, (ph, pw) = self.parts, self.parts.patch_size
        features = parts.backbone(images)
        patches = rearrange(features, "b c (h ph) (w pw) -> b (h w) (ph pw c)", ph=ph, pw=pw)
        visual = parts.patch_embed(patches) + parts.position
        tokens = torch.cat([parts.keypoint_tokens.repeat(len(images), 1, 1), visual], dim=1)
        all_heatmaps, all_tokens = [], []
        for _ in range(self.num_cycles):
            tokens = self.transformer(tokens)
            heatmaps = parts.head(tokens[:, : parts.num_keypoints])
            height = parts.heatmap_size[1]
            all_heatmaps.append(rearrange(heatmaps, "b k (h w) -> b k h w", h=height))
            all_tokens.append(tokens)
        return (all_heatmaps, all_tokens) if self.training else all_heatmaps[0]

    def transformer(self, tokens: Tensor) -> Tensor:
        """One cycle: visual tokens get their position before every block but the first."""
        count = self.parts.num_keypoints
        for index, block in enumerate(self.parts.blocks):
            if index > 0:
                visual = tokens[:, count:] + self.parts.position
                tokens = torch.cat([tokens[:, :count], visual], dim=1)
            tokens = tokens + attention(block.attn, block.norm1(tokens))
            tokens = tokens + block.mlp(block.norm2(tokens))
        return tokens


def attention(layer: nn.Module, x: Tensor) -> Tensor:
    """Of all heads, with two products and a softmax."""
    split = "b t (h d) -> b h t d"
    q, k, v = (rearrange(part, split, h=layer.num_heads) for part in layer.qkv(x).chunk(3, dim=-1))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    mixed = torch.einsum("bhij,bhjd->bhid", scores.softmax(dim=-1), v)
    return layer.proj(rearrange(mixed, "b h t d -> b t (h d)"))
