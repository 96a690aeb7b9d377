from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cycledistill_pose import COCO, create_model, save_plain
from cycledistill_pose.prediction import PosePredictor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = create_model("tokenpose_nano", COCO.num_keypoints)
    return save_plain(model, tmp_path_factory.mktemp("p") / "plain", "tokenpose_nano", {}, COCO)


def test_path_image_and_array_agree_and_batches_do_not_matter(folder: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    boxes = [[0, 0, 70, 90], [5, 8, 40, 60], [20, 10, 60, 80]]
    whole = PosePredictor.from_pretrained(folder)
    single = PosePredictor.from_pretrained(folder, batch_size=1)
    expected = whole(pixels, boxes)
    assert expected.keypoints.shape == (3, 17, 2) and expected.scores.shape == (3, 17)
    for image in (tmp_path / "a.png", Image.fromarray(pixels)):
        np.testing.assert_array_equal(whole(image, boxes).keypoints, expected.keypoints)
    np.testing.assert_allclose(single(pixels, boxes).keypoints, expected.keypoints, atol=1e-2)
    np.testing.assert_allclose(whole(pixels).keypoints[0], expected.keypoints[0], atol=1e-2)
    assert whole(pixels, []).keypoints.shape == (0, 17, 2)


def test_errors(folder: Path, tmp_path: Path) -> None:
    predictor = PosePredictor.from_pretrained(folder)
    (tmp_path / "bad.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"bad\.jpg cannot be read"):
        predictor(tmp_path / "bad.jpg")
    with pytest.raises(FileNotFoundError, match="there is no image"):
        predictor(tmp_path / "none.jpg")
    with pytest.raises(ValueError, match="boxes_xyxy must have shape"):
        predictor(np.zeros((8, 8, 3), np.uint8), [1, 2, 3, 4])
