"""Multiply-accumulates, against what can be counted by hand."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from cycledistill import CycleWrapper, MacCount, count_macs


def vit() -> nn.Module:
    return timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=12, depth=3, num_heads=2, num_classes=5, mlp_ratio=2.0
    )


def vit_by_hand(num_cycles: int, batched: bool = False) -> MacCount:
    patches, tokens, width = 4, 5, 12
    stem = patches * 3 * 8 * 8 * width
    block = tokens * (width * 3 * width + width * width + 2 * width * 2 * width)
    products = 2 * tokens * tokens * width
    head = width * 5
    plain = (1 if batched else num_cycles) * stem + num_cycles * (3 * block + head)
    return MacCount(plain, plain + num_cycles * 3 * products)


@pytest.mark.parametrize("num_cycles", [1, 2, 3])
def test_a_vit_counted_by_hand(num_cycles: int) -> None:
    model, image = vit(), torch.zeros(1, 3, 16, 16)
    assert count_macs(model, image) == vit_by_hand(1)
    cycled = CycleWrapper(model, num_cycles=2)
    assert count_macs(cycled, image) == vit_by_hand(1)
    found = count_macs(cycled, image, method="forward_cycles", num_cycles=num_cycles)
    assert found == vit_by_hand(num_cycles)
    assert count_macs(cycled, image, num_cycles=num_cycles) == found
    batched = CycleWrapper(cycled.unwrap(), num_cycles=2, batched=True)
    found = count_macs(batched, image, method="forward_cycles", num_cycles=num_cycles)
    assert found == vit_by_hand(num_cycles, batched=True)
    assert not batched._verified
    saved_heads = (num_cycles - 1) * 12 * 5  # in use, only the last cycle has a prediction
    assert count_macs(batched, image, num_cycles=num_cycles) == MacCount(
        *(count - saved_heads for count in found)
    )


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_the_fast_path_are_left_as_they_were(training: bool) -> None:
    cycled = CycleWrapper(vit(), num_cycles=2).train(training)
    cycled.plain.blocks[1].eval()
    before = [module.training for module in cycled.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    count_macs(cycled, torch.zeros(1, 3, 16, 16), method="forward_cycles", num_cycles=2)
    assert [module.training for module in cycled.modules()] == before
    assert torch.backends.mha.get_fastpath_enabled() == fast_path
    output = cycled(torch.zeros(2, 3, 16, 16))
    assert isinstance(output, torch.Tensor) != training  # the cycles are on, or off, as before


@pytest.mark.parametrize("way", ["grouped_mm", "eager"])
def test_a_mixture_of_experts_counted_by_hand(way: str) -> None:
    transformers = pytest.importorskip("transformers", "5.0")
    config = transformers.MixtralConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        experts_implementation=way,
    )
    words, width = torch.arange(8)[None], 16
    block = 4 * width * width + width * 4 + 2 * 3 * width * 32
    plain = 8 * (2 * block + width * 50)
    found = count_macs(transformers.MixtralForCausalLM(config), words, use_cache=False)
    assert found == MacCount(plain, plain + 2 * 2 * 8 * 8 * width)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_counted_by_hand(kind: type[nn.RNNBase]) -> None:
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    model = kind(16, 32, num_layers=2, bidirectional=True)
    by_hand = 15 * 2 * gates * (32 * 16 + 32 * 32 + 32 * 64 + 32 * 32)
    assert count_macs(model, torch.zeros(5, 3, 16)) == MacCount(by_hand, by_hand)


def test_blocks_that_take_a_part_of_a_parameter() -> None:
    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries = nn.Parameter(torch.randn(4, 8))
            self.layers = nn.ModuleList(
                nn.TransformerDecoderLayer(8, 2, 16, batch_first=True) for _ in range(2)
            )

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.queries.expand(x.shape[0], -1, -1)
            for layer in self.layers:
                tokens = layer(tokens, x)
            return tokens

    model = Queries()
    model.layers[0].requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    found = count_macs(CycleWrapper(model), torch.zeros(1, 3, 8))
    weights = 4 * 4 * 8 * 8 + 2 * (4 + 3) * 8 * 8 + 2 * 4 * 8 * 16
    assert found.without_attention_products == 2 * weights
    assert [parameter.requires_grad for parameter in model.parameters()] == before


@pytest.mark.parametrize("batch", [1, 2])
def test_linear_layers_of_transposed_tokens_counted_by_hand(batch: int) -> None:
    """Torch computes them as batched products, with the weight as one of the factors."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    weights = batch * 5 * (4 * 8 * 8 + 2 * 8 * 16)
    found = count_macs(layer, torch.zeros(batch, 5, 8))
    assert found == MacCount(weights, weights + batch * 2 * 5 * 5 * 8)

    class Mixer(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mT) + torch.einsum("btd,ot->bdo", x, self.weight)

    assert count_macs(Mixer(5, 3), torch.zeros(batch, 5, 8)) == MacCount(*2 * (batch * 240,))


@pytest.mark.parametrize("half", [False, True])
def test_copies_of_weights_are_weights(half: bool) -> None:
    """``einsum`` copies a weight whose channels are not side by side, autocast all of them."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 8, 6))

        def forward(self, x: Tensor) -> Tensor:
            heads = torch.einsum("btd,hde->bhte", x, self.weight)
            return heads @ heads.mT

    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = count_macs(Heads(), torch.zeros(3, 5, 8))
    weights, products = 3 * 5 * 8 * 12, 3 * 2 * 5 * 5 * 6
    assert found == MacCount(weights, weights + products)
