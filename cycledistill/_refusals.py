"""What cannot be cycled, and what the user is told."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cycledistill._find import BlockStack, stacks_within
from cycledistill._pass import ForwardPass
from cycledistill._tokens import tokens_of, unchanged


def name_of(stack: BlockStack, index: int) -> str:
    """A block as errors call it."""
    return f"block {index} ({type(stack.blocks[index]).__name__})"


def refuse_cache(stack: BlockStack, index: int, passed: tuple[Any, ...]) -> None:
    """A block must not keep the keys and values of earlier calls."""
    for value in passed:
        if not isinstance(value, Tensor) and hasattr(value, "get_seq_length"):
            raise ValueError(
                f"{name_of(stack, index)} got a key-value cache ({type(value).__name__}), which "
                "every cycle would make longer: call the model with use_cache=False"
            )


def refuse_changed_tokens(
    model: nn.Module, stack: BlockStack, forward: ForwardPass, index: int, tokens: Tensor
) -> None:
    """Tokens must enter a block as they left the one before."""
    if unchanged(tokens_of(forward.last_output), forward.last_version, tokens):
        return
    previous = forward.calls[-1].index
    raise ValueError(
        f"{type(model).__name__} changes the tokens between {name_of(stack, previous)} and "
        f"{name_of(stack, index)}. A cycle repeats only what the blocks themselves do: move the "
        "change into a block, or cycle a part of the stack with blocks='path.a:b'"
    )


def refuse_second_state(
    stack: BlockStack, forward: ForwardPass, index: int, passed: tuple[Any, ...]
) -> None:
    """Blocks must not hand each other a second tensor that each of them changes."""
    output = forward.last_output
    if not isinstance(output, (tuple, list)) or len(forward.calls) < 2:
        return
    previous = forward.calls[-1]
    inputs = (*previous.args, *previous.kwargs.values())
    for extra in output[1:]:
        if (
            isinstance(extra, Tensor)
            and any(extra is value for value in passed)
            and not any(extra is value for value in inputs)
        ):
            raise ValueError(
                f"{name_of(stack, previous.index)} hands more than tokens to "
                f"{name_of(stack, index)} (a second tensor of shape {list(extra.shape)} that every "
                "block changes); only one sequence of tokens can be cycled"
            )


def refuse_other_shape(
    model: nn.Module, stack: BlockStack, entered: Tensor, left: Tensor, batch_dim: int
) -> None:
    """A stack must keep the shape of the tokens, but may prune them."""
    same = entered.ndim == left.ndim and all(
        a == b or (entered.ndim == 3 and dim == 1 - batch_dim and b < a)
        for dim, (a, b) in enumerate(zip(entered.shape, left.shape, strict=True))
    )
    if same:
        return
    inner = [
        f"{found.path!r}"
        for found in stacks_within(model, prefix=stack.path)
        if found.path != stack.path
    ]
    hint = f" Stages within it that could be cycled: {', '.join(inner)}." if inner else ""
    raise ValueError(
        f"the stack {stack.path!r} of {type(model).__name__} turns tokens {list(entered.shape)} "
        f"into {list(left.shape)}; cycling needs the output's shape to be the input's.{hint}"
    )


def refuse_infinite(stack: BlockStack, tokens: Tensor, cycle: int) -> None:
    """Tokens must be finite, where the user asked for it."""
    if torch.isfinite(tokens).all():
        return
    bad = int((~torch.isfinite(tokens)).sum())
    raise FloatingPointError(
        f"cycle {cycle} of {stack.path!r} gave {bad} of {tokens.numel()} token values that are "
        "NaN or infinite"
    )


def refuse_constant_tokens(
    model: nn.Module, stack: BlockStack, forward: ForwardPass, tokens: Tensor
) -> None:
    """A reentrant checkpoint must end with the stack, or tokens come without a graph."""
    if forward.grad_at_end or not forward.differentiable or tokens.requires_grad:
        return
    if any(parameter.requires_grad for block in stack.blocks for parameter in block.parameters()):
        raise RuntimeError(
            f"the tokens of {stack.path!r} have no gradient: {type(model).__name__} checkpoints "
            "its activations with use_reentrant=True, and either the checkpoint goes on behind the "
            "stack or nothing that enters it needs a gradient. Use use_reentrant=False"
        )


def refuse_labels(position: int | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A model that computes its own loss would average over all cycles."""
    given = kwargs.get("labels")
    if position is not None and len(args) > position:
        given = args[position]
    if given is not None:
        raise ValueError(
            "labels make the model compute its own loss, which would see the samples of all "
            "cycles at once. Call the model without labels and give them to CycleDistillLoss"
        )
