"""What all passes of one wrapper share, and which pass runs in this thread."""

from __future__ import annotations

import inspect
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

import torch
from torch import Tensor, nn

from cycledistill._find import BlockStack
from cycledistill._recompute import PassRecords

if TYPE_CHECKING:
    from cycledistill._batched import BatchedPass
    from cycledistill._call import OrdinaryCall

Pass: TypeAlias = Union["OrdinaryCall", "BatchedPass"]
Phase: TypeAlias = Literal["stem", "stack", "later cycles", "tail"]
"""Where a pass is: before the first block, between blocks, in batched later cycles, behind."""


class Running:
    """The pass that runs in this thread.

    While torch compiles, it is kept in a plain attribute, which is None again behind the pass:
    not every version of torch can set attributes of a thread's own.
    """

    def __init__(self) -> None:
        self._traced: Pass | None = None
        self._local = threading.local()

    def current(self) -> Pass | None:
        """The pass of this thread, or None."""
        if self._traced is not None:
            return self._traced
        current: Pass | None = getattr(self._local, "current", None)
        return current

    def set(self, current: Pass | None) -> Pass | None:
        """Begin or, with None, end a pass; returns the one before."""
        before = self.current()
        if torch.compiler.is_compiling():
            self._traced = current
        else:
            self._local.current = current
        return before


@dataclass(eq=False)
class Setup:
    """How a wrapper's cycles run; the options are those of `CycleWrapper`.

    Attributes:
        model: Name of the plain model's class, for errors.
        stack: The blocks.
        batch_dim: Batch dimension of the tokens.
        activation_checkpointing: None, "block" or "cycle".
        grad_cycles: Cycles that gradients pass through, or None.
        input_injection: Factor of the stack's input in later cycles.
        cycle_norm: None, "rms" or "input".
        check_finite: Whether to look for NaN and infinite tokens.
        skips_blocks: The setting by which the model skips blocks at random, such as
            ``"config.layerdrop=0.1"``, or "".
        has_fast_path: Whether the model holds an `torch.nn.TransformerEncoder`.
        running: The pass of this thread.
        records: Passes whose blocks may run again in a backward pass.
    """

    model: str
    stack: BlockStack
    batch_dim: int
    activation_checkpointing: str | None = None
    grad_cycles: int | None = None
    input_injection: float = 0.0
    cycle_norm: str | None = None
    check_finite: bool = False
    skips_blocks: str = ""
    has_fast_path: bool = False
    running: Running = field(default_factory=Running)
    records: PassRecords = field(default_factory=PassRecords)

    def __post_init__(self) -> None:
        kind, count = self.activation_checkpointing, self.grad_cycles
        check_choice("activation_checkpointing", kind, None, "block", "cycle")
        check_choice("cycle_norm", self.cycle_norm, None, "rms", "input")
        check_choice("batch_dim", self.batch_dim, None, 0, 1)
        if count is not None and (isinstance(count, bool) or count != int(count) or count < 1):
            raise ValueError(f"grad_cycles must be a whole number of 1 or more, got {count!r}")
        self.token_names = tuple(_first_parameter(block) for block in self.stack.blocks)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "running": None, "records": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, running=Running(), records=PassRecords())

    def name_of(self, index: int) -> str:
        """A block as errors call it."""
        return f"block {index} ({type(self.stack.blocks[index]).__name__})"

    def split_tokens(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, str | None]:
        """The tokens among a block's arguments, and their name if they were given by name."""
        if args:
            if isinstance(args[0], Tensor):
                return args[0], None
            found = type(args[0]).__name__
        else:
            for name in (self.token_names[index], *kwargs):
                if isinstance(kwargs.get(name), Tensor):
                    return kwargs[name], name
            found = "no tensor"
        raise TypeError(
            f"{self.name_of(index)} of {self.stack.path!r}: expected its tokens, a tensor, as the "
            f"first argument, got {found}"
        )


def with_new_tokens(
    args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None, tokens: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A block's arguments with other tokens."""
    if name is None:
        return (tokens, *args[1:]), kwargs
    return args, {**kwargs, name: tokens}


def find_batch_dim(blocks: tuple[nn.Module, ...]) -> int:
    """1 where the blocks hold an ``nn.MultiheadAttention`` with ``batch_first=False``, else 0."""
    attention = [
        module
        for block in blocks
        for module in block.modules()
        if isinstance(module, nn.MultiheadAttention)
    ]
    return int(bool(attention) and not any(module.batch_first for module in attention))


def find_layerdrop(model: nn.Module) -> str:
    """The setting by which a model of transformers skips blocks at random, or ""."""
    for module in model.modules():
        for owner, prefix in ((getattr(module, "config", None), "config."), (module, "")):
            for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"):
                value = getattr(owner, name, 0)
                if isinstance(value, float) and value > 0:
                    return f"{prefix}{name}={value}"
    return ""


def check_choice(name: str, value: object, *choices: object) -> None:
    """Check an argument that is one of a few.

    Raises:
        ValueError: It is none of them.
    """
    if value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")


def _first_parameter(block: nn.Module) -> str:
    """Name of the first parameter of a block's ``forward``, or ""."""
    try:
        names = [*inspect.signature(block.forward).parameters]
    except (TypeError, ValueError):
        return ""
    return names[0] if names else ""
