"""What cannot be cycled, and the errors that say so."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from cycledistill._find import stacks_within

if TYPE_CHECKING:
    from cycledistill._setup import Setup


def raise_cycles_did_not_run(setup: Setup, plain: nn.Module, blocks_run: Sequence[int]) -> NoReturn:
    """Every cycle must run the first and the last block."""
    depth = len(setup.stack.blocks)
    which = "last" if depth - 1 not in blocks_run else "first"
    raise RuntimeError(
        f"the cycles did not run: {setup.model} did not call the {which} of the {depth} blocks of "
        f"{setup.stack.path!r} (it called {list(blocks_run) or 'none'}). {_why_not(setup, plain)}"
    )


def raise_not_for_wrappers(tool: str) -> NoReturn:
    """What a tool turns into a graph must be the plain model."""
    raise TypeError(
        f"{tool}: expected a plain model, got a CycleWrapper: give it cycled.unwrap(), or "
        "cycled.plain in eval mode"
    )


def check_no_block_is_new(setup: Setup, plain: nn.Module) -> None:
    """The list must hold no further blocks, which would be left out of some cycles or options."""
    blocks, path = setup.stack.blocks, setup.stack.path
    if path != setup.stack.container or ", " in path:
        return  # a part of a list
    try:
        listed = plain.get_submodule(path)
    except AttributeError:  # it was put into another module
        return
    siblings = () if listed in blocks else listed.children()
    if any(type(child) is type(blocks[0]) and child not in blocks for child in siblings):
        raise RuntimeError(
            f"{path!r} of {setup.model} has a block that came after wrapping, which is not cycled: "
            "unwrap the model and wrap it again"
        )


def _why_not(setup: Setup, plain: nn.Module) -> str:
    parts = set(plain.modules())
    if not parts.issuperset(setup.stack.blocks):
        return "Blocks were replaced or removed after wrapping: unwrap the model and wrap it again"
    if setup.layerdrop:
        return f"{setup.layerdrop} skips blocks at random in training, here all of them"
    if any(_is_compiled(module) for module in parts.difference(setup.stack.blocks)):
        return "It, or a part of it, was compiled by itself: compile the CycleWrapper instead"
    return (
        "It may skip blocks in training, or call block.forward() directly, which bypasses the "
        "hooks on the block: call block(...) instead"
    )


def _is_compiled(module: nn.Module) -> bool:
    of_forward = hasattr(module.forward, "_torchdynamo_orig_callable")
    return of_forward or hasattr(module, "_orig_mod") or module._compiled_call_impl is not None  # type: ignore[attr-defined]


def raise_ran_twice(setup: Setup, index: int) -> NoReturn:
    """A call must run the stack once, in its order."""
    raise ValueError(
        f"{setup.name_of(index)} ran again, or in another order than given, in one call of "
        f"{setup.model}: a stack that runs more than once ({setup.stack.path!r}) has no single "
        "sequence of tokens to pass on. If it encodes several inputs, wrap the encoder alone and "
        "call that once for each input"
    )


class PreviousBlock(NamedTuple):
    """The previous block: its tokens, its other inputs by position or name, and its output."""

    tokens: Tensor | None
    inputs: Mapping[int | str, Any]
    output: Any


def check_single_state(
    setup: Setup,
    index: int,
    tokens: Tensor,
    inputs: Mapping[int | str, Any],
    previous: PreviousBlock,
) -> None:
    """Blocks must take and return their tokens first, and must not update a second tensor.

    Args:
        setup: The wrapper's setup.
        index: The block that is about to run.
        tokens: Its input tokens.
        inputs: Its other inputs.
        previous: The previous block.
    """
    made, *extras = _items(previous.output)
    if tokens is previous.tokens:
        for key, value in inputs.items():
            if value is made[1] and value is not tokens:
                raise ValueError(
                    f"{setup.name_of(index)} takes the output of the previous block as argument "
                    f"{key!r}: expected blocks that take their tokens as the first argument"
                )
    for place, extra in extras:
        if not isinstance(extra, Tensor) or extra.ndim < tokens.ndim:
            continue  # such as a sum of losses, which starts anew with every call
        if extra is tokens and extra is not made[1]:
            raise ValueError(
                f"{setup.name_of(index)} takes output {place!r} of the previous block as its "
                "tokens: expected blocks that return their tokens first"
            )
        for key, value in inputs.items():
            given = previous.inputs.get(key)
            if value is extra and isinstance(given, Tensor) and given is not extra:
                raise ValueError(
                    f"{setup.name_of(index)} takes more than tokens from the previous block (a "
                    f"second tensor of shape {list(extra.shape)} that every block changes); only "
                    "one sequence of tokens can be cycled"
                )


def check_tokens_first(setup: Setup, index: int, tokens_in: Tensor, output: Any) -> None:
    """The last block, too, must return its tokens first; no later block shows it."""
    shape, items = tokens_in.shape, _items(output)
    first = items[0][1]
    places = [k for k, o in items if isinstance(o, Tensor) and o.shape == shape]
    if isinstance(first, Tensor) and first.shape != shape and places:
        raise ValueError(
            f"{setup.name_of(index)} returns {list(first.shape)} first, and a tensor of the "
            f"tokens' shape {list(shape)} as output {places[0]!r}: expected blocks that return "
            "their tokens first"
        )


def _items(output: Any) -> list[tuple[int | str, Any]]:
    """What a block returned, by place or name."""
    items: list[tuple[int | str, Any]] = []
    if isinstance(output, dict):
        items = [*output.items()]
    elif isinstance(output, (tuple, list)):
        items = [*enumerate(output)]
    return items or [(0, output)]


def raise_shape_changed(
    setup: Setup, tokens_in: Tensor, tokens_out: Tensor, error: Exception
) -> NoReturn:
    """A stack that changed the shape of the tokens in the first cycle failed on the new shape."""
    raise ValueError(
        f"the stack {setup.stack.path!r} of {setup.model} turned tokens {list(tokens_in.shape)} "
        f"into {list(tokens_out.shape)} in cycle 1 and failed on these in the next: {error}. "
        "Cycling needs the output's shape to be the input's"
    ) from error


def check_channels_last(setup: Setup, tokens: Tensor) -> None:
    """In feature maps `[B, C, H, W]`, a norm of the last dimension is one of each row of pixels."""
    width = setup.token_dim
    if tokens.shape[-1] != width and width in tokens.shape[1:-1]:
        raise ValueError(
            f"cycle_norm={setup.cycle_norm!r}: expected tokens [..., D] with their {width} "
            f"channels last, got {list(tokens.shape)} from {setup.model}. If this is not the "
            "number of channels, pass token_dim="
        )


def raise_exit_with_cache(setup: Setup) -> NoReturn:
    """Samples that stop early would leave gaps in the later cycles' caches."""
    raise ValueError(
        f"{setup.model} got a key-value cache and early exit: tokens that stop early would be "
        "missing from the later cycles' caches. Use one of the two"
    )


def raise_no_cache(setup: Setup) -> NoReturn:
    """The model keeps in itself what its next call needs, for all cycles the same."""
    raise ValueError(
        f"{setup.model} was called with use_cache=True and returned no cache of transformers that "
        "is a list of layers, such as DynamicCache: what it keeps in itself, each cycle would "
        "overwrite. Call it with use_cache=False, or with one cycle"
    )


def raise_exit_failed(setup: Setup, active: int, size: int, error: Exception) -> NoReturn:
    """The model ran on all samples, and failed on those that go on."""
    raise ValueError(
        f"early exit: {setup.model} failed on the {active} of {size} samples that go on: {error}. "
        "If an input holds its samples in another way than along its first dimension, such as "
        "patches of all images in one sequence, call it without early exit"
    ) from error


def raise_inputs_changed(setup: Setup) -> NoReturn:
    """The model must not change its input tensors, which every cycle gets."""
    raise ValueError(
        f"{setup.model} changes its input in place, so its second cycle would get a different "
        "one: make it work on a copy, such as x = x.clone()"
    )


def raise_tokens_changed(setup: Setup, what: str) -> NoReturn:
    """The tokens of a cycle must stay as they are: the next cycle, options and loss get them."""
    raise ValueError(
        f"{what} in place, and with it tokens of {setup.stack.path!r} that the next cycle, an "
        "option of CycleWrapper or the loss gets: make it work on a copy, such as x = x.clone()"
    )


def check_tokens(
    setup: Setup, plain: nn.Module, tokens_in: Tensor, tokens_out: Tensor, cycle: int
) -> None:
    """A stack must keep the shape of the tokens, but may prune tokens in the first cycle.

    With the option ``check_finite``, the tokens must also be finite.
    """
    if tokens_in.shape != tokens_out.shape:
        _check_shape(setup, plain, tokens_in, tokens_out, cycle)
    if setup.check_finite and not torch.isfinite(tokens_out).all():
        bad = int((~torch.isfinite(tokens_out)).sum())
        raise FloatingPointError(
            f"cycle {cycle} of {setup.stack.path!r} gave {bad} of {tokens_out.numel()} token "
            "values that are NaN or infinite"
        )


def _check_shape(
    setup: Setup, plain: nn.Module, tokens_in: Tensor, tokens_out: Tensor, cycle: int
) -> None:
    if cycle > 1:
        raise ValueError(
            f"cycle {cycle} of {setup.stack.path!r} turned tokens {list(tokens_in.shape)} into "
            f"{list(tokens_out.shape)}; from the second cycle on the shape must stay the same"
        )
    pruned = tokens_in.ndim == tokens_out.ndim == 3 and all(
        a == b or (dim == 1 - setup.batch_dim and b < a)
        for dim, (a, b) in enumerate(zip(tokens_in.shape, tokens_out.shape, strict=True))
    )
    if pruned:
        return
    path = setup.stack.path
    inner = [f"{s.path!r}" for s in stacks_within(plain, prefix=path) if s.path != path]
    hint = f" Stages within it that could be cycled: {', '.join(inner)}." if inner else ""
    raise ValueError(
        f"the stack {path!r} of {setup.model} turns tokens {list(tokens_in.shape)} into "
        f"{list(tokens_out.shape)}; cycling needs the output's shape to be the input's.{hint}"
    )


def raise_reentrant_checkpoint(setup: Setup, index: int) -> NoReturn:
    """Tokens that a hook replaces inside of a reentrant checkpoint get no gradient."""
    raise RuntimeError(
        f"{setup.model} checkpoints {setup.name_of(index)} with use_reentrant=True, through which "
        "the tokens of the previous cycle get no gradient. Use use_reentrant=False (for a model of "
        'transformers: gradient_checkpointing_enable({"use_reentrant": False})), or '
        "activation_checkpointing= of CycleWrapper"
    )


def check_tokens_have_gradient(setup: Setup) -> None:
    """A reentrant checkpoint must not extend beyond the stack."""
    if any(p.requires_grad for block in setup.stack.blocks for p in block.parameters()):
        raise RuntimeError(
            f"the tokens of {setup.stack.path!r} have no gradient: {setup.model} checkpoints its "
            "activations with use_reentrant=True, and either the checkpoint extends beyond the "
            "stack or none of its inputs requires a gradient. Use use_reentrant=False"
        )


def warn_of_backward_hooks(setup: Setup, index: int) -> None:
    """Full backward hooks are added to a block's output after all of its forward hooks."""
    block = setup.stack.blocks[index]
    full = block._is_full_backward_hook and block._backward_hooks  # type: ignore[attr-defined]
    if torch.is_grad_enabled() and (full or block._backward_pre_hooks):
        warnings.warn(
            f"{setup.name_of(index)}, the last of {setup.stack.path!r}, has backward hooks: they "
            "see the gradient of the prediction of each cycle, not that of the next cycle, which "
            "gets its tokens before torch adds them. Put them on a module within the block",
            UserWarning,
            stacklevel=4,
        )


def raise_own_checkpoint(setup: Setup) -> NoReturn:
    """Batched cycles run inside of the last block's hook, which must not be recomputed."""
    raise RuntimeError(
        f"{setup.model} checkpoints the last block of {setup.stack.path!r} itself, and with it "
        "the later cycles, which batched cycles do not support. Use batched=False, or "
        "activation_checkpointing= of CycleWrapper"
    )
