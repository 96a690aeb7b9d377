"""What is refused, and what the message says."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from cycledistill import CycleWrapper
from tests.core import models
from tests.core.models import Block, LoopModel

tokens = partial(models.tokens, dtype=torch.float32)


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
    text = f"num_cycles: expected a whole number of 1 or more, got {re.escape(repr(value))}"
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
    "min": ({"min_cycles": 0}, "min_cycles: expected a whole number of 1 or more, got 0"),
    "min-above": ({"min_cycles": 3}, "min_cycles=3 is above num_cycles=2"),
    "grad": ({"grad_cycles": 0}, "grad_cycles: expected a whole number of 1 or more, got 0"),
    "checkpointing": (
        {"activation_checkpointing": "blocks"},
        "activation_checkpointing: expected None, 'block' or 'cycle', got 'blocks'",
    ),
    "rank": ({"adapter_rank": -1}, "adapter_rank: expected 0 or more, got -1"),
    "batch-dim": ({"batch_dim": 2}, "batch_dim: expected None, 0 or 1, got 2"),
}


@pytest.mark.parametrize(("kwargs", "text"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_bad_arguments(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CycleWrapper(LoopModel(), 2, **kwargs)


def test_arguments_of_the_wrong_kind() -> None:
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got function"):
        CycleWrapper(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"model: expected a model that Python runs, got one of to"):
        CycleWrapper(torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))))
    with pytest.raises(ValueError, match=r"exit_tolerance and exit_confidence are for eval mode"):
        CycleWrapper(LoopModel(), 2)(tokens(), exit_tolerance=0.1)
    with pytest.raises(ValueError, match=r"infer the token width of Conv2d; pass token_dim="):
        convolutions = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
        CycleWrapper(convolutions, 2, cycle_embedding=True)
    with pytest.raises(ValueError, match=r"token_dim=8, but the tokens are \[2, 6, 16\]"):
        CycleWrapper(LoopModel(), 2, cycle_embedding=True, token_dim=8)(tokens())


@pytest.mark.parametrize("mode", [True, False])
def test_tools_that_take_the_plain_model(mode: bool) -> None:
    x = torch.randn(2, 5, 4)
    cycled = CycleWrapper(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), 2, ":").train(mode)
    tools: dict[str, Callable[[nn.Module], Any]] = {
        "torch.jit.trace": lambda model: torch.jit.trace(model, x),
        "torch.jit.script": torch.jit.script,
        "torch.fx": torch.fx.symbolic_trace,
    }
    for name, tool in tools.items():
        with pytest.raises(TypeError, match=f"{name}: expected a plain model, got a CycleWrapper"):
            tool(cycled)
        assert torch.equal(tool(cycled.eval().plain)(x), cycled.plain(x))
        cycled.train(mode)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("tool", "name"),
    [
        (parametrizations.weight_norm, "parametrize"),
        (weight_norm, "prune"),
        (spectral_norm, "prune"),
        (partial(prune.l1_unstructured, name="weight", amount=0.5), "prune"),
    ],
)
def test_parametrizations_belong_to_the_plain_model(tool: Any, name: str) -> None:
    class WithWeight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x @ self.weight)

    x = torch.randn(2, 5, 4)
    with pytest.raises(TypeError, match=rf"{name}: expected a plain model.*cycled\.plain"):
        tool(CycleWrapper(WithWeight(), 2))
    model = WithWeight().eval()
    cycled = CycleWrapper(copy.deepcopy(model), 2)
    for each in (model, cycled.plain):
        torch.manual_seed(0)
        tool(each)
    torch.testing.assert_close(cycled(x), model(x))
    assert [*cycled.state_dict()] == [*model.state_dict()]
    cycled.train()(x).predictions[-1].sum().backward()
    assert all(p.grad is not None for p in cycled.parameters())


@pytest.mark.skipif(torch.__version__ < "2.7", reason="needs the argument dynamo")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", [True, False])
def test_the_former_onnx_exporter_takes_the_plain_model(mode: bool, tmp_path: Path) -> None:
    """It passes the defaults of our keywords by position, which a model may even accept."""

    class AnyNumber(nn.Sequential):
        def forward(self, *inputs: Any) -> Tensor:
            return super().forward(inputs[0])

    x, path = torch.randn(2, 5, 4), str(tmp_path / "model.onnx")
    for kind in (nn.Sequential, AnyNumber):
        cycled = CycleWrapper(kind(nn.Linear(4, 4), nn.Linear(4, 4)), 2, ":").train(mode)
        with pytest.raises(TypeError, match=r"dynamo=False: expected a plain model.*unwrap"):
            torch.onnx.export(cycled, (x,), path, dynamo=False)
        torch.onnx.export(nn.Sequential(cycled.eval()), (x,), path, dynamo=False)
        torch.onnx.export(cycled.unwrap(), (x,), path, dynamo=False)


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
        lambda: cycled.plain,
        lambda: cycled.state_dict(),
        cycled.unwrap,
    ):
        with pytest.raises(RuntimeError, match=r"was unwrapped; wrap the model again"):
            use()


# Models that cannot be cycled


def test_a_models_own_error_comes_through_as_it_is() -> None:
    class Odd(RuntimeError):
        pass

    def fail(*_: Any) -> Any:
        raise Odd("own text")

    with pytest.raises(Odd, match=r"^own text$"):
        CycleWrapper(LoopModel(fail), 2)(tokens())
    with pytest.raises(RuntimeError, match=r"^(addmm: )?mat1 and mat2 shapes"):
        CycleWrapper(LoopModel(), 2)(torch.randn(2, 6, 3))


def test_changes_before_the_first_and_behind_the_last_block_are_fine() -> None:
    def step(index: int, block: nn.Module, x: Tensor) -> Tensor:
        x = block(x + 1.0 if index == 0 else x)
        return x * 2.0 if index == 2 else x

    model = Looping(step)
    out = CycleWrapper(model, 2)(tokens(1))
    torch.testing.assert_close(out.predictions[1], out.tokens[1] * 2.0)


def test_tokens_that_are_no_tensor() -> None:
    class Pairs(Block):
        def forward(self, pair: tuple[Tensor, int]) -> tuple[Tensor, int]:  # type: ignore[override]
            return super().forward(pair[0]), pair[1]

    cycled = CycleWrapper(Looping(lambda _, block, x: block(x), Pairs), 2)
    with pytest.raises(
        TypeError, match=r"block 0 \(Pairs\).*expected its tokens, a tensor.*got tuple"
    ):
        cycled((tokens(), 1))

    class Text(Block):
        def forward(self, x: Tensor) -> Any:
            return "text"

    with pytest.raises(TypeError, match=r"expected a block that returns its tokens.*got str"):
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
        ValueError, match=r"block 1 \(Block\) takes more than tokens.*only one sequence of tokens"
    ):
        CycleWrapper(model.train(), 2)(torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_blocks_that_return_their_tokens_second(depth: int) -> None:
    """As those of some diffusion models, which return the text before the image."""

    class TextFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of_text, self.of_image = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
            return self.of_text(text), self.of_image(image) + text.mean(1, keepdim=True)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(TextFirst() for _ in range(depth))

        def forward(self, image: Tensor, text: Tensor) -> Tensor:
            for block in self.blocks:
                text, image = block(image, text=text)
            return image

    with pytest.raises(ValueError, match=r"output 1.*: expected blocks that return"):
        CycleWrapper(Model(), 2)(tokens(), torch.randn(2, 4, 16))


@pytest.mark.parametrize("depth", [1, 3])
def test_blocks_that_return_a_dict_with_their_tokens_second(depth: int) -> None:
    """What comes first has the tokens' shape, too, unless it is the last block's."""

    class UpdateFirst(Block):
        def forward(self, x: Tensor, last: bool) -> Any:  # type: ignore[override]
            out = super().forward(x)
            return {"update": (out - x)[:, 1:] if last else out - x, "tokens": out}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(UpdateFirst() for _ in range(depth))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x, block is self.blocks[-1])["tokens"]
            return x

    with pytest.raises(ValueError, match=r"output 'tokens'.*: expected blocks that return"):
        CycleWrapper(Model(), 2)(tokens())


@pytest.mark.parametrize("by_name", [False, True])
def test_blocks_that_take_their_tokens_second(by_name: bool) -> None:
    class PositionsFirst(Block):
        def forward(self, positions: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x + positions)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.randn(2, 6, 16))
            self.blocks = nn.ModuleList(PositionsFirst() for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                named = {"positions": self.positions, "x": x}
                x = block(**named) if by_name else block(*named.values())
            return x

    with pytest.raises(ValueError, match=r"block 1 .* of the previous block as argument .*first"):
        CycleWrapper(Model(), 2)(tokens())


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


def loop_directly(index: int, block: nn.Module, x: Tensor) -> Tensor:
    return block.forward(x)


def replace_blocks(model: Looping) -> None:
    model.blocks = nn.ModuleList(Block() for _ in range(3))


def compile_a_part(model: Looping) -> None:
    model.blocks.compile(backend="eager")


def compile_forward(model: Looping) -> None:
    model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("step", "change", "cause"),
    [
        (lambda _, block, x: block(x), replace_blocks, r"Blocks were replaced or removed"),
        (loop_directly, lambda model: None, r"It may skip blocks.*call block.forward\(\) directly"),
        (loop_directly, compile_a_part, r"It, or a part of it, was compiled by itself"),
        (loop_directly, compile_forward, r"It, or a part of it, was compiled by itself"),
    ],
    ids=["replaced", "called-directly", "compiled", "compiled-forward"],
)
def test_cycles_that_did_not_run(
    step: Callable[..., Tensor], change: Callable[[Looping], None], cause: str
) -> None:
    model = Looping(step)
    cycled = CycleWrapper(model, 2)
    change(model)
    text = (
        r"the cycles did not run: Looping did not call the last of the 3 blocks of 'blocks' "
        r"\(it called none\). " + cause
    )
    with pytest.raises(RuntimeError, match=text):
        cycled(tokens())
    with pytest.raises(RuntimeError, match=text):
        cycled.eval()(tokens(), num_cycles=2)
    assert cycled(tokens()).shape == (2, 6, 16)


@pytest.mark.parametrize(("index", "which"), [(0, "first"), (2, "last")])
def test_a_block_that_was_replaced(index: int, which: str) -> None:
    """Tokens would enter behind the new first block, or leave before the new last one."""
    model = LoopModel()
    cycled = CycleWrapper(model, 2)
    model.blocks[index] = Block()
    with pytest.raises(RuntimeError, match=rf"did not call the {which} of.*replaced or removed"):
        cycled(tokens())


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_block_that_was_added(index: int, batched: bool) -> None:
    model = Stack()
    cycled = CycleWrapper(model, 2, batched=batched)
    cycled(tokens())
    model.blocks.insert(index, Block())
    with pytest.raises(RuntimeError, match=r"'blocks' of Stack has a block that came after wrap"):
        cycled(tokens())
    model.blocks.append(nn.LayerNorm(16))
    assert len(CycleWrapper(cycled.unwrap(), 2, batched=batched)(tokens()).tokens) == 2


def test_a_replaced_block_in_batched_cycles() -> None:
    model = Stack()
    cycled = CycleWrapper(model, 2, batched=True)
    cycled(tokens())
    model.blocks[1] = Block()
    with pytest.raises(RuntimeError, match="unwrap the model and wrap it again"):
        cycled(tokens())


class Stack(nn.Module):
    """Blocks whose cycles can be batched."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_a_last_block_that_is_skipped() -> None:
    skipping = Looping(lambda index, block, x: x if index == 2 else block(x))
    with pytest.raises(RuntimeError, match=r"did not call the last .*it called \[0, 1\]"):
        CycleWrapper(skipping, 2)(tokens())


def test_an_input_that_is_changed_in_place() -> None:
    class Scales(LoopModel):
        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().forward(x.mul_(0.5), *args, **kwargs)

    cycled = CycleWrapper(Scales(), 2)
    with pytest.raises(ValueError, match=r"Scales changes its input in place.*x.clone\(\)"):
        cycled(tokens())
    assert len(cycled(tokens(), num_cycles=1).tokens) == 1
    assert cycled.eval()(tokens()).shape == (2, 5)


def test_inputs_that_are_changed_in_place_in_inference_mode() -> None:
    """Where torch does not count the changes."""

    class Residual(LoopModel):
        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().forward(x.mul_(0.5), *args, **kwargs) + x.sum()

    cycled = CycleWrapper(Residual(), 2).eval()
    unchanged = LoopModel().eval()
    unchanged.load_state_dict(cycled.state_dict())
    with torch.inference_mode():
        x = tokens()
        half = 0.5 * x
        found = cycled.forward_cycles(x).predictions
        expected = CycleWrapper(unchanged, 2).forward_cycles(half).predictions
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other + half.sum())


class ChangesTokens(LoopModel):
    """Changes the output of its last block, or the input of its first one, in place."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        if where == "block":
            self.blocks[0] = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Any:
        x = 2 * x
        for block in self.blocks:
            x = block(x)
        if self.where == "tail":
            x += 1
        return self.head(x)


@pytest.mark.parametrize("where", ["tail", "block"])
def test_tokens_that_are_changed_in_place(where: str) -> None:
    cycled = CycleWrapper(ChangesTokens(where), 2, "blocks")
    what = {"tail": "ChangesTokens changes the output of its", "block": "block 0 .* its input"}
    with pytest.raises(ValueError, match=rf"{what[where]}.* in place.*x.clone\(\)"):
        cycled(tokens())
    assert len(cycled(tokens(), num_cycles=1).tokens) == 1
    assert cycled.eval()(tokens()).shape == (2, 6, 5)


@pytest.mark.parametrize(
    "options",
    [
        {"input_injection": 0.5},
        {"cycle_norm": "input"},
        {"cycle_norm": "rms", "adapter_rank": 2, "token_dim": 16},
    ],
)
def test_inputs_of_blocks_that_an_option_needs(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"block 0 .* its input in place.* option.*x.clone\(\)"):
        CycleWrapper(ChangesTokens("block"), 2, "blocks", **options)(tokens())
    embedded = {"cycle_norm": "rms", "cycle_embedding": True, "token_dim": 16}
    assert len(CycleWrapper(ChangesTokens("block"), 2, "blocks", **embedded)(tokens()).tokens) == 2


@pytest.mark.parametrize("name", ["plain", "cycle_teacher", "verify", "num_cycles"])
def test_a_child_with_a_name_of_ours(name: str) -> None:
    model = LoopModel()
    model.add_module(name, nn.Linear(2, 2))
    with pytest.raises(ValueError, match=rf"has a child named '{name}', which is a name of Cycle"):
        CycleWrapper(model, 2)


def test_two_passes_in_one_call() -> None:
    class Siamese(LoopModel):
        def forward(self, a: Tensor, b: Tensor) -> Any:  # type: ignore[override]
            return super().forward(a), super().forward(b)

    with pytest.raises(ValueError, match=r"block 0 \(Block\) ran again.*once for each input"):
        CycleWrapper(Siamese(), 2)(tokens(), tokens())


def test_a_wrapped_part_of_another_model() -> None:
    class Detector(nn.Module):
        def __init__(self, read: Callable[[Any], Any]) -> None:
            super().__init__()
            self.backbone = CycleWrapper(LoopModel(), 2)
            self.head = nn.Linear(5, 2)
            self.read = read

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.read(self.backbone(x)))

    with pytest.raises(TypeError, match=r"linear: expected a tensor, got the CycleOutput.*outer"):
        Detector(lambda out: out)(tokens())
    with pytest.raises(AttributeError, match=r"no 'logits'.*predictions\[i\]\.logits.*outer"):
        Detector(lambda out: out.logits)(tokens())


def test_a_plain_loss_of_a_cycled_model() -> None:
    out = CycleWrapper(LoopModel(), 2)(tokens())
    with pytest.raises(TypeError, match=r"cross_entropy: expected a tensor.*CycleDistillLoss"):
        nn.functional.cross_entropy(out, torch.tensor([0, 1]))
    with pytest.raises(AttributeError, match=r"no 'loss'.*CycleDistillLoss"):
        _ = out.loss


def test_a_shape_that_changes_in_a_later_cycle() -> None:
    class Prunes(Block):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x)[:, 1:]

    with pytest.raises(
        ValueError, match=r"cycle 2 of '0:2' turned tokens \[2, 4, 16\] into \[2, 2, 16\]"
    ):
        CycleWrapper(nn.Sequential(Prunes(), Prunes(), nn.Linear(16, 5)), 2)(tokens())


def test_blocks_that_merge_tokens_each_time() -> None:
    class Merges(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.merge = nn.Linear(32, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.merge(x.unflatten(1, (-1, 2)).flatten(2))

    text = r"turned tokens \[2, 4, 16\] into \[2, 1, 16\] in cycle 1 and failed on these"
    with pytest.raises(ValueError, match=text):
        CycleWrapper(nn.Sequential(Merges(), Merges()), 2)(torch.randn(2, 4, 16))


def test_input_injection_with_a_pruning_stack() -> None:
    class PrunesOnce(Block):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x)[:, :5]

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
