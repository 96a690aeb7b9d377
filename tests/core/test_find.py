"""Which blocks are found, which may be named, and what is said where none are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from cycledistill import CycleWrapper
from tests.core.models import Block, LoopModel, holder, tokens
from tests.core.zoo import HUGGING_FACE_SIZES, OF_IMAGES, ZOO


def images(size: int = 2, pixels: int = 32) -> Tensor:
    return torch.randn(size, 3, pixels, pixels)


def test_no_stack_lists_what_was_looked_at() -> None:
    model = holder(
        trunk=nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)]),
        other=nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
        layers=nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
    )
    with pytest.raises(ValueError) as caught:
        CycleWrapper(model)
    text = str(caught.value)
    assert "no block stack found in Module" in text
    assert "'trunk' (2 of 3)" in text
    assert "'other'" not in text, "one block makes no stack"
    for name in ("blocks", "layers", "layer", "h", "resblocks"):
        assert re.search(rf"\b{name}\b", text)
    assert "blocks='path.to.blocks'" in text
    with pytest.raises(ValueError, match=r"no block stack found in Linear.*run: none"):
        CycleWrapper(nn.Linear(4, 4))


def test_the_only_list_of_one_block_is_the_stack() -> None:
    model = timm.create_model(
        "deit_tiny_patch16_224", img_size=32, embed_dim=24, depth=1, num_heads=2
    )
    assert CycleWrapper(model).stack_path == "blocks"


def test_of_several_lists_of_one_block_none_is_chosen() -> None:
    one, other = (holder(layers=nn.ModuleList([Block()])) for _ in range(2))
    model = holder(encoder=one, decoder=other)
    with pytest.raises(ValueError, match=r"no block stack found in Module: .*a single list of one"):
        CycleWrapper(model)
    assert CycleWrapper(model, blocks="decoder.layers").stack_path == "decoder.layers"


def test_a_convolutional_network_has_no_stack() -> None:
    with pytest.raises(ValueError, match=r"no block stack found"):
        CycleWrapper(timm.create_model("resnet18"))


HIERARCHICAL = {
    "swin": (ZOO["swin-stage"].make, ["layers.0.blocks", "layers.1.blocks"]),
    "pvt_v2": (
        lambda: timm.create_model("pvt_v2_b1"),
        [f"stages.{i}.blocks" for i in range(4)],
    ),
    "twins": (
        lambda: timm.create_model(
            "twins_pcpvt_small", embed_dims=(8, 16, 40, 64), depths=(2, 2, 3, 2)
        ),
        [f"blocks.{i}" for i in range(4)],
    ),
    "davit": (
        lambda: timm.create_model(
            "davit_tiny", embed_dims=(8, 16, 32, 64), num_heads=(1, 2, 4, 8), depths=(1, 1, 3, 1)
        ),
        ["stages.2.blocks"],
    ),
    "hf-swin": (
        lambda: __import__("transformers").SwinModel(
            __import__("transformers").SwinConfig(
                image_size=32, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4
            )
        ),
        ["encoder.layers.0.blocks", "encoder.layers.1.blocks"],
    ),
}


@pytest.mark.parametrize(("make", "stages"), HIERARCHICAL.values(), ids=HIERARCHICAL.keys())
def test_a_hierarchical_model_names_its_stages(
    make: Callable[[], nn.Module], stages: list[str]
) -> None:
    model = make()
    with pytest.raises(ValueError, match=r"is hierarchical.*blocks= one of") as caught:
        CycleWrapper(model)
    for stage in stages:
        assert f"'{stage}' (" in str(caught.value)
        CycleWrapper(model, 2, stage).unwrap()


def test_a_stack_that_changes_the_shape_names_the_stages_within() -> None:
    cycled = CycleWrapper(ZOO["swin-stage"].make().train(), 2, blocks="layers")
    with pytest.raises(
        ValueError,
        match=r"'layers' of SwinTransformer turns tokens \[2, 8, 8, 8\] into \[2, 4, 4, 16\].*"
        r"Stages within it that could be cycled: 'layers.0.blocks', 'layers.1.blocks'",
    ):
        cycled(images())
    assert cycled.eval()(images()).shape == (2, 5)
    with pytest.raises(ValueError, match=r"turns tokens"):
        cycled(images(), num_cycles=2)
    bare = CycleWrapper(nn.Sequential(nn.Linear(16, 8)), 2, ":")
    with pytest.raises(ValueError, match=r"\[2, 6, 16\] into \[2, 6, 8\].*be the input's\.$"):
        bare(tokens(dtype=torch.float32))


@pytest.mark.parametrize("name", ["clip", "encoder-decoder", "siamese"])
def test_several_equal_stacks(name: str) -> None:
    import transformers

    sizes = {**HUGGING_FACE_SIZES}
    text = {"vocab_size": 50, "eos_token_id": 49, "bos_token_id": 1, "pad_token_id": 0, **sizes}
    makers: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
        "clip": (
            lambda: transformers.CLIPModel(
                transformers.CLIPConfig(text_config=text, vision_config=OF_IMAGES)
            ),
            ["text_model.encoder.layers", "vision_model.encoder.layers"],
        ),
        "encoder-decoder": (
            lambda: nn.Transformer(16, 2, 3, 3, 32, batch_first=True),
            ["encoder.layers", "decoder.layers"],
        ),
        "siamese": (
            lambda: nn.ModuleDict({"left": LoopModel(), "right": LoopModel()}),
            ["left.blocks", "right.blocks"],
        ),
    }
    make, stacks = makers[name]
    with pytest.raises(ValueError, match=r"several block stacks of the same length") as caught:
        CycleWrapper(make())
    for stack in stacks:
        assert f"'{stack}' (3 blocks)" in str(caught.value)
        CycleWrapper(make(), 2, stack)


PATHS: dict[str, tuple[Any, type[Exception], str]] = {
    "unknown": ("blockz", ValueError, r"has no module 'blockz'. Stacks found: blocks"),
    "unknown-slice": ("blockz.0:2", ValueError, r"blocks='blockz.0:2'.*has no module 'blockz'"),
    "beyond": ("blocks.1:4", ValueError, r"'blocks' has 3 blocks.*non-empty slice within 0:3"),
    "empty": ("blocks.2:2", ValueError, r"blocks='blocks.2:2'.*has 3 blocks"),
    "backwards": ("blocks.2:1", ValueError, r"has 3 blocks"),
    "no-list": ("head.0:1", ValueError, r"'head' is a Linear, and only an nn.Sequential"),
    "type": (3, TypeError, "blocks: expected None, a dotted path.*got int"),
    "empty-list": ([], ValueError, "blocks is an empty list"),
    "foreign": ([nn.Linear(2, 2)], ValueError, "expected modules of LoopModel, got another Linear"),
    "no-module": (["blocks"], TypeError, "blocks: expected modules, got str"),
}


@pytest.mark.parametrize(("blocks", "error", "text"), PATHS.values(), ids=PATHS.keys())
def test_bad_paths(blocks: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        CycleWrapper(LoopModel(), 2, blocks)


def test_the_same_block_twice() -> None:
    model = LoopModel()
    with pytest.raises(ValueError, match=r"'blocks.0, blocks.0' holds the same module twice"):
        CycleWrapper(model, 2, [model.blocks[0], model.blocks[0]])
    shared = LoopModel()
    shared.blocks = nn.ModuleList([Block()] * 3)
    with pytest.raises(ValueError, match=r"'blocks' holds the same module twice"):
        CycleWrapper(shared, 2)


def test_blocks_in_another_order() -> None:
    model = LoopModel()
    cycled = CycleWrapper(model, 2, [model.blocks[2], model.blocks[1]])
    with pytest.raises(ValueError, match=r"or in another order than given"):
        cycled(tokens(dtype=torch.float32))


class Layers(nn.Module):
    """Runs lists of parts, as vit-pytorch's and x-transformers' models do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([None, nn.Linear(16, 16), nn.LayerNorm(16)]) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for _, linear, norm in self.layers:
            x = x + linear(norm(x))
        return x


def test_a_list_that_nobody_calls_is_offered_by_its_parent() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = Layers()
            self.pooling = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])

        def forward(self, x: Tensor) -> Tensor:
            return self.transformer(x).mean(1)

    model = Model()
    cycled = CycleWrapper(model, 2)
    assert cycled.stack_path == "transformer"
    x = torch.randn(2, 6, 16)
    out = cycled(x)
    torch.testing.assert_close(out.tokens[1], model.transformer(model.transformer(x)))

    with pytest.raises(ValueError, match=r"runs the parts of its 3 layers in 'layers' itself.*=''"):
        CycleWrapper(Layers(), 2)
    layers = Layers()
    out = CycleWrapper(layers, 2, blocks="")(x)
    torch.testing.assert_close(out.tokens[1], layers(layers(x)))


def test_a_list_with_gaps() -> None:
    model = LoopModel()
    model.blocks = nn.ModuleList([model.blocks[0], None, model.blocks[1], model.blocks[2]])  # type: ignore[list-item]
    cycled = CycleWrapper(model, 2)
    assert cycled.stack_path == "blocks" and len(cycled._setup.stack.blocks) == 3


def test_lazy_blocks() -> None:
    """Their shapes are known after the first call only."""
    blocks = [nn.Sequential(nn.LazyLinear(16), nn.Tanh()) for _ in range(3)]
    cycled = CycleWrapper(holder(blocks=nn.Sequential(*blocks)).blocks, 2)
    out = cycled(tokens().float())
    assert torch.equal(out.tokens[1], cycled.plain(out.tokens[0]))


def test_blocks_that_are_left_out_are_named() -> None:
    model = holder(blocks=nn.ModuleList(Block(width) for width in (16, 16, 16, 8)))
    with pytest.warns(UserWarning, match=r"found the stack 'blocks.0:3'; blocks 3 of 'blocks'"):
        CycleWrapper(model, 2)


def test_a_block_with_fewer_norms_belongs_to_the_stack() -> None:
    """ModernBert's first layer has no norm in front of its attention."""
    model = LoopModel()
    model.blocks[0].norm1 = nn.Identity()
    assert CycleWrapper(model, 2).stack_path == "blocks"


def test_lists_are_no_blocks() -> None:
    stages = nn.ModuleList(nn.ModuleList(Block() for _ in range(2)) for _ in range(2))
    with pytest.raises(ValueError, match=r"blocks= one of: 'blocks.0' .*'blocks.1'"):
        CycleWrapper(holder(blocks=stages), 2)
    with pytest.raises(ValueError, match=r"'blocks' holds lists of modules: expected modules"):
        CycleWrapper(holder(blocks=stages), 2, "blocks")


def test_layers_that_take_turns_are_listed() -> None:
    class Other(Block):
        pass

    layers = nn.ModuleList([Block(), Other(), Block(), Other()])
    with pytest.raises(ValueError, match=r"Lists that it has.*'layers' \(1 of 4\)"):
        CycleWrapper(holder(layers=layers), 2)


def test_a_list_of_one_beside_a_longer_one_is_not_chosen() -> None:
    several = nn.ModuleList(Block() for _ in range(3))
    model = holder(blocks=nn.ModuleList([Block()]), single_blocks=several)
    with pytest.raises(ValueError, match=r"'blocks' \(1 of 1\).*'single_blocks' \(3 of 3\)"):
        CycleWrapper(model, 2)
