"""What is refused, and what the message says."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from cycledistill import CycleWrapper
from tests.core.models import BatchNormHead, Block, LoopModel
from tests.core.zoo import HUGGING_FACE_SIZES, ZOO


def tokens(size: int = 2) -> Tensor:
    return torch.randn(size, 6, 16)


def images(size: int = 2, pixels: int = 32) -> Tensor:
    return torch.randn(size, 3, pixels, pixels)


class Looping(nn.Module):
    """Calls ``step(index, block, x)`` for each block."""

    def __init__(self, step: Callable[..., Tensor], block: Callable[[], nn.Module] = Block) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block() for _ in range(3))
        self.step = step

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = self.step(index, block, x, *args)
        return x


# Arguments


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "2", None])
def test_impossible_numbers_of_cycles(value: Any) -> None:
    text = f"num_cycles must be a whole number of 1 or more, got {re.escape(repr(value))}"
    with pytest.raises(ValueError, match=text):
        CycleWrapper(LoopModel(), value)
    cycled = CycleWrapper(LoopModel(), 2)
    if value is not None:
        with pytest.raises(ValueError, match=text):
            cycled(tokens(), num_cycles=value)
        with pytest.raises(ValueError, match=text):
            cycled.eval()(tokens(), num_cycles=value)
        with pytest.raises(ValueError, match=text):
            cycled.forward_cycles(tokens(), num_cycles=value)
    cycled.train()
    cycled.num_cycles = value
    with pytest.raises(ValueError, match=text):
        cycled(tokens())


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "min": ({"min_cycles": 0}, "min_cycles must be a whole number of 1 or more, got 0"),
    "min-above": ({"min_cycles": 3}, "min_cycles=3 is above num_cycles=2"),
    "grad": ({"grad_cycles": 0}, "grad_cycles must be a whole number of 1 or more, got 0"),
    "checkpointing": (
        {"activation_checkpointing": "blocks"},
        "activation_checkpointing must be None, 'block' or 'cycle', got 'blocks'",
    ),
    "rank": ({"adapter_rank": -1}, "adapter_rank must be 0 or more, got -1"),
    "batch-dim": ({"batch_dim": 2}, "batch_dim must be None, 0 or 1, got 2"),
}


@pytest.mark.parametrize(("kwargs", "text"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_bad_arguments(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CycleWrapper(LoopModel(), 2, **kwargs)


def test_arguments_of_the_wrong_kind() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got function"):
        CycleWrapper(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"exit_tolerance is for eval mode"):
        CycleWrapper(LoopModel(), 2)(tokens(), exit_tolerance=0.1)
    with pytest.raises(ValueError, match=r"token width of Conv2d is not evident; pass token_dim="):
        convolutions = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
        CycleWrapper(convolutions, 2, cycle_embedding=True)
    with pytest.raises(ValueError, match=r"token_dim=8, but the tokens are \[2, 6, 16\]"):
        CycleWrapper(LoopModel(), 2, cycle_embedding=True, token_dim=8)(tokens())
    with pytest.raises(ValueError, match=r"no teacher-only parameters.*\['embedding'\]"):
        CycleWrapper(LoopModel(), 2).load_teacher_state_dict({"embedding": torch.zeros(1)})


# Wrapping twice


def test_wrapping_twice() -> None:
    model = LoopModel()
    cycled = CycleWrapper(model, 2)
    with pytest.raises(ValueError, match=r"it is a CycleWrapper already. Call unwrap"):
        CycleWrapper(cycled, 2)
    with pytest.raises(ValueError, match=r"its module '0' is a CycleWrapper already"):
        CycleWrapper(nn.Sequential(cycled, nn.Linear(5, 5)), 2)
    with pytest.raises(ValueError, match=r"this LoopModel is inside another CycleWrapper"):
        CycleWrapper(model, 3)
    with pytest.raises(ValueError, match=r"a part of this Sequential is inside another"):
        CycleWrapper(nn.Sequential(model, nn.Linear(5, 5)), 2, "0.blocks")
    with pytest.raises(ValueError, match=r"a part of this ModuleList is inside another"):
        CycleWrapper(model.blocks, 2)
    cycled.unwrap()
    CycleWrapper(nn.Sequential(model, nn.Linear(5, 5)), 2, "0.blocks")


def test_two_wrappers_of_different_models_do_not_meet() -> None:
    first, second = LoopModel(), LoopModel()
    both = nn.ModuleList([CycleWrapper(first, 2), CycleWrapper(second, 3)])
    assert [len(cycled(tokens()).tokens) for cycled in both] == [2, 3]


def test_an_unwrapped_wrapper_cannot_be_used() -> None:
    cycled = CycleWrapper(LoopModel(), 2)
    cycled.unwrap()
    for use in (
        lambda: cycled(tokens()),
        lambda: cycled.eval()(tokens()),
        lambda: cycled.forward_cycles(tokens()),
        lambda: cycled.model,
        lambda: cycled.state_dict(),
        cycled.unwrap,
    ):
        with pytest.raises(RuntimeError, match=r"was unwrapped; wrap the model again"):
            use()


# Models that cannot be cycled


def test_labels_for_a_hugging_face_model() -> None:
    model = ZOO["hf-vit"].make().train()
    cycled = CycleWrapper(model, 2)
    labels = torch.tensor([0, 1])
    text = "labels make the model compute its own loss.*give them to CycleDistillLoss"
    with pytest.raises(ValueError, match=text):
        cycled(images(), labels=labels)
    with pytest.raises(ValueError, match=text):
        cycled(images(), labels)
    with pytest.raises(ValueError, match=text):
        cycled.forward_cycles(images(), labels=labels)
    assert cycled(images(), labels=None).predictions[0].loss is None
    assert cycled.eval()(images(), labels=labels).loss is not None


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.SyncBatchNorm])
def test_a_head_that_mixes_samples(norm: Callable[[int], nn.Module]) -> None:
    model = BatchNormHead()
    model.bn = norm(16)  # type: ignore[assignment]
    with pytest.raises(
        ValueError,
        match=r"bn \((Sync)?BatchNorm(1d)?\) behind the stack mixes the samples.*Pass "
        "head_per_cycle=True to run it once for each cycle, or put it into eval mode",
    ):
        CycleWrapper(model, 2)(tokens())


@pytest.mark.parametrize(
    "head",
    [lambda x: x.mean((0, 1)), lambda x: x.sum(), lambda x: {"loss": x.square().mean()}],
    ids=["mean", "sum", "dict"],
)
def test_a_head_that_reduces_over_the_samples(head: Callable[[Tensor], Any]) -> None:
    model = LoopModel(lambda y, x: head(y))
    with pytest.raises(
        RuntimeError, match=r"no tensor that LoopModel returned has the 2 x 3 samples"
    ):
        CycleWrapper(model, 2)(tokens(3))


MIXING: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "centred": lambda y, x: y - y.mean(0),
    "softmax": lambda y, x: y.softmax(0),
    "scaled": lambda y, x: y / y.norm(),
    "scalar-beside": lambda y, x: {"logits": y, "penalty": x.square().mean()},
    "similarities": lambda y, x: (y, x[:, 0] @ y.new_ones(16, 7), (y @ y.T)[0]),
    "transposed-beside": lambda y, x: (x, y.T),
    "first-samples": lambda y, x: (x, y[:3]),
    "shifted": lambda y, x: y.roll(1, 0),
}


@pytest.mark.parametrize("head", MIXING.values(), ids=MIXING.keys())
def test_a_tail_that_mixes_samples_in_any_way(head: Callable[[Tensor, Tensor], Any]) -> None:
    text = r"LoopModel mixes samples behind 'blocks': the prediction of cycle 2 depends on"
    for kwargs in ({}, {"activation_checkpointing": "cycle"}):
        cycled = CycleWrapper(LoopModel(head), 2, **kwargs)
        with torch.no_grad():
            cycled(tokens(3))
        cycled(tokens(3), num_cycles=1)
        with pytest.raises(ValueError, match=text):
            cycled(tokens(3))
    with pytest.raises(ValueError, match=text):
        CycleWrapper(LoopModel(head).eval(), 2).forward_cycles(tokens(3))


def test_the_search_for_mixed_samples_leaves_no_trace() -> None:
    model = LoopModel(lambda y, x: {"y": y.softmax(-1), "z": x.detach(), "n": torch.zeros(3)})
    x = tokens(3).requires_grad_()
    seen: list[int] = []
    model.stem.register_forward_hook(lambda *_: seen.append(1))
    state = torch.get_rng_state()
    out = CycleWrapper(model, 2)(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(tensor.grad is None for tensor in (x, *model.parameters()))
    assert len(seen) == 1
    out.predictions[1]["y"][:, 0].sum().backward()
    assert x.grad is not None and x.grad.any()


def test_a_tail_that_looks_up_the_plain_batch_beside_the_tokens() -> None:
    """GPT-2's classifier takes the rows of the plain batch, which are the first cycle's alone."""
    import transformers

    config = transformers.GPT2Config(
        n_embd=16,
        n_layer=3,
        n_head=2,
        vocab_size=50,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = transformers.GPT2ForSequenceClassification(config).train()
    words = torch.randint(1, 50, (3, 7))
    with pytest.raises(RuntimeError, match=r"no tensor that GPT2ForSequenceClassification"):
        CycleWrapper(copy.deepcopy(model), 2)(words, use_cache=False)
    with pytest.raises(ValueError, match=r"mixes samples behind 'transformer.h'"):
        CycleWrapper(model, 2)(words, use_cache=False, output_hidden_states=True)


def test_a_tail_that_combines_tokens_with_the_plain_batch() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block())

        def forward(self, x: Tensor) -> Tensor:
            return x + self.blocks(x)

    cycled = CycleWrapper(Residual(), 2)
    with pytest.raises(
        RuntimeError,
        match=r"Residual failed behind 'blocks', where .* of 2 x 3: .*must not combine",
    ):
        cycled(tokens(3))
    assert cycled.eval()(tokens(3)).shape == (3, 6, 16)
    assert cycled(tokens(3), num_cycles=2).shape == (3, 6, 16)


def test_a_tail_that_indexes_with_the_plain_batch() -> None:
    """CLIP's text model looks up the end token of each text of the plain batch."""
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=50, eos_token_id=49, bos_token_id=1, pad_token_id=0, **HUGGING_FACE_SIZES
    )
    cycled = CycleWrapper(transformers.CLIPTextModel(config).train(), 2)
    words = torch.randint(2, 48, (3, 7))
    words[:, -1] = 49
    with pytest.raises(RuntimeError, match=r"CLIPTextModel failed behind .* 2 x 3"):
        cycled(words)


def test_a_models_own_error_comes_through_as_it_is() -> None:
    class Odd(RuntimeError):
        pass

    def fail(*_: Any) -> Any:
        raise Odd("own text")

    with pytest.raises(Odd, match=r"^own text$"):
        CycleWrapper(LoopModel(fail), 2)(tokens())
    with pytest.raises(RuntimeError, match=r"^(addmm: )?mat1 and mat2 shapes"):
        CycleWrapper(LoopModel(), 2)(torch.randn(2, 6, 3))


def test_tokens_changed_between_blocks() -> None:
    text = r"Looping changes the tokens between block 0 \(Block\) and block 1 \(Block\)"

    def added(index: int, block: nn.Module, x: Tensor) -> Tensor:
        return block(x + 0.0 if index else x)

    def in_place(index: int, block: nn.Module, x: Tensor) -> Tensor:
        x = block(x)
        with torch.no_grad():
            return x.mul_(1.0)

    def prefixed(index: int, block: nn.Module, x: Tensor) -> Tensor:
        return block(torch.cat([x[:, :1], x], 1) if index else x)

    def masked(index: int, block: nn.Module, x: Tensor) -> Tensor:
        return block(x[:, 1:] if index else x)

    for step in (added, in_place, prefixed, masked):
        with pytest.raises(ValueError, match=text):
            CycleWrapper(Looping(step), 2)(tokens())
        cycled = CycleWrapper(Looping(step), 2).eval()
        assert isinstance(cycled(tokens()), Tensor)
        with pytest.raises(ValueError, match=text):
            cycled(tokens(), num_cycles=2)


def test_the_position_embedding_between_blocks_of_sdpose_is_refused() -> None:
    """Added before every block but the first, as SDPose's own code does between its blocks."""
    position = torch.randn(6, 16)

    def step(index: int, block: nn.Module, x: Tensor) -> Tensor:
        return block(x if index == 0 else x + position)

    with pytest.raises(ValueError, match=r"move the change into a block, or cycle a part"):
        CycleWrapper(Looping(step), 2)(tokens())


def test_changes_before_the_first_and_behind_the_last_block_are_fine() -> None:
    def step(index: int, block: nn.Module, x: Tensor) -> Tensor:
        x = block(x + 1.0 if index == 0 else x)
        return x * 2.0 if index == 2 else x

    model = Looping(step)
    out = CycleWrapper(model, 2)(tokens(1))
    torch.testing.assert_close(out.predictions[1], out.tokens[1] * 2.0)


def test_tokens_that_are_no_tensor() -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Block()

        def forward(self, pair: tuple[Tensor, int]) -> tuple[Tensor, int]:
            return self.inner(pair[0]), pair[1]

    cycled = CycleWrapper(Looping(lambda _, block, x: block(x), Pairs), 2)
    with pytest.raises(TypeError, match=r"block 0 \(Pairs\) got tuple where its tokens"):
        cycled((tokens(), 1))

    class Text(Block):
        def forward(self, x: Tensor) -> Any:
            return "text"

    with pytest.raises(TypeError, match=r"a block must return its tokens as a tensor.*got str"):
        CycleWrapper(Looping(lambda _, block, x: block(tokens()), Text), 2)(tokens())


def test_two_states_that_every_block_changes() -> None:
    model = timm.create_model(
        "tnt_s_patch16_224",
        img_size=32,
        embed_dim=16,
        inner_dim=8,
        depth=3,
        num_heads_inner=2,
        num_heads_outer=2,
    )
    with pytest.raises(
        ValueError, match=r"hands more than tokens to block 2.*only one sequence of tokens"
    ):
        CycleWrapper(model.train(), 2)(images())


def test_a_stack_that_runs_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block())

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(self.blocks(x))

    cycled = CycleWrapper(Twice(), 2)
    for attempt in range(2):
        with pytest.raises(ValueError, match=r"block 0 \(Block\) ran again.*more than once"):
            cycled(tokens(), num_cycles=attempt + 1)
    cycled.eval()
    cycled(tokens())
    with pytest.raises(ValueError, match=r"ran again"):
        cycled(tokens(), num_cycles=2)


def test_a_key_value_cache() -> None:
    import transformers

    config = transformers.GPT2Config(
        n_embd=16, n_layer=3, n_head=2, vocab_size=50, bos_token_id=0, eos_token_id=0
    )
    cycled = CycleWrapper(transformers.GPT2Model(config).train(), 2)
    words = torch.randint(50, (2, 5))
    with pytest.raises(ValueError, match=r"key-value cache \(\w+\).*use_cache=False"):
        cycled(words)
    assert len(cycled(words, use_cache=False).tokens) == 2
    assert len(cycled(words, num_cycles=1).tokens) == 1


def test_cycles_that_did_not_run() -> None:
    model = LoopModel()
    cycled = CycleWrapper(model, 2)
    model.blocks = nn.ModuleList(Block() for _ in range(3))
    with pytest.raises(
        RuntimeError,
        match=r"the cycles did not run: LoopModel did not call the last of the 3 blocks of "
        r"'blocks' \(it called none\). Were the blocks replaced after wrapping",
    ):
        cycled(tokens())
    with pytest.raises(RuntimeError, match=r"did not run"):
        cycled.eval()(tokens(), num_cycles=2)
    assert cycled(tokens()).shape == (2, 5)

    skipping = Looping(lambda index, block, x: x if index == 2 else block(x))
    with pytest.raises(RuntimeError, match=r"did not call the last .*it called \[0, 1\]"):
        CycleWrapper(skipping, 2)(tokens())


def test_a_shape_that_changes_in_a_later_cycle() -> None:
    class Prunes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Block()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)[:, 1:]

    with pytest.raises(
        ValueError, match=r"cycle 2 of '0:2' turned tokens \[2, 4, 16\] into \[2, 2, 16\]"
    ):
        CycleWrapper(nn.Sequential(Prunes(), Prunes(), nn.Linear(16, 5)), 2)(tokens())


def test_input_injection_with_a_pruning_stack() -> None:
    class PrunesOnce(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Block()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)[:, :5]

    model = nn.Sequential(PrunesOnce(), PrunesOnce())
    assert CycleWrapper(model, 2)(tokens()).tokens[1].shape == (2, 5, 16)
    model = nn.Sequential(PrunesOnce(), PrunesOnce())
    with pytest.raises(ValueError, match=r"stack's input \[2, 6, 16\].*tokens \[2, 5, 16\]"):
        CycleWrapper(model, 2, input_injection=1.0)(tokens())


def test_an_error_leaves_the_wrapper_usable() -> None:
    failing = [True]

    def head(y: Tensor, x: Tensor) -> Tensor:
        if failing[0]:
            raise KeyError("once")
        return y

    model = LoopModel(head)
    cycled = CycleWrapper(model, 2)
    with pytest.raises(KeyError):
        cycled(tokens())
    failing[0] = False
    assert model(tokens()).shape == (2, 5)
    assert len(cycled(tokens()).tokens) == 2
    cycled.eval()
    failing[0] = True
    with pytest.raises(KeyError):
        cycled(tokens(), num_cycles=2)
    assert not model.blocks[0]._forward_hooks
