"""TokenPose: one heatmap from each keypoint token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cycledistill_pose._checks import check_pair
from cycledistill_pose.models._token_model import TokenModel


class TokenPose(TokenModel):
    """Heatmaps of keypoints from keypoint tokens (https://arxiv.org/abs/2104.03516).

    >>> import torch
    >>> model = TokenPose(depth=2).eval()
    >>> model(torch.zeros(1, 3, 256, 192)).shape
    torch.Size([1, 17, 64, 48])

    A convolutional backbone yields a feature map; its patches, flattened in the order (row,
    column, channel) and projected, are the visual tokens. K learned keypoint tokens stand before
    them. The sequence runs through `blocks` (pre-norm, no norm after the last). Each keypoint
    token then gives one heatmap through a head that all of them share. The network is plain: it
    runs its blocks once. `cycledistill.CycleWrapper` cycles it.

    The defaults are those of TokenPose-S-V1.

    Args:
        num_keypoints: K.
        input_size: `(width, height)` of the images in px.
        heatmap_size: `(width, height)` of the heatmaps in px.
        head_hidden_dim: Hidden width of the head, by default an eighth of the cells of a heatmap.
            Below `2 * dim` the head has no hidden layer.
        **options: Of the network:

            - `dim` (192): width of the tokens; divisible by `num_heads`, and by 4 for a sine
              embedding.
            - `depth` (12): number of blocks.
            - `num_heads` (8): heads of the attention; its scale is `(dim / num_heads) ** -0.5`.
            - `mlp_ratio` (3.0): hidden width of a block's MLP in units of `dim`.
            - `patch_size` (4, 3): `(height, width)` of a patch, in cells of the feature map. Mind
              the order: it is that of the published tables.
            - `position_embedding`: `"sine-full"` (the default) adds a fixed sine embedding to the
              visual tokens at the input and again before every block but the first; `"sine"` only
              at the input; `"learnable"` adds a learned one to all tokens at the input.
            - `backbone`: any module that maps images to a `[B, C, h, w]` feature map, or to
              several of them, as timm's `features_only` models do; a `StemNet` by default.
            - `feature_index`: which of several feature maps to use; by default the one of
              `heatmap_size`.
            - `pruning`: drop visual tokens on the way; see `TokenPruning`.

    Shapes:
        images `[B, 3, H, W]` -> heatmaps `[B, K, heatmap height, heatmap width]`.

    Raises:
        ValueError: Sizes that do not fit each other (at construction), or images of another size
            (at the call).
    """

    def __init__(
        self,
        num_keypoints: int = 17,
        input_size: Sequence[int] = (192, 256),
        heatmap_size: Sequence[int] = (48, 64),
        *,
        head_hidden_dim: int | None = None,
        **options: Any,
    ) -> None:
        width, height = check_pair("heatmap_size", heatmap_size)
        super().__init__(
            num_keypoints=num_keypoints,
            input_size=input_size,
            feature_size=(width, height),
            head_hidden_dim=width * height // 8 if head_hidden_dim is None else head_hidden_dim,
            head_outputs=width * height,
            **options,
        )
        self.heatmap_size = (width, height)

    def forward(self, images: Tensor) -> Tensor:
        """Return the heatmaps of `images`."""
        tokens = self.forward_tokens(images)
        width, height = self.heatmap_size
        return self.head(tokens[:, : self.num_keypoints]).unflatten(-1, (height, width))
