"""The quick loop: several seeds in one program are what each is alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cycledistill import CycleWrapper
from experiments._image_run import ImageRun
from experiments._vit import SeededViT, initial_weights, plain_model, stacked

TINY = ImageRun(epochs=2, train_samples=40, width=32, depth=2, patch_size=16, batch_size=10)


@pytest.mark.parametrize("depth", [1, 2])
def test_predictions_are_those_of_timm_for_every_cycle(depth: int) -> None:
    config = replace(TINY, depth=depth)
    weights = [initial_weights(config.seeded(seed)) for seed in (0, 1)]
    for own in weights:  # every parameter matters
        for value in own.values():
            value.add_(0.1 * torch.randn_like(value))
    images = torch.randn(2, 3, 3, 32, 32)
    found = SeededViT(config, stacked(weights)).cycles(images, 3, every=True)
    last = SeededViT(config, stacked(weights)).cycles(images, 3)
    for place, own in enumerate(weights):
        model = plain_model(config)
        model.load_state_dict(own)
        cycled = CycleWrapper(model, num_cycles=3, blocks="blocks").eval()
        for cycle in range(3):
            expected = cycled(images[place], num_cycles=cycle + 1)
            torch.testing.assert_close(found[cycle].logits[place], expected, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(last[0].logits[place], expected, atol=2e-5, rtol=2e-5)
