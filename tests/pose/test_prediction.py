from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cycledistill_pose import (
    COCO,
    HeatmapCodec,
    PosePredictor,
    RegressionCodec,
    TokenPose,
    TokenReg,
    create_model,
    crop_matrix,
    invert_matrix,
    load_plain,
    normalize_images,
    save_plain,
    transform_points,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)


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
    with pytest.raises(ValueError, match="has no extent"):
        predictor(np.zeros((8, 8, 3), np.uint8), [[1, 2, 1, 4]])
    with pytest.raises(ValueError, match="num_cycles must be 1 or more"):
        PosePredictor.from_pretrained(folder, num_cycles=0)


def predict_by_hand(
    model: TokenPose | TokenReg, codec: HeatmapCodec | RegressionCodec, pixels: np.ndarray, box: Any
) -> np.ndarray:
    """One person, one pass after another through the blocks, without flip test or batches."""
    matrix = crop_matrix(box, model.input_size, udp=getattr(codec, "method", "") == "udp")
    crop = cv2.warpAffine(pixels, matrix, model.input_size)
    images = normalize_images(torch.from_numpy(crop)[None])
    with torch.no_grad():
        keypoints, _ = codec.decode(model(images))
    return transform_points(keypoints[0].double().numpy(), invert_matrix(matrix))


@pytest.mark.parametrize("method", ["dark", "msra", "udp"])
def test_the_codec_that_was_saved_decodes(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("tokenpose_nano").eval()
    options = {"method": method, "sigma": 3.0}
    save_plain(model, tmp_path / "plain", "tokenpose_nano", {}, COCO, options)
    codec = HeatmapCodec((96, 128), (24, 32), sigma=3.0, method=method, blur_kernel=17)
    box = [5.0, 8.0, 60.0, 80.0]
    found = PosePredictor.from_pretrained(tmp_path / "plain")(PIXELS, [box])
    expected = predict_by_hand(model, codec, PIXELS, np.array(box))
    np.testing.assert_allclose(found.keypoints[0], expected, atol=1e-3)


def test_regression(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("tokenreg_nano").eval()
    save_plain(model, tmp_path / "plain", "tokenreg_nano", {}, COCO)
    box = [5.0, 8.0, 60.0, 80.0]
    found = PosePredictor.from_pretrained(tmp_path / "plain")(PIXELS, [box])
    expected = predict_by_hand(model, RegressionCodec((96, 128)), PIXELS, np.array(box))
    np.testing.assert_allclose(found.keypoints[0], expected, atol=1e-3)
    assert found.scores.shape == (1, 17)


def test_two_cycles_are_two_passes(folder: Path) -> None:
    model = load_plain(folder).model
    single = PosePredictor.from_pretrained(folder)(PIXELS).keypoints
    found = PosePredictor.from_pretrained(folder, num_cycles=2)(PIXELS).keypoints
    plain_pass = model.forward_tokens

    def two_passes(images: torch.Tensor) -> torch.Tensor:
        tokens = plain_pass(images)
        position = torch.nn.functional.pad(model.position, (0, 0, model.num_keypoints, 0))
        for index, block in enumerate(model.blocks):
            tokens = block(tokens, position if index else None)
        return tokens

    model.forward_tokens = two_passes
    codec = HeatmapCodec((96, 128), (24, 32))
    height, width = PIXELS.shape[:2]
    expected = predict_by_hand(model, codec, PIXELS, np.array([0.0, 0.0, width, height]))
    np.testing.assert_allclose(found[0], expected, atol=1e-3)
    assert abs(found - single).max() > 0.1


def test_flip_test_averages_with_the_mirrored_crop(folder: Path) -> None:
    model, skeleton, _ = load_plain(folder)
    codec = HeatmapCodec((96, 128), (24, 32), method="udp")
    save_plain(model, folder.parent / "udp", "tokenpose_nano", {}, skeleton, {"method": "udp"})
    box = np.array([10.0, 8.0, 50.0, 80.0])
    found = PosePredictor.from_pretrained(folder.parent / "udp", flip_test=True)(PIXELS, [box])
    plain_pass = model.forward

    def both(images: torch.Tensor) -> torch.Tensor:
        mirrored = plain_pass(images.flip(-1)).flip(-1)
        return (plain_pass(images) + mirrored[:, list(COCO.flip_indices)]) / 2

    single = predict_by_hand(model, codec, PIXELS, box)
    model.forward = both
    expected = predict_by_hand(model, codec, PIXELS, box)
    np.testing.assert_allclose(found.keypoints[0], expected, atol=1e-3)
    assert abs(expected - single).max() > 0.1


def test_predicting_leaves_the_training_stack_alone() -> None:
    code = (
        "import sys; from cycledistill_pose import PosePredictor; stack = {'accelerate', "
        "'tyro', 'cycledistill.training'}; sys.exit(', '.join(stack & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
