"""Multiply-accumulates, against what can be counted by hand."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

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
