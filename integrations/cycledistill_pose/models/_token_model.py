"""The common part of TokenPose and TokenReg: images to keypoint tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from cycledistill._checks import check_choice, check_count
from cycledistill_pose._checks import check_pair, check_shape
from cycledistill_pose.models._block import Block
from cycledistill_pose.models._features import choose_map, probe_features, take_map
from cycledistill_pose.models._position import sine_position_embedding
from cycledistill_pose.models._pruning import PruningPass, TokenPruning
from cycledistill_pose.models._stem_net import StemNet

PositionEmbedding = Literal["sine-full", "sine", "learnable"]


class TokenModel(nn.Module):
    """A backbone, visual tokens from its feature map, keypoint tokens, a transformer, a head.

    The tokens are `[B, K + n, dim]`: K learned keypoint tokens, then one visual token for each
    of the n patches of the feature map. There is no norm after the last block. Subclasses choose
    the size of the head and interpret its output. `TokenPose` explains the arguments.
    """

    batched_cycles = True  # the backbone is most of the cost, and samples do not meet
    position: Tensor
    # Name and options given to `create_model`; None if they do not describe the network.
    made_by: tuple[str, dict[str, Any]] | None = None
    cycles_in_use = 1  # what it was trained for; `load_plain` says how many

    def __init__(
        self,
        num_keypoints: int,
        input_size: Sequence[int],
        *,
        feature_size: tuple[int, int],
        head_hidden_dim: int,
        head_outputs: int,
        dim: int = 192,
        depth: int = 12,
        num_heads: int = 8,
        mlp_ratio: float = 3.0,
        patch_size: Sequence[int] = (4, 3),
        position_embedding: PositionEmbedding = "sine-full",
        backbone: nn.Module | None = None,
        feature_index: int | str | None = None,
        pruning: TokenPruning | None = None,
    ) -> None:
        super().__init__()
        counts = {"num_keypoints": num_keypoints, "dim": dim, "depth": depth}
        for name, value in (counts | {"num_heads": num_heads}).items():
            check_count(name, value)
        check_choice("position_embedding", position_embedding, *get_args(PositionEmbedding))
        self.num_keypoints = num_keypoints
        self.input_size = check_pair("input_size", input_size)
        self.patch_size = check_pair("patch_size", patch_size)
        self.num_heads = num_heads
        self.position_embedding = position_embedding
        self.pruning = pruning
        self._epoch: float | None = None
        if dim % num_heads:
            raise ValueError(f"dim={dim} is not divisible by num_heads={num_heads}")
        if mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio: expected a positive number, got {mlp_ratio}")
        if pruning is not None and pruning.blocks[-1] >= depth:
            raise ValueError(
                f"pruning names block {pruning.blocks[-1]}, but depth={depth} has blocks "
                f"0 to {depth - 1}"
            )

        self.backbone = StemNet() if backbone is None else backbone
        features = probe_features(self.backbone, self.input_size)
        self._feature_index = choose_map(features, feature_size, feature_index)
        channels, rows, columns = self._grid(take_map(features, self._feature_index))
        self.grid = (rows, columns)  # of visual tokens
        num_visual = rows * columns

        self.keypoint_tokens = nn.Parameter(torch.zeros(1, num_keypoints, dim))
        patch_dim = channels * self.patch_size[0] * self.patch_size[1]
        self.patch_embed = nn.Linear(patch_dim, dim)
        if position_embedding == "learnable":
            self.position = nn.Parameter(torch.zeros(1, num_keypoints + num_visual, dim))
        else:
            self.register_buffer("position", sine_position_embedding(rows, columns, dim))
        hidden_dim = round(dim * mlp_ratio)
        self.blocks = nn.ModuleList([Block(dim, num_heads, hidden_dim) for _ in range(depth)])
        self.head = _token_head(dim, head_hidden_dim, head_outputs)
        self._init_weights()

    @property
    def token_groups(self) -> dict[str, slice]:
        """Where the keypoint tokens and the visual tokens are in the sequence."""
        return token_groups(self.num_keypoints)

    def set_epoch(self, epoch: float) -> None:
        """Tell the pruning schedule the epoch, counted from 0; a fraction is fine."""
        self._epoch = epoch

    def keep_ratio(self) -> float:
        """The share of visual tokens that a pruning block keeps in the current mode."""
        if self.pruning is None:
            return 1.0
        if self.training and self._epoch is not None:
            return self.pruning.ratio_at(self._epoch)
        return self.pruning.keep_ratio

    def forward_tokens(self, images: Tensor) -> Tensor:
        """Return the tokens after the last block.

        Args:
            images: `[B, 3, H, W]` of `input_size`, normalised.

        Returns:
            `[B, K + n, dim]`, keypoint tokens first; n after pruning, where there is any.
        """
        tokens = self.embed(images)
        position = None
        if self.position_embedding == "sine-full":
            position = F.pad(self.position, (0, 0, self.num_keypoints, 0))
        ratio, pruning = self.keep_ratio(), None
        if self.pruning is not None and ratio < 1:
            pruning = PruningPass(self.pruning, ratio, self.num_keypoints, tokens, position)
        for index, block in enumerate(self.blocks):
            if pruning is None:
                tokens = block(tokens, position if index else None)
            else:
                tokens = block(tokens, None, pruning, index)
        return tokens

    def embed(self, images: Tensor) -> Tensor:
        """Return the tokens `[B, K + n, dim]` that enter block 0."""
        width, height = self.input_size
        check_shape("images", images, "B 3 H W", H=height, W=width)
        features = take_map(self.backbone(images), self._feature_index)
        rows, columns = self.patch_size
        patches = rearrange(features, "b c (h r) (w s) -> b (h w) (r s c)", r=rows, s=columns)
        visual = self.patch_embed(patches)
        keypoints = self.keypoint_tokens.expand(visual.shape[0], -1, -1)
        if self.position_embedding == "learnable":
            return torch.cat([keypoints, visual], dim=1) + self.position
        return torch.cat([keypoints, visual + self.position], dim=1)

    def _grid(self, features: Tensor) -> tuple[int, int, int]:
        _, channels, height, width = features.shape
        rows, columns = self.patch_size
        if height % rows or width % columns:
            raise ValueError(
                f"patch_size (height, width) = {self.patch_size} does not divide the feature map, "
                f"which is {height} high and {width} wide for input_size (width, height) = "
                f"{self.input_size}"
            )
        return channels, height // rows, width // columns

    def _init_weights(self) -> None:
        nn.init.trunc_normal_(self.keypoint_tokens, std=0.02)
        if isinstance(self.position, nn.Parameter):
            nn.init.trunc_normal_(self.position, std=0.02)
        for part in (self.patch_embed, self.blocks, self.head):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=0.02)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)


def token_groups(num_keypoints: int) -> dict[str, slice]:
    """Where the keypoint tokens and the visual tokens are in the sequence."""
    return {"keypoint": slice(0, num_keypoints), "visual": slice(num_keypoints, None)}


def _token_head(dim: int, hidden_dim: int, outputs: int) -> nn.Sequential:
    """LN, Linear(hidden), LN, Linear; without the hidden layer where it is narrower than 2 dim."""
    if hidden_dim < 2 * dim:
        return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, outputs))
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, hidden_dim),
        nn.LayerNorm(hidden_dim),
        nn.Linear(hidden_dim, outputs),
    )
