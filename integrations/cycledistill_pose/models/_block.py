"""One pre-norm transformer block."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from cycledistill_pose.models._pruning import PruningPass


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values without bias.

    The scale of the dot products is `head_dim ** -0.5`. The products run in torch's fused
    kernel (`scaled_dot_product_attention`).
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, T, D]` -> queries, keys and values, each `[B, heads, T, D / heads]`."""
        query, key, value = rearrange(
            self.qkv(tokens), "b t (part h d) -> part b h t d", part=3, h=self.num_heads
        )
        return query, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mix the values; `[B, heads, T, D / heads]` each -> `[B, T, D]`."""
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(rearrange(mixed, "b h t d -> b t (h d)"))


class Block(nn.Module):
    """`x += position; x += attention(norm(x)); x += mlp(norm(x))`.

    A block keeps no state between calls: what differs from block to block is an argument, so a
    stack of blocks can be run again with the arguments of its first run.
    """

    def __init__(self, dim: int, num_heads: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        fc1, fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        self.mlp = nn.Sequential(OrderedDict(fc1=fc1, gelu=nn.GELU(), fc2=fc2))

    def forward(
        self,
        tokens: Tensor,
        position: Tensor | None = None,
        pruning: PruningPass | None = None,
        index: int = 0,
    ) -> Tensor:
        """`[B, T, D]` -> `[B, T, D]`.

        ``position`` `[1 or B, T, D]` is added first. ``pruning`` has its own positions and may drop
        tokens in this block, which is number ``index``.
        """
        if pruning is not None:
            position = pruning.position_of(index, tokens)
        if position is not None:
            tokens = tokens + position
        query, key, value = self.attn.project(self.norm1(tokens))
        tokens = tokens + self.attn.attend(query, key, value)
        if pruning is not None:
            tokens = pruning.prune(index, tokens, query, key)
        return tokens + self.mlp(self.norm2(tokens))
