"""Fine-tuning on another skeleton than the one that a checkpoint was trained on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pose_coco import train

from cycledistill_pose import (
    COCO,
    CocoKeypoints,
    create_model,
    load_reference_checkpoint,
    save_plain,
)
from cycledistill_pose.checkpoints import to_reference_state_dict
from cycledistill_pose.metrics import CocoKeypointAP
from cycledistill_pose.recipes import PoseConfig, build_model

NAMES = ["head", "left_wing", "right_wing", "tail", "beak"]


def write_birds(root, count):
    """A toy COCO file with five keypoints, each a square of its own shade."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    content = {
        "categories": [{"id": 3, "name": "bird", "keypoints": NAMES, "skeleton": [[1, 4], [2, 3]]}],
        "images": [],
        "annotations": [],
    }
    for number in range(1, count + 1):
        points = rng.uniform(14, 50, (5, 2)).round(1)
        picture = rng.integers(90, 110, (64, 64, 3), dtype=np.uint8)
        for keypoint, (x, y) in enumerate(points):
            picture[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4] = 55 * keypoint
        Image.fromarray(picture).save(root / "images" / f"{number}.png")
        content["images"].append(
            {"id": number, "file_name": f"{number}.png", "width": 64, "height": 64}
        )
        keypoints = [value for x, y in points.tolist() for value in (x, y, 2)]
        content["annotations"].append(
            {
                "id": number,
                "image_id": number,
                "category_id": 3,
                "bbox": [8, 8, 48, 48],
                "area": 2304,
                "keypoints": keypoints,
            }
        )
    (root / "birds.json").write_text(json.dumps(content))
    return root


def test_a_five_keypoint_file_trains_from_files_to_ap(tmp_path):
    root = write_birds(tmp_path / "birds", 12)
    birds = CocoKeypoints(root / "birds.json", root / "images", input_size=(64, 64))
    assert birds.skeleton.keypoint_names == tuple(NAMES)
    assert birds.skeleton.flip_pairs == ((1, 2),)
    files = ("birds.json", "images")
    config = PoseConfig(
        data_root=root, dataset="files",
        train_annotations=files[0], train_images=files[1],
        val_annotations=files[0], val_images=files[1],
        model="tokenpose_nano", input_size=(64, 64), heatmap_size=(16, 16), patch_size=(4, 4),
        dim=48, depth=2, epochs=2, milestones=(), warmup_steps=2, batch_size=6, num_workers=0,
        pictures=2, output_dir=tmp_path / "run", device="cpu",
    )  # fmt: skip
    run = train(config)
    results = json.loads(run.results.read_text())
    assert {"AP/1", "AP/2", "PCK/1"} <= run.scores.keys()
    assert {person["category_id"] for person in results} == {3}
    assert all(len(person["keypoints"]) == 15 for person in results)
    truth = CocoKeypointAP(root / "birds.json", sigmas=birds.skeleton.sigmas)
    content = json.loads((root / "birds.json").read_text())
    for person in content["annotations"]:
        points = np.reshape(person["keypoints"], (1, 5, 3))
        truth.update([person["image_id"]], points[..., :2], np.ones((1, 5)), [[8, 8, 56, 56]], [1])
    assert truth.compute()["AP"] > 0.99


def test_a_checkpoint_of_another_skeleton_starts_the_training():
    """The head of TokenPose is shared by all keypoints, so only the keypoint tokens are new."""
    trained = create_model("tokenpose_nano", 17)
    fresh = create_model("tokenpose_nano", 5)
    state = {"state_dict": to_reference_state_dict(trained)}
    report = load_reference_checkpoint(fresh, state, allow_head_mismatch=True)
    assert report.kept == ("keypoint_tokens",)
    for name, value in fresh.state_dict().items():
        if name != "keypoint_tokens":
            assert torch.equal(value, trained.state_dict()[name]), name


def test_a_saved_network_starts_another_run(tmp_path):
    options = {"input_size": (64, 64), "heatmap_size": (16, 16), "patch_size": (4, 4), "depth": 2}
    trained = create_model("tokenpose_nano", 17, **options)
    folder = save_plain(trained, tmp_path / "plain", "tokenpose_nano", options, COCO)
    config = PoseConfig(model="tokenpose_nano", initial_weights=folder, **options)
    model = build_model(config, 5)
    assert torch.equal(model.head[-1].weight, trained.head[-1].weight)
    assert model.keypoint_tokens.shape[1] == 5
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_model(replace(config, initial_weights=tmp_path / "nowhere"), 5)
