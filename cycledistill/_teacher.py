"""Parameters that only the later cycles use: they are trained, and dropped by ``unwrap``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cycledistill._setup import Setup


class TeacherOnly(nn.Module):
    """A cycle embedding, low-rank adapters and a gate for the cycles after the first.

    The embedding and the second factor of every adapter are initialised to zero, so they change
    nothing at first. A gate is initialised to zero, too, so the later cycles change nothing at all.
    A cycle beyond the trained number uses the last trained cycle's parameters.

    The embedding is that of Universal Transformers (arXiv 1807.03819). An adapter is a residual
    ``x @ down @ up`` in parallel with a block, in the spirit of Relaxed Recursive Transformers
    (arXiv 2410.20672). The gate acts on a cycle as ReZero (arXiv 2003.04887) does on a block.

    Args:
        setup: The wrapper's setup, with the options.
        num_cycles: Trained number of cycles N; there are parameters for cycles 2..N.
        token_dim: Channels D of a token; None if no parameter has one value per channel.
    """

    embedding: nn.Parameter | None
    down: nn.Parameter | None
    up: nn.Parameter | None
    alpha: nn.Parameter | None

    def __init__(self, setup: Setup, num_cycles: int, token_dim: int | None) -> None:
        super().__init__()
        later, blocks, rank = num_cycles - 1, len(setup.stack.blocks), setup.adapter_rank
        self.token_dim = token_dim
        self.embedding = self.down = self.up = self.alpha = None
        if setup.gate:
            channels = (token_dim,) if setup.gate == "channel" and token_dim else ()
            self.alpha = nn.Parameter(torch.empty(later, *channels))
        if setup.cycle_embedding and token_dim:
            self.embedding = nn.Parameter(torch.empty(later, token_dim))
        if rank and token_dim:
            self.down = nn.Parameter(torch.empty(later, blocks, token_dim, rank))
            self.up = nn.Parameter(torch.empty(later, blocks, rank, token_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the parameters."""
        for parameter in (self.embedding, self.alpha):
            if parameter is not None:
                nn.init.zeros_(parameter)
        if self.down is not None and self.up is not None and self.token_dim is not None:
            nn.init.normal_(self.down, std=1 / math.sqrt(self.token_dim))
            nn.init.zeros_(self.up)

    def embed(self, tokens: Tensor, cycle: int) -> Tensor:
        """Input tokens `[..., D]` of a later cycle, with its embedding added."""
        if self.token_dim is not None and tokens.shape[-1] != self.token_dim:
            raise ValueError(
                f"token_dim={self.token_dim}, but the tokens are {list(tokens.shape)} with "
                f"{tokens.shape[-1]} channels last; teacher-only parameters need [..., D] tokens"
            )
        if self.embedding is None:
            return tokens
        return tokens + self.embedding[self._row(cycle, self.embedding)].to(tokens.dtype)

    def adapt(self, tokens_in: Tensor, tokens_out: Tensor, cycle: int, block: int) -> Tensor:
        """Output tokens `[..., D]` of a block in a later cycle, with its adapter's output added."""
        if self.down is None or self.up is None:
            return tokens_out
        row = self._row(cycle, self.down)
        down, up = self.down[row, block], self.up[row, block]
        return tokens_out + (tokens_in.to(down.dtype) @ down @ up).to(tokens_out.dtype)

    def apply_gate(self, tokens_in: Tensor, tokens_out: Tensor, cycle: int) -> Tensor:
        """Output tokens `[..., D]` of a later cycle after its gate.

        ``tokens_in + alpha * (tokens_out - tokens_in)``, exactly ``tokens_in`` if alpha is 0.
        """
        if self.alpha is None:
            return tokens_out
        alpha = self.alpha[self._row(cycle, self.alpha)]
        return tokens_in + (alpha * (tokens_out - tokens_in)).to(tokens_in.dtype)

    def zero(self) -> Tensor:
        """A zero that depends on every parameter, for train steps without a later cycle."""
        return torch.stack([parameter.sum() * 0.0 for parameter in self.parameters()]).sum()

    @staticmethod
    def _row(cycle: int, parameter: Tensor) -> int:
        return min(cycle - 2, parameter.shape[0] - 1)


def make_teacher(setup: Setup, num_cycles: int) -> TeacherOnly | None:
    """The teacher-only parameters that the options ask for, or None.

    Raises:
        ValueError: The model may skip the gate, or the width of the tokens cannot be inferred.
    """
    if setup.gate and setup.layerdrop:
        raise ValueError(
            f"gate={setup.gate!r} acts after the last block, which {setup.model} may skip "
            f"({setup.layerdrop}): expected that to be 0"
        )
    per_channel = setup.cycle_embedding or setup.adapter_rank or setup.gate == "channel"
    if num_cycles == 1 or not (per_channel or setup.gate):
        return None
    if setup.token_dim is None and per_channel:
        raise ValueError(
            f"cannot infer the token width of {type(setup.stack.blocks[0]).__name__}; pass "
            "token_dim= for the cycle embedding and the adapters"
        )
    teacher = TeacherOnly(setup, num_cycles, setup.token_dim if per_channel else None)
    parameter = next(setup.stack.blocks[0].parameters(), None)
    return teacher if parameter is None else teacher.to(parameter.device)


def find_token_dim(model: nn.Module, blocks: tuple[nn.Module, ...]) -> int | None:
    """The channels of a model's tokens, from its blocks' norms or its own attributes, or None."""
    # The outermost first: attention may have narrower norms, of queries and keys.
    for _, module in sorted(blocks[0].named_modules(), key=lambda named: named[0].count(".")):
        weight = getattr(module, "weight", None)
        if "norm" in type(module).__name__.lower() and isinstance(weight, Tensor):
            return weight.shape[-1]
    for owner in (model, getattr(model, "config", None)):
        for name in ("embed_dim", "hidden_size", "d_model"):
            value = getattr(owner, name, None)
            if isinstance(value, int):
                return value
    return None
