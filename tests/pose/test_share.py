"""Model cards, and networks on the Hugging Face Hub; nothing here reaches it."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml

from cycledistill_pose import (
    COCO,
    HeatmapCodec,
    PosePredictor,
    create_model,
    load_plain,
    push_to_hub,
    save_plain,
)
from cycledistill_pose.models import StemNet

OPTIONS = {"input_size": (48, 64), "heatmap_size": (12, 16), "depth": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = create_model("tokenpose_nano", **OPTIONS)
    return save_plain(
        model,
        tmp_path_factory.mktemp("share") / "plain",
        "tokenpose_nano",
        OPTIONS,
        COCO,
        {"sigma": 1.0},
        training={"epochs": 3, "data_root": Path("secret"), "lr": 1e-3, "milestones": (1, 2)},
        scores={"AP/1": 12.34, "PCK/1": 50.0, "AP/2": 13.0, "PCK/2": 51.0, "AR50/1": 3.0},
    )


def test_the_card_tells_what_was_trained_and_what_came_of_it(folder: Path) -> None:
    text = (folder / "README.md").read_text("utf-8")
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "cycledistill"
    assert "| 1 | 12.3 | 50.0 |" in body and "| 2 | 13.0 | 51.0 |" in body
    training = json.loads(body.split("```json\n")[1].split("```")[0])
    assert training == {"epochs": 3, "lr": 1e-3, "milestones": [1, 2]}
    assert "secret" not in text and "left_knee" in text and "401,120 parameters" in text


def test_pushed_and_loaded_by_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is a folder here; what stands between, is ours."""
    hub = tmp_path / "hub"

    def create_repo(self: Any, repo_id: str, private: bool, exist_ok: bool) -> str:
        assert private and exist_ok
        (hub / repo_id).mkdir(parents=True)
        return f"https://hub/{repo_id}"

    def upload_folder(
        self: Any, repo_id: str, folder_path: Path, allow_patterns: list[str]
    ) -> None:
        for name in allow_patterns:
            shutil.copy(folder_path / name, hub / repo_id / name)

    def download(repo_id: str, allow_patterns: list[str]) -> str:
        return str(hub / repo_id)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert push_to_hub(folder, "me/pose", private=True) == "https://hub/me/pose"
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    expected = PosePredictor.from_pretrained(folder)(image)
    found = PosePredictor.from_pretrained("me/pose")(image)
    np.testing.assert_array_equal(found.keypoints, expected.keypoints)


@pytest.mark.parametrize("name", ["tokenpose_nano", "tokenreg_nano"])
def test_a_predictor_saves_what_it_predicts_with(name: str, tmp_path: Path) -> None:
    options = {"input_size": (48, 64), "depth": 2}
    codec = {"sigma": 1.5, "method": "udp"}
    if name == "tokenpose_nano":
        options["heatmap_size"] = (12, 16)
    save_plain(create_model(name, **options), tmp_path / "a", name, options, COCO, codec)
    predictor = PosePredictor.from_pretrained(tmp_path / "a")
    with torch.no_grad():  # as fine-tuning would
        next(predictor.model.parameters()).add_(0.01)
    predictor.save_pretrained(tmp_path / "b", scores={"AP/1": 12.0})
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    again = PosePredictor.from_pretrained(tmp_path / "b")
    np.testing.assert_array_equal(again(image).keypoints, predictor(image).keypoints)
    assert getattr(again.codec, "method", "") == ("udp" if name == "tokenpose_nano" else "")
    assert "| 1 | 12.0 |" in (tmp_path / "b" / "README.md").read_text("utf-8")


def test_a_skeleton_of_another_network_is_refused(tmp_path: Path) -> None:
    model = create_model("tokenpose_nano", num_keypoints=5, **OPTIONS)
    with pytest.raises(ValueError, match="'coco' has 17 keypoints, expected the network's 5"):
        save_plain(model, tmp_path / "plain", "tokenpose_nano", OPTIONS, COCO)
    assert not (tmp_path / "plain").exists()


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))  # no file may become larger
    try:
        with pytest.raises(OSError, match=r"plain cannot be written: .*File too large"):
            save_plain(create_model("tokenpose_nano"), tmp_path / "plain", "nano", {}, COCO)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_parts_of_ones_own_cannot_be_saved_by_name(tmp_path: Path) -> None:
    model = create_model("tokenpose_nano", backbone=StemNet(16, 1), **OPTIONS)
    predictor = PosePredictor(model, COCO, HeatmapCodec((48, 64), (12, 16), sigma=1.0))
    with pytest.raises(ValueError, match="cannot be rebuilt from a name and options"):
        predictor.save_pretrained(tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_without_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    for name in ("me/there-is-none", "runs/pose/plain"):
        with pytest.raises(
            FileNotFoundError, match=f"{name} is not a folder here, and the Hugging"
        ):
            load_plain(name)
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_plain(tmp_path / "plain")
    with pytest.raises(ConnectionError, match="could not be shared as me/pose"):
        push_to_hub(folder, "me/pose")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        push_to_hub(tmp_path, "me/pose")
