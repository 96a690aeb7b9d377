"""Truncated gradients against cycles fed by hand, each detached where it must be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cycledistill import CycleWrapper
from tests.core.models import sequential, tokens
from tests.core.reference import (
    assert_same,
    assert_same_gradients,
    equation_4,
    gradients,
    hand_fed,
    loss_of,
    stack_of,
)
from tests.core.zoo import Case, some_cases


@some_cases
@pytest.mark.parametrize("grad_cycles", [1, 2, 3])
def test_gradients_through_at_most_k_cycles(case: Case, grad_cycles: int) -> None:
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 4, grad_cycles=grad_cycles)
    args, kwargs = case.batch()
    out = cycled(*args, **kwargs)
    loss_of(out).backward()

    by_hand = truncated(plain, cycled.stack_path, 4, grad_cycles, args, kwargs)
    equation_4(by_hand).backward()
    assert_same(out.tokens, tuple(by_hand.tokens))
    assert_same_gradients(model, gradients(plain))


def truncated(
    model: nn.Module,
    path: str,
    num_cycles: int,
    grad_cycles: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Cycles by hand; the tokens handed from cycle k to k + 1, 2k to 2k + 1, ... are constants."""
    blocks = stack_of(model, path)
    cycle = 1
    original = blocks[0].forward

    def cut(x: Tensor, *rest: Any, **named: Any) -> Any:
        nonlocal cycle
        if torch.is_grad_enabled() and by_hand_calls[0]:
            cycle += 1
            if (cycle - 1) % grad_cycles == 0:
                x = x.detach()
        return original(x, *rest, **named)

    # The plain model's own calls come through here too, each of them cycle 1.
    by_hand_calls = [True]

    def entering(*_: Any) -> None:
        by_hand_calls[0] = False

    def leaving(*_: Any) -> None:
        by_hand_calls[0] = True

    handles = []
    if model is not blocks[0]:
        handles = [
            model.register_forward_pre_hook(entering),
            model.register_forward_hook(leaving),
        ]
    blocks[0].forward = cut  # type: ignore[method-assign]
    try:
        return hand_fed(model, path, num_cycles, args, kwargs)
    finally:
        del blocks[0].forward
        for handle in handles:
            handle.remove()


def test_one_grad_cycle_cuts_every_cycle_off() -> None:
    cycled = CycleWrapper(sequential(), 3, grad_cycles=1)
    x = tokens().requires_grad_()
    out = cycled(x)
    out.tokens[2].sum().backward(retain_graph=True)
    assert x.grad is None or not x.grad.any()
    out.tokens[0].sum().backward()
    assert x.grad is not None and x.grad.any()
