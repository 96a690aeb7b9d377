"""timm's models."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.families._candidate import Candidate, images


def of_timm() -> list[Candidate]:
    import timm

    made: list[Candidate] = []

    def add(family: str, name: str, size: int = 32, blocks: str | None = None, **kw: Any) -> None:
        def make() -> nn.Module:
            return timm.create_model(name, num_classes=5, **kw)

        label = name if family in name else f"{family}: {name}"
        made.append(Candidate(label, make, images(size), blocks))

    def add_class(label: str, module: str, cls: str, **kw: Any) -> None:
        def make() -> nn.Module:
            return getattr(getattr(timm.models, module), cls)(num_classes=5, **kw)

        made.append(Candidate(label, make, images()))

    vit = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
    for family, name in (
        ("ViT", "vit_tiny_patch16_224"),
        ("ViT, registers", "vit_medium_patch16_reg4_gap_256"),
        ("ViT, parallel", "vit_small_patch16_18x2_224"),
        ("SigLIP", "vit_base_patch16_siglip_224"),
        ("Perception Encoder", "vit_pe_core_tiny_patch16_384"),
        ("DINOv2", "vit_small_patch14_dinov2"),
        ("DINOv3", "vit_small_patch16_dinov3"),
        ("FlexiViT", "flexivit_small"),
        ("AIMv2", "aimv2_large_patch14_224"),
        ("ViT, relative position", "vit_relpos_small_patch16_224"),
        ("ViT, shared relative position", "vit_srelpos_small_patch16_224"),
        ("ViT, mixed rotary position", "vit_small_patch16_rope_mixed_224"),
        ("DeiT", "deit_tiny_patch16_224"),
        ("DeiT, distilled", "deit_tiny_distilled_patch16_224"),
        ("DeiT III", "deit3_small_patch16_224"),
        ("BEiT", "beit_base_patch16_224"),
        ("BEiT v2", "beitv2_base_patch16_224"),
        ("EVA", "eva_large_patch14_196"),
        ("EVA-02", "eva02_tiny_patch14_224"),
        ("CaiT", "cait_xxs24_224"),
        ("XCiT", "xcit_tiny_12_p16_224"),
    ):
        add(family, name, **vit)
    without = {key: value for key, value in vit.items() if key not in ("img_size", "patch_size")}
    add("NaFlexViT", "naflexvit_base_patch16_gap", patch_size=8, **without)
    add("ViT, hybrid", "vit_tiny_r_s16_p8_224", img_size=32, **without)
    sam = {"global_attn_indexes": (3,), "window_size": 2, "neck_chans": 8}
    add("SAM's ViT", "samvit_base_patch16_224", **vit, **sam)
    add("Gemma 4 vision", "gemma4_vit_167m", 64, img_size=64, **without)
    add("Qwen3 vision", "qwen3_vit_88m_enc", 64, img_size=64, **without)
    mixer = {"img_size": 32, "patch_size": 8, "num_blocks": 4, "embed_dim": 32}
    layers = timm.models.mlp_mixer
    add_class("MLP-Mixer", "mlp_mixer", "MlpMixer", **mixer)
    residual = {"mlp_ratio": 4, "block_layer": layers.ResBlock, "norm_layer": layers.Affine}
    add_class("ResMLP", "mlp_mixer", "MlpMixer", **mixer, **residual)
    gated = {"block_layer": layers.SpatialGatingBlock, "mlp_layer": timm.layers.GatedMlp}
    add_class("gMLP", "mlp_mixer", "MlpMixer", **mixer, mlp_ratio=4, **gated)
    add_class("ConvMixer", "convmixer", "ConvMixer", dim=16, depth=4, kernel_size=3, patch_size=8)
    add("ConViT", "convit_tiny", **{**vit, "embed_dim": 16}, local_up_to_layer=3)
    inner = {"inner_dim": 8, "num_heads_inner": 2, "num_heads_outer": 2}
    add("TNT", "tnt_s_patch16_224", img_size=32, embed_dim=32, depth=4, **inner)
    add("CrossViT", "crossvit_9_240", 240)
    add("VOLO", "volo_d1_224", 64, img_size=64)
    add("ViTamin", "vitamin_small_224", 64, img_size=64)
    add("Hiera", "hiera_tiny_224", 64, img_size=(64, 64), embed_dim=16)
    windows = {"img_size": 32, "window_size": 4, "embed_dim": 16}
    depths = {"depths": (2, 2), "num_heads": (2, 2)}
    add("Swin", "swin_tiny_patch4_window7_224", **windows, **depths)
    add("Swin v2", "swinv2_tiny_window8_256", **windows, **depths)
    add("Swin v2 CR", "swinv2_cr_tiny_224", 64, **{**windows, "img_size": 64}, **depths)
    add("PVT v2", "pvt_v2_b1", 64, embed_dims=(8, 16, 40, 64))
    add("PiT", "pit_ti_224", 64, img_size=64)
    add("MViT v2", "mvitv2_tiny", 64, img_size=64)
    add("CoaT", "coat_lite_tiny", 64, img_size=64)
    add("Twins", "twins_pcpvt_small", 64, "blocks.2.1:", img_size=64, embed_dims=(8, 16, 40, 64))
    add("NesT", "nest_tiny", 64, img_size=64)
    add("LeViT", "levit_128s", 128, img_size=128)
    add("MaxViT", "maxvit_rmlp_pico_rw_256", 64, img_size=64)
    dims = (16, 32, 64, 128)
    add("CAFormer", "caformer_s18", 64)
    add("DaViT", "davit_tiny", 64, embed_dims=dims, num_heads=(1, 2, 4, 8))
    add("FocalNet", "focalnet_tiny_srf", 64)
    add("GC ViT", "gcvit_xxtiny", 64, img_size=64)
    add("MobileViT", "mobilevit_xxs", 64)
    add("EdgeNeXt", "edgenext_xx_small", 64)
    add("EfficientFormer", "efficientformer_l1", 224, embed_dims=dims)
    add("TinyViT", "tiny_vit_5m_224", 64, embed_dims=dims, num_heads=(1, 2, 4, 8))
    sequencer = {"embed_dims": (16, 32, 32, 32), "hidden_sizes": (4, 8, 8, 8)}
    add("Sequencer", "sequencer2d_s", 64, img_size=64, **sequencer)
    return made
