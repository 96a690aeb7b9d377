"""PPT: dropping the visual tokens to which no keypoint attends."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class TokenPruning:
    """Which blocks drop visual tokens, and how many of them stay.

    >>> pruning = TokenPruning()
    >>> pruning.visual_counts(256)  # before block 0, after blocks 3, 6 and 9
    (256, 180, 126, 89)
    >>> [round(pruning.ratio_at(epoch), 3) for epoch in (0, 9, 10, 60, 110, 299)]
    [1.0, 1.0, 1.0, 0.85, 0.7, 0.7]

    In each of `blocks`, after the attention residual and before the MLP, the
    `ceil(ratio * n)` of the n visual tokens with the highest score stay; the score of a visual
    token is the attention that the keypoint tokens pay to it, averaged over the heads and summed
    over the keypoints. The order of the kept tokens is that of their scores. Source: PPT (Ma et
    al., 2022, https://arxiv.org/abs/2209.08194).

    The ratio is `keep_ratio` in evaluation mode, and in training mode until the model's
    `set_epoch(epoch)` is called. Once it is called, training follows the schedule of
    PPT: 1 for `warmup_epochs`, then half a cosine down to `keep_ratio` over the next
    `anneal_epochs`. PPT's own training moves along it with every step (a fraction of an epoch), the
    recipes of this package with every epoch, so that shapes change no more often than that.

    Attributes:
        blocks: Indices of the pruning blocks, counted from 0, ascending.
        keep_ratio: Share that stays at each of them, in (0, 1].
        warmup_epochs: Epochs without pruning.
        anneal_epochs: Epochs from ratio 1 to `keep_ratio`.

    Raises:
        ValueError: The blocks are not ascending indices, or a number is out of its range.
    """

    blocks: tuple[int, ...] = (3, 6, 9)
    keep_ratio: float = 0.7
    warmup_epochs: int = 10
    anneal_epochs: int = 100

    def __post_init__(self) -> None:
        """Check every field."""
        blocks = tuple(self.blocks)
        object.__setattr__(self, "blocks", blocks)
        if not blocks or blocks[0] < 0 or list(blocks) != sorted(set(blocks)):
            raise ValueError(
                f"blocks of TokenPruning: expected ascending indices from 0 on, got {blocks}"
            )
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio: expected a number in (0, 1], got {self.keep_ratio}")
        if self.warmup_epochs < 0 or self.anneal_epochs < 0:
            raise ValueError(
                "warmup_epochs and anneal_epochs: expected 0 or more, "
                f"got {self.warmup_epochs} and {self.anneal_epochs}"
            )

    def ratio_at(self, epoch: float) -> float:
        """Share of tokens kept in training in `epoch` (counted from 0, may be a fraction)."""
        past_warmup = epoch - self.warmup_epochs
        if past_warmup < 0:
            return 1.0
        if past_warmup >= self.anneal_epochs:
            return self.keep_ratio
        remaining = 0.5 * (1 + math.cos(math.pi * past_warmup / self.anneal_epochs))
        return self.keep_ratio + (1 - self.keep_ratio) * remaining

    def visual_counts(self, num_visual: int, ratio: float | None = None) -> tuple[int, ...]:
        """Visual tokens at the input, then after each pruning block (`ratio`: keep_ratio)."""
        counts = [num_visual]
        for _ in self.blocks:
            counts.append(math.ceil(counts[-1] * (self.keep_ratio if ratio is None else ratio)))
        return tuple(counts)


class PruningPass:
    """State of one forward pass with pruning: the positions of the remaining tokens.

    Each block receives it as an argument, with its own index. When a stack is run again on the
    pruned tokens, with the arguments of the first run, the number of tokens tells each block what
    to do: with as many tokens as in the first run it prunes (this is the first run, or its
    recomputation by activation checkpointing); with fewer, all pruning is done, and the positions
    are those of the pruned tokens. A recomputation keeps the same tokens as the first run.
    """

    def __init__(
        self,
        pruning: TokenPruning,
        ratio: float,
        num_keypoints: int,
        tokens: Tensor,
        position: Tensor | None,
    ) -> None:
        self.num_keypoints = num_keypoints
        self._num_tokens = tokens.shape[1]
        counts = pruning.visual_counts(tokens.shape[1] - num_keypoints, ratio)
        self._counts = {
            block: (counts[index], counts[index + 1])
            for index, block in enumerate(pruning.blocks)
            if counts[index + 1] < counts[index]
        }
        self._positions = {} if position is None else {tokens.shape[1]: position}
        self._kept: dict[int, Tensor] = {}
        self.shape = tokens.shape[:1]  # it belongs to these samples: early exit keeps them together

    def position_of(self, block: int, tokens: Tensor) -> Tensor | None:
        """What to add to `tokens` before a block, `[1 or B, T, D]`; nothing before block 0."""
        if not block or not self._positions:
            return None
        if tokens.shape[1] not in self._positions:
            raise ValueError(
                "token pruning: expected batched cycles (CycleWrapper(model, batched=True)): a "
                "call of the model does not know which tokens the cycle before it has kept"
            )
        return self._positions[tokens.shape[1]]

    def standing(self, num_tokens: int) -> Tensor:
        """Positions `[1 or B, num_tokens]` of the remaining tokens in the whole sequence."""
        places = torch.arange(self._num_tokens)[None]
        for block in sorted(self._kept):
            if places.shape[1] == num_tokens:
                break
            kept = self._kept[block].cpu()
            places = places.expand(kept.shape[0], -1).gather(1, kept)
        assert places.shape[1] == num_tokens
        return places

    def prune(self, block: int, tokens: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Drop tokens if this block prunes, and remember the positions of the rest."""
        before, after = self._counts.get(block, (0, 0))
        if tokens.shape[1] != self.num_keypoints + before:
            return tokens
        kept = self._kept.get(block)
        if kept is None:
            kept = select_tokens(query, key, self.num_keypoints, after)
            self._kept[block] = kept
        position = self._positions.get(tokens.shape[1])
        if position is not None:
            whole = position.expand(tokens.shape[0], -1, -1)
            self._positions[self.num_keypoints + after] = _take(whole, kept)
        return _take(tokens, kept)


@torch.no_grad()
def select_tokens(query: Tensor, key: Tensor, num_keypoints: int, num_kept: int) -> Tensor:
    """Indices `[B, num_keypoints + num_kept]` of the tokens that stay, keypoints first.

    Queries and keys are `[B, heads, T, d]`.
    """
    logits = query[:, :, :num_keypoints] @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    attention = F.softmax(logits.float(), dim=-1)
    scores = attention[..., num_keypoints:].mean(dim=1).sum(dim=1)
    best = scores.topk(num_kept, dim=1).indices + num_keypoints
    keypoints = torch.arange(num_keypoints, device=best.device).expand(best.shape[0], -1)
    return torch.cat([keypoints, best], dim=1)


def _take(tokens: Tensor, indices: Tensor) -> Tensor:
    return tokens.gather(1, indices[:, :, None].expand(-1, -1, tokens.shape[-1]))
