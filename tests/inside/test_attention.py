"""Recorded attention is the attention that made the output."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from cycledistill import CycleWrapper
from cycledistill.inside import AttentionMap, plot_attention_matrices, record_attention
from cycledistill.inside._attention import _attend


def vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=4).eval()


def rebuilt(attn, tokens, weights):
    value = attn.qkv(tokens).unflatten(-1, (3, attn.num_heads, -1))[:, :, 2].transpose(1, 2)
    return attn.proj((weights @ value).transpose(1, 2).flatten(2))


@torch.no_grad()
def test_weights_rebuild_the_fused_output_of_every_layer_and_cycle():
    model = vit()
    cycled = CycleWrapper(model, num_cycles=2).eval()
    images = torch.randn(2, 3, 32, 32)
    seen = []
    handles = [
        block.attn.register_forward_hook(lambda m, a, out: seen.append((m, a[0], out)))
        for block in model.blocks
    ]
    expected = cycled(images, num_cycles=2)  # fused: nothing is recorded here
    for handle in handles:
        handle.remove()
    maps = record_attention(cycled, images, num_cycles=2)
    assert [m[:2] for m in maps] == [(c, k) for c in (1, 2) for k in (1, 2, 3)]
    for found, (attn, tokens, output) in zip(maps, seen, strict=True):
        assert found.weights.shape == (2, 3, 5, 5)
        torch.testing.assert_close(rebuilt(attn, tokens, found.weights), output)
    assert not torch.allclose(maps[0].weights, maps[3].weights)
    assert torch.equal(cycled(images, num_cycles=2), expected)  # nothing stayed behind
    assert not any(block._forward_hooks for block in model.blocks[:-1])


def test_plain_model_is_one_cycle():
    maps = record_attention(vit(), torch.randn(1, 3, 32, 32))
    assert [m[:2] for m in maps] == [(1, 1), (1, 2), (1, 3)]


def test_windows_are_refused():
    size = {"img_size": 64, "depth": 2, "embed_dim": 32, "num_heads": 2, "window_size": 2}
    model = timm.create_model("samvit_base_patch16", **size).eval()
    with pytest.raises(ValueError, match="attention in windows cannot be recorded"):
        record_attention(model, torch.randn(2, 3, 64, 64))


class Heads(nn.Module):
    """Attention of a head of 8 channels, with the batch at a place of its own."""

    def __init__(self, place):
        super().__init__()
        self.place, self.value = place, nn.Linear(8, 8)

    def forward(self, x):
        tokens = x[None] if self.place is None else x.movedim(self.place, 0)
        heads = tokens[:, None]
        found = F.scaled_dot_product_attention(heads, heads, self.value(heads))[:, 0]
        return found[0] if self.place is None else found.movedim(0, self.place)


@pytest.mark.parametrize(
    ("place", "shape", "batch"), [(0, (3, 5, 8), 3), (1, (5, 3, 8), 3), (None, (5, 8), 1)]
)
def test_the_batch_may_be_anywhere(place, shape, batch):
    model = nn.Sequential(Heads(place), Heads(place)).eval()
    assert record_attention(model, torch.randn(shape))[1].weights.shape == (batch, 1, 5, 5)


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="found training mode, expected eval mode"):
        record_attention(vit().train(), torch.randn(1, 3, 32, 32))


def test_unfused_attention_is_refused():
    model = vit()
    for block in model.blocks:
        block.attn.fused_attn = False
    with pytest.raises(ValueError, match="did not call"):
        record_attention(model, torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": 0.3}, {"is_causal": True}, {"attn_mask": "bool"}, {"attn_mask": "float"}],
)
def test_written_out_attention_is_the_fused_one(options):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 6, 8, generator=generator)
    masks = {"bool": torch.ones(6, 6).tril().bool(), "float": torch.randn(6, 6)}
    options = {k: masks.get(v, v) if isinstance(v, str) else v for k, v in options.items()}
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, **options)
    output, weights = _attend(query, key, value, **options)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(weights @ value, expected)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 6))


def test_fewer_keys_than_queries_and_dropout():
    """As language models with grouped queries call it; dropout would make the weights untrue."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 6, 8, generator=generator)
    key, value = torch.randn(2, 2, 2, 6, 8, generator=generator)
    options = {"is_causal": True, "enable_gqa": True}
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, **options)
    output, weights = _attend(query, key, value, **options)
    torch.testing.assert_close(output, expected)
    assert weights.shape == (2, 4, 6, 6)
    with pytest.raises(ValueError, match=r"dropout: found 0\.1"):
        _attend(query, key, value, None, 0.1)


def test_matrices_have_a_panel_for_each_layer_and_cycle():
    maps = record_attention(
        CycleWrapper(vit(), num_cycles=2).eval(), torch.randn(1, 3, 32, 32), num_cycles=2
    )
    figure = plot_attention_matrices(maps, names=["class", "a", "b"])
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in panels] == ["layer 1", "layer 2", "layer 3", "", "", ""]
    drawn = torch.as_tensor(panels[5].images[0].get_array())
    torch.testing.assert_close(drawn, maps[5].weights[0].mean(0)[:3, :3])


@pytest.mark.parametrize(("names", "image"), [(["x"] * 6, 0), ([], 0), (["x"], 1)])
def test_matrices_refuse_tokens_and_images_that_are_not_there(names, image):
    maps = record_attention(vit(), torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"names: found|image: found"):
        plot_attention_matrices(maps, names=names, image=image)


def test_matrices_of_blocks_with_two_attentions():
    """As a decoder that attends to itself and to the output of an encoder."""
    maps = [AttentionMap(1, 1, torch.rand(1, 2, 3, size)) for size in (3, 4)]
    with pytest.raises(ValueError, match=r"maps: found 2 of cycle 1 and layer 1, .* maps\[::2\]"):
        plot_attention_matrices(maps, ["a"])
    assert plot_attention_matrices(maps[::2], ["a"])
