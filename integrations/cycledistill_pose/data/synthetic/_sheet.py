"""A picture of what the synthetic people look like."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cycledistill_pose.data.synthetic._scene import draw_scene
from cycledistill_pose.drawing import draw_skeleton


def contact_sheet(
    columns: int = 8,
    rows: int = 4,
    image_size: tuple[int, int] = (200, 240),
    skeletons: bool = True,
    seed: int = 0,
) -> npt.NDArray[np.uint8]:
    """Pictures of synthetic people in a grid `[H, W, 3]`, the lower half with their keypoints.

    >>> contact_sheet(columns=2, rows=2, image_size=(50, 60)).shape
    (120, 100, 3)

    Args:
        columns: pictures in a row.
        rows: rows.
        image_size: (width, height) of each.
        skeletons: whether the lower half shows the keypoints that are labelled.
        seed: of the pictures.
    """
    pictures = []
    for number in range(columns * rows):
        scene = draw_scene(np.random.default_rng((seed, 0, number, 1)), *image_size)
        image = scene.image
        if skeletons and number >= columns * (rows // 2):
            for person in scene.people:
                points, visible = person.keypoints[:, :2], person.keypoints[:, 2]
                image = draw_skeleton(image, points, visible, threshold=0, thickness=1)
        pictures.append(image)
    lines = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures), columns)]
    return np.concatenate(lines, 0)
