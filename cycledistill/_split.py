"""Splitting what the model made of the folded batch into one output for each cycle."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cycledistill._find import BlockStack
from cycledistill._pass import ForwardPass
from cycledistill._tree import iter_tensors, map_tensors


def split_output(
    model: nn.Module,
    stack: BlockStack,
    forward: ForwardPass,
    output: Any,
    inputs: Any,
    batch_dim: int,
) -> tuple[Any, ...]:
    """The model's output on the folded batch, as one output for each cycle.

    Args:
        model: The plain model, for errors.
        stack: Its stack, for errors.
        forward: The pass.
        output: What the model returned: a tree of tensors.
        inputs: What it was called with, whose first tensor tells where its batch is.
        batch_dim: Batch dimension of the tokens.
    """
    batch_dims: tuple[int, ...] = (0,)
    batch_sizes: tuple[int, ...] = (forward.batch_size,)
    # In a list: torch 2.6 does not compile next(..., None).
    tensors = [tensor for tensor in iter_tensors(inputs) if tensor.ndim]
    given = tensors[0] if tensors else None
    same = given is not None and given.shape[0] == forward.batch_size
    if batch_dim:  # what follows may have put the batch first again
        batch_dims = (0, 1) if same else (1, 0)
    elif given is not None and not same:  # the stem folds, say, frames into the batch
        batch_sizes += (given.shape[0],)
    predictions, num_split = _split_batch(
        output, forward.cycles_run, batch_sizes, batch_dims, forward.token_ndim
    )
    if not num_split:
        raise RuntimeError(
            f"no tensor that {type(model).__name__} returned has the {forward.cycles_run} x "
            f"{forward.batch_size} samples that left {stack.path!r}: the cycles did not reach the "
            "output. If what follows the stack combines samples, or counts on the batch size, pass "
            "head_per_cycle=True"
        )
    return predictions


def _split_batch(
    tree: Any,
    num_parts: int,
    batch_sizes: tuple[int, ...],
    batch_dims: tuple[int, ...],
    token_ndim: int,
) -> tuple[tuple[Any, ...], int]:
    """Split every tensor of a tree whose batch is ``num_parts`` times as large into the parts.

    Tensors with as many dimensions as the tokens carry the batch at the first of ``batch_dims``
    that has ``num_parts`` times one of the ``batch_sizes``, all others at 0. A tensor of another
    batch size did not come through the stack; every part gets it as it is.

    Returns:
        The parts, and the number of tensors that were split.
    """
    num_split = 0

    def pieces(tensor: Tensor) -> tuple[Tensor, ...]:
        nonlocal num_split
        for dim in batch_dims if tensor.ndim == token_ndim else (0,):
            for size in batch_sizes if tensor.ndim > dim else ():
                if tensor.shape[dim] == num_parts * size:
                    num_split += 1
                    return tensor.split([size] * num_parts, dim)
        return (tensor,) * num_parts

    split = [pieces(tensor) for tensor in iter_tensors(tree)]

    def part(index: int) -> Any:
        remaining = iter(split)
        return map_tensors(lambda _: next(remaining)[index], tree)

    return tuple(part(index) for index in range(num_parts)), num_split
