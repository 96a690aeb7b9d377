"""Models of libraries that the page on trainers names, against many plain calls of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cycledistill import CycleWrapper
from tests.core.reference import (
    assert_same,
    assert_same_gradients,
    equation_4,
    gradients,
    hand_fed,
    loss_of,
)

WHY = "a development dependency that is not installed"


class FreshContainers(nn.Module):
    """A model that gets containers of its own in each call, and may write into them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any) -> Any:
        return self.model(*copy.deepcopy(args))


def assert_cycles(model: nn.Module, path: str, *args: Any, blocks: str | None = None) -> None:
    """Predictions, tokens and gradients of two cycles; and one plain pass in use."""
    model = model.double().train()
    reference = FreshContainers(copy.deepcopy(model))
    fed = hand_fed(reference, f"model.{path}", 2, args, {})
    equation_4(fed).backward()
    cycled = CycleWrapper(model, num_cycles=2, blocks=blocks)
    assert cycled.stack_path == path
    out = cycled(*args)
    for found, expected in zip(out.predictions, fed.predictions, strict=True):
        assert_same(found, expected)
    for tokens, fed_tokens in zip(out.tokens, fed.tokens, strict=True):
        assert_same(tokens, fed_tokens)
    assert float((fed.tokens[1] - fed.tokens[0]).detach().abs().max()) > 1e-3
    loss_of(out).backward()
    assert_same_gradients(model, gradients(reference.model))
    assert_same(cycled.eval()(*args), reference.eval()(*args), 0)


def picture() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["ViT", "SimpleViT"])
def test_vit_pytorch(kind: str) -> None:
    library = pytest.importorskip("vit_pytorch", reason=WHY)
    model = getattr(library, kind)(
        image_size=16, patch_size=8, num_classes=3, dim=16, depth=2, heads=2, mlp_dim=32
    )
    assert_cycles(model, "transformer", picture())


def test_x_transformers() -> None:
    library = pytest.importorskip("x_transformers", reason=WHY)
    layers = library.Decoder(dim=16, depth=2, heads=2)
    model = library.TransformerWrapper(num_tokens=40, max_seq_len=16, attn_layers=layers)
    assert_cycles(model, "attn_layers", torch.randint(40, (2, 8)))


@pytest.mark.parametrize("tower", ["visual.transformer.resblocks", "transformer.resblocks"])
def test_open_clip(tower: str) -> None:
    library = pytest.importorskip("open_clip.model", reason=WHY)
    model = library.CLIP(
        16,
        library.CLIPVisionCfg(layers=2, width=16, head_width=8, patch_size=8, image_size=16),
        library.CLIPTextCfg(context_length=8, vocab_size=40, width=16, heads=2, layers=2),
    )
    with pytest.raises(
        ValueError, match=r"choose one with blocks=.*'visual.transformer.resblocks'"
    ):
        CycleWrapper(model)
    assert_cycles(model, tower, picture(), torch.randint(40, (2, 8)), blocks=tower)


def test_sentence_transformers(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason=WHY)
    modules = pytest.importorskip(
        "sentence_transformers.sentence_transformer.modules",
        reason="sentence-transformers before 6 has its modules elsewhere",
    )
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "sat", "on", "the"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(tmp_path)
    encoder = library.SentenceTransformer(
        modules=[modules.Transformer(str(tmp_path)), modules.Pooling(16)], device="cpu"
    )
    features = dict(encoder.preprocess(["a cat sat", "the dog on the cat"]))
    given = set(features)
    (path,) = (name for name, m in encoder.named_modules() if isinstance(m, nn.ModuleList))
    assert_cycles(encoder, path, features)
    assert set(features) == given
    cycled = CycleWrapper(encoder.float())
    assert cycled.eval().encode("a cat").shape == (16,)
