"""ViTs of several seeds as one program: timm's weights, stacked, and what is computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments._image_run import ImageRun

_EPSILON = 1e-6
_LINEAR = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
_SIDE, _CLASSES = 32, 10


def plain_model(config: ImageRun) -> nn.Module:
    """A ViT of timm of the config's size, as it is used; torch's generator gives its weights."""
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=_SIDE,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.width // config.head_dim,
        num_classes=_CLASSES,
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
        logits: `[S, B, classes]`.
        class_tokens: Behind the last block, before the norm, `[S, B, D]`.
    """

    logits: Tensor
    class_tokens: Tensor


@dataclass(frozen=True)
class SeededViT:
    """The ViTs of S seeds, each with images of its own.

    The prediction is read from the class token, so the last block of a cycle that nothing follows
    computes the class token alone: the same numbers for a fraction of the time.

    Attributes:
        config: Size and options; the seed does not matter here.
        weights: By name, `[S, ...]`.
        training: Whether there is dropout.
    """

    config: ImageRun
    weights: Mapping[str, Tensor]
    training: bool = False

    def cycles(self, images: Tensor, count: int, every: bool = False) -> list[Found]:
        """The last of ``count`` cycles, or all of them, on images `[S, B, 3, 32, 32]`."""
        tokens = self._embedded(images)
        found = []
        for cycle in range(count):
            last = cycle == count - 1
            for block in range(self.config.depth):
                alone = last and block == self.config.depth - 1
                tokens = self._block(tokens, f"blocks.{block}.", cycle, alone)
            if every or last:
                found.append(self._predicted(tokens[:, :, 0], cycle))
        return found

    def _embedded(self, images: Tensor) -> Tensor:
        seeds, batch = images.shape[:2]
        patch, width = self.config.patch_size, self.config.width
        side = _SIDE // patch
        cut = images.view(seeds, batch, 3, side, patch, side, patch).permute(0, 1, 3, 5, 2, 4, 6)
        cut = cut.reshape(seeds, batch * side * side, 3 * patch * patch)
        kernel = self.weights["patch_embed.proj.weight"].reshape(seeds, width, -1)
        bias = self.weights["patch_embed.proj.bias"][:, None]
        tokens = torch.baddbmm(bias, cut, kernel.mT).view(seeds, batch, side * side, width)
        first = self.weights["cls_token"].expand(seeds, batch, 1, width)
        return self._dropped(torch.cat([first, tokens], 2) + self.weights["pos_embed"])

    def _block(self, tokens: Tensor, block: str, cycle: int, alone: bool) -> Tensor:
        seeds, batch, length, width = tokens.shape
        heads = width // self.config.head_dim
        normed = self._norm(tokens, f"{block}norm1", cycle)
        if alone:
            tokens, asking = tokens[:, :, :1], normed[:, :, :1]
            query = self._linear(asking, f"{block}attn.qkv", cycle, slice(0, width))
            told = self._linear(normed, f"{block}attn.qkv", cycle, slice(width, None))
            key, value = told.view(seeds, batch, length, 2, heads, -1).unbind(3)
            query = query.view(seeds, batch, 1, heads, -1)
            scores = (query * key).sum(-1) * self.config.head_dim**-0.5  # [S, B, T, heads]
            mixed = (scores.softmax(2).unsqueeze(-1) * value).sum(2, keepdim=True)
            mixed = mixed.reshape(seeds, batch, 1, width)
        else:
            qkv = self._linear(normed, f"{block}attn.qkv", cycle)
            qkv = qkv.view(seeds * batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
            query, key, value = qkv.unbind(0)
            scores = (query @ key.mT) * self.config.head_dim**-0.5
            mixed = (scores.softmax(-1) @ value).transpose(1, 2)
            mixed = mixed.reshape(seeds, batch, length, width)
        tokens = tokens + self._dropped(self._linear(mixed, f"{block}attn.proj", cycle))
        inner = self._linear(self._norm(tokens, f"{block}norm2", cycle), f"{block}mlp.fc1", cycle)
        inner = self._dropped(functional.gelu(inner))
        return tokens + self._dropped(self._linear(inner, f"{block}mlp.fc2", cycle))

    def _predicted(self, class_tokens: Tensor, cycle: int) -> Found:
        normed = self._norm(class_tokens.unsqueeze(2), "norm", cycle)
        return Found(self._linear(normed, "head", 0).squeeze(2).float(), class_tokens)

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
