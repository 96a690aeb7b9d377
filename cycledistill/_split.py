"""The batch of all cycles: its concatenation, and the splitting of the model's output on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cycledistill._setup import Setup
from cycledistill._tokens import tokens_of
from cycledistill._tree import iter_tensors, map_tensors


def concatenate(setup: Setup, outputs: Sequence[Any]) -> Any:
    """The outputs of the stack in all cycles as those of one batch.

    A tensor without a batch dimension is that of the last cycle.
    """
    tokens, dim = tokens_of(outputs[0]), setup.batch_dim

    def of_all(*cycles: Tensor) -> Tensor:
        own = dim if cycles[0].ndim == tokens.ndim else 0
        if cycles[0].ndim > own and cycles[0].shape[own] == tokens.shape[dim]:
            return torch.cat(cycles, own)
        return cycles[-1]

    return map_tensors(of_all, outputs[0], *outputs[1:])


def split_output(
    setup: Setup, output: Any, tokens: Sequence[Tensor], inputs: Any
) -> tuple[Any, ...]:
    """Split the model's output on the batch of all cycles into one output for each cycle.

    A tensor with as many dimensions as the tokens may have the batch in the tokens' batch dimension
    or, if the model transposed them, first; all others have it first. A tensor without the batch of
    all cycles did not pass through the stack, so every cycle gets it unchanged.

    Args:
        setup: The wrapper's setup.
        output: What the model returned: a tree of tensors.
        tokens: Output tokens of each cycle.
        inputs: The model's inputs; the first tensor shows where its batch dimension is.

    Raises:
        RuntimeError: No tensor of the output has the batch of all cycles.
    """
    num_cycles, ndim = len(tokens), tokens[0].ndim
    size = tokens[0].shape[setup.batch_dim]
    # A list, because torch 2.6 cannot compile next(..., None).
    given = [tensor for tensor in iter_tensors(inputs) if tensor.ndim][:1]
    same = len(given) > 0 and given[0].shape[0] == size
    dims: tuple[int, ...] = (0,)
    sizes: tuple[int, ...] = (size,)
    if setup.batch_dim:  # the tail may have put the batch first again
        dims = (0, 1) if same else (1, 0)
    elif given and not same:  # the stem folds, say, frames into the batch
        sizes += (given[0].shape[0],)
    num_split = 0

    def pieces(tensor: Tensor) -> tuple[Tensor, ...]:
        nonlocal num_split
        for dim in dims if tensor.ndim == ndim else (0,):
            for each in sizes if tensor.ndim > dim else ():
                if tensor.shape[dim] == num_cycles * each:
                    num_split += 1
                    return tensor.split([each] * num_cycles, dim)
        return (tensor,) * num_cycles

    split = [pieces(tensor) for tensor in iter_tensors(output)]
    if not num_split:
        raise RuntimeError(
            f"no tensor that {setup.model} returned has the {num_cycles} x {size} samples that "
            f"left {setup.stack.path!r}: the cycles did not reach the output. If what follows the "
            "stack combines samples, or depends on the batch size, use batched=False"
        )

    def part(cycle: int) -> Any:
        remaining = iter(split)
        return map_tensors(lambda _: next(remaining)[cycle], output)

    return tuple(part(cycle) for cycle in range(num_cycles))
