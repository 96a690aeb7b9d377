"""Small models, each with something that a foreign one may do in, between or around its blocks."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def layer() -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)


class Plain(nn.Module):
    """A stem, four blocks and a head; `run` is what the others do in another way."""

    def __init__(self, block: Callable[[], nn.Module] = layer, depth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(block() for _ in range(depth))
        self.head = nn.Linear(16, 5)

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Any:
        return self.head(self.run(self.stem(x)).mean(1))


class UShaped(Plain):
    """Blocks of the second half add what those of the first half gave."""

    def run(self, x: Tensor) -> Tensor:
        first, second, third, fourth = self.blocks
        x = early = first(x)
        x = third(second(x))
        return fourth(x + early)


class Experts(nn.Module):
    """A block with four experts; it returns its tokens and a loss that balances the experts."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.router = nn.Linear(16, 4)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(x)
        weights = self.router(y).softmax(-1)
        mixed = torch.stack([expert(y) for expert in self.experts], -1)
        balance = (weights.mean((0, 1)) ** 2).sum()
        return x + (mixed * weights.unsqueeze(-2)).sum(-1).tanh(), balance


class MixtureOfExperts(Plain):
    def __init__(self) -> None:
        super().__init__(Experts)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        total = x.new_zeros(())
        for block in self.blocks:
            x, balance = block(x)
            total = total + balance
        return {"logits": self.head(x.mean(1)), "balance": total}


class RunningLoss(Plain):
    """The balancing loss goes through the blocks, each of which adds to it."""

    def __init__(self) -> None:
        super().__init__(_AddsToLoss)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        total = x.new_zeros(())
        for block in self.blocks:
            x, total = block(x, total)
        return self.head(x.mean(1)), total


class _AddsToLoss(Experts):
    def forward(self, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, balance = super().forward(x)
        return x, total + balance


class ValueBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.proj = nn.Linear(16, 16)

    def forward(self, x: Tensor, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        values = v if first is None else 0.5 * (v + first)
        attention = (q @ k.transpose(1, 2) / 4).softmax(-1)
        return x + self.proj(attention @ values), v if first is None else first


class ValueResidual(Plain):
    """The first block's values go to every later block."""

    def __init__(self) -> None:
        super().__init__(ValueBlock)

    def run(self, x: Tensor) -> Tensor:
        values = None
        for block in self.blocks:
            x, values = block(x, values)
        return x


class FrozenHalf(Plain):
    def run(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for block in self.blocks[:2]:
                x = block(x)
        for block in self.blocks[2:]:
            x = block(x)
        return x


class PositionsBetween(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(4, 6, 16))

    def run(self, x: Tensor) -> Tensor:
        for block, position in zip(self.blocks, self.positions, strict=True):
            x = block(x + position)
        return x


class BatchNorms(Plain):
    """One in the stem, one in the head."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.behind = nn.BatchNorm1d(16), nn.BatchNorm1d(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(self.stem(x).transpose(1, 2)).transpose(1, 2)
        return self.head(self.behind(self.run(x).mean(1)))


class EveryBlockPredicts(Plain):
    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        made = []
        for block in self.blocks:
            x = block(x)
            made.append(self.head(x.mean(1)))
        return made


class Contrast(Plain):
    """Every sample against every other one, as in contrastive learning."""

    def forward(self, x: Tensor) -> Tensor:
        features = nn.functional.normalize(self.run(self.stem(x)).mean(1), dim=-1)
        return features @ features.T


class WritesIntoItsInput(Plain):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        batch["x"] = self.stem(batch["x"])
        batch["logits"] = self.head(self.run(batch["x"]).mean(1))
        return batch


class OwnLoss(Plain):
    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = super().forward(x)
        return nn.functional.cross_entropy(logits, labels), logits


class Checkpoints(Plain):
    """Switched on and off as in transformers."""

    gradient_checkpointing = False

    def gradient_checkpointing_enable(self, options: dict[str, bool]) -> None:
        self.gradient_checkpointing, self.options = True, options

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, **self.options) if self.gradient_checkpointing else block(x)
        return x


class Convolutions(Plain):
    """Blocks on [B, C, H, W], each with a batch norm."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16)))
        self.stem = nn.Conv2d(3, 16, 4, 4)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self.stem(x)).mean((2, 3)))


class Siamese(Plain):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.head((self.run(self.stem(one)) - self.run(self.stem(other))).mean(1))


class Twice(Plain):
    def run(self, x: Tensor) -> Tensor:
        return super().run(super().run(x))


class OneBlockForAll(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([layer()] * 4)


class TwoStreams(Plain):
    """Each block changes a second sequence along with the first."""

    def __init__(self) -> None:
        super().__init__()
        self.others = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.blocks = nn.ModuleList(_Pair() for _ in range(4))

    def run(self, x: Tensor) -> Tensor:
        other = x
        for block in self.blocks:
            x, other = block(x, other)
        return x + other


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = layer(), layer()

    def forward(self, x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x + other), self.two(other)


class DictBlocks(Plain):
    """Blocks that take and return a dict."""

    def __init__(self) -> None:
        super().__init__(_DictBlock)

    def run(self, x: Tensor) -> Tensor:
        batch = {"x": x}
        for block in self.blocks:
            batch = block(batch)
        return batch["x"]


class _DictBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = layer()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"x": self.layer(batch["x"])}


class CallsForward(Plain):
    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block.forward(x)
        return x


class Shrinks(Plain):
    """Every block merges two neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Merge() for _ in range(2))


class _Merge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.merge = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(x.unflatten(1, (-1, 2)).flatten(2))


class Named(Plain):
    """Blocks in an `nn.ModuleDict`."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({f"block{i}": layer() for i in range(4)})  # type: ignore[assignment]

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks.values():  # type: ignore[operator]
            x = block(x)
        return x


class Attributes(Plain):
    """Blocks that are in no list."""

    def __init__(self) -> None:
        super().__init__()
        del self.blocks
        self.first, self.second = layer(), layer()

    def run(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Shuffles(Plain):
    """Puts its tokens into a random order and, behind the blocks, back into the old one."""

    def forward(self, x: Tensor) -> Tensor:
        order = torch.rand(x.shape[:2]).argsort(1).unsqueeze(-1).expand(-1, -1, 16)
        y = self.run(self.stem(x).gather(1, order))
        return self.head(torch.zeros_like(y).scatter(1, order, y))


class SkipsAtRandom(Plain):
    """Stochastic depth that does not call a block at all."""

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if not self.training or random.random() < 0.5:
                x = block(x)
        return x
