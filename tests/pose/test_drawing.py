"""Skeletons over images and predictions beside the truth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from cycledistill_pose.drawing import draw_skeleton, prediction_grid, save_picture
from cycledistill_pose.skeletons import COCO, CROWDPOSE, Skeleton

LEFT, RIGHT = (230, 159, 0), (86, 180, 233)


def spread_out(skeleton=COCO):
    """Keypoints on a grid, 20 px from each other."""
    index = np.arange(skeleton.num_keypoints)
    return np.stack([20 + 20 * (index % 5), 20 + 20 * (index // 5)], -1).astype(float)


@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE], ids=lambda s: s.name)
def test_sides_have_their_colours_where_the_keypoints_are(skeleton):
    keypoints = spread_out(skeleton)
    picture = draw_skeleton(np.zeros((120, 120, 3), np.uint8), keypoints, skeleton=skeleton)
    for name, (x, y) in zip(skeleton.keypoint_names, keypoints.astype(int), strict=True):
        colour = tuple(int(v) for v in picture[y, x])
        if name.startswith("left"):
            assert colour == LEFT, name
        elif name.startswith("right"):
            assert colour == RIGHT, name
        else:
            assert len(set(colour)) == 1, name
            assert colour[0] > 200, name


def test_pairs_that_name_the_right_side_first():
    hips = Skeleton.from_coco_category(
        {"keypoints": ["RHip", "LHip"], "flip_pairs": [["RHip", "LHip"]]}
    )
    picture = draw_skeleton(np.zeros((40, 60, 3), np.uint8), [[20, 20], [40, 20]], skeleton=hips)
    assert tuple(picture[20, 20]) == RIGHT
    assert tuple(picture[20, 40]) == LEFT


def test_unsure_and_impossible_keypoints_are_left_out():
    keypoints = spread_out()
    scores = np.full(17, 0.9)
    scores[9] = 0.1
    keypoints[10] = np.nan
    picture = draw_skeleton(np.zeros((120, 120, 3), np.uint8), keypoints, scores)
    x, y = keypoints[9].astype(int)
    assert tuple(picture[y, x]) != LEFT
    x, y = keypoints[7].astype(int)
    assert tuple(picture[y, x]) == LEFT
    nobody = draw_skeleton(np.zeros((120, 120, 3), np.uint8), keypoints, np.zeros(17))
    assert not nobody.any()
    far = draw_skeleton(np.zeros((20, 20, 3), np.uint8), keypoints + 1e7)
    assert far.shape == (20, 20, 3)


def test_tensors_and_arrays_give_the_same_picture():
    image = np.random.default_rng(0).integers(0, 255, (120, 120, 3), dtype=np.uint8)
    before = image.copy()
    keypoints = spread_out()
    a = draw_skeleton(image, keypoints)
    b = draw_skeleton(torch.from_numpy(image), torch.from_numpy(keypoints))
    assert (a == b).all()
    assert (image == before).all()


def test_grid_holds_every_person_and_every_prediction():
    images = [np.full((120, 90, 3), 50, np.uint8) for _ in range(3)]
    points = torch.from_numpy(np.stack([spread_out()] * 3)).float()
    grid = prediction_grid(
        images,
        {"1 cycle": points, "2 cycles": points + 3},
        points,
        visible=torch.ones(3, 17),
        scores=torch.ones(3, 17),
        columns=2,
        panel_height=120,
        captions=["a", "b", "c"],
    )
    assert grid.dtype == np.uint8
    assert grid.shape == (2 * (120 + 16 + 16 + 6) + 18, 2 * (3 * 90 + 6), 3)
    panel = grid[3 + 16 : 3 + 16 + 120, 3 : 3 + 90]
    assert (panel == draw_skeleton(images[0], points[0])).all()
    only = prediction_grid(images, points.numpy(), panel_height=120)
    assert only.shape == (120 + 16 + 6 + 18, 3 * (90 + 6), 3)


def test_grid_scales_keypoints_with_the_image():
    image = np.zeros((60, 60, 3), np.uint8)
    points = spread_out()[None] / 2
    grid = prediction_grid([image], points, panel_height=120)
    panel = grid[3 + 16 : 3 + 16 + 120, 3 : 3 + 120]
    x, y = spread_out()[5].astype(int)
    assert tuple(panel[y, x]) == LEFT


def test_pictures_are_written_whole(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    path = save_picture(tmp_path / "a" / "b.png", torch.from_numpy(image))
    assert (cv2.imread(str(path))[..., ::-1] == image).all()
    save_picture(tmp_path / "a" / "b.jpg", image)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["b.jpg", "b.png"]


def test_mistakes_are_named(tmp_path):
    image = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(ValueError, match=r"keypoints: .* with K = 17, got \[14, 2\]"):
        draw_skeleton(image, np.zeros((14, 2)))
    with pytest.raises(TypeError, match=r"uint8 .* got float64"):
        draw_skeleton(image.astype(float), np.zeros((17, 2)))
    with pytest.raises(ValueError, match=r"\[H, W, 3\], got \[3, 20, 20\]"):
        draw_skeleton(image.transpose(2, 0, 1), np.zeros((17, 2)))
    with pytest.raises(ValueError, match=r"got 1 images, but keypoints for .*'prediction': 2"):
        prediction_grid([image], np.zeros((2, 17, 2)))
    with pytest.raises(ValueError, match="1 images and 2 captions"):
        prediction_grid([image], np.zeros((1, 17, 2)), captions=["a", "b"])
    with pytest.raises(ValueError, match=r"expected one that ends in .*got .*a\.bmp"):
        save_picture(tmp_path / "a.bmp", image)
