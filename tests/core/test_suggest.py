"""Which blocks to cycle: angles and norms against blocks whose angles are known."""

import math
from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from cycledistill import BlockSuggestion, CycleWrapper, suggest_blocks

ANGLES = (80, 50, 10, 30, 20, -25, 7, 40, 3, 90)
RATIOS = (3.0, 1.0, 2.0, 0.5, 1.5, 1.0, 1.25, 1.0, 1.0, 4.0)


class Turn(nn.Module):
    """Turns every token by an angle, in the planes of channels (0, 1), (2, 3), ..."""

    def __init__(self, degrees: float, ratio: float) -> None:
        super().__init__()
        self.angle = nn.Parameter(torch.tensor([math.radians(degrees)]))
        self.ratio = ratio

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x, y = tokens[..., ::2], tokens[..., 1::2]
        sin, cos = self.angle.sin(), self.angle.cos()
        turned = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1).flatten(-2)
        return self.ratio * turned


class Turns(nn.Module):
    def __init__(self, angles=ANGLES, ratios=RATIOS) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.blocks = nn.ModuleList(map(Turn, angles, ratios))

    def forward(self, tokens):
        tokens = self.dropout(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


def wide_angle(before: torch.Tensor, after: torch.Tensor) -> float:
    cosine = cosine_similarity(before.double(), after.double(), dim=-1)
    return float(cosine.clamp(-1, 1).acos().rad2deg().mean())


def wide_ratio(before: torch.Tensor, after: torch.Tensor) -> float:
    return float((after.double().norm(dim=-1) / before.double().norm(dim=-1)).mean())


def test_angles_and_ratios_of_blocks_are_those_they_were_made_with():
    found = suggest_blocks(Turns(), torch.randn(2, 5, 8))
    assert isinstance(found, BlockSuggestion)
    assert [(turn.start, turn.stop) for turn in found.per_block] == [(i, i + 1) for i in range(10)]
    assert [turn.angle for turn in found.per_block] == pytest.approx(
        [abs(angle) for angle in ANGLES], abs=1e-3
    )
    assert [turn.ratio for turn in found.per_block] == pytest.approx(RATIOS, rel=1e-5)


def test_windows_are_all_that_keep_two_blocks_from_the_ends_and_turn_by_the_sum():
    found = suggest_blocks(Turns(), torch.randn(2, 5, 8))
    places = [(turn.start, turn.stop) for turn in found.windows]
    assert places == [(i, i + n) for n in range(2, 7) for i in range(2, 9 - n)]
    for turn in found.windows:
        inside = slice(turn.start, turn.stop)
        assert turn.angle == pytest.approx(abs(sum(ANGLES[inside])), abs=1e-3)
        assert turn.ratio == pytest.approx(math.prod(RATIOS[inside]), rel=1e-5)


def test_the_flattest_window_of_the_length_is_suggested():
    model, tokens = Turns(), torch.randn(2, 5, 8)
    assert suggest_blocks(model, tokens).blocks == "blocks.4:7"  # half of the six; 2 degrees
    assert suggest_blocks(model, tokens, length=2).blocks == "blocks.4:6"  # 5 degrees
    assert suggest_blocks(model, tokens, length=4).blocks == "blocks.3:7"  # 32 degrees
    assert suggest_blocks(model, tokens, length=6).blocks == "blocks.2:8"
    flat_ends = Turns(angles=[0, 0, 30, 30, 29, 29, 30, 0, 0], ratios=[1.0] * 9)
    assert suggest_blocks(flat_ends, tokens).blocks == "blocks.4:6"


@pytest.mark.parametrize(("depth", "length"), [(6, 2), (7, 2), (8, 2), (12, 4), (24, 10)])
def test_length_unless_told_is_half_of_the_middle(depth, length):
    found = suggest_blocks(Turns([10] * depth, [1.0] * depth), torch.randn(1, 2, 4))
    assert found.suggested.stop - found.suggested.start == length


def test_a_token_counts_as_much_as_another():
    """The mean is over tokens, however long each of them is."""

    class Half(Turn):
        def forward(self, tokens):
            return torch.cat([tokens[:, :1], super().forward(tokens[:, 1:])], dim=1)

    model = Turns()
    model.blocks = nn.ModuleList(Half(20, 2.0) for _ in range(6))
    tokens = torch.randn(3, 4, 8)
    tokens[:, 0] *= 1000
    first = suggest_blocks(model, tokens).per_block[0]
    assert (first.angle, first.ratio) == pytest.approx((15, 1.75), abs=1e-3)


def test_nothing_stays_on_the_model():
    model = Turns().train()
    model.blocks[3].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    suggest_blocks(model, torch.randn(2, 5, 8, requires_grad=True, generator=torch.Generator()))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model.blocks[0].angle.grad is None
    with pytest.raises(RuntimeError):
        suggest_blocks(model, torch.randn(2, 5, 7))
    assert [module.training for module in model.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_block_that_works_in_place_is_measured_as_any_other():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.ones(4))

        def forward(self, tokens):
            return tokens.add_(self.shift)

    model = Turns()
    model.blocks = nn.ModuleList(InPlace() for _ in range(6))
    tokens = torch.randn(2, 3, 4)
    found = suggest_blocks(model, tokens.clone())
    for index, turn in enumerate(found.per_block):
        before, after = tokens + index, tokens + index + 1
        assert turn.angle == pytest.approx(wide_angle(before, after), abs=1e-3)
        assert turn.ratio == pytest.approx(wide_ratio(before, after), rel=1e-5)


def timm_vit():
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=16, depth=8, num_heads=2, num_classes=5
    )
    images = torch.randn(3, 3, 32, 32)

    def tokens():
        states = [model.norm_pre(model._pos_embed(model.patch_embed(images)))]
        for block in model.blocks:
            states.append(block(states[-1]))
        return states

    return model, "blocks", (images,), tokens


def torch_encoder(batch_first):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 7, enable_nested_tensor=batch_first)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    words = torch.randn(3, 6, 16) if batch_first else torch.randn(6, 3, 16)
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True

    def tokens():
        states = [words]
        for block in model.layers:
            states.append(block(states[-1], src_key_padding_mask=padding))
        return states

    return model, "layers", (words, None, padding), tokens


def hugging_face(name):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "use_cache": True}
    if name == "gpt2":
        config = transformers.GPT2Config(n_embd=16, n_layer=6, n_head=2, n_positions=16, **sizes)
        model, path = transformers.GPT2LMHeadModel(config), "transformer.h"
    else:
        config = transformers.LlamaConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=6,
            num_attention_heads=2,
            num_key_value_heads=1,
            **sizes,
        )
        model, path = transformers.LlamaForCausalLM(config), "model.layers"
    words = torch.randint(50, (2, 9))

    def tokens():
        states = list(model(words, output_hidden_states=True).hidden_states[:-1])
        last = model.get_submodule(path)[-1]
        noted = []
        handle = last.register_forward_hook(lambda *seen: noted.append(seen[-1]))
        model(words)
        handle.remove()
        return [*states, noted[0] if isinstance(noted[0], torch.Tensor) else noted[0][0]]

    return model, path, (words,), tokens


@pytest.mark.parametrize(
    "make",
    [
        timm_vit,
        partial(torch_encoder, batch_first=False),
        partial(torch_encoder, batch_first=True),
        partial(hugging_face, "gpt2"),
        partial(hugging_face, "llama"),
    ],
    ids=["timm", "TransformerEncoder", "nested TransformerEncoder", "GPT-2", "Llama"],
)
def test_models_of_other_libraries(make):
    torch.manual_seed(0)
    model, path, inputs, tokens = make()
    found = suggest_blocks(model.train(), *inputs)
    assert model.training
    with torch.no_grad():
        model.eval()
        states = tokens()
    for turn in (*found.per_block, *found.windows):
        ends = states[turn.start], states[turn.stop]
        assert turn.angle == pytest.approx(wide_angle(*ends), abs=0.02)
        assert turn.ratio == pytest.approx(wide_ratio(*ends), rel=1e-4)
    assert found.blocks.startswith(f"{path}.")
    cycled = CycleWrapper(model.train(), num_cycles=2, blocks=found.blocks)
    assert len(cycled._setup.stack.blocks) == found.suggested.stop - found.suggested.start
    assert suggest_blocks(cycled, *inputs).blocks == found.blocks


def test_stacks_are_named_as_the_wrapper_names_them():
    tokens = torch.randn(1, 3, 4)
    bare = nn.Sequential(*map(Turn, ANGLES, RATIOS))
    assert suggest_blocks(bare, tokens).blocks == "4:7"
    assert suggest_blocks(nn.ModuleList(bare), tokens).blocks == "4:7"
    part = suggest_blocks(Turns(), tokens, blocks="blocks.1:8", length=2)
    assert [turn.start for turn in part.per_block] == [*range(1, 8)]
    assert {(turn.start, turn.stop) for turn in part.windows} == {(3, 5), (4, 6), (3, 6)}
    assert part.blocks == "blocks.4:6"
    gaps = Turns()
    gaps.blocks = nn.ModuleList([None, *gaps.blocks])
    gaps.forward = lambda tokens: nn.Sequential(*[b for b in gaps.blocks if b])(tokens)
    assert suggest_blocks(gaps, tokens).blocks == "blocks.5:8"
    CycleWrapper(gaps, blocks="blocks.5:8")


def test_table():
    lines = str(suggest_blocks(Turns(), torch.randn(2, 5, 8))).splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["blocks.0", "80.0", "3.00"],
        ["blocks.1", "50.0", "1.00"],
        ["blocks.2", "10.0", "2.00"],
    ]
    assert [line.split()[:3] for line in lines[12:-1]] == [
        ["blocks.4:6", "5.0", "1.50"],
        ["blocks.4:7", "2.0", "1.88"],
        ["blocks.3:7", "32.0", "0.94"],
        ["blocks.2:7", "42.0", "1.88"],
        ["blocks.2:8", "82.0", "1.88"],
    ]
    assert lines[-1] == "Suggested: blocks.4:7"


def test_refusals():
    tokens = torch.randn(1, 3, 4)
    with pytest.raises(ValueError, match=r"'blocks' of Turns has a depth of 5 blocks, expected 6"):
        suggest_blocks(Turns(ANGLES[:5], RATIOS[:5]), tokens)
    with pytest.raises(ValueError, match="length: expected 2 to 6 of the 10 blocks, got 7"):
        suggest_blocks(Turns(), tokens, length=7)
    with pytest.raises(ValueError, match="length: expected 2 to 6 of the 10 blocks, got 1"):
        suggest_blocks(Turns(), tokens, length=1)
    with pytest.raises(ValueError, match="no module 'trunk'"):
        suggest_blocks(Turns(), tokens, blocks="trunk")
    with pytest.raises(TypeError, match=r"blocks: expected a path .* got list"):
        suggest_blocks(Turns(), tokens, blocks=[])
    skips = Turns()
    skips.forward = lambda tokens: skips.blocks[0](tokens)
    with pytest.raises(ValueError, match=r"block 1 .* expected to run once .* ran 0 times"):
        suggest_blocks(skips, tokens)
    twice = Turns()
    twice.forward = lambda tokens: nn.Sequential(*twice.blocks)(twice.blocks[0](tokens))
    with pytest.raises(ValueError, match=r"block 0 .* expected to run once .* ran 2 times"):
        suggest_blocks(twice, tokens)
    pooled = Turns()
    pooled.blocks[4].forward = lambda tokens: tokens[:, :1]
    with pytest.raises(ValueError, match=r"block 4 .* \[1, 3, 4\], got \[1, 1, 4\]"):
        suggest_blocks(pooled, tokens)
    broken = Turns()
    broken.blocks[7].ratio = math.inf
    with pytest.raises(ValueError, match=r"block 7 .* expected finite tokens"):
        suggest_blocks(broken, tokens)
