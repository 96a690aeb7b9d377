"""What cannot be cycled, and what the user is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from cycledistill._find import stacks_within

if TYPE_CHECKING:
    from cycledistill._setup import Setup


def refuse_cycles_that_did_not_run(
    setup: Setup, plain: nn.Module, blocks_run: Sequence[int]
) -> NoReturn:
    """Every cycle must pass through the first and the last block."""
    depth = len(setup.stack.blocks)
    which = "last" if depth - 1 not in blocks_run else "first"
    raise RuntimeError(
        f"the cycles did not run: {setup.model} did not call the {which} of the {depth} blocks of "
        f"{setup.stack.path!r} (it called {list(blocks_run) or 'none'}). {_why_not(setup, plain)}"
    )


def _why_not(setup: Setup, plain: nn.Module) -> str:
    parts = set(plain.modules())
    if not parts.issuperset(setup.stack.blocks):
        return "Blocks were replaced or removed after wrapping: unwrap the model and wrap it again"
    if setup.skips_blocks:
        return f"{setup.skips_blocks} skips blocks at random in training, here all of them"
    if any(_is_compiled(module) for module in parts.difference(setup.stack.blocks)):
        return "It was compiled before it was wrapped: compile the CycleWrapper instead"
    return (
        "It may skip blocks in training, or call block.forward() directly, which passes by the "
        "hooks on the block: call block(...) instead"
    )


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None  # type: ignore[attr-defined]


def refuse_second_run(setup: Setup, index: int) -> NoReturn:
    """A stack must run once in a call, in its order."""
    raise ValueError(
        f"{setup.name_of(index)} ran again, or in another order than given, in one call of "
        f"{setup.model}: a stack that runs more than once ({setup.stack.path!r}) has no one "
        "sequence of tokens to hand on. If it encodes several inputs, wrap the encoder alone and "
        "call that once for each input"
    )


def refuse_second_state(
    setup: Setup,
    index: int,
    tokens: Tensor,
    inputs: Mapping[int | str, Any],
    earlier: tuple[Mapping[int | str, Any], Any],
) -> None:
    """Blocks must hand on their tokens first, and no second tensor that each of them changes.

    Args:
        setup: Of the wrapper.
        index: The block that is about to run.
        tokens: The tokens that it gets.
        inputs: What it gets beside them, by position or name.
        earlier: What the block before got beside its tokens, and what it returned.
    """
    before, output = earlier
    if not isinstance(output, (tuple, list)):
        return
    for place, extra in enumerate(output[1:], 1):
        if not isinstance(extra, Tensor) or extra.ndim < tokens.ndim:
            continue  # a sum of losses, say, which begins anew with every call
        if extra is tokens and extra is not output[0]:
            raise ValueError(
                f"{setup.name_of(index)} gets the block before's output {place} as its tokens: "
                "expected blocks that return their tokens first"
            )
        for key, value in inputs.items():
            if value is extra and isinstance(before.get(key), Tensor) and before[key] is not extra:
                raise ValueError(
                    f"{setup.name_of(index)} gets more than tokens from the block before (a second "
                    f"tensor of shape {list(extra.shape)} that every block changes); only one "
                    "sequence of tokens can be cycled"
                )


def refuse_tokens_behind_others(setup: Setup, index: int, entered: Tensor, output: Any) -> None:
    """The last block, behind which no other tells, must return its tokens first, too."""
    if not isinstance(output, (tuple, list)) or not isinstance(output[0], Tensor):
        return
    places = [k for k, o in enumerate(output) if isinstance(o, Tensor) and o.shape == entered.shape]
    if places and places[0] > 0:
        raise ValueError(
            f"{setup.name_of(index)} returns {list(output[0].shape)} first, and something of the "
            f"tokens' shape {list(entered.shape)} as output {places[0]}: expected blocks that "
            "return their tokens first"
        )


def refuse_cycles_of_another_shape(
    setup: Setup, entered: Tensor, left: Tensor, error: Exception
) -> NoReturn:
    """A stack that has changed the tokens' shape in the first cycle may not take them again."""
    raise ValueError(
        f"the stack {setup.stack.path!r} of {setup.model} turned tokens {list(entered.shape)} into "
        f"{list(left.shape)} in cycle 1 and failed on these in the next: {error}. Cycling needs "
        "the output's shape to be the input's"
    ) from error


def refuse_cache(setup: Setup, values: Sequence[Any]) -> None:
    """Batched cycles call each block again, which would make a cache from outside longer."""
    if any(hasattr(value, "get_seq_length") for value in values if not isinstance(value, Tensor)):
        raise ValueError(
            f"{setup.model} got a key-value cache, which each of its batched cycles would make "
            "longer: expected batched=False, or a call without a cache"
        )


def refuse_exit_with_cache(setup: Setup) -> NoReturn:
    """Samples that stop early would leave holes in the later cycles' caches."""
    raise ValueError(
        f"{setup.model} got a key-value cache and exit_tolerance: tokens that stop early would be "
        "missing from the later cycles' caches. Use one of the two"
    )


def refuse_changed_inputs(setup: Setup) -> NoReturn:
    """The model must not change the tensors that it is given: every cycle gets the same."""
    raise ValueError(
        f"{setup.model} changes its input in place, so that its second cycle would get another "
        "one: make it work on a copy, such as x = x.clone()"
    )


def refuse_other_shape(
    setup: Setup, plain: nn.Module, entered: Tensor, left: Tensor, cycle: int
) -> None:
    """A stack must keep the shape of the tokens, but may prune them in the first cycle."""
    if entered.shape == left.shape:
        return
    if cycle > 1:
        raise ValueError(
            f"cycle {cycle} of {setup.stack.path!r} turned tokens {list(entered.shape)} into "
            f"{list(left.shape)}; from the second cycle on the shape must stay"
        )
    pruned = entered.ndim == left.ndim == 3 and all(
        a == b or (dim == 1 - setup.batch_dim and b < a)
        for dim, (a, b) in enumerate(zip(entered.shape, left.shape, strict=True))
    )
    if pruned:
        return
    path = setup.stack.path
    inner = [f"{s.path!r}" for s in stacks_within(plain, prefix=path) if s.path != path]
    hint = f" Stages within it that could be cycled: {', '.join(inner)}." if inner else ""
    raise ValueError(
        f"the stack {path!r} of {setup.model} turns tokens {list(entered.shape)} into "
        f"{list(left.shape)}; cycling needs the output's shape to be the input's.{hint}"
    )


def refuse_infinite(setup: Setup, tokens: Tensor, cycle: int) -> None:
    """Tokens must be finite, where the user asked for it."""
    if torch.isfinite(tokens).all():
        return
    bad = int((~torch.isfinite(tokens)).sum())
    raise FloatingPointError(
        f"cycle {cycle} of {setup.stack.path!r} gave {bad} of {tokens.numel()} token values that "
        "are NaN or infinite"
    )


def refuse_reentrant_checkpoint(setup: Setup, index: int) -> NoReturn:
    """Tokens that are handed in behind a reentrant checkpoint's back get no gradient."""
    raise RuntimeError(
        f"{setup.model} checkpoints {setup.name_of(index)} with use_reentrant=True, through which "
        "tokens of the cycle before get no gradient. Use use_reentrant=False (for a model of "
        'transformers: gradient_checkpointing_enable({"use_reentrant": False})), or '
        "activation_checkpointing= of CycleWrapper"
    )


def refuse_tokens_without_gradient(setup: Setup) -> None:
    """A reentrant checkpoint must end with the stack, or tokens come without a graph."""
    if any(p.requires_grad for block in setup.stack.blocks for p in block.parameters()):
        raise RuntimeError(
            f"the tokens of {setup.stack.path!r} have no gradient: {setup.model} checkpoints its "
            "activations with use_reentrant=True, and either the checkpoint goes on behind the "
            "stack or nothing that enters it needs a gradient. Use use_reentrant=False"
        )


def refuse_own_checkpoint(setup: Setup) -> NoReturn:
    """Batched cycles run inside of the last block's hook, which must not be run again."""
    raise RuntimeError(
        f"{setup.model} checkpoints the last block of {setup.stack.path!r} on its own, and with it "
        "the later cycles, which batched cycles do not support. Use batched=False, or "
        "activation_checkpointing= of CycleWrapper"
    )
