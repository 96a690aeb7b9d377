"""TokenReg: the coordinates of a keypoint, and their spread, from its token."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from cycledistill_pose.models._checks import integer_pair
from cycledistill_pose.models._pruning import TokenPruning
from cycledistill_pose.models._token_model import PositionEmbedding, TokenModel


class TokenReg(TokenModel):
    """Keypoint coordinates from keypoint tokens (https://arxiv.org/abs/2303.02455).

    >>> import torch
    >>> model = TokenReg(depth=2).eval()
    >>> model(torch.zeros(1, 3, 256, 192)).shape
    torch.Size([1, 17, 4])

    The network of `TokenPose` with another head: a layer norm and a linear map that give
    x, y, sigma_x and sigma_y for each keypoint token. x and y are in units of the input size
    (0 is the left or upper border, 1 the right or lower one). The sigmas are raw; their sigmoid
    is the spread, which is what `cycledistill_pose.losses.RLELoss` expects.

    Args:
        num_keypoints: K.
        input_size: `(width, height)` of the images in px.
        dim: As in `TokenPose`, and so are the arguments that follow.
        depth: Number of blocks.
        num_heads: Heads of the attention.
        mlp_ratio: Hidden width of a block's MLP in units of `dim`.
        patch_size: `(height, width)` of a patch, in cells of the feature map.
        position_embedding: `"sine-full"`, `"sine"` or `"learnable"`.
        backbone: Any module that yields a feature map; a `StemNet` by default.
        feature_index: Which of several feature maps to use; by default the one of a quarter of
            `input_size`.
        head_hidden_dim: Hidden width of the head. Below `2 * dim`, as by default, the head has
            no hidden layer.
        pruning: Drop visual tokens on the way; see `TokenPruning`.

    Shapes:
        images `[B, 3, H, W]` -> `[B, K, 4]`.

    Raises:
        ValueError: As `TokenPose`.
    """

    def __init__(
        self,
        num_keypoints: int = 17,
        input_size: Sequence[int] = (192, 256),
        *,
        dim: int = 192,
        depth: int = 12,
        num_heads: int = 8,
        mlp_ratio: float = 3.0,
        patch_size: Sequence[int] = (4, 3),
        position_embedding: PositionEmbedding = "sine-full",
        backbone: nn.Module | None = None,
        feature_index: int | str | None = None,
        head_hidden_dim: int = 64,
        pruning: TokenPruning | None = None,
    ) -> None:
        width, height = integer_pair("input_size", input_size)
        super().__init__(
            num_keypoints=num_keypoints,
            input_size=input_size,
            feature_size=(max(1, width // 4), max(1, height // 4)),
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            patch_size=patch_size,
            position_embedding=position_embedding,
            backbone=backbone,
            feature_index=feature_index,
            pruning=pruning,
            head_hidden_dim=head_hidden_dim,
            head_outputs=4,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return x, y, sigma_x and sigma_y of each keypoint."""
        return self.head(self.forward_tokens(images)[:, : self.num_keypoints])
