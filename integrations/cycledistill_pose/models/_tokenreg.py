"""TokenReg: the coordinates of a keypoint, and their spread, from its token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cycledistill_pose._checks import check_pair
from cycledistill_pose.models._token_model import TokenModel


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
        head_hidden_dim: Hidden width of the head. Below `2 * dim`, as by default, the head has
            no hidden layer.
        **options: As in `TokenPose`; `feature_index` chooses by default the feature map of a
            quarter of `input_size`.

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
        head_hidden_dim: int = 64,
        **options: Any,
    ) -> None:
        width, height = check_pair("input_size", input_size)
        super().__init__(
            num_keypoints=num_keypoints,
            input_size=input_size,
            feature_size=(max(1, width // 4), max(1, height // 4)),
            head_hidden_dim=head_hidden_dim,
            head_outputs=4,
            **options,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return x, y, sigma_x and sigma_y of each keypoint."""
        return self.head(self.forward_tokens(images)[:, : self.num_keypoints])
