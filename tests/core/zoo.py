"""Small models of many families, all random, in float64, and what to call them with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import timm
import torch
from torch import nn

from tests.core.models import (
    Answer,
    BatchNormHead,
    Block,
    Frames,
    KeywordTokens,
    LoopModel,
    OutsideFirst,
    Pair,
    TupleBlocks,
    torch_encoder,
)

VIT = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 2,
    "num_classes": 5,
}
MIXER = {"img_size": 32, "patch_size": 8, "num_blocks": 3, "embed_dim": 16, "num_classes": 5}

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A model to cycle.

    Attributes:
        make: Builds the model.
        inputs: Makes the arguments and keyword arguments of a batch.
        blocks: What `CycleWrapper` is told, and where the test finds the stack.
        path: Where the stack is; None where that depends on the version of a library.
        batch_dim: Batch dimension of tokens, and of outputs with as many dimensions.
        options: More arguments of the wrapper.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs]
    path: str | None = "blocks"
    blocks: Any = None
    batch_dim: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 0) -> nn.Module:
        """The model in float64 and training mode, without dropout and parts that are zero."""
        torch.manual_seed(seed)
        model = self.make().double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif type(module).__name__.endswith("DropPath"):
                module.drop_prob = 0.0
        return model.train()

    def batch(self, size: int = 2, seed: int = 1) -> Inputs:
        """Arguments of a batch."""
        torch.manual_seed(seed)
        return self.inputs(size)


def image(size: int) -> Inputs:
    return (torch.randn(size, 3, 32, 32, dtype=torch.float64),), {}


def pixels(size: int) -> Inputs:
    return (), {"pixel_values": torch.randn(size, 3, 32, 32, dtype=torch.float64)}


def words(size: int) -> Inputs:
    mask = torch.ones(size, 7, dtype=torch.long)
    mask[0, 5:] = 0
    return (torch.randint(50, (size, 7)),), {"attention_mask": mask}


def sequence(size: int) -> Inputs:
    return (torch.randn(size, 6, 16, dtype=torch.float64),), {}


def of_timm(name: str, path: str = "blocks", **kwargs: Any) -> Case:
    def make() -> nn.Module:
        return timm.create_model(name, **kwargs)

    return Case(make, image, path)


def of_class(module: str, cls: str, path: str = "blocks", **kwargs: Any) -> Case:
    def make() -> nn.Module:
        return getattr(getattr(timm.models, module), cls)(**kwargs)

    return Case(make, image, path)


TIMM = {
    "vit": of_timm("vit_tiny_patch16_224", **VIT),
    "vit-gap-rpn": of_timm("vit_base_patch16_rpn_224", **VIT),
    "vit-registers": of_timm("vit_medium_patch16_reg4_gap_256", **VIT),
    "vit-parallel": of_timm("vit_small_patch16_18x2_224", **VIT),
    "vit-clip": of_timm("vit_base_patch16_clip_224", **VIT),
    "vit-hybrid": of_timm(
        "vit_tiny_r_s16_p8_224", **{k: v for k, v in VIT.items() if k != "patch_size"}
    ),
    "siglip": of_timm("vit_base_patch16_siglip_224", **VIT),
    "dinov2": of_timm("vit_small_patch14_dinov2", **VIT),
    "dinov2-registers": of_timm("vit_small_patch14_reg4_dinov2", **VIT),
    "flexivit": of_timm("flexivit_small", **VIT),
    "aimv2": of_timm("aimv2_large_patch14_224", **VIT),
    "pe-core": of_timm("vit_pe_core_tiny_patch16_384", **VIT),
    "relpos": of_timm("vit_relpos_small_patch16_224", **VIT),
    "srelpos": of_timm("vit_srelpos_small_patch16_224", **VIT),
    "relpos-cls": of_timm("vit_relpos_base_patch16_cls_224", **VIT),
    "deit": of_timm("deit_tiny_patch16_224", **VIT),
    "deit-distilled": of_timm("deit_tiny_distilled_patch16_224", **VIT),
    "deit3": of_timm("deit3_small_patch16_224", **VIT),
    "beit": of_timm("beit_base_patch16_224", **VIT),
    "beit-shared-bias": of_timm(
        "beit_base_patch16_224", use_rel_pos_bias=False, use_shared_rel_pos_bias=True, **VIT
    ),
    "beitv2": of_timm("beitv2_base_patch16_224", **VIT),
    "eva": of_timm("eva_large_patch14_196", **VIT),
    "eva02": of_timm("eva02_tiny_patch14_224", **VIT),
    "vit-rope-mixed": of_timm("vit_small_patch16_rope_mixed_224", **VIT),
    "dinov3": of_timm("vit_small_patch16_dinov3", **VIT),
    "cait": of_timm("cait_xxs24_224", **VIT),
    "xcit": of_timm("xcit_tiny_12_p16_224", **VIT),
    "convit": of_timm(
        "convit_tiny", "blocks.0:3", **{**VIT, "embed_dim": 8, "depth": 5}, local_up_to_layer=3
    ),
    "samvit": of_timm(
        "samvit_base_patch16_224",
        **VIT,
        global_attn_indexes=(2,),
        window_size=2,
        neck_chans=8,
    ),
    "naflexvit": of_timm(
        "naflexvit_base_patch16_gap",
        **{k: v for k, v in VIT.items() if k != "img_size"},
    ),
    "mixer": of_class("mlp_mixer", "MlpMixer", **MIXER),
    "resmlp": of_class(
        "mlp_mixer",
        "MlpMixer",
        **MIXER,
        mlp_ratio=4,
        block_layer=timm.models.mlp_mixer.ResBlock,
        norm_layer=timm.models.mlp_mixer.Affine,
    ),
    "gmlp": of_class(
        "mlp_mixer",
        "MlpMixer",
        **MIXER,
        mlp_ratio=4,
        block_layer=timm.models.mlp_mixer.SpatialGatingBlock,
        mlp_layer=timm.layers.GatedMlp,
    ),
    "convmixer": of_class(
        "convmixer", "ConvMixer", dim=8, depth=3, kernel_size=3, patch_size=8, num_classes=5
    ),
    "swin-stage": Case(
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=32,
            window_size=4,
            embed_dim=8,
            depths=(2, 2),
            num_heads=(2, 2),
            num_classes=5,
        ),
        image,
        "layers.0.blocks",
        blocks="layers.0.blocks",
    ),
}

HUGGING_FACE_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
OF_IMAGES = {**HUGGING_FACE_SIZES, "image_size": 32, "patch_size": 8}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def of_hugging_face(
    name: str, inputs: Callable[[int], Inputs] = pixels, blocks: str | None = None, **kwargs: Any
) -> Case:
    def make() -> nn.Module:
        import transformers

        cls = getattr(transformers, name)
        return cls(cls.config_class(**kwargs))

    return Case(make, inputs, path=blocks, blocks=blocks)


HUGGING_FACE = {
    "hf-vit": of_hugging_face("ViTForImageClassification", num_labels=5, **OF_IMAGES),
    "hf-dinov2": of_hugging_face("Dinov2ForImageClassification", num_labels=5, **OF_IMAGES),
    "hf-clip-vision": of_hugging_face("CLIPVisionModel", **OF_IMAGES),
    "hf-siglip-vision": of_hugging_face("SiglipVisionModel", **OF_IMAGES),
    "hf-deit": of_hugging_face("DeiTForImageClassification", num_labels=5, **OF_IMAGES),
    "hf-bert": of_hugging_face(
        "BertModel", words, vocab_size=50, **HUGGING_FACE_SIZES, **NO_DROPOUT
    ),
    "hf-bert-classifier": of_hugging_face(
        "BertForSequenceClassification",
        words,
        vocab_size=50,
        num_labels=5,
        classifier_dropout=0.0,
        **HUGGING_FACE_SIZES,
        **NO_DROPOUT,
    ),
    "hf-distilbert": of_hugging_face(
        "DistilBertModel",
        words,
        vocab_size=50,
        dim=16,
        n_layers=3,
        n_heads=2,
        hidden_dim=32,
        dropout=0.0,
        attention_dropout=0.0,
    ),
    "hf-albert-as-one-block": of_hugging_face(
        "AlbertModel",
        words,
        "encoder",
        vocab_size=50,
        embedding_size=16,
        **HUGGING_FACE_SIZES,
        **NO_DROPOUT,
    ),
    "hf-t5-encoder": of_hugging_face(
        "T5EncoderModel",
        words,
        vocab_size=50,
        d_model=16,
        num_layers=3,
        num_heads=2,
        d_ff=32,
        d_kv=8,
        dropout_rate=0.0,
    ),
}


def torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5)


def masked(batch_first: bool) -> Callable[[int], Inputs]:
    def inputs(size: int) -> Inputs:
        tokens = torch.randn(size, 6, 16, dtype=torch.float64)
        padding = torch.zeros(size, 6, dtype=torch.bool)
        padding[0, 4:] = True
        future = torch.triu(torch.ones(6, 6, dtype=torch.bool), diagonal=1)
        if not batch_first:
            tokens = tokens.transpose(0, 1).contiguous()
        return (tokens,), {"mask": future, "src_key_padding_mask": padding}

    return inputs


def weighted_inputs(size: int) -> Inputs:
    bias = torch.randn(1, 6, 6, dtype=torch.float64)
    (x,), _ = sequence(size)
    return (x,), {"weight": 0.5, "sample_bias": bias}


OWN = {
    "loop": Case(LoopModel, weighted_inputs),
    "sample-bias": Case(
        LoopModel,
        lambda size: (
            sequence(size)[0],
            {"sample_bias": torch.randn(size, 6, 6, dtype=torch.float64)},
        ),
    ),
    "returns-tuple": Case(lambda: LoopModel(lambda y, x: (y, (x, "text"), None)), sequence),
    "returns-dict": Case(lambda: LoopModel(lambda y, x: {"y": y, "all": [x, {"n": 1}]}), sequence),
    "returns-ordered-dict": Case(lambda: LoopModel(lambda y, x: OrderedDict(y=y, x=x)), sequence),
    "returns-dataclass": Case(lambda: LoopModel(lambda y, x: Answer(y, {"x": x})), sequence),
    "returns-named-tuple": Case(lambda: LoopModel(lambda y, x: Pair(y, x)), sequence),
    "tuple-blocks": Case(TupleBlocks, sequence, "encoder.layer"),
    "keyword-tokens": Case(KeywordTokens, sequence, "layers"),
    "torchvision": Case(torchvision_vit, image, "encoder.layers"),
    "encoder": Case(lambda: torch_encoder(True), masked(True), "layers"),
    "encoder-prenorm": Case(lambda: torch_encoder(True, norm_first=True), masked(True), "layers"),
    "encoder-batch-second": Case(
        lambda: torch_encoder(False), masked(False), "layers", batch_dim=1
    ),
    "batch-second-inside": Case(OutsideFirst, sequence, "transformer.layers", batch_dim=1),
    "sequential": Case(lambda: nn.Sequential(*(Block() for _ in range(3))), sequence, ""),
    "sequential-with-head": Case(
        lambda: nn.Sequential(nn.Linear(16, 16), Block(), Block(), Block(), nn.Linear(16, 5)),
        sequence,
        "1:4",
    ),
    "stack-in-sequential": Case(
        lambda: nn.Sequential(nn.Linear(16, 16), torch_encoder(True), nn.Linear(16, 5)),
        sequence,
        "1.layers",
    ),
    "module-list": Case(lambda: nn.ModuleList(Block() for _ in range(3)), sequence, ""),
    "encoder-as-one-block": Case(
        lambda: nn.Sequential(nn.Linear(16, 16), torch_encoder(True), nn.Linear(16, 5)),
        sequence,
        "1",
        blocks="1",
    ),
    "slice": Case(LoopModel, weighted_inputs, "blocks.1:3", blocks="blocks.1:3"),
    "one-block": Case(LoopModel, weighted_inputs, "blocks.1:2", blocks="blocks.1:2"),
    "frames": Case(Frames, lambda size: ((torch.randn(size, 4, 6, 16, dtype=torch.float64),), {})),
    "batch-norm-head": Case(BatchNormHead, sequence, "blocks", options={"batched": False}),
}

ZOO: dict[str, Case] = {**TIMM, **HUGGING_FACE, **OWN}

# A few that differ in what their blocks take and return.
_SOME = ["vit", "beit-shared-bias", "hf-bert", "encoder", "tuple-blocks", "sequential"]
some_cases = pytest.mark.parametrize("case", [ZOO[name] for name in _SOME], ids=_SOME)
