"""Activation checkpointing, the wrapper's and models' own, against cycles fed by hand."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from cycledistill import CycleWrapper
from tests.core.models import Block, KeywordTokens, LoopModel, OwnCheckpoints, sequential, tokens
from tests.core.reference import (
    assert_same,
    assert_same_gradients,
    check_by_hand,
    equation_4,
    gradients,
    hand_fed,
    loss_of,
)
from tests.core.zoo import ZOO, Case, some_cases


def saved_bytes(function: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What a function returns, and the bytes that its graph keeps, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        made = function()
    return made, sum(storages.values())


@some_cases
@pytest.mark.parametrize("kind", ["block", "cycle"])
def test_checkpointing_gives_the_same_gradients(case: Case, kind: str) -> None:
    check_by_hand(case, 3, activation_checkpointing=kind)


def test_checkpointing_keeps_less() -> None:
    x = tokens(8)
    kept = {}
    for kind in (None, "block", "cycle"):
        cycled = CycleWrapper(sequential(4), 3, activation_checkpointing=kind)
        loss, kept[kind] = saved_bytes(lambda wrapped=cycled: wrapped(x).tokens[-1].sum())
        loss.backward()
    one = x.numel() * x.element_size()
    assert kept["block"] < kept[None] / 5
    assert kept["cycle"] < kept["block"]
    # Inputs of 3 x 4 blocks; and of 4 blocks and 2 cycles; and what stands around them.
    assert kept["block"] <= (12 + 4) * one
    assert kept["cycle"] <= (4 + 2 + 4) * one


def test_wrapping_the_whole_leaves_the_checkpoints_of_a_wrapped_part() -> None:
    model = nn.ModuleDict({"left": LoopModel(), "right": LoopModel()})
    left = CycleWrapper(model["left"], 2, activation_checkpointing="block")
    x = torch.randn(8, 6, 16)
    kept = saved_bytes(lambda: left(x).tokens[-1].sum())[1]
    right = CycleWrapper(model, 2, "right.blocks")
    assert saved_bytes(lambda: left(x).tokens[-1].sum())[1] == kept
    right.unwrap()


@pytest.mark.parametrize("kind", ["block", "cycle"])
def test_checkpointing_runs_dropout_the_same_again(kind: str) -> None:
    def build(activation_checkpointing: str | None) -> tuple[CycleWrapper, nn.Module]:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.3, batch_first=True)
        model = nn.TransformerEncoder(layer, 2).double()
        return CycleWrapper(model, 3, activation_checkpointing=activation_checkpointing), model

    x = tokens()
    results = []
    for option in (None, kind):
        cycled, model = build(option)
        torch.manual_seed(5)
        loss = loss_of(cycled(x))
        loss.backward()
        results.append((loss.detach(), gradients(model)))
    assert torch.equal(results[0][0], results[1][0])
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["block", "cycle"])
def test_checkpointing_draws_the_same_again_from_generators_that_torch_does_not_restore(
    kind: str,
) -> None:
    class Draws(Block):
        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            x = x * torch.tensor([random.random(), np.random.rand()]).repeat(8)
            return super().forward(x, *args, **kwargs)

    class Masked(LoopModel):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator()
            self.blocks = nn.ModuleList(Draws() for _ in range(3))

        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            keep = torch.rand(6, 1, generator=self.generator) + np.random.rand(6, 1)
            return super().forward(x * keep)

    results = []
    for option in (None, kind):
        torch.manual_seed(0)
        model = Masked().double()
        cycled = CycleWrapper(model, 3, activation_checkpointing=option)
        random.seed(1)
        np.random.seed(1)
        loss = loss_of(cycled(tokens()))
        loss.backward()
        drawn = torch.rand(1, generator=model.generator).item(), random.random(), np.random.rand()
        results.append((loss.detach(), gradients(model), drawn))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][2] == results[1][2]  # and nothing more than without checkpoints
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["block", "cycle"])
@pytest.mark.parametrize("num_cycles", [1, 3])
def test_checkpointing_draws_the_same_again_from_generators_that_blocks_are_given(
    kind: str, num_cycles: int
) -> None:
    class Drops(Block):
        def forward(self, x: Tensor, generator: Any) -> Tensor:  # type: ignore[override]
            return super().forward(x) * torch.rand(6, 1, generator=generator["own"][0])

    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Drops() for _ in range(3))

        def forward(self, x: Tensor, generator: Any) -> Tensor:
            for block in self.blocks:
                x = block(x, generator=generator)
            return x

    results = []
    for option in (None, kind):
        torch.manual_seed(0)
        model, generator = Given().double(), torch.Generator()
        cycled = CycleWrapper(model, num_cycles, activation_checkpointing=option)
        loss = loss_of(cycled(tokens(), {"own": [generator]}))
        loss.backward()
        results.append((loss.detach(), gradients(model), torch.rand(1, generator=generator)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][2], results[1][2])
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["block", "cycle"])
def test_checkpointing_with_all_other_options(kind: str) -> None:
    options: dict[str, Any] = {
        "grad_cycles": 2,
        "input_injection": 0.5,
        "cycle_embedding": True,
        "adapter_rank": 2,
        "check_finite": True,
    }
    results = []
    for option in (None, kind):
        cycled = CycleWrapper(
            sequential(), 3, token_dim=16, activation_checkpointing=option, **options
        )
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in cycled.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        torch.manual_seed(4)
        loss = loss_of(cycled(tokens()))
        loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in cycled.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("first", [0, -1], ids=["block", "stem-and-block"])
def test_dropout_in_a_models_own_checkpoint_of_its_first_block(first: int) -> None:
    """The hook inside of the checkpoint hands over to the cycle's own random numbers."""

    def build(segments: list[tuple[int, int]]) -> OwnCheckpoints:
        torch.manual_seed(0)
        model = OwnCheckpoints(segments, False)
        model.stem = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.3))
        for block in model.blocks:
            block.mlp.append(nn.Dropout(0.3))
        return model.double()

    x, bias = tokens(), torch.zeros(6, 6, dtype=torch.float64)
    results = []
    for segments in ([], [(first, 2), (2, 4)]):
        model = build(segments)
        torch.manual_seed(5)
        loss = loss_of(CycleWrapper(model, 3)(x, bias))
        loss.backward()
        results.append((loss.detach(), gradients(model), torch.rand(1)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][2], results[1][2])
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=0, atol=1e-12, msg=name)


# Models that checkpoint on their own


SEGMENTS = {
    "each": [(0, 1), (1, 2), (2, 3), (3, 4)],
    "last": [(3, 4)],
    "pairs": [(0, 2), (2, 4)],
    "stem-and-all": [(-1, 4)],
    "stem-and-head": [(-1, 5)],
    "first-half": [(-1, 2)],
    "last-and-head": [(2, 5)],
}


@pytest.mark.parametrize("segments", SEGMENTS.values(), ids=SEGMENTS.keys())
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.parametrize("kind", [None, "block", "cycle"])
@pytest.mark.parametrize("order", ["once", "together", "first-first", "last-first"])
def test_models_that_checkpoint_on_their_own(
    segments: list[tuple[int, int]], reentrant: bool, kind: str | None, order: str
) -> None:
    torch.manual_seed(0)
    model = OwnCheckpoints(segments, reentrant).double()
    plain = OwnCheckpoints([], False).double()
    plain.load_state_dict(model.state_dict())
    cycled = CycleWrapper(model, 3, activation_checkpointing=kind)
    inputs = [
        (tokens().requires_grad_(), torch.randn(6, 6, dtype=torch.float64))
        for _ in range(1 if order == "once" else 2)
    ]
    counts = (3, 2)
    if reentrant and (segments[0][0] <= 0 or segments[-1][1] == 5):
        with pytest.raises(RuntimeError, match=r"(no gradient|checkpoints block 0).*=False"):
            cycled(*inputs[0])
        return
    outs = [cycled(*pair, num_cycles=n) for pair, n in zip(inputs, counts, strict=False)]
    losses = [loss_of(out) for out in outs]
    if order == "last-first":
        losses.reverse()
    for loss in [sum(losses)] if order == "together" else losses:
        loss.backward()  # type: ignore[union-attr]
    for pair, count, out in zip(inputs, counts, outs, strict=False):
        fed = hand_fed(plain, "blocks", count, pair, {})
        assert_same(out.tokens, tuple(fed.tokens))
        equation_4(fed).backward()
    assert_same_gradients(model, gradients(plain))
    assert len(cycled(*inputs[0]).tokens) == 3


def test_arguments_made_inside_of_a_checkpoint_get_their_gradient() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(6, 6))
            self.blocks = nn.ModuleList(Block() for _ in range(2))

        def part(self, x: Tensor) -> Tensor:
            for index, block in enumerate(self.blocks):
                x = block(x, self.bias * (index + 1))
            return x

        def forward(self, x: Tensor, plain: bool = False) -> Tensor:
            if plain:
                return self.part(x)
            return torch.utils.checkpoint.checkpoint(self.part, x, use_reentrant=False)

    torch.manual_seed(0)
    model = Model().double()
    plain = copy.deepcopy(model)
    x = tokens().requires_grad_()
    loss_of(CycleWrapper(model, 3)(x)).backward()
    equation_4(hand_fed(plain, "blocks", 3, (x,), {"plain": True})).backward()
    assert_same_gradients(model, gradients(plain))


@pytest.mark.parametrize("segments", [SEGMENTS["each"], SEGMENTS["stem-and-all"]])
def test_plain_calls_between_and_after_checkpointed_passes(segments: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    model = OwnCheckpoints(segments, False).double()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 2)
    x, bias = tokens(), torch.zeros(6, 6, dtype=torch.float64)
    out = cycled(x, bias)
    between = cycled.plain(x, bias)
    assert_same(between, plain(x, bias), tolerance=0)
    loss_of(out).backward(retain_graph=True)
    after = model(x, bias)
    assert_same(after, between, tolerance=0)
    before = {name: value.clone() for name, value in gradients(model).items()}  # type: ignore[union-attr]
    model.zero_grad()
    loss_of(out).backward()
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, before[name]), name  # type: ignore[arg-type]
    model.zero_grad()
    (between.sum() + after.sum()).backward()
    (2 * plain(x, bias).sum()).backward()
    assert_same_gradients(model, gradients(plain))


def test_checkpoints_without_an_early_stop() -> None:
    case = ZOO["eva02"]
    args, kwargs = case.batch()
    for own in (False, True):
        for kind in ("block", "cycle"):
            model, plain = case.build(), case.build()
            cycled = CycleWrapper(model, 3, activation_checkpointing=kind)
            cycled.set_grad_checkpointing(own)
            with torch.utils.checkpoint.set_checkpoint_early_stop(False):
                loss_of(cycled(*args)).backward()
            equation_4(hand_fed(plain, "blocks", 3, args, kwargs)).backward()
            assert_same_gradients(model, gradients(plain))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", [None, "block", "cycle"])
@pytest.mark.parametrize("before_backward", ["eval mode", "eval()", "unwrap()", "del"])
def test_a_backward_pass_in_eval_mode(own: bool, kind: str | None, before_backward: str) -> None:
    """What runs again gets the tokens of its cycle, though no hooks are attached any more."""
    case = ZOO["vit"]
    model, plain = case.build(), case.build()
    args, kwargs = case.batch()
    cycled = CycleWrapper(model, 3, activation_checkpointing=kind, adapter_rank=2)
    cycled.set_grad_checkpointing(own)
    loss = loss_of(cycled.train(before_backward != "eval mode").forward_cycles(*args, **kwargs))
    if before_backward == "eval()":
        cycled.eval()
    elif before_backward == "unwrap()":
        cycled.unwrap()
    elif before_backward == "del":
        del cycled
    loss.backward()
    equation_4(hand_fed(plain, "blocks", 3, args, kwargs)).backward()
    assert_same_gradients(model, gradients(plain))
    assert before_backward == "del" or not model.blocks[0]._forward_hooks


@pytest.mark.parametrize("name", ["vit", "eva02", "beit-shared-bias", "xcit", "cait"])
def test_timms_checkpointing(name: str) -> None:
    case = ZOO[name]
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 2)
    cycled.set_grad_checkpointing(True)
    args, kwargs = case.batch()
    out = cycled(*args, **kwargs)
    loss_of(out).backward()
    fed = hand_fed(plain, "blocks", 2, args, kwargs)
    assert_same(out.predictions, tuple(fed.predictions))
    equation_4(fed).backward()
    assert_same_gradients(model, gradients(plain))
    checkpointed = saved_bytes(lambda: cycled(*args, **kwargs).tokens[0])[1]
    cycled.set_grad_checkpointing(False)
    assert checkpointed < saved_bytes(lambda: cycled(*args, **kwargs).tokens[0])[1]


class CheckpointedCall(Block):
    """A block that checkpoints its hooks too, in every cycle."""

    def __call__(self, x: Tensor) -> Any:
        return torch.utils.checkpoint.checkpoint(super().__call__, x, use_reentrant=False)


@pytest.mark.parametrize("kind", [None, "block"])
def test_blocks_that_checkpoint_their_call(kind: str | None) -> None:
    model = nn.Sequential(*(CheckpointedCall() for _ in range(3))).double()
    plain = sequential()
    plain.load_state_dict(model.state_dict())
    x = tokens()
    loss_of(CycleWrapper(model, 3, activation_checkpointing=kind)(x)).backward()
    equation_4(hand_fed(plain, "", 3, (x,), {})).backward()
    assert_same_gradients(model, gradients(plain))


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.parametrize("kind", [None, "block", "cycle"])
def test_hugging_faces_checkpointing(reentrant: bool, kind: str | None) -> None:
    case = ZOO["hf-vit"]
    model = case.build()
    plain = copy.deepcopy(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    cycled = CycleWrapper(model, 3, activation_checkpointing=kind)
    block = model.get_submodule(cycled.stack_path)[0]
    with_hooks = type(block).__call__ is not nn.Module.__call__  # transformers 4
    if kind == "cycle" and not reentrant and with_hooks:
        pytest.skip("this version of transformers checkpoints a block's hooks, too")
    _, kwargs = case.batch()
    kwargs["pixel_values"].requires_grad_()
    if reentrant and with_hooks:
        with pytest.raises(RuntimeError, match="use_reentrant=True"):
            cycled(**kwargs)
        return
    loss_of(cycled(**kwargs)).backward()
    equation_4(hand_fed(plain, cycled.stack_path, 3, (), kwargs)).backward()
    assert_same_gradients(model, gradients(plain))


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("kind", ["block", "cycle"])
def test_checkpoints_take_tensors_as_positional_arguments(
    kind: str, batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch keeps the generators of the devices of these, and so the masks of dropout on a GPU."""
    with_tensors: list[bool] = []

    def noted(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with_tensors.append(any(isinstance(leaf, Tensor) for leaf in tree_leaves(args)))
        return checkpoint(function, *args, **kwargs)

    for module in ("_call", "_hooks"):
        monkeypatch.setattr(f"cycledistill.{module}.checkpoint", noted)
    cycled = CycleWrapper(KeywordTokens(), 2, batched=batched, activation_checkpointing=kind)
    cycled(torch.randn(2, 6, 16))
    assert len(with_tensors) >= 2 and all(with_tensors)
