"""Models of transformers for pictures, sound and series."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.families._candidate import Candidate, Inputs, images
from benchmarks.families._transformers import SIZES, candidate


def of_pictures() -> list[Candidate]:
    import transformers

    made: list[Candidate] = []

    def add(*args: Any, **config: Any) -> None:
        made.append(candidate(*args, **config))

    pictures = {**SIZES, "image_size": 32, "patch_size": 8}

    def decisions() -> Inputs:
        return (), {
            "states": torch.randn(2, 4, 3),
            "actions": torch.randn(2, 4, 2),
            "rewards": torch.randn(2, 4, 1),
            "returns_to_go": torch.randn(2, 4, 1),
            "timesteps": torch.arange(4).expand(2, 4),
        }

    for name in (
        "ViTForImageClassification",
        "DeiTForImageClassification",
        "BeitForImageClassification",
        "Dinov2ForImageClassification",
        "CLIPVisionModel",
        "SiglipVisionModel",
    ):
        add(name, images(), **pictures)
    stages = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
    add("SwinForImageClassification", images(), image_size=32, **stages)
    video = {**pictures, "num_frames": 4, "tubelet_size": 2}
    add("VideoMAEForVideoClassification", lambda: ((torch.randn(2, 4, 3, 32, 32),), {}), **video)
    add(
        "ViTMAEForPreTraining",
        images(),
        **pictures,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    add(
        "ViTMAEForPreTraining",
        images(),
        "decoder.decoder_layers",
        ", decoder",
        **pictures,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    add("Dinov2WithRegistersModel", images(), **pictures, num_register_tokens=2)
    add("DINOv3ViTModel", images(), **pictures, num_register_tokens=2)
    add("IJepaModel", images(), **pictures)
    add(
        "YolosForObjectDetection",
        images(),
        **{**pictures, "image_size": [32, 32]},
        num_detection_tokens=4,
    )
    add("Swinv2ForImageClassification", images(), image_size=32, **stages)
    segformer = {
        "hidden_sizes": [8, 16],
        "num_encoder_blocks": 2,
        "depths": [2, 3],
        "sr_ratios": [2, 1],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "num_attention_heads": [1, 2],
        "mlp_ratios": [2, 2],
        "decoder_hidden_size": 8,
    }
    add("SegformerForSemanticSegmentation", images(), **segformer)
    add(
        "DPTForDepthEstimation",
        images(),
        **pictures,
        backbone_out_indices=[0, 1, 2],
        neck_hidden_sizes=[8, 8, 8],
        fusion_hidden_size=8,
        reassemble_factors=[2, 1, 0.5],
        is_hybrid=False,
    )
    add(
        "ASTModel",
        lambda: ((torch.randn(2, 24, 16),), {}),
        **SIZES,
        patch_size=8,
        frequency_stride=8,
        time_stride=8,
        max_length=24,
        num_mel_bins=16,
    )
    add("TimesformerModel", lambda: ((torch.randn(2, 2, 3, 32, 32),), {}), **pictures, num_frames=2)
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"]
    )
    detr = {
        "d_model": 16,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "num_queries": 4,
        "backbone_config": backbone,
    }
    add("DetrForObjectDetection", images(64), None, ", encoder", **detr)
    add(
        "PerceiverModel",
        lambda: ((torch.randn(2, 6, 16),), {}),
        d_model=16,
        d_latents=16,
        num_latents=4,
        num_blocks=1,
        num_self_attends_per_block=3,
        num_self_attention_heads=2,
        num_cross_attention_heads=2,
    )
    add(
        "DecisionTransformerModel",
        decisions,
        hidden_size=16,
        n_layer=3,
        n_head=2,
        state_dim=3,
        act_dim=2,
        max_ep_len=16,
    )
    add(
        "PatchTSTModel",
        lambda: ((torch.randn(2, 16, 2),), {}),
        num_input_channels=2,
        context_length=16,
        patch_length=4,
        patch_stride=4,
        d_model=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        ffn_dim=32,
    )

    return made


def of_sound() -> list[Candidate]:
    made: list[Candidate] = []

    def add(*args: Any, **config: Any) -> None:
        made.append(candidate(*args, **config))

    def speech() -> Inputs:
        return (torch.randn(2, 400),), {}

    audio = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": (8, 8),
        "conv_stride": (5, 2),
        "conv_kernel": (10, 3),
        "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "layerdrop": 0.0,
        "mask_time_prob": 0.0,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "feat_proj_dropout": 0.0,
    }
    add("Wav2Vec2Model", speech, **audio)
    dropping = {**audio, "num_hidden_layers": 4, "layerdrop": 0.3}
    add("Wav2Vec2Model", speech, label=", layers dropped", **dropping)
    add("HubertModel", speech, label=", layers dropped", **dropping)
    add("WavLMModel", speech, num_buckets=8, max_bucket_distance=16, **audio)

    return made
