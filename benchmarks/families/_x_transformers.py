"""Models of x-transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.families._candidate import Candidate
from benchmarks.families._inputs import Inputs, images


def words() -> Inputs:
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 5:] = False
    return (torch.randint(0, 50, (2, 7)),), {"mask": mask}


def of_x_transformers() -> list[Candidate]:
    import x_transformers as x

    made: list[Candidate] = []

    def add(label: str, layers: Any, **kw: Any) -> None:
        def make() -> nn.Module:
            attention = layers(**{"dim": 16, "depth": 3, "heads": 2, "attn_dim_head": 8, **kw})
            return x.TransformerWrapper(num_tokens=50, max_seq_len=8, attn_layers=attention)

        made.append(Candidate(f"x_transformers, {label}", make, words))

    add("encoder", x.Encoder)
    add("decoder", x.Decoder)
    add("encoder with dropout", x.Encoder, attn_dropout=0.1, ff_dropout=0.1)
    add("decoder with rotary positions", x.Decoder, rotary_pos_emb=True)
    add("decoder with value residual", x.Decoder, add_value_residual=True)
    add("decoder with hyper-connections", x.Decoder, num_residual_streams=2)
    add("encoder with U-shaped skips", x.Encoder, unet_skips=True, depth=4)
    add("encoder with residual attention", x.Encoder, residual_attn=True)
    add("encoder with layers dropped", x.Encoder, layer_dropout=0.3)
    add("encoder with its layers tied", x.Encoder, weight_tie_layers=True)

    def tokens() -> nn.Module:
        layers = x.Encoder(dim=16, depth=3, heads=2, attn_dim_head=8)
        return x.TransformerWrapper(
            num_tokens=50, max_seq_len=8, num_memory_tokens=3, attn_layers=layers
        )

    def continuous() -> nn.Module:
        layers = x.Encoder(dim=16, depth=3, heads=2, attn_dim_head=8)
        return x.ContinuousTransformerWrapper(
            dim_in=6, dim_out=5, max_seq_len=8, attn_layers=layers
        )

    def vit() -> nn.Module:
        layers = x.Encoder(dim=16, depth=3, heads=2, attn_dim_head=8)
        return x.ViTransformerWrapper(
            image_size=32, patch_size=8, num_classes=5, attn_layers=layers
        )

    def translation() -> nn.Module:
        sizes = {"num_tokens": 50, "depth": 2, "heads": 2, "max_seq_len": 8}
        return x.XTransformer(
            dim=16,
            **{f"enc_{name}": value for name, value in sizes.items()},
            **{f"dec_{name}": value for name, value in sizes.items()},
        )

    def pair() -> Inputs:
        return (torch.randint(0, 50, (2, 7)), torch.randint(0, 50, (2, 6))), {}

    def autoregressive() -> nn.Module:
        layers = x.Decoder(dim=16, depth=3, heads=2, attn_dim_head=8)
        model = x.TransformerWrapper(num_tokens=50, max_seq_len=8, attn_layers=layers)
        return x.AutoregressiveWrapper(model)

    made += [
        Candidate("x_transformers, encoder with memory tokens", tokens, words),
        Candidate(
            "x_transformers.ContinuousTransformerWrapper",
            continuous,
            lambda: ((torch.randn(2, 7, 6),), {}),
        ),
        Candidate("x_transformers.ViTransformerWrapper", vit, images),
        Candidate("x_transformers.XTransformer", translation, pair),
        Candidate("x_transformers.XTransformer, encoder", translation, pair, "encoder.attn_layers"),
        Candidate(
            "x_transformers.AutoregressiveWrapper",
            autoregressive,
            lambda: ((torch.randint(0, 50, (2, 8)),), {}),
        ),
    ]
    return made
