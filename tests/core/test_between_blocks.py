"""What a model does between its blocks, against N calls of it by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cycledistill import CycleWrapper
from tests.core.models import Block
from tests.core.reference import HandFed, assert_same, equation_4, loss_of
from tests.core.zoo import sequence


class Between(nn.Module):
    """Blocks of any kind, and a loop over them that calls ``step`` for each."""

    def __init__(
        self,
        step: Callable[[int, nn.Module, Tensor, list[Any]], Tensor],
        finish: Callable[[Tensor, list[Any]], Any] = lambda y, notes: y,
        block: Callable[[], nn.Module] = Block,
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 16)
        self.blocks = nn.ModuleList(block() for _ in range(3))
        self.head = nn.Linear(16, 5)
        self.step, self.finish = step, finish

    def forward(self, x: Tensor, entering: Tensor | None = None) -> Any:
        """With ``entering`` the first block gets it: one cycle by hand."""
        x, notes = self.stem(x), []
        for index, block in enumerate(self.blocks):
            if index == 0 and entering is not None:
                block = partial(self.swapped, block, entering)
            x = self.step(index, block, x, notes)
        self.left = x
        return self.finish(self.head(x.mean(1)), notes)

    @staticmethod
    def swapped(block: nn.Module, entering: Tensor, x: Tensor, *rest: Any) -> Any:
        return block(entering, *rest)


class WithLoss(Block):
    """A mixture of experts returns its balancing loss beside the tokens."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        x = super().forward(x, *args, **kwargs)
        return x, x.square().mean()


class ValueResidual(Block):
    """Hands the first block's values on to all others."""

    def forward(self, x: Tensor, first: Tensor | None = None) -> Any:  # type: ignore[override]
        first = x * 2 if first is None else first
        return super().forward(x + 0.1 * first), first


def add_balancing_loss(index: int, block: nn.Module, x: Tensor, notes: list[Any]) -> Tensor:
    x, loss = block(x)
    notes.append(loss)
    return x


class AddsLoss(Block):
    """Adds to a loss that is handed from block to block."""

    def forward(self, x: Tensor, loss: Tensor) -> Any:  # type: ignore[override]
        x = super().forward(x)
        return x, loss + x.square().mean()


def hand_loss_on(index: int, block: nn.Module, x: Tensor, notes: list[Any]) -> Tensor:
    x, loss = block(x, notes[-1] if notes else x.new_zeros(()))
    notes[:] = [loss]
    return x


def pass_values_on(index: int, block: nn.Module, x: Tensor, notes: list[Any]) -> Tensor:
    x, first = block(x, *notes)
    notes[:] = [first]
    return x


def add_positions(index: int, block: nn.Module, x: Tensor, notes: list[Any]) -> Tensor:
    return block(x if index == 0 else x + 0.3 * index)


def keep_states(index: int, block: nn.Module, x: Tensor, notes: list[Any]) -> Tensor:
    notes.append(block(x))
    return notes[-1]


def skip_as_in_a_u(index: int, block: nn.Module, x: Tensor, notes: list[Any]) -> Tensor:
    x = block(x)
    notes.append(x)
    return x + notes[0] if index == 1 else x


def freeze_the_first(index: int, block: nn.Module, x: Tensor, notes: list[Any]) -> Tensor:
    with torch.set_grad_enabled(index > 0 and torch.is_grad_enabled()):
        return block(x)


def checkpoint_the_first(index: int, block: nn.Module, x: Tensor, notes: list[Any]) -> Tensor:
    return checkpoint(block, x, use_reentrant=False) if index < 2 else block(x)


BETWEEN: dict[str, Callable[[], Between]] = {
    "mixture-of-experts": lambda: Between(
        add_balancing_loss, lambda y, notes: (y, sum(notes)), WithLoss
    ),
    "loss-handed-on": lambda: Between(hand_loss_on, lambda y, notes: (y, notes[-1]), AddsLoss),
    "value-residual": lambda: Between(pass_values_on, block=ValueResidual),
    "positions": lambda: Between(add_positions),
    "deep-supervision": lambda: Between(keep_states, lambda y, notes: {"y": y, "all": notes}),
    "u-shaped": lambda: Between(skip_as_in_a_u),
    "frozen-blocks": lambda: Between(freeze_the_first),
    "checkpointed": lambda: Between(checkpoint_the_first),
}


@pytest.mark.parametrize("make", BETWEEN.values(), ids=BETWEEN.keys())
@pytest.mark.parametrize("kind", [None, "block", "cycle"])
def test_whatever_happens_between_the_blocks(make: Callable[[], Between], kind: str | None) -> None:
    torch.manual_seed(0)
    model = make().double()
    plain = copy.deepcopy(model)
    (x,), _ = sequence(3)
    out = CycleWrapper(model, 3, activation_checkpointing=kind)(x)
    predictions, left = [], [None]
    for _ in range(3):
        predictions.append(plain(x, left[-1]))
        left.append(plain.left)
    assert_same(out.predictions, tuple(predictions), tolerance=1e-13)
    assert_same(out.tokens, tuple(left[1:]), tolerance=1e-13)
    loss_of(out).backward()
    equation_4(HandFed(predictions, left[1:])).backward()  # type: ignore[arg-type]
    for (name, got), wanted in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (got.grad is None) == (wanted.grad is None), name
        if got.grad is not None:
            torch.testing.assert_close(got.grad, wanted.grad, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("name", ["u-shaped", "mixture-of-experts"])
def test_compiled_from_the_first_step(name: str) -> None:
    torch.manual_seed(0)
    model = BETWEEN[name]().double()
    eager = CycleWrapper(copy.deepcopy(model), 2)
    (x,), _ = sequence(3)
    torch._dynamo.reset()
    got = torch.compile(CycleWrapper(model, 2), backend="aot_eager")(x)
    assert_same(got.predictions, eager(x).predictions)
    torch._dynamo.reset()
