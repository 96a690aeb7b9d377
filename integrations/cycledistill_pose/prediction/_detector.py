"""Finding people with torchvision's detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cycledistill_pose.checkpoints._read import read_tensors

_PERSON = 1  # COCO's category, which is also the label of torchvision's COCO weights


class PersonDetector:
    """Boxes of the people in an image, by ``fasterrcnn_mobilenet_v3_large_320_fpn``.

    Needs torchvision: ``pip install "cycledistill[detect]"``. Nothing is downloaded.

    Args:
        weights: File of the detector's state dict, such as torchvision's own
            (``FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1``), saved beforehand.
        threshold: Boxes of a lower score are left out.

    Raises:
        ImportError: torchvision is missing.
        FileNotFoundError: There are no such weights.
        ValueError: The weights cannot be read, or are of another network.
    """

    def __init__(self, weights: str | Path, threshold: float = 0.5) -> None:
        try:
            from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
        except ImportError as error:
            raise ImportError(
                'a detector needs torchvision: pip install "cycledistill[detect]"; or give boxes'
            ) from error
        state = read_tensors(weights)
        self.model = fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None, weights_backbone=None, box_score_thresh=threshold
        ).eval()
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"{weights} does not fit fasterrcnn_mobilenet_v3_large_320_fpn: {str(error)[:300]}"
            ) from error

    @torch.no_grad()
    def __call__(self, image: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Boxes `[N, 4]` (xyxy, px of the image) and scores `[N]`, best first.

        Args:
            image: RGB bytes `[H, W, 3]`.
        """
        device = next(self.model.parameters()).device
        pixels = torch.tensor(np.asarray(image), device=device)
        found = self.model([pixels.permute(2, 0, 1).float() / 255])[0]
        people = found["labels"] == _PERSON
        return (
            found["boxes"][people].double().cpu().numpy(),
            found["scores"][people].double().cpu().numpy(),
        )
