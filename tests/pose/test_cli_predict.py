"""`cycledistill-pose predict`, from the arguments to the files."""

from __future__ import annotations

import builtins
import json
import resource
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cycledistill_pose import COCO, PosePredictor, Skeleton, create_model, save_plain
from cycledistill_pose.cli import main

PIXELS = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    options = {"input_size": (48, 64), "heatmap_size": (12, 16), "depth": 2}
    model = create_model("tokenpose_nano", COCO.num_keypoints, **options)
    where = tmp_path_factory.mktemp("p") / "plain"
    return save_plain(model, where, "tokenpose_nano", options, COCO, {"sigma": 1.0})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    where = tmp_path / "in"
    where.mkdir()
    for name in ("000139.png", "000285.png"):
        Image.fromarray(PIXELS).save(where / name)
    return where


def run(source: Path, folder: Path, out: Path, *flags: str) -> list[dict[str, Any]]:
    main(["predict", str(source), "--checkpoint", str(folder), "--out", str(out), *flags])
    return list(json.loads((out / "results.json").read_text()))


def error(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 1
    return capsys.readouterr().err


def keypoints(result: dict[str, Any]) -> np.ndarray:
    return np.array(result["keypoints"]).reshape(-1, 3)


def test_a_folder_of_whole_images(folder: Path, images: Path, tmp_path: Path) -> None:
    results = run(images, folder, tmp_path / "out")
    assert [(r["file_name"], r["image_id"]) for r in results] == [
        ("000139.png", 139),
        ("000285.png", 285),
    ]
    found = PosePredictor.from_pretrained(folder)(PIXELS)
    np.testing.assert_allclose(keypoints(results[0])[:, :2], found.keypoints[0])
    above = found.scores[0][found.scores[0] > 0.2]
    assert results[0]["score"] == pytest.approx(above.mean() if len(above) else 0.0)
    assert Image.open(tmp_path / "out" / "000139.png.png").size == (60, 80)


def test_animations_and_tiffs_of_a_folder_are_images(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("1.gif", "2.tif", "3.TIFF"):
        Image.fromarray(PIXELS).save(tmp_path / "in" / name)
    results = run(tmp_path / "in", folder, tmp_path / "out")
    assert [result["file_name"] for result in results] == ["1.gif", "2.tif", "3.TIFF"]


def test_the_cycles_that_a_network_was_trained_to_be_used_with(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = create_model("tokenpose_nano")
    folder = save_plain(model, tmp_path / "n", "tokenpose_nano", {}, COCO, num_cycles=3)
    for cycles, flags in ((3, ()), (1, ("--num-cycles", "1"))):
        results = run(images, folder, tmp_path / f"out{cycles}", *flags)
        found = PosePredictor.from_pretrained(folder, num_cycles=cycles)(PIXELS)
        np.testing.assert_allclose(keypoints(results[0])[:, :2], found.keypoints[0])
        told = f"2 images, 2 people: {tmp_path}/out{cycles} ({cycles} cycle{'s' * (cycles > 1)})"
        assert told in capsys.readouterr().out


def test_links_to_folders_are_followed(folder: Path, images: Path, tmp_path: Path) -> None:
    room = tmp_path / "room"
    (room / "sub").mkdir(parents=True)
    (room / "linked").symlink_to(images)
    (room / "sub" / "one.png").symlink_to(images / "000139.png")
    (room / "sub" / "around").symlink_to(room)  # would go on for ever
    (room / "gone").symlink_to(tmp_path / "nowhere")
    results = run(room, folder, tmp_path / "out")
    names = ["linked/000139.png", "linked/000285.png", "sub/one.png"]
    assert [result["file_name"] for result in results] == names
    boxes = [{"file_name": names[1], "bbox": [5, 6, 30, 40], "score": 0.5}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    (result,) = run(room, folder, tmp_path / "b", "--boxes", str(tmp_path / "boxes.json"))
    assert result["file_name"] == names[1]


def test_boxes_outside_of_their_image_are_left_out(
    folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [[-20, 5, 20, 30], [60, 5, 9, 9], [5, -9, 9, 9], [5, 80, 9, 9], [-20, 70, 21, 30]]
    boxes = [{"image_id": 139, "bbox": place, "score": 0.9} for place in places]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    results = run(images, folder, tmp_path / "out", "--boxes", str(tmp_path / "boxes.json"))
    assert len(results) == 1
    found = PosePredictor.from_pretrained(folder)(PIXELS, [[-20, 70, 1, 100]])
    np.testing.assert_allclose(keypoints(results[0])[:, :2], found.keypoints[0])
    out = capsys.readouterr().out
    assert "boxes: 5, 1 used; left out: 4 outside of their image" in out
    assert "2 images, 1 people, 1 without people" in out


def test_boxes_of_another_form_are_counted(
    folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = {139: [[0.1, 0.2, 0.5, 0.7]], 285: [[20, 10, 58, 78], [20, 10, 38, 68]]}
    entries = [{"image_id": i, "bbox": box, "score": 1} for i in boxes for box in boxes[i]]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    run(images, folder, tmp_path / "out", "--boxes", str(tmp_path / "boxes.json"))
    told = "boxes: 3, all used; 1 boxes that look like 0..1, not px; 1 boxes that look like xyxy"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("form", ["detections", "file names", "annotations"])
def test_boxes_of_a_file(form: str, folder: Path, images: Path, tmp_path: Path) -> None:
    boxes = [
        {"image_id": 285, "bbox": [5, 6, 30, 40], "score": 0.5, "category_id": 1},
        {"image_id": 285, "bbox": [10, 6, 30, 40], "score": 0.75, "category_id": 1},
        {"image_id": 285, "bbox": [10, 6, 30, 40], "score": 0.4, "category_id": 1},
        {"image_id": 285, "bbox": [10, 6, 30, 40], "score": 0.9, "category_id": 2},
        {"image_id": 7, "bbox": [1, 1, 3, 4], "score": 0.9, "category_id": 1},
    ]
    content: Any = boxes
    if form == "file names":
        names = {285: "000285.png", 7: "000007.png"}
        content = [{**box, "file_name": names[box["image_id"]], "image_id": 1} for box in boxes]
    if form == "annotations":
        listed = [{"id": 285, "file_name": "000139.png"}, {"id": 7, "file_name": "other.png"}]
        content = {"images": listed, "annotations": boxes, "categories": []}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    flags = ("--boxes", str(tmp_path / "boxes.json"), "--num-cycles", "2")
    results = run(images, folder, tmp_path / "out", *flags)
    name = "000139.png" if form == "annotations" else "000285.png"
    image_id = 1 if form == "file names" else 285
    assert [(r["file_name"], r["image_id"]) for r in results] == [(name, image_id)] * 2
    predictor = PosePredictor.from_pretrained(folder, num_cycles=2)
    found = predictor(PIXELS, [[5, 6, 35, 46], [10, 6, 40, 46]])
    for result, points, scores, box in zip(
        results, found.keypoints, found.scores, (0.5, 0.75), strict=True
    ):
        np.testing.assert_allclose(keypoints(result)[:, :2], points)
        above = scores[scores > 0.2]
        assert result["score"] == pytest.approx(box * above.mean() if len(above) else 0.0)
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_cameras_of_the_same_names(folder: Path, tmp_path: Path, capsys: Any) -> None:
    """Images of subfolders are told apart by their paths, in boxes, results and pictures."""
    root = tmp_path / "shots [1]"
    for name in ("cam1/1.png", "cam2/1.png", "cam2/.hidden.png", ".cache/1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(root / name)
    content = {
        "images": [{"id": 5, "file_name": "cam1/1.png"}, {"id": 6, "file_name": "cam2/1.png"}],
        "annotations": [
            {"id": 1, "image_id": 6, "category_id": 1, "bbox": [5, 6, 30, 40]},
            {"id": 2, "image_id": 6, "category_id": 4, "bbox": [5, 6, 30, 40]},
        ],
    }
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(content))
    out = tmp_path / "out [1]"
    results = run(root, folder, out, "--boxes", str(boxes))
    assert [(r["file_name"], r["image_id"]) for r in results] == [("cam2/1.png", 6)]
    told = capsys.readouterr().out
    assert "boxes: 2, 1 used; left out: 1 of another category\n" in told
    assert f"2 images, 1 people, 1 without people: {out}" in told
    assert (out / "cam1" / "1.png.png").is_file() and (out / "cam2" / "1.png.png").is_file()
    results = run(root / "cam2", folder, tmp_path / "two", "--boxes", str(boxes))
    assert [r["file_name"] for r in results] == ["1.png"]
    (root / "cam2").rename(root / "cam3")
    told = error(capsys, root / "cam3", folder, tmp_path / "no", "--boxes", str(boxes))
    assert "no boxes are left of 2" in told and not (tmp_path / "no").exists()


def test_without_flip_pairs_there_is_no_flip_test(
    tmp_path: Path, images: Path, capsys: Any
) -> None:
    options = {"input_size": (48, 64), "heatmap_size": (12, 16), "depth": 1}
    names = {"id": 3, "name": "lamp", "keypoints": ["foot", "bulb"]}
    skeleton = Skeleton.from_coco_category(names)
    model = create_model("tokenpose_nano", 2, **options)
    plain = save_plain(model, tmp_path / "run" / "plain", "tokenpose_nano", options, skeleton)
    expected = run(images, plain, tmp_path / "a")
    assert "--flip-test" not in capsys.readouterr().out
    assert run(images, plain, tmp_path / "b", "--flip-test") == expected
    assert "--flip-test is ignored: the network has no flip pairs" in capsys.readouterr().out
    assert {r["category_id"] for r in expected} == {3}
    results = run(images, plain, tmp_path / "c", "--category-id", "8")
    assert {r["category_id"] for r in results} == {8}


def test_broken_boxes(
    folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "boxes.json"
    cases = {
        "none for '000139.png'": [{"image_id": 7, "bbox": [1, 1, 3, 4], "score": 0.9}],
        "is not a JSON file": "[",
        "expected a list of": {"images": 3},
        "entry 0 has no bbox": [{"image_id": 139}],
        "expected 4 numbers": [{"image_id": 139, "bbox": [1, 2, 3]}],
        "without extent": [{"image_id": 139, "bbox": [1, 2, 0, 3]}],
    }
    for text, content in cases.items():
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        assert text in error(capsys, images, folder, tmp_path / "out", "--boxes", str(path))
    flags = ("--boxes", str(path), "--detector", "x.pth")
    assert "got both" in error(capsys, images, folder, tmp_path / "out", *flags)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["boxes.json", "in"]


@pytest.mark.parametrize("form", ["detections", "annotations"])
def test_a_video(form: str, folder: Path, tmp_path: Path) -> None:
    video, frames = tmp_path / "walk.avi", 5
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (64, 80))
    for number in range(frames):
        writer.write(np.full((80, 64, 3), 40 * number, np.uint8))
    writer.release()
    boxes: Any = [{"image_id": number, "bbox": [5, 6, 30, 40]} for number in (2, 4)]
    if form == "annotations":
        listed = [{"id": number, "file_name": f"{number}.jpg"} for number in (2, 4)]
        boxes = {"images": listed, "annotations": boxes}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    results = run(video, folder, tmp_path / "out", "--boxes", str(tmp_path / "boxes.json"))
    assert [r["image_id"] for r in results] == [2, 4]
    written = cv2.VideoCapture(str(tmp_path / "out" / "walk.mp4"))
    assert written.get(cv2.CAP_PROP_FPS) == pytest.approx(12.0)
    shapes = []
    while (read := written.read())[0]:
        shapes.append(read[1].shape)
    assert shapes == [(80, 64, 3)] * frames


def test_a_video_of_odd_sides_keeps_all_of_its_pixels(folder: Path, tmp_path: Path) -> None:
    """The codec has even sides alone, and OpenCV drops a row or column without a word."""
    video, mjpeg = tmp_path / "odd.avi", cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(video), cv2.CAP_OPENCV_MJPEG, mjpeg, 12.0, (63, 81))
    picture = np.zeros((81, 63, 3), np.uint8)
    picture[72:, 56:] = 255  # the lower right corner
    for _ in range(2):
        writer.write(picture)
    writer.release()
    assert cv2.VideoCapture(str(video)).read()[1].shape == (81, 63, 3)
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": 2, "bbox": [5, 6, 30, 40]}]))
    run(video, folder, tmp_path / "out", "--boxes", str(tmp_path / "boxes.json"))
    (_, written) = cv2.VideoCapture(str(tmp_path / "out" / "odd.mp4")).read()
    assert written.shape == (82, 64, 3)
    assert written[74:, 58:].mean() > 200 and written[:, :40].mean() < 100


def test_a_video_on_a_full_disk(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OpenCV goes on without a word, and the file has no index, or too few frames."""
    video, noise = tmp_path / "noise.avi", np.random.default_rng(0)
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (320, 240))
    for _ in range(12):
        writer.write(noise.integers(0, 256, (240, 320, 3), dtype=np.uint8))
    writer.release()
    boxes = tmp_path / "boxes.json"
    boxes.write_text("[]")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # no file may become larger
    try:
        text = error(capsys, video, folder, tmp_path / "out", "--boxes", str(boxes))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "out/noise.mp4 cannot be written: 0 of 12 frames are in it" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_device_that_is_not_there(
    folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = run(images, folder, tmp_path / "auto")
    assert run(images, folder, tmp_path / "cpu", "--device", "cpu") == expected
    out = tmp_path / "out"
    text = "device=cuda was asked for, but PyTorch"
    assert text in error(capsys, images, folder, out, "--device", "cuda")
    assert not out.exists()


def test_errors_leave_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jpg").write_text("x")
    (tmp_path / "bad.mp4").write_text("x")
    for name, text in (
        ("empty", "has no images"),
        ("bad.jpg", "cannot be read as an image"),
        ("bad.mp4", "cannot be read as a video"),
        ("none", "there is no image, folder or video"),
        ("none.mp4", "there is no video"),
    ):
        assert text in error(capsys, tmp_path / name, folder, tmp_path / "out")
    (tmp_path / "out").mkdir()
    assert "exists" in error(capsys, tmp_path / "bad.jpg", folder, tmp_path / "out")
    (tmp_path / "out").rmdir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.jpg", "bad.mp4", "empty"]


def test_broken_checkpoints(
    folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    description = json.loads((folder / "config.json").read_text())
    skeleton = description["skeleton"]
    fewer = {
        "name": "short",
        "keypoint_names": skeleton["keypoint_names"][:5],
        "flip_pairs": [[1, 2]],
        "sigmas": skeleton["sigmas"][:5],
        "limbs": [],
        "upper_body": [],
    }
    cases: dict[str, tuple[bytes, Any]] = {
        "model.safetensors cannot be loaded": (weights[:1000], description),
        "keypoint_tokens": (weights, {**description, "skeleton": fewer}),
        "17 keypoint names": (weights, {**description, "skeleton": {**skeleton, "sigmas": [1]}}),
        "broken/config.json: model: expected": (weights, {**description, "model": "hourglass"}),
        "config.json: TokenModel.__init__() got": (weights, {**description, "options": {"x": 1}}),
        "broken/config.json: method: expected": (
            weights,
            {**description, "codec": {"method": "simcc"}},
        ),
        "config.json: Skeleton.__init__() missing": (weights, {**description, "skeleton": {}}),
        "does not describe a pose network": (weights, {"format": "another"}),
        "config.json lacks": (weights, {"format": description["format"]}),
    }
    broken = tmp_path / "broken"
    broken.mkdir()
    for text, (data, config) in cases.items():
        (broken / "model.safetensors").write_bytes(data)
        (broken / "config.json").write_text(json.dumps(config))
        assert text in error(capsys, images, broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_detector(
    folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random weights that see people everywhere: the boxes are those of torchvision itself."""
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    torch.manual_seed(0)
    network = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, box_score_thresh=0.1
    ).eval()
    with torch.no_grad():
        network.roi_heads.box_predictor.cls_score.bias[1] += 3
    torch.save(network.state_dict(), tmp_path / "detector.pth")
    with torch.no_grad():
        found = network([torch.from_numpy(PIXELS).permute(2, 0, 1) / 255])[0]
    people = found["labels"] == 1
    assert people.any()
    flags = ("--detector", str(tmp_path / "detector.pth"), "--box-threshold", "0.1")
    results = run(images, folder, tmp_path / "out", *flags)
    assert len(results) == 2 * int(people.sum())
    expected = PosePredictor.from_pretrained(folder)(PIXELS, found["boxes"][people].numpy())
    np.testing.assert_allclose(keypoints(results[0])[:, :2], expected.keypoints[0], atol=1e-2)

    torch.save({"a": torch.zeros(1)}, tmp_path / "detector.pth")
    assert "does not fit" in error(capsys, images, folder, tmp_path / "again", *flags)


def test_a_detector_without_torchvision(
    folder: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("torchvision"):
            raise ImportError("no torchvision")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    told = error(capsys, images, folder, tmp_path / "out", "--detector", "x.pth")
    assert 'pip install "cycledistill[detect]"' in told


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("predict", "or by number if the file has nothing else. For a video, image_id is"),
        ("evaluate", "Hugging Face Hub; differences are to the first."),
        ("evaluate", "If the images have no annotated people, predictions are written without AP."),
    ],
)
def test_help_is_broken_where_the_terminal_ends(
    command: str,
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert text in capsys.readouterr().out
