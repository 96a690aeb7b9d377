"""Small models of our own, each with something that a foreign model may do."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def torch_encoder(batch_first: bool, **kwargs: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first, **kwargs)
    return nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(16))


class Block(nn.Module):
    """Pre-norm attention and MLP with an optional additive bias and scale."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, bias: Tensor | None = None, scale: float = 1.0) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        attention = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        if bias is not None:
            attention = attention + bias
        x = x + scale * self.proj(attention.softmax(-1) @ v)
        return x + scale * self.mlp(self.norm2(x))


class LoopModel(nn.Module):
    """Loops over its blocks and gives each one arguments of its own, of many kinds.

    The bias of every block comes from parameters; its output is what ``returns`` makes of it.
    """

    def __init__(self, returns: Callable[[Tensor, Tensor], Any] | None = None) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 16)
        self.bias = nn.Parameter(torch.randn(3, 6, 6))
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)
        self.returns = returns

    def forward(self, x: Tensor, weight: float = 1.0, sample_bias: Tensor | None = None) -> Any:
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            bias = self.bias[index] if sample_bias is None else self.bias[index] + sample_bias
            if index == 1:
                x = block(x, bias, weight)
            else:
                x = block(x, scale=weight / (index + 1), bias=bias)
        x = self.norm(x)
        logits = self.head(x.mean(1))
        return logits if self.returns is None else self.returns(logits, x)


class TupleBlock(Block):
    """Returns a tuple, as many Hugging Face blocks do."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(x, *args, **kwargs)
        return out, out.mean(dim=(1, 2)), None


class TupleBlocks(nn.Module):
    """Blocks that return tuples; the last one's second part goes into the output."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(TupleBlock() for _ in range(3))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        for block in self.encoder.layer:
            outputs = block(x)
            x = outputs[0]
        return self.head(x[:, 0]), [outputs[1], x]


class KeywordTokens(nn.Module):
    """Hands the tokens over by name, behind another tensor."""

    class Layer(Block):
        def forward(self, hidden_states: Tensor, bias: Tensor) -> Tensor:
            return super().forward(hidden_states, bias)

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(6, 6))
        self.layers = nn.ModuleList(self.Layer() for _ in range(3))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(bias=self.bias, hidden_states=x)
        return self.head(x.mean(1))


class OutsideFirst(nn.Module):
    """Takes and gives `[B, T, D]`, but its blocks work on `[T, B, D]`."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = torch_encoder(batch_first=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.transformer(x.transpose(0, 1)).transpose(0, 1)
        return {"tokens": x, "logits": self.head(x[:, 0])}


class Frames(nn.Module):
    """Folds the frames of a video into the batch, `[B, F, T, D]`."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        frames = x.shape[1]
        tokens = self.blocks(x.flatten(0, 1))
        logits = self.head(tokens.unflatten(0, (-1, frames)).mean((1, 2)))
        return {"logits": logits, "tokens": tokens}


class OwnCheckpoints(nn.Module):
    """Checkpoints its stem and all, or parts, of its blocks together."""

    def __init__(self, segments: list[tuple[int, int]], reentrant: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(16, 5)
        self.segments = segments
        self.reentrant = reentrant

    def part(self, x: Tensor, bias: Tensor, start: int, stop: int) -> Tensor:
        for index in range(start, stop):
            if index < 0:
                x = self.stem(x)
            elif index == 4:
                x = self.head(x)
            else:
                x = self.blocks[index](x, bias)
        return x

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        done = -1
        for start, stop in self.segments:
            x = self.part(x, bias, done, start)
            x = checkpoint(self.part, x, bias, start, stop, use_reentrant=self.reentrant)
            done = stop
        return self.part(x, bias, done, 5)


class BatchNormHead(nn.Module):
    """A head that mixes the samples of a batch in training."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        self.bn = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.blocks(x).mean(1)))


@dataclass
class Answer:
    logits: Tensor
    extra: dict[str, Any]


Pair = namedtuple("Pair", ["logits", "tokens"])


def sequential(depth: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(depth))).double()


def holder(**children: nn.Module) -> nn.Module:
    """A module that has children and runs none of them."""
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


def tokens(size: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(size, 6, 16, dtype=dtype)
