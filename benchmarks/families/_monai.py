"""Networks of MONAI."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.families._candidate import Candidate
from benchmarks.families._inputs import Inputs


def of_monai() -> list[Candidate]:
    from monai.networks import nets

    sizes = {"hidden_size": 12, "mlp_dim": 32, "num_heads": 2}

    def volume() -> Inputs:
        return (torch.randn(2, 1, 32, 32, 32),), {}

    def vit() -> nn.Module:
        return nets.ViT(1, 32, 16, num_layers=3, classification=True, num_classes=5, **sizes)

    def unetr() -> nn.Module:
        return nets.UNETR(1, 2, 32, feature_size=4, spatial_dims=2, **sizes)

    def swin() -> nn.Module:
        return nets.SwinUNETR(
            1, 2, feature_size=12, depths=(2, 2, 1, 1), num_heads=(1, 1, 2, 2), spatial_dims=2
        )

    def auto() -> nn.Module:
        return nets.ViTAutoEnc(1, 32, 16, num_layers=3, **sizes)

    def masked() -> nn.Module:
        return nets.MaskedAutoEncoderViT(
            1,
            32,
            16,
            num_layers=3,
            decoder_num_layers=2,
            decoder_hidden_size=12,
            decoder_mlp_dim=32,
            decoder_num_heads=2,
            **sizes,
        )

    def decoder() -> nn.Module:
        return nets.DecoderOnlyTransformer(50, 8, 16, 3, 2)

    def pictures() -> Inputs:
        return (torch.randn(2, 1, 64, 64),), {}

    return [
        Candidate("monai ViT", vit, volume),
        Candidate("monai UNETR", unetr, lambda: ((torch.randn(2, 1, 32, 32),), {})),
        Candidate("monai ViTAutoEnc", auto, volume),
        Candidate("monai MaskedAutoEncoderViT", masked, volume, "blocks"),
        Candidate(
            "monai DecoderOnlyTransformer", decoder, lambda: ((torch.randint(0, 50, (2, 8)),), {})
        ),
        Candidate("monai SwinUNETR", swin, pictures),
    ]
