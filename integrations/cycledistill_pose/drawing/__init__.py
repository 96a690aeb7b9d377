"""Pictures of predictions: skeletons over images, predictions beside the truth."""

from __future__ import annotations

from cycledistill_pose.drawing._grid import prediction_grid
from cycledistill_pose.drawing._picture import save_picture
from cycledistill_pose.drawing._skeleton import draw_skeleton

__all__ = ["draw_skeleton", "prediction_grid", "save_picture"]
