"""Towers of open_clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.families._candidate import Candidate
from benchmarks.families._inputs import Inputs, images


def of_open_clip() -> list[Candidate]:
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer, VisionTransformer

    sizes: dict[str, Any] = {"width": 16, "layers": 3, "heads": 2, "mlp_ratio": 2.0}
    text = {"context_length": 8, "vocab_size": 50}

    def vision(**options: Any) -> nn.Module:
        return VisionTransformer(image_size=32, patch_size=8, output_dim=5, **sizes, **options)

    def words() -> Inputs:
        return (torch.randint(1, 50, (2, 8)),), {}

    def both(kind: Any) -> nn.Module:
        picture = {"image_size": 32, "patch_size": 8, "width": 16, "layers": 3, "head_width": 8}
        return kind(8, picture, {**text, "width": 16, "layers": 2, "heads": 2})

    def pairs() -> Inputs:
        return (torch.randn(2, 3, 32, 32), torch.randint(1, 50, (2, 8))), {}

    tower = "visual.transformer.resblocks"
    return [
        Candidate("open_clip VisionTransformer", vision, images),
        Candidate(
            "open_clip VisionTransformer, attention pooling",
            lambda: vision(attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=1),
            images,
        ),
        Candidate(
            "open_clip VisionTransformer, patches dropped",
            lambda: vision(patch_dropout=0.5),
            images,
        ),
        Candidate(
            "open_clip TextTransformer",
            lambda: TextTransformer(**text, **sizes, output_dim=5),
            words,
        ),
        Candidate("open_clip CLIP", lambda: both(CLIP), pairs),
        Candidate(
            "open_clip CustomTextCLIP, vision tower", lambda: both(CustomTextCLIP), pairs, tower
        ),
    ]
