"""Cycles by hand for any model: ordinary calls, in which the first block gets other tokens.

The tests' own reference calls the blocks one by one, see `tests.core.reference`; this one needs to
know nothing of a model but its stack.
"""

from __future__ import annotations

import random
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tests.core.reference import HandFed, call, stack_of, tokens_of


def called_by_hand(
    model: nn.Module,
    path: str,
    num_cycles: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> HandFed:
    """All cycles of a plain model, with gradients: ordinary calls of it.

    In each but the first call, the first block gets the tokens that left the last one in the call
    before; if the model skips blocks at random, the first and the last of those that run. Before
    the first block all calls draw the same random numbers, from there on each draws its own.
    Blocks that run again in the backward pass would get other tokens by then, so they do not here.
    """
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = False  # type: ignore[assignment]
    blocks = stack_of(model, path)
    fed = HandFed([], [])
    left: list[Tensor] = []
    start = behind = generators()

    def hand_in(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if left or not fed.tokens:
            return None
        set_generators(behind)
        entering = fed.tokens[-1]
        if args:
            return (entering, *args[1:]), kwargs
        return args, {**kwargs, next(iter(signature(block.forward).parameters)): entering}

    handles = [block.register_forward_pre_hook(hand_in, with_kwargs=True) for block in blocks]
    for block in blocks:
        handles.append(block.register_forward_hook(lambda _, __, out: left.append(tokens_of(out))))
    for _ in range(num_cycles):
        behind = generators()
        set_generators(start)
        fed.predictions.append(call(model, *fresh(args, kwargs)))
        fed.tokens.append(left[-1])
        left.clear()
    for handle in handles:
        handle.remove()
    return fed


def generators() -> tuple[Any, ...]:
    """The states of the random number generators of torch, Python and NumPy."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def set_generators(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])


def fresh(*trees: Any) -> Any:
    """New containers of the same tensors, for a model that writes into what it is given."""
    return tree_map(lambda leaf: leaf, trees)
