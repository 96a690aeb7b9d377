"""What all calls of one wrapper share."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from cycledistill._calls import Calls
from cycledistill._checks import check_choice, check_count
from cycledistill._find import BlockStack


@dataclass(eq=False)
class Setup:
    """How a wrapper's cycles run; the options are those of `CycleWrapper`.

    Attributes:
        model: Class name of the plain model, for errors.
        stack: The blocks.
        batch_dim: Batch dimension of the tokens.
        activation_checkpointing: None, "block" or "cycle".
        grad_cycles: Number of cycles that gradients pass through, or None.
        input_injection: Factor of the stack's input in later cycles.
        cycle_norm: None, "rms" or "input".
        gate: Whether later cycles have a gate: False, True or "channel".
        cycle_embedding: Whether later cycles have an embedding.
        adapter_rank: Rank of the adapters of later cycles, 0 for none.
        check_finite: Whether to check tokens for NaN and infinity.
        layerdrop: The setting that makes the model skip blocks at random, such as
            ``"config.layerdrop=0.1"``, or "".
        has_fast_path: Whether the model contains a `torch.nn.TransformerEncoder`.
        token_dim: Channels of the tokens, or None if they are not known.
        generators: The random number generators that the model holds, found anew in each pass.
        calls: The calls that run or may be recomputed.
    """

    model: str
    stack: BlockStack
    batch_dim: int
    activation_checkpointing: str | None = None
    grad_cycles: int | None = None
    input_injection: float = 0.0
    cycle_norm: str | None = None
    gate: bool | str = False
    cycle_embedding: bool = False
    adapter_rank: int = 0
    check_finite: bool = False
    layerdrop: str = ""
    has_fast_path: bool = False
    token_dim: int | None = None
    generators: tuple[Any, ...] = ()
    calls: Calls = field(default_factory=Calls)

    def __post_init__(self) -> None:
        kind = self.activation_checkpointing
        check_choice("activation_checkpointing", kind, None, "block", "cycle")
        check_choice("cycle_norm", self.cycle_norm, None, "rms", "input")
        check_choice("gate", self.gate, False, True, "channel")
        check_choice("batch_dim", self.batch_dim, None, 0, 1)
        if self.adapter_rank < 0:
            raise ValueError(f"adapter_rank: expected 0 or more, got {self.adapter_rank}")
        if self.grad_cycles is not None:
            check_count("grad_cycles", self.grad_cycles)
        self.token_names = tuple(_first_parameter(block) for block in self.stack.blocks)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "calls": None, "generators": ()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, calls=Calls())

    def name_of(self, index: int) -> str:
        """How errors refer to a block."""
        return f"block {index} ({type(self.stack.blocks[index]).__name__})"

    def split_tokens(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, str | None]:
        """The tokens among a block's arguments, and their keyword if they were passed by name."""
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
    """A block's arguments with the tokens replaced."""
    if name is None:
        return (tokens, *args[1:]), kwargs
    return args, {**kwargs, name: tokens}


def find_batch_dim(blocks: tuple[nn.Module, ...]) -> int:
    """1 if the blocks contain an ``nn.MultiheadAttention`` with ``batch_first=False``, else 0."""
    attention = [
        module
        for block in blocks
        for module in block.modules()
        if isinstance(module, nn.MultiheadAttention)
    ]
    return int(bool(attention) and not any(module.batch_first for module in attention))


def find_layerdrop(model: nn.Module) -> str:
    """The setting that makes a model of transformers skip blocks at random, or ""."""
    for module in model.modules():
        for owner, prefix in ((getattr(module, "config", None), "config."), (module, "")):
            for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"):
                value = getattr(owner, name, 0)
                if isinstance(value, float) and value > 0:
                    return f"{prefix}{name}={value}"
    return ""


def _first_parameter(block: nn.Module) -> str:
    """Name of the first parameter of a block's ``forward``, or ""."""
    try:
        names = [*inspect.signature(block.forward).parameters]
    except (TypeError, ValueError):
        return ""
    return names[0] if names else ""
