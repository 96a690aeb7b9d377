"""`cycledistill export` on saved pose networks and classifiers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from timm.models import save_for_hf
from torch import nn

from cycledistill import CycleWrapper
from cycledistill.__main__ import main
from cycledistill.export import LOADERS, load_exportable
from cycledistill_deit import ClassificationConfig, create_classifier
from cycledistill_deit import save_plain as save_classifier
from cycledistill_pose.checkpoints import save_plain as save_pose
from cycledistill_pose.codecs import HeatmapCodec
from cycledistill_pose.models import create_model
from cycledistill_pose.skeletons import COCO
from tests.export.formats import skip_without


@pytest.fixture(autouse=True)
def entry_points(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loaders that pyproject.toml declares, whatever is installed."""
    text = (repository / "pyproject.toml").read_text("utf-8")
    table = text.partition(f'entry-points."{LOADERS}"]\n')[2].partition("\n\n")[0]
    declared = re.findall(r'^(\w+) = "([\w.:]+)"$', table, re.MULTILINE)
    assert len(declared) == 2
    points = [importlib.metadata.EntryPoint(name, value, LOADERS) for name, value in declared]
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: points if group == LOADERS else []
    )


@pytest.fixture(scope="module")
def pose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    options: dict[str, Any] = {"input_size": (48, 64), "heatmap_size": (12, 16), "depth": 2}
    model = create_model("tokenpose_nano", **options)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("pose") / "plain"
    return save_pose(
        model, folder, "tokenpose_nano", options, COCO, {"method": "dark", "sigma": 1.0}
    )


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ClassificationConfig(
        model="vit_tiny_patch16_224", image_size=32, embed_dim=48, depth=2, num_heads=3
    )
    names = ("cat", "dog", "owl")
    model = create_classifier(config, len(names))
    return save_classifier(model, config, names, tmp_path_factory.mktemp("timm") / "plain")


def pictures(folder: Path) -> list[str]:
    paths = [folder / "a.png", folder / "b.png"]
    for path, size in zip(paths, ((40, 60), (90, 30)), strict=True):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        assert cv2.imwrite(str(path), image)
    return [str(path) for path in paths]


@pytest.mark.slow
def test_keypoints_come_out_of_the_graph(
    pose: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_without(".onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "pose.onnx"
    images = pictures(tmp_path)
    options = ["--num-cycles", "2", "--decode", "--images", *images]
    main(["export", str(pose), "--out", str(out), *options])
    printed = capsys.readouterr().out
    assert re.search(r"given inputs: keypoints [\d.e-]+, scores [\d.e-]+\n", printed), printed
    assert f"wrote {out} (2 cycles, " in printed

    loaded = load_exportable(pose)
    (batch,) = loaded.read_images([Path(path) for path in images])
    cycled = CycleWrapper(loaded.model, 2, loaded.blocks).eval()
    with torch.no_grad():
        heatmaps = cycled(batch, num_cycles=2)
    keypoints, scores = HeatmapCodec((48, 64), (12, 16), 1.0, "dark", 5).decode(heatmaps)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    found = session.run(["keypoints", "scores"], {"images": batch.numpy()})
    torch.testing.assert_close(torch.from_numpy(found[0]), keypoints, rtol=0, atol=0.01)
    torch.testing.assert_close(torch.from_numpy(found[1]), scores, rtol=0, atol=1e-4)


def test_a_classifier(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "classes.pt2"
    main(["export", str(classifier), "--out", str(out), "--images", *pictures(tmp_path)])
    assert f"wrote {out} (1 cycle, " in capsys.readouterr().out
    about = {"metadata.json": ""}
    program = torch.export.load(out, extra_files=about).module()
    assert program(torch.randn(4, 3, 32, 32)).shape == (4, 3)
    told = {k: json.loads(v) for k, v in json.loads(about["metadata.json"]).items()}
    assert told == {
        **{"input_size": [32, 32], "color_order": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3},
        **{"interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"},
        "label_names": ["cat", "dog", "owl"],
    }


@pytest.mark.parametrize("kind", ["pose", "classifier"])
def test_the_cycles_that_a_network_was_trained_to_be_used_with(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "plain"
    if kind == "pose":
        options: dict[str, Any] = {"input_size": (48, 64), "heatmap_size": (12, 16), "depth": 2}
        model: Any = create_model("tokenpose_nano", **options)
        save_pose(model, folder, "tokenpose_nano", options, COCO, num_cycles=2)
    else:
        config = ClassificationConfig(
            **{"model": "vit_tiny_patch16_224", "image_size": 32, "embed_dim": 48, "depth": 3},
            **{"num_heads": 3, "blocks": "blocks.1:3", "mode": "cycle"},
        )
        model = create_classifier(config, 2)
        save_classifier(model, config, ("cat", "dog"), folder)
        assert 'CycleWrapper(model, 2, "blocks.1:3")' in (folder / "README.md").read_text()
    images = load_exportable(folder).example_inputs[0]
    cycled = CycleWrapper(model, 2, "blocks" if kind == "pose" else "blocks.1:3").eval()
    for cycles, flags in ((2, ()), (1, ("--num-cycles", "1"))):
        out = tmp_path / f"{cycles}.pt2"
        main(["export", str(folder), "--out", str(out), *flags])
        assert f"wrote {out} ({cycles} cycle{'s' * (cycles > 1)}, " in capsys.readouterr().out
        with torch.no_grad():
            expected = cycled(images, num_cycles=cycles)
        found = torch.export.load(out).module()(images)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_folder_that_timm_wrote(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `examples/finetune_pretrained_vit.py` does, with timm's default weights."""
    model, folder = load_exportable(classifier).model, tmp_path / "timm"
    save_for_hf(model, folder)
    assert not (folder / "model.safetensors").exists()
    main(["export", str(folder), "--out", str(tmp_path / "model.pt2")])
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
    found = torch.export.load(tmp_path / "model.pt2").module()(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    for broken in (b"", b"no weights"):
        (folder / "pytorch_model.bin").write_bytes(broken)
        with pytest.raises(SystemExit):
            main(["export", str(folder), "--out", str(tmp_path / "other.pt2")])
        assert "pytorch_model.bin cannot be loaded" in capsys.readouterr().err


def test_the_blocks_that_a_classifier_was_cycled_through(tmp_path: Path) -> None:
    config = ClassificationConfig(
        model="vit_tiny_patch16_224",
        image_size=32,
        embed_dim=48,
        depth=3,
        num_heads=3,
        blocks="blocks.1:3",
    )
    save_classifier(create_classifier(config, 2), config, ("cat", "dog"), tmp_path / "plain")
    assert load_exportable(tmp_path / "plain").blocks == "blocks.1:3"


def test_drawn_people_are_the_examples_of_a_pose_network(pose: Path) -> None:
    loaded = load_exportable(pose)
    (images,) = loaded.example_inputs
    assert images.shape == (3, 3, 64, 48)
    assert loaded.blocks == "blocks" and not loaded.model.training
    assert (images[0] - images[1]).abs().max() > 0.5


def broken_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no weights")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def other_kind(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


@pytest.mark.parametrize("kind", ["pose", "classifier"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_weights, "model.safetensors cannot be loaded"),
        (no_weights, "has no model.safetensors"),
        (broken_config, "config.json is no JSON"),
        (other_kind, "of a kind that no loader knows; tried: deit, pose"),
    ],
)
def test_a_broken_folder(
    kind: str,
    damage: Callable[[Path], None],
    message: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(kind), tmp_path / "plain"))
    damage(folder)
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(folder), "--out", str(tmp_path / "model.pt2")])
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["plain"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent", "--out", "model.pt2"], "there is no folder absent"),
        (["{pose}", "--out", "model.tflite"], "must end in .onnx or .pt2"),
        (["{classifier}", "--out", "model.pt2", "--decode"], "has nothing to decode"),
        (["{pose}", "--out", "model.pt2", "--images", "absent.jpg"], "no image absent.jpg"),
        (["{classifier}", "--out", "model.pt2", "--images", "absent.jpg"], "no image absent.jpg"),
        (["{pose}", "--out", "model.pt2", "--num-cycles", "0"], "num_cycles must be"),
        (["{pose}", "--out", "absent/model.pt2"], "no folder absent to write model.pt2 into"),
    ],
)
def test_errors(
    arguments: list[str],
    message: str,
    pose: Path,
    classifier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["export", *(text.format(pose=pose, classifier=classifier) for text in arguments)])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_image(
    pose: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    for folder in (pose, classifier):
        with pytest.raises(SystemExit):
            main(["export", str(folder), "--out", str(tmp_path / "m.pt2"), "--images", str(text)])
        assert "text.jpg cannot be read as an image" in capsys.readouterr().err


def test_a_missing_extra_is_named(
    classifier: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cycledistill_deit._exportable", None)
    with pytest.raises(SystemExit):
        main(["export", str(classifier), "--out", "model.pt2"])
    error = capsys.readouterr().err
    assert 'pip install "cycledistill[deit]"' in error and "tried: pose;" in error


def test_the_command_without_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "tyro" else find(name, *a)
    )
    with pytest.raises(SystemExit):
        main(["export", "folder", "--out", "model.pt2"])
    assert 'needs tyro: pip install "cycledistill[export]"' in capsys.readouterr().err


def test_help_is_broken_where_the_terminal_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    text = "people in the folder of --images, in place of whole images. (default: None)"
    assert text in capsys.readouterr().out
