from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cycledistill import CycleWrapper
from cycledistill_pose import (
    COCO,
    HeatmapCodec,
    PosePredictor,
    RegressionCodec,
    TokenPose,
    TokenReg,
    create_model,
    load_plain,
    normalize_images,
    save_plain,
)
from cycledistill_pose.data import BadImageError, crop_matrix, invert_matrix, transform_points

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
    with pytest.raises(ValueError, match=r"boxes_xyxy: expected \[N, 4\]"):
        predictor(np.zeros((8, 8, 3), np.uint8), [1, 2, 3, 4])
    with pytest.raises(ValueError, match="has no extent"):
        predictor(np.zeros((8, 8, 3), np.uint8), [[1, 2, 1, 4]])
    for box in ([9, 0, 12, 4], [0, 6, 4, 9], [-5, 0, 0, 4]):
        with pytest.raises(ValueError, match=r".*wholly outside of its image of 9 x 6 px"):
            predictor(np.zeros((6, 9, 3), np.uint8), [[0, 0, 12, 9], box])
    with pytest.raises(ValueError, match="num_cycles: expected a whole number of 1 or more"):
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


@pytest.mark.parametrize("method", ["dark", "fit", "msra", "udp", None])
def test_the_codec_that_was_saved_decodes(method: Any, tmp_path: Path) -> None:
    """None is regression."""
    torch.manual_seed(0)
    name = "tokenpose_nano" if method else "tokenreg_nano"
    model = create_model(name).eval()
    options = {"method": method, "sigma": 3.0} if method else {}
    save_plain(model, tmp_path / "plain", name, {}, COCO, options)
    codec: HeatmapCodec | RegressionCodec = RegressionCodec((96, 128))
    if method:
        codec = HeatmapCodec((96, 128), (24, 32), sigma=3.0, method=method, blur_kernel=17)
    box = [5.0, 8.0, 60.0, 80.0]
    found = PosePredictor.from_pretrained(tmp_path / "plain")(PIXELS, [box])
    expected = predict_by_hand(model, codec, PIXELS, np.array(box))
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


def test_a_network_runs_the_cycles_that_it_was_trained_to_be_used_with(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_plain(
        create_model("tokenpose_nano"), tmp_path / "a", "tokenpose_nano", {}, COCO, num_cycles=2
    )
    single, two = (
        PosePredictor.from_pretrained(tmp_path / "a", num_cycles=n)(PIXELS).keypoints
        for n in (1, 2)
    )
    assert abs(two - single).max() > 0.1
    predictor = PosePredictor.from_pretrained(tmp_path / "a")
    np.testing.assert_array_equal(predictor(PIXELS).keypoints, two)
    predictor.save_pretrained(tmp_path / "b")
    assert PosePredictor.from_pretrained(tmp_path / "b").num_cycles == 2
    save_plain(load_plain(tmp_path / "a").model, tmp_path / "c", "tokenpose_nano", {}, COCO)
    assert PosePredictor.from_pretrained(tmp_path / "c").num_cycles == 2
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    for wrong in (0, "2", None):
        (tmp_path / "b" / "config.json").write_text(json.dumps({**config, "num_cycles": wrong}))
        with pytest.raises(ValueError, match=r"config\.json: num_cycles: expected a whole number"):
            PosePredictor.from_pretrained(tmp_path / "b")


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


def test_a_single_pass_is_the_plain_networks(folder: Path) -> None:
    """No wrapper is around it, and hooks on the network's modules are its own."""
    predictor = PosePredictor.from_pretrained(folder)
    assert predictor.model is predictor.plain and isinstance(predictor.plain, TokenPose)
    calls = []
    predictor.plain.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    predictor(PIXELS)
    assert calls == [1]
    several = PosePredictor(predictor.plain, predictor.skeleton, predictor.codec, num_cycles=2)
    assert isinstance(several.model, CycleWrapper) and several.plain is predictor.plain
    predictor.plain.train()
    with pytest.raises(ValueError, match=r"in training mode; expected predictor\.model\.eval\(\)"):
        predictor(PIXELS)


@pytest.mark.parametrize("num_cycles", [1, 2])
def test_threads_get_what_one_gets(num_cycles: int, folder: Path) -> None:
    predictor = PosePredictor.from_pretrained(folder, num_cycles=num_cycles, flip_test=True)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (60, 50, 3), dtype=np.uint8) for _ in range(24)]
    boxes = [[[0, 0, 50, 60]] * (1 + index % 3) for index in range(24)]
    expected = list(map(predictor, images, boxes))
    with ThreadPoolExecutor(6) as pool:
        for found, wanted in zip(pool.map(predictor, images, boxes), expected, strict=True):
            np.testing.assert_array_equal(found.keypoints, wanted.keypoints)
            np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.parametrize("num_cycles", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_network_of_any_floating_point_type(
    dtype: torch.dtype, num_cycles: int, folder: Path
) -> None:
    options = {"num_cycles": num_cycles, "flip_test": True}
    expected = PosePredictor.from_pretrained(folder, **options)(PIXELS)
    predictor = PosePredictor.from_pretrained(folder, **options)
    predictor.plain.to(dtype)
    found = predictor(PIXELS)
    assert found.keypoints.dtype == found.scores.dtype == np.float32
    tolerance = 1e-4 if dtype == torch.float64 else 0.1 * np.abs(expected.scores).max()
    np.testing.assert_allclose(found.scores, expected.scores, atol=tolerance)
    regression = create_model("tokenreg_nano").to(dtype)
    by_numbers = PosePredictor(regression, COCO, RegressionCodec((96, 128)), **options)
    assert np.isfinite(by_numbers(PIXELS).keypoints).all()


def test_several_images_in_one_call(folder: Path, tmp_path: Path) -> None:
    predictor = PosePredictor.from_pretrained(folder, batch_size=4)
    rng = np.random.default_rng(0)
    images: list[Any] = [rng.integers(0, 256, (60, 50, 3), dtype=np.uint8) for _ in range(4)]
    Image.fromarray(images[1]).save(tmp_path / "1.png")
    images[1], images[2] = tmp_path / "1.png", Image.fromarray(images[2])
    boxes = [[[0, 0, 50, 60], [5, 5, 40, 50]], None, [], [[1, 2, 40, 50]] * 5]
    runs: list[int] = []
    predictor.plain.register_forward_pre_hook(lambda _, inputs: runs.append(len(inputs[0])))
    found = predictor(images, boxes)
    assert runs == [4, 4]
    assert [len(prediction.keypoints) for prediction in found] == [2, 1, 0, 5]
    for prediction, image, chosen in zip(found, images, boxes, strict=True):
        alone = predictor(image, chosen)
        np.testing.assert_allclose(prediction.keypoints, alone.keypoints, atol=1e-2)
        np.testing.assert_allclose(prediction.scores, alone.scores, atol=1e-5)
    assert len(predictor(tuple(images))) == 4 and predictor([]) == []
    stacked = predictor(np.stack([PIXELS, PIXELS[::-1]]))
    np.testing.assert_allclose(stacked[0].keypoints, predictor(PIXELS).keypoints, atol=1e-2)
    with pytest.raises(ValueError, match=r"boxes_xyxy: expected one for each of 4 images, got 3"):
        predictor(images, boxes[:3])
    with pytest.raises(BadImageError, match=r"image 2 of 3: expected uint8"):
        predictor([PIXELS, PIXELS[:, :, 0].astype(float), PIXELS])
    with pytest.raises(BadImageError, match=r"is 50 x 60 px, but its annotation says 3 x 4"):
        predictor(images, size=[None, (3, 4), None, None])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", ["tokenpose_nano", "tokenreg_nano"])
@pytest.mark.parametrize("flip_test", [False, True])
def test_a_broken_network_is_an_error(value: float, kind: str, flip_test: bool) -> None:
    model = create_model(kind)
    codec = HeatmapCodec((96, 128), (24, 32)) if "pose" in kind else RegressionCodec((96, 128))
    predictor = PosePredictor(model, COCO, codec, flip_test=flip_test)
    with torch.no_grad():
        model.keypoint_tokens[0, 3] = value
    with pytest.raises(ValueError, match="output is not finite: expected numbers, got NaN or inf"):
        predictor(PIXELS, [[0, 0, 70, 90]] * 2)


def test_saving_leaves_strangers_files(folder: Path, tmp_path: Path) -> None:
    predictor = PosePredictor.from_pretrained(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match=r"found thesis\.tex; name another"):
        predictor.save_pretrained(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    before = os.umask(0o002)
    try:
        for _ in range(2):
            predictor.save_pretrained(tmp_path / "ours")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "ours").iterdir()}
    assert modes == {0o664}
