"""ViTs of several seeds as one program: timm's weights, stacked, and what is computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments._image_run import ImageRun

_EPSILON = 1e-6
_LINEAR = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


class Size(NamedTuple):
    """What a task decides about a network.

    Attributes:
        side: Of an image, in pixels.
        read: Tokens before those of the patches, which are read: one class or K keypoints.
        outputs: Of each: classes, pixels of a heatmap, or 2 coordinates.
    """

    side: int
    read: int
    outputs: int


SIZES = {
    "cifar10": Size(32, 1, 10),
    "lspet": Size(64, 14, 16 * 16),
    "lspet-coordinates": Size(64, 14, 2),
}


def plain_model(config: ImageRun) -> nn.Module:
    """A ViT of timm of the config's size; torch's generator gives its weights.

    Keypoint tokens are its class and register tokens, and the head is for each of them.
    """
    size = SIZES[config.task]
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=size.side,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.width // config.head_dim,
        num_classes=size.outputs,
        reg_tokens=size.read - 1,
    )


def initial_weights(config: ImageRun) -> dict[str, Tensor]:
    """Weights by timm's names, and by ``later.`` and timm's names what later cycles have alone."""
    torch.manual_seed(config.seed)
    model = plain_model(config)
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if config.own_norms:
        norms = [name for name in weights if "norm" in name]
        weights.update({f"later.{name}": weights[name].clone() for name in norms})
    if config.adapter_rank:
        for block in range(config.depth):
            for layer in _LINEAR:
                rows, columns = weights[f"blocks.{block}.{layer}.weight"].shape
                name = f"later.blocks.{block}.{layer}"
                down = torch.empty(config.adapter_rank, columns)
                weights[f"{name}.down"] = nn.init.kaiming_uniform_(down, a=5**0.5)
                weights[f"{name}.up"] = torch.zeros(rows, config.adapter_rank)
    return weights


def stacked(weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Weights of S seeds as tensors `[S, ...]`."""
    return {name: torch.stack([own[name] for own in weights]) for name in weights[0]}


@dataclass(frozen=True)
class Found:
    """What a cycle predicts.

    Attributes:
        outputs: Logits `[S, B, classes]`, or `[S, B, K, pixels or 2]`.
        tokens: Those that are read, behind the last block, before the norm, `[S, B, 1 or K, D]`.
    """

    outputs: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class SeededViT:
    """The ViTs of S seeds, each with images of its own.

    Predictions are read from the first tokens, so the last block of a cycle that nothing follows
    computes these alone: the same numbers for a fraction of the time.

    Attributes:
        config: Size and options; the seed does not matter here.
        weights: By name, `[S, ...]`.
        training: Whether there is dropout.
    """

    config: ImageRun
    weights: Mapping[str, Tensor]
    training: bool = False

    def cycles(self, images: Tensor, count: int, every: bool = False) -> list[Found]:
        """The last of ``count`` cycles, or all of them, on images `[S, B, 3, H, W]`."""
        tokens = self._embedded(images)
        found = []
        for cycle in range(count):
            last = cycle == count - 1
            for block in range(self.config.depth):
                alone = last and block == self.config.depth - 1
                tokens = self._block(tokens, f"blocks.{block}.", cycle, alone)
            if every or last:
                found.append(self._predicted(tokens[:, :, : self._size.read], cycle))
        return found

    @property
    def _size(self) -> Size:
        return SIZES[self.config.task]

    def _embedded(self, images: Tensor) -> Tensor:
        seeds, batch = images.shape[:2]
        patch, width = self.config.patch_size, self.config.width
        side = self._size.side // patch
        cut = images.view(seeds, batch, 3, side, patch, side, patch).permute(0, 1, 3, 5, 2, 4, 6)
        cut = cut.reshape(seeds, batch * side * side, 3 * patch * patch)
        kernel = self.weights["patch_embed.proj.weight"].reshape(seeds, width, -1)
        bias = self.weights["patch_embed.proj.bias"][:, None]
        tokens = torch.baddbmm(bias, cut, kernel.mT).view(seeds, batch, side * side, width)
        first = [self.weights[name] for name in ("cls_token", "reg_token") if name in self.weights]
        read = torch.cat(first, 2).expand(seeds, batch, -1, width)
        return self._dropped(torch.cat([read, tokens], 2) + self.weights["pos_embed"])

    def _block(self, tokens: Tensor, block: str, cycle: int, alone: bool) -> Tensor:
        width = tokens.shape[-1]
        heads = width // self.config.head_dim
        normed = self._norm(tokens, f"{block}norm1", cycle)
        if alone:
            tokens = tokens[:, :, : self._size.read]
            asking = normed[:, :, : self._size.read]
            query = self._linear(asking, f"{block}attn.qkv", cycle, slice(0, width))
            told = self._linear(normed, f"{block}attn.qkv", cycle, slice(width, None))
            key, value = told.chunk(2, -1)
        else:
            query, key, value = self._linear(normed, f"{block}attn.qkv", cycle).chunk(3, -1)
        mixed = self._attended(*(one.unflatten(-1, (heads, -1)) for one in (query, key, value)))
        tokens = tokens + self._dropped(self._linear(mixed, f"{block}attn.proj", cycle))
        inner = self._linear(self._norm(tokens, f"{block}norm2", cycle), f"{block}mlp.fc1", cycle)
        inner = self._dropped(functional.gelu(inner))
        return tokens + self._dropped(self._linear(inner, f"{block}mlp.fc2", cycle))

    def _attended(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mixed values `[S, B, R, D]`, of queries `[S, B, R, heads, d]` and T keys and values."""
        query = query * self.config.head_dim**-0.5
        if query.shape[2] == 1:  # products of a single row are slow
            scores = (query * key).sum(-1)  # [S, B, T, heads]
            return (scores.softmax(2).unsqueeze(-1) * value).sum(2, keepdim=True).flatten(-2)
        shape = query.shape[:2]
        query, key, value = (one.flatten(0, 1).transpose(1, 2) for one in (query, key, value))
        mixed = (query @ key.mT).softmax(-1) @ value
        return mixed.transpose(1, 2).flatten(-2).unflatten(0, shape)

    def _predicted(self, tokens: Tensor, cycle: int) -> Found:
        outputs = self._linear(self._norm(tokens, "norm", cycle), "head", 0).float()
        return Found(outputs.squeeze(2) if self._size.read == 1 else outputs, tokens)

    def _norm(self, tokens: Tensor, name: str, cycle: int) -> Tensor:
        name = f"later.{name}" if cycle and self.config.own_norms else name
        weight, bias = (
            self.weights[f"{name}.{kind}"][:, None, None] for kind in ("weight", "bias")
        )
        normed = functional.layer_norm(tokens, tokens.shape[-1:], eps=_EPSILON)
        return torch.addcmul(bias, normed, weight)

    def _linear(self, inputs: Tensor, name: str, cycle: int, rows: slice = slice(None)) -> Tensor:
        """A linear layer, or some of its outputs, on `[S, B, T, in]`."""
        weight, bias = (self.weights[f"{name}.{kind}"][:, rows] for kind in ("weight", "bias"))
        if cycle and f"later.{name}.up" in self.weights:
            up, down = (self.weights[f"later.{name}.{kind}"] for kind in ("up", "down"))
            weight = weight + (up @ down)[:, rows]
        flat = inputs.flatten(1, 2)
        return torch.baddbmm(bias[:, None], flat, weight.mT).view(*inputs.shape[:3], -1)

    def _dropped(self, tokens: Tensor) -> Tensor:
        return functional.dropout(tokens, self.config.dropout, self.training)
