"""What is noted of one forward pass, and of its repetition in a backward pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class BlockCall:
    """One block and what it got beside the tokens."""

    index: int
    block: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    token_name: str | None

    def run(self, tokens: Tensor) -> Any:
        """Call the block again on other tokens."""
        if self.token_name is None:
            return self.block(tokens, *self.args, **self.kwargs)
        return self.block(*self.args, **{self.token_name: tokens}, **self.kwargs)


@dataclass(eq=False)
class ForwardPass:
    """What one forward pass of the wrapper notes.

    Attributes:
        num_cycles: Cycles asked for.
        keep_all: Whether all cycles' tokens leave the stack (folded into the batch), or the last's.
        apart: Whether only the first cycle's do, as in the plain model; the later cycles wait for
            `Cycler.run_later_cycles` then.
        exit_tolerance: Stop once the tokens' relative change falls below this.
        calls: The blocks that the model called, in order.
        folded: The tokens that left the stack.
        cycles_run: Cycles that ran.
        batch_size: Samples in one cycle.
        token_ndim: Dimensions of the tokens.
        first_node: Sequence number of the first autograd node that the pass made.
        end_node: Sequence number behind that of its last node.
        differentiable: Whether gradients were on when the pass began.
        grad_at_end: Whether they were on at the stack's end (not inside a reentrant checkpoint).
        states: What the blocks returned in each later cycle, by index, where that is needed.
    """

    num_cycles: int
    keep_all: bool
    apart: bool = False
    exit_tolerance: float | None = None
    calls: list[BlockCall] = field(default_factory=list)
    entered: Tensor | None = None
    last_output: Any = None
    last_version: int | None = None
    folded: Tensor | None = None
    cycles_run: int = 0
    batch_size: int = 0
    token_ndim: int = 0
    first_node: int = 0
    end_node: int = 0
    differentiable: bool = False
    grad_at_end: bool = False
    states: list[dict[int, Any]] = field(default_factory=list)


@dataclass
class Repeated:
    """What a checkpoint of the model's own runs again in the backward pass.

    Attributes:
        cause: Graph task and autograd node that asked for it.
        forward: The pass that is repeated, until its cycles have been.
        calls: The blocks' calls, by index.
        inside_cycle: Whether it is but a cycle that we checkpoint ourselves.
    """

    cause: tuple[int, int] | None = None
    forward: ForwardPass | None = None
    calls: dict[int, BlockCall] = field(default_factory=dict)
    inside_cycle: bool = False
