"""torch's and torchvision's models."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.families._candidate import Candidate
from benchmarks.families._inputs import Inputs, images


def of_torch() -> list[Candidate]:
    from torchvision import models

    def vit() -> nn.Module:
        return models.VisionTransformer(32, 8, 4, 2, 16, 32, num_classes=5)

    def swin() -> nn.Module:
        return models.SwinTransformer(
            [4, 4], 8, [2, 2], [2, 2], [4, 4], stochastic_depth_prob=0.0, num_classes=5
        )

    def layer(batch_first: bool) -> nn.TransformerEncoderLayer:
        return nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)

    def masked() -> Inputs:
        padding = torch.zeros(2, 6, dtype=torch.bool)
        padding[0, 4:] = True
        future = torch.triu(torch.ones(6, 6, dtype=torch.bool), diagonal=1)
        return (torch.randn(2, 6, 16),), {"mask": future, "src_key_padding_mask": padding}

    def second() -> Inputs:
        (tokens,), kwargs = masked()
        return (tokens.transpose(0, 1).contiguous(),), kwargs

    def sequence() -> Inputs:
        return (torch.randn(2, 6, 16),), {}

    def translation() -> Inputs:
        return (torch.randn(2, 6, 16), torch.randn(2, 5, 16)), {}

    def transformer() -> nn.Module:
        return nn.Transformer(16, 2, 3, 3, 32, batch_first=True)

    return [
        Candidate("torchvision VisionTransformer", vit, images),
        Candidate("torchvision SwinTransformer", swin, images),
        Candidate(
            "nn.TransformerEncoder, with masks",
            lambda: nn.TransformerEncoder(layer(True), 3),
            masked,
        ),
        Candidate(
            "nn.TransformerEncoder, batch second, with masks",
            lambda: nn.TransformerEncoder(layer(False), 3),
            second,
        ),
        Candidate("nn.Transformer", transformer, translation, "decoder.layers"),
        Candidate(
            "nn.Sequential of blocks",
            lambda: nn.Sequential(*(layer(True) for _ in range(3))),
            sequence,
        ),
    ]
