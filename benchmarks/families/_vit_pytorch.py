"""Models of vit-pytorch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import nn

from benchmarks.families._candidate import Candidate, Inputs, images


def of_vit_pytorch() -> list[Candidate]:
    made: list[Candidate] = []
    sizes = {"dim": 16, "depth": 3, "heads": 2, "mlp_dim": 32, "num_classes": 5}
    vit = {**sizes, "image_size": 32, "patch_size": 8, "dim_head": 8}

    def add(
        label: str, module: str, name: str, inputs: Any = None, blocks: str | None = None, **kw: Any
    ) -> None:
        def make() -> nn.Module:
            return getattr(import_module(f"vit_pytorch.{module}"), name)(**kw)

        made.append(Candidate(label, make, inputs or images(), blocks))

    dropout = {"dropout": 0.1, "emb_dropout": 0.1}
    add("vit_pytorch.ViT", "vit", "ViT", **vit, **dropout)
    add("vit_pytorch.SimpleViT", "simple_vit", "SimpleViT", **vit)
    add("vit_pytorch.DeepViT", "deepvit", "DeepViT", **vit)
    add("vit_pytorch.CaiT", "cait", "CaiT", blocks="patch_transformer", **vit, cls_depth=2)
    dropped = {**vit, "cls_depth": 2, "layer_dropout": 0.3}
    add("vit_pytorch.CaiT, layers dropped", "cait", "CaiT", blocks="patch_transformer", **dropped)
    without = {key: value for key, value in vit.items() if key not in ("patch_size", "dim_head")}
    add("vit_pytorch.T2TViT", "t2t", "T2TViT", **without, t2t_layers=((7, 4), (3, 2)))
    cct = {"img_size": 32, "embedding_dim": 16, "num_layers": 3, "num_heads": 2, "mlp_ratio": 2}
    add("vit_pytorch.CCT", "cct", "CCT", **cct, num_classes=5)

    def several() -> Inputs:
        shapes = ((32, 32), (16, 32), (32, 16), (24, 24))
        return ([torch.randn(3, *shape) for shape in shapes],), {"group_images": True}

    def clips() -> Inputs:
        return (torch.randn(2, 3, 4, 32, 32),), {}

    add("vit_pytorch.NaViT", "na_vit", "NaViT", several, **vit)
    add("vit_pytorch.ViT, parallel", "parallel_vit", "ViT", **vit)
    add("vit_pytorch.ViT for small datasets", "vit_for_small_dataset", "ViT", **vit)
    add("vit_pytorch.ViT, patch dropout", "vit_with_patch_dropout", "ViT", **vit)
    add("vit_pytorch.ViT, patch merger", "vit_with_patch_merger", "ViT", **vit)
    small = {"sm_dim": 16, "sm_patch_size": 8, "sm_enc_heads": 2, "sm_enc_mlp_dim": 32}
    large = {"lg_dim": 24, "lg_patch_size": 16, "lg_enc_heads": 2, "lg_enc_mlp_dim": 32}
    add(
        "vit_pytorch.CrossViT",
        "cross_vit",
        "CrossViT",
        image_size=32,
        num_classes=5,
        depth=3,
        **small,
        **large,
    )
    add("vit_pytorch.XCiT", "xcit", "XCiT", blocks="xcit_transformer", **vit, cls_depth=2)
    add("vit_pytorch.SimpleUViT", "simple_uvit", "SimpleUViT", **{**vit, "depth": 4})
    for label, module in (
        ("value residual", "simple_vit_with_value_residual"),
        ("register tokens", "simple_vit_with_register_tokens"),
        ("normalised queries and keys", "simple_vit_with_qk_norm"),
    ):
        add(f"vit_pytorch.SimpleViT, {label}", module, "SimpleViT", **vit)
    add(
        "vit_pytorch.SimpleViT, hyper-connections",
        "simple_vit_with_hyper_connections",
        "SimpleViT",
        **vit,
        num_residual_streams=2,
    )
    history = "simple_vit_attn_residual"
    add("vit_pytorch.SimpleViT, attention over layers", history, "SimpleViTAttnResidual", **vit)
    add("vit_pytorch.JumboViT", "jumbo_vit", "JumboViT", **vit)
    add("vit_pytorch.nViT", "normalized_vit", "nViT", **vit)
    frames = {"image_patch_size": 8, "frames": 4, "frame_patch_size": 2, "spatial_depth": 2}
    video = {key: value for key, value in vit.items() if key not in ("patch_size", "depth")}
    add(
        "vit_pytorch.ViViT",
        "vivit",
        "ViViT",
        lambda: ((torch.randn(2, 3, 4, 32, 32),), {}),
        **video,
        **frames,
        temporal_depth=2,
    )
    looped = {key: value for key, value in vit.items() if key != "depth"}
    add(
        "vit_pytorch.LoopedViT",
        "looped_vit",
        "LoopedViT",
        **looped,
        pre_loop_depth=2,
        num_looped_blocks=2,
        post_loop_depth=2,
        loop_depth=2,
    )

    def masked() -> nn.Module:
        from vit_pytorch.mae import MAE

        encoder = import_module("vit_pytorch.vit").ViT(**vit, pool="mean")
        return MAE(encoder=encoder, decoder_dim=16, decoder_depth=2, decoder_heads=2)

    made.append(Candidate("vit_pytorch.MAE", masked, images(), "encoder.transformer"))
    return made
