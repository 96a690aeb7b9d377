"""Names of our tensors in the reference implementations."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from torch import Tensor

_BLOCK = re.compile(r"blocks\.(\d+)\.(norm1|attn\.qkv|attn\.proj|norm2|mlp\.fc1|mlp\.fc2)\.(\w+)")
_IN_BLOCK = {
    "norm1": "0.fn.norm",
    "attn.qkv": "0.fn.fn.to_qkv",
    "attn.proj": "0.fn.fn.to_out.0",
    "norm2": "1.fn.norm",
    "mlp.fc1": "1.fn.fn.net.0",
    "mlp.fc2": "1.fn.fn.net.3",
}
_STEM = {
    "keypoint_tokens": "keypoint_token",
    "position": "pos_embedding",
    "patch_embed.weight": "patch_to_embedding.weight",
    "patch_embed.bias": "patch_to_embedding.bias",
}
LOSS_PREFIXES = ("keypoint_head.kpt_loss.", "keypoint_head.keypoint_loss.", "keypoint_head.loss.")


@dataclass(frozen=True)
class Layout:
    """Names of one family of checkpoints.

    Attributes:
        backbone: Prefix of the backbone's tensors.
        head: Prefix of everything else.
        transformer: Name of the stack of blocks behind `head`.
        scales_by_dim: The attention's scale is `dim ** -0.5` there; ours is
            `head_dim ** -0.5`, so the queries' weights are divided by `sqrt(heads)` on the way.
    """

    backbone: str = "backbone."
    head: str = "keypoint_head.tokenpose."
    transformer: str = "transformer"
    scales_by_dim: bool = False

    def reference_name(self, name: str) -> str:
        """The name in a checkpoint for a name in our models."""
        if name.startswith("backbone."):
            return self.backbone + name.removeprefix("backbone.")
        if name in _STEM:
            return self.head + _STEM[name]
        if name.startswith("head."):
            return f"{self.head}mlp_head.{name.removeprefix('head.')}"
        match = _BLOCK.fullmatch(name)
        assert match is not None, name
        index, part, tensor = match.groups()
        return f"{self.head}{self.transformer}.layers.{index}.{_IN_BLOCK[part]}.{tensor}"

    def query_factor(self, name: str, num_heads: int) -> float:
        """What the query rows of tensor `name` (ours) are multiplied by when they are read."""
        is_qkv = name.startswith("blocks.") and name.endswith("attn.qkv.weight")
        return num_heads**-0.5 if self.scales_by_dim and is_qkv else 1.0


LAYOUTS = {
    "sdpose": Layout(transformer="transformer_layer1"),
    "tokenpose": Layout(),
    "tokenpose-b-original": Layout("pre_feature.", "transformer."),
    "tokenpose-s-original": Layout("features.", "features.", scales_by_dim=True),
}
REGRESSION_HEAD = "keypoint_head.tokenhead."


def detect_layout(state: dict[str, Tensor]) -> Layout:
    """Recognise a checkpoint by the name of its keypoint tokens, or raise a `ValueError`."""
    known = {layout.head: layout for layout in LAYOUTS.values()}
    known[REGRESSION_HEAD] = Layout(head=REGRESSION_HEAD)
    heads = [key.removesuffix("keypoint_token") for key in state if key.endswith("keypoint_token")]
    if len(heads) != 1 or heads[0] not in known:
        shown = ", ".join(list(state)[:5])
        raise ValueError(
            "not a checkpoint of SDPose, TokenPose or DistilPose: none or several of "
            f"{', '.join(prefix + 'keypoint_token' for prefix in known)} found among "
            f"{len(state)} tensors ({shown}, ...)"
        )
    is_sdpose = any(key.startswith(f"{heads[0]}transformer_layer1.") for key in state)
    return replace(
        known[heads[0]], transformer="transformer_layer1" if is_sdpose else "transformer"
    )
