"""A skeleton of one's own: birds with five keypoints, from a COCO file to batches."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cycledistill_pose.data import CocoKeypoints, PoseAugmentation, pose_loader
from cycledistill_pose.drawing import draw_skeleton

NAMES = ["beak", "crown", "tail", "left_wing", "right_wing"]
COLOURS = [(230, 40, 40), (40, 230, 40), (40, 40, 230), (230, 230, 40), (40, 230, 230)]


def write_birds(root: Path, count: int, seed: int = 0) -> tuple[Path, Path]:
    """A toy COCO file: each bird a grey disc with a coloured spot at each keypoint."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    (root / "images").mkdir(parents=True)
    for number in range(1, count + 1):
        picture = np.full((96, 96, 3), 90, np.uint8)
        angle, centre = rng.uniform(0, 2 * np.pi), rng.uniform(40, 56, 2)
        cv2.circle(picture, tuple(int(v) for v in centre), 20, (140, 140, 140), -1)
        points = []
        for turn, colour in zip((0, 0.3, np.pi, np.pi / 2, -np.pi / 2), COLOURS, strict=True):
            x, y = centre + 20 * np.array([np.cos(angle + turn), np.sin(angle + turn)])
            cv2.circle(picture, (round(x), round(y)), 4, colour, -1)
            points += [round(x), round(y), 2]
        name = f"bird_{number}.png"
        cv2.imwrite(str(root / "images" / name), picture[..., ::-1])
        images.append({"id": number, "file_name": name, "width": 96, "height": 96})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 7,
                "bbox": [float(centre[0]) - 24, float(centre[1]) - 24, 48, 48],
                "keypoints": points,
            }
        )
    category = {"id": 7, "name": "bird", "keypoints": NAMES, "skeleton": [[1, 2], [4, 5], [2, 3]]}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (root / "birds.json").write_text(json.dumps(content))
    return root / "birds.json", root / "images"


@pytest.mark.parametrize("augmentation", [None, PoseAugmentation(half_body_probability=1)])
def test_birds(tmp_path, augmentation):
    birds = CocoKeypoints(
        *write_birds(tmp_path, 12), input_size=(64, 64), augmentation=augmentation
    )
    skeleton = birds.skeleton
    assert skeleton.keypoint_names == tuple(NAMES)
    assert skeleton.flip_pairs == ((3, 4),)
    assert skeleton.limbs == ((0, 1), (3, 4), (1, 2))
    assert skeleton.sigmas == (0.05,) * 5
    assert skeleton.lower_body == ()  # so nobody is cut in half
    batch = next(iter(pose_loader(birds, 12)))
    assert batch["keypoints"].shape == (12, 5, 2)
    checked = 0
    for image, keypoints, matrix in zip(
        batch["image"], batch["keypoints"], batch["crop_matrix"], strict=True
    ):
        mirrored = torch.det(matrix[:, :2]) < 0
        for index, (x, y) in enumerate(keypoints.tolist()):
            if not (2 < x < 61 and 2 < y < 61):
                continue
            # Sides change names when mirrored: the left wing's colour is then at "right_wing".
            colour = COLOURS[skeleton.flip_indices[index] if mirrored else index]
            found = image[round(y), round(x)].float()
            assert (found - torch.tensor(colour)).abs().max() < 70
            checked += 1
    assert checked > 45
    picture = draw_skeleton(batch["image"][0], batch["keypoints"][0], skeleton=skeleton)
    assert (picture != batch["image"][0].numpy()).any()
