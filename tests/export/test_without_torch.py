"""The lines of docs/export.md that use an ONNX file without this library, and 8-bit files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cycledistill.__main__ import main
from cycledistill_pose import COCO, CocoKeypoints, PosePredictor, create_model
from cycledistill_pose import save_plain as save_pose
from cycledistill_pose.data import invert_matrix, normalize_images, transform_points
from cycledistill_pose.metrics import CocoKeypointAP
from tests.export.formats import skip_without
from tests.pose.files import coco_file, labelled

pytestmark = pytest.mark.slow
SIZES: dict[str, Any] = {"input_size": (48, 64), "depth": 2}
BOX = [12.0, 8.0, 52.0, 70.0]


@pytest.fixture(autouse=True)
def onnx() -> None:
    skip_without(".onnx")


def network(folder: Path, kind: str, method: str = "dark") -> Path:
    torch.manual_seed(0)
    options = SIZES | ({"heatmap_size": (12, 16)} if kind == "tokenpose_nano" else {})
    model = create_model(kind, **options)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.2)
    return save_pose(model, folder, kind, options, COCO, {"method": method, "sigma": 1.0})


def photo(path: Path, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (10, 8, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((64, 80), Image.Resampling.BICUBIC)
    image.save(path)
    return np.asarray(image)


def lines_of_the_page(repository: Path) -> str:
    page = (repository / "docs" / "export.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(import json\n.*?)```", page, re.DOTALL)
    assert "cycledistill" not in code and "torch" not in code
    statements = [line for line in code.splitlines() if line and not line.startswith("import")]
    assert len(statements) <= 15
    return str(code)


@pytest.mark.parametrize(
    ("kind", "method"),
    [("tokenpose_nano", "fit"), ("tokenpose_nano", "udp"), ("tokenreg_nano", "dark")],
)
def test_the_lines_of_the_page_do_what_the_predictor_does(
    kind: str, method: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = network(tmp_path / "plain", kind, method)
    pixels = photo(tmp_path / "photo.png")
    main(["export", str(folder), "--out", "pose.onnx", "--decode", "--images", "photo.png"])
    code = lines_of_the_page(repository)
    code = code.replace("photo.jpg", "photo.png").replace("[10, 20, 110, 220]", str(BOX))
    found: dict[str, Any] = {}
    exec(compile(code, "docs/export.md", "exec"), found)
    expected = PosePredictor.from_pretrained(folder)(pixels, [BOX])
    np.testing.assert_allclose(found["keypoints"], expected.keypoints[0], atol=0.05)
    np.testing.assert_allclose(found["scores"], expected.scores[0], atol=1e-2)
    assert found["about"]["keypoint_names"] == list(COCO.keypoint_names)
    assert found["about"]["flip_pairs"][0] == ["left_eye", "right_eye"]
    assert found["about"]["input_size"] == [48, 64] and found["about"]["color_order"] == "RGB"


def test_a_pt2_file_says_the_same(tmp_path: Path) -> None:
    folder = network(tmp_path / "plain", "tokenpose_nano")
    main(["export", str(folder), "--out", str(tmp_path / "pose.pt2")])
    extra = {"metadata.json": ""}
    torch.export.load(tmp_path / "pose.pt2", extra_files=extra)
    about = {key: json.loads(value) for key, value in json.loads(extra["metadata.json"]).items()}
    assert about["padding"] == 1.25 and len(about["mean"]) == len(about["std"]) == 3
    assert about["codec"] == {
        "kind": "heatmap",
        "method": "dark",
        "sigma": 1.0,
        "blur_kernel": 5,
        "stride": [4.0, 4.0],
    }


def people(folder: Path, count: int = 6) -> tuple[Path, Path]:
    """Images with a person each, whose truth is what the float network says, moved a little."""
    images = folder / "images"
    images.mkdir()
    annotated = []
    predictor = PosePredictor.from_pretrained(folder / "plain")
    rng = np.random.default_rng(0)
    for number in range(1, count + 1):
        pixels = photo(images / f"{number}.png", number)
        points = predictor(pixels, [BOX]).keypoints[0] + rng.normal(0, 1.5, (17, 2))
        points = points.clip(0, [63, 79])
        left, top, right, bottom = BOX
        box = [left, top, right - left, bottom - top]
        annotated.append(labelled(number, number, box, np.insert(points, 2, 2, axis=1)))
    content = coco_file(annotated, [f"{n}.png" for n in range(1, count + 1)], (64, 80))
    (folder / "people.json").write_text(json.dumps(content))
    return folder / "people.json", images


def test_what_8_bits_cost_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures are computed again from both files, by the library's own parts."""
    import onnx
    import onnxruntime

    folder = network(tmp_path / "plain", "tokenpose_nano")
    annotations, images = people(tmp_path)
    flags = ["--images", str(images), "--annotations", str(annotations)]
    main(["export", str(folder), "--out", str(tmp_path / "exact.onnx"), *flags])
    capsys.readouterr()
    out = tmp_path / "small.onnx"
    main(["export", str(folder), "--out", str(out), "--quantize", "int8", *flags])
    printed = capsys.readouterr().out
    exact_size = (tmp_path / "exact.onnx").stat().st_size
    ratio = exact_size / out.stat().st_size
    assert ratio > 2 and f"int8, on the 6 given: {ratio:.1f} times smaller" in printed

    predictor = PosePredictor.from_pretrained(folder)
    dataset = CocoKeypoints(annotations, images, input_size=(48, 64))
    batch = torch.utils.data.default_collate([dataset[index] for index in range(6)])
    inputs = normalize_images(batch["image"]).numpy()
    outputs, keypoints, scores = [], [], []
    for path in (tmp_path / "exact.onnx", out):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (heatmaps,) = session.run(None, {"images": inputs})
        found, confidence = predictor.codec.decode(torch.from_numpy(heatmaps))
        metric = CocoKeypointAP(annotations)
        metric.update(
            batch["image_id"],
            transform_points(found, invert_matrix(batch["crop_matrix"])),
            confidence,
            batch["box_xyxy"],
            batch["box_score"],
        )
        outputs.append(torch.from_numpy(heatmaps))
        keypoints.append(found)
        scores.append(100 * metric.compute()["AP"])
    error = (outputs[1] - outputs[0]).abs().mean() / outputs[0].abs().mean()
    assert 0 < error < 0.1
    moved = (keypoints[1] - keypoints[0]).norm(dim=-1)
    assert 0 < moved.median() < 4  # the network is untrained: a few maxima are elsewhere
    assert f"keypoints move by {moved.mean():.2f} px of the input on average" in printed
    assert f"AP {scores[0]:.1f} -> {scores[1]:.1f}" in printed
    stored = [onnx.numpy_helper.to_array(one) for one in onnx.load(out).graph.initializer]
    weights = [one.astype(int) for one in stored if one.dtype == np.int8 and one.ndim > 1]
    assert len(weights) > 5  # of 7 bits: no sum overflows on processors without VNNI
    assert max(abs(one).max() for one in weights) == 64
    about = onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map
    assert json.loads(about["quantized"]) == "int8" and "keypoint_names" in about
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["plain", "images", "people.json", "exact.onnx", "small.onnx"]
    )


def test_the_category_of_the_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = network(tmp_path / "plain", "tokenpose_nano")
    annotations, images = people(tmp_path, 2)
    content = json.loads(annotations.read_text())
    (own,) = content["categories"]
    content["categories"] = [own | {"name": "dancer"}, own | {"id": own["id"] + 1, "name": "judge"}]
    annotations.write_text(json.dumps(content))
    command = ["export", str(folder), "--out", str(tmp_path / "a.onnx"), "--images", str(images)]
    command += ["--annotations", str(annotations)]
    with pytest.raises(SystemExit):
        main(command)
    assert "say which category to read (category=..., --category NAME)" in capsys.readouterr().err
    main([*command, "--category", "dancer"])
    assert "given inputs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "a.pt2", "--images", "."], "--quantize: expected --out FILE.onnx, and --images"),
        (["--out", "a.onnx"], "--quantize: expected --out FILE.onnx, and --images"),
        (["--out", "a.onnx", "--images", "plain"], "plain has no images"),
        (["--out", "no/a.onnx", "--images", "in"], "there is no folder no to write a.onnx into"),
        (
            ["--out", "a.onnx", "--images", "in/1.png", "--annotations", "x.json"],
            "--annotations: expected a pose network, and the one folder of its images",
        ),
        (
            ["--out", "a.onnx", "--images", "in", "--category", "dancer"],
            "--category: expected --annotations, got 'dancer' alone",
        ),
    ],
)
def test_errors_leave_nothing(
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    network(tmp_path / "plain", "tokenpose_nano")
    (tmp_path / "in").mkdir()
    photo(tmp_path / "in" / "1.png")
    with pytest.raises(SystemExit) as stopped:
        main(["export", "plain", "--quantize", "int8", *flags])
    assert stopped.value.code == 1 and message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "plain"]


def test_a_classifier_in_8_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    from cycledistill.export import load_exportable
    from cycledistill_deit import ClassificationConfig, create_classifier, save_plain

    config = ClassificationConfig(
        model="vit_tiny_patch16_224", image_size=32, embed_dim=48, depth=2, num_heads=3
    )
    names = ("cat", "dog", "owl")
    folder = save_plain(create_classifier(config, 3), config, names, tmp_path / "plain")
    (tmp_path / "in").mkdir()
    for seed in range(8):
        photo(tmp_path / "in" / f"{seed}.png", seed)
    out = tmp_path / "small.onnx"
    flags = ["--quantize", "int8", "--images", str(tmp_path / "in")]
    main(["export", str(folder), "--out", str(out), *flags])
    loaded = load_exportable(folder)
    (images,) = loaded.read_images(sorted((tmp_path / "in").iterdir()))
    (logits,) = onnxruntime.InferenceSession(out).run(None, {"images": images.numpy()})
    with torch.no_grad():
        same = loaded.model(images).argmax(dim=1) == torch.from_numpy(logits).argmax(dim=1)
    assert f"{100 * float(same.double().mean()):.1f} % keep their class" in capsys.readouterr().out
