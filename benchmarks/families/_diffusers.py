"""Denoisers of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.families._candidate import Candidate, Inputs


def of_diffusers() -> list[Candidate]:
    import diffusers

    made: list[Candidate] = []
    heads = {"num_attention_heads": 2, "attention_head_dim": 8}

    def add(
        name: str,
        inputs: Callable[[], dict[str, Any]],
        label: str = "",
        blocks: str | None = None,
        **config: Any,
    ) -> None:
        def make() -> nn.Module:
            return getattr(diffusers, name)(**config)

        def call() -> Inputs:
            return (), inputs()

        made.append(Candidate(name + label, make, call, blocks))

    def steps() -> Tensor:
        return torch.tensor([3, 7])

    def latents(channels: int = 4, size: int = 8) -> Tensor:
        return torch.randn(2, channels, size, size)

    dit = {**heads, "num_layers": 3, "in_channels": 4, "sample_size": 8, "patch_size": 2}
    add(
        "DiTTransformer2DModel",
        lambda: {
            "hidden_states": latents(),
            "timestep": steps(),
            "class_labels": torch.tensor([1, 2]),
        },
        **dit,
        norm_num_groups=2,
        num_embeds_ada_norm=10,
    )

    def with_text(**more: Any) -> dict[str, Any]:
        text = torch.randn(2, 5, 16)
        given = {"hidden_states": latents(), "timestep": steps(), "encoder_hidden_states": text}
        return {**given, **more}

    captions = {"cross_attention_dim": 16, "caption_channels": 16}
    add(
        "PixArtTransformer2DModel",
        lambda: with_text(added_cond_kwargs={"resolution": None, "aspect_ratio": None}),
        **dit,
        **captions,
        norm_num_groups=2,
        use_additional_conditions=False,
    )
    add(
        "SanaTransformer2DModel",
        with_text,
        **heads,
        **captions,
        num_layers=3,
        in_channels=4,
        out_channels=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        sample_size=8,
    )
    joint = {"joint_attention_dim": 16, "caption_projection_dim": 16}
    add(
        "SD3Transformer2DModel",
        lambda: with_text(pooled_projections=torch.randn(2, 16)),
        **dit,
        **joint,
        pooled_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=8,
    )
    add(
        "AuraFlowTransformer2DModel",
        with_text,
        **heads,
        **joint,
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=3,
        pos_embed_max_size=16,
    )

    def flux() -> dict[str, Any]:
        return {
            "hidden_states": torch.randn(2, 16, 4),
            "encoder_hidden_states": torch.randn(2, 5, 16),
            "pooled_projections": torch.randn(2, 16),
            "timestep": torch.tensor([0.3, 0.7]),
            "img_ids": torch.zeros(16, 3),
            "txt_ids": torch.zeros(5, 3),
        }

    flux_sizes = {
        **heads,
        "in_channels": 4,
        "num_layers": 2,
        "num_single_layers": 3,
        "joint_attention_dim": 16,
        "pooled_projection_dim": 16,
        "axes_dims_rope": (2, 2, 4),
    }
    add("FluxTransformer2DModel", flux, **flux_sizes)
    single = "single_transformer_blocks"
    add("FluxTransformer2DModel", flux, ", single blocks", single, **flux_sizes)

    def hunyuan() -> dict[str, Any]:
        return {
            "hidden_states": latents(),
            "timestep": steps().double(),
            "encoder_hidden_states": torch.randn(2, 5, 16),
            "text_embedding_mask": torch.ones(2, 5),
            "encoder_hidden_states_t5": torch.randn(2, 6, 16),
            "text_embedding_mask_t5": torch.ones(2, 6),
            "image_meta_size": torch.full((2, 6), 8.0),
            "style": torch.zeros(2, dtype=torch.long),
            "image_rotary_emb": (torch.randn(16, 8).cos(), torch.randn(16, 8).sin()),
        }

    add(
        "HunyuanDiT2DModel",
        hunyuan,
        ", U-shaped",
        "blocks",
        **{**dit, "num_layers": 4},
        hidden_size=16,
        cross_attention_dim=16,
        cross_attention_dim_t5=16,
        pooled_projection_dim=16,
        text_len=5,
        text_len_t5=6,
    )
    add(
        "PriorTransformer",
        lambda: {
            "hidden_states": torch.randn(2, 12),
            "timestep": steps(),
            "proj_embedding": torch.randn(2, 12),
            "encoder_hidden_states": torch.randn(2, 5, 12),
        },
        **heads,
        num_layers=3,
        embedding_dim=12,
        num_embeddings=5,
    )
    add(
        "CogVideoXTransformer3DModel",
        lambda: with_text(hidden_states=torch.randn(2, 2, 4, 8, 8)),
        **heads,
        in_channels=4,
        out_channels=4,
        time_embed_dim=16,
        text_embed_dim=16,
        num_layers=3,
        sample_width=8,
        sample_height=8,
        sample_frames=5,
        max_text_seq_length=5,
    )
    add(
        "WanTransformer3DModel",
        lambda: with_text(hidden_states=torch.randn(2, 4, 2, 8, 8)),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=3,
        rope_max_seq_len=32,
    )
    add(
        "UVit2DModel",
        lambda: {
            "input_ids": torch.randint(0, 30, (2, 4, 4)),
            "encoder_hidden_states": torch.randn(2, 5, 16),
            "pooled_text_emb": torch.randn(2, 16),
            "micro_conds": torch.randn(2, 2),
        },
        hidden_size=16,
        cond_embed_dim=16,
        micro_cond_encode_dim=4,
        micro_cond_embed_dim=8,
        encoder_hidden_size=16,
        vocab_size=32,
        codebook_size=30,
        in_channels=16,
        block_out_channels=16,
        num_res_blocks=1,
        block_num_heads=2,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
    )
    add(
        "UNet2DConditionModel",
        lambda: {
            "sample": latents(),
            "timestep": steps(),
            "encoder_hidden_states": torch.randn(2, 5, 16),
        },
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        transformer_layers_per_block=2,
    )
    return made
