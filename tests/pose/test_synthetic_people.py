"""The synthetic people: their files, their determinism, and that their labels are true."""

from __future__ import annotations

import json
import time

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO as CocoFile
from pycocotools.cocoeval import COCOeval

from cycledistill_pose.data import (
    CocoKeypoints,
    PoseAugmentation,
    SyntheticPeople,
    check_coco_root,
    contact_sheet,
)
from cycledistill_pose.data.synthetic._body import draw_body
from cycledistill_pose.data.synthetic._scene import draw_scene
from cycledistill_pose.skeletons import COCO


def scenes(count, seed=0, size=(120, 144)):
    return [draw_scene(np.random.default_rng((seed, i)), *size) for i in range(count)]


def test_easy_people_stand_alone_and_look_at_the_viewer():
    for i in range(40):
        scene = draw_scene(np.random.default_rng((9, i)), 80, 96, easy=True)
        assert len(scene.people) == 1
        points = scene.people[0].keypoints
        assert (points[5:, 2] > 0).sum() >= 10
        assert points[5, 0] > points[6, 0]  # the left shoulder is on the right of the picture
        assert points[[11, 12], 1].mean() > points[[5, 6], 1].mean()


def test_same_seed_same_people():
    a, b, c = (SyntheticPeople(4, (48, 64), seed=seed) for seed in (0, 0, 1))
    for i in range(4):
        assert all(torch.equal(a[i][key], b[i][key]) for key in a[i])
        assert not torch.equal(a[i]["image"], c[i]["image"])
    assert not torch.equal(a[0]["image"], a[1]["image"])


def test_fresh_people_in_every_epoch():
    steady = SyntheticPeople(3, (48, 64))
    fresh = SyntheticPeople(3, (48, 64), fresh=True)
    first = steady[1], fresh[1]
    steady.set_epoch(1)
    fresh.set_epoch(1)
    assert torch.equal(steady[1]["image"], first[0]["image"])
    assert not torch.equal(fresh[1]["image"], first[1]["image"])


def test_labels_are_possible():
    seen = np.zeros((17, 3))
    counts = []
    for scene in scenes(150):
        height, width = scene.image.shape[:2]
        counts.append(len(scene.people))
        for person in scene.people:
            points, visibility = person.keypoints[:, :2], person.keypoints[:, 2].astype(int)
            for k, v in enumerate(visibility):
                seen[k, v] += 1
            assert (visibility == 2).any()
            assert (points[visibility == 0] == 0).all()
            shown = points[visibility > 0]
            assert (shown >= 0).all()
            assert (shown <= [width - 1, height - 1]).all()
            left, top, right, bottom = person.box_xyxy
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            assert 0 < person.area <= (right - left) * (bottom - top)
            # What is seen is in the box (up to a pixel: visibility looks at 3 x 3 pixels).
            clear = points[visibility == 2]
            assert (clear >= [left - 2, top - 2]).all()
            assert (clear <= [right + 1, bottom + 1]).all()
    assert min(counts) == 1
    assert max(counts) >= 3
    # Every keypoint is seen often, and hidden at times.
    share = seen / seen.sum(1, keepdims=True)
    assert (share[:, 2] > 0.3).all()
    assert (share[5:, 1] > 0.04).all()
    assert (share[13:, 0] > 0.02).all()  # cut off by the picture
    assert (share[:3, 0] > 0.15).all()  # faces seen from behind


def test_bodies_obey_their_joints():
    for seed in range(200):
        body = draw_body(np.random.default_rng(seed))
        j = body.joints
        for frame in (body.pelvis, body.chest, body.head):
            assert np.allclose(frame.T @ frame, np.eye(3), atol=1e-9)
            assert np.linalg.det(frame) == pytest.approx(1)
        bones = [("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle")]
        for a, b in bones:
            left, right = (np.linalg.norm(j[f"{s}_{b}"] - j[f"{s}_{a}"]) for s in ("left", "right"))
            assert left == pytest.approx(right) and 0.1 < left < 0.3
        for side, sign in (("left", 1), ("right", -1)):
            thigh = j[f"{side}_knee"] - j[f"{side}_hip"]
            shin = j[f"{side}_ankle"] - j[f"{side}_knee"]
            cosine = thigh @ shin / np.linalg.norm(thigh) / np.linalg.norm(shin)
            assert np.rad2deg(np.arccos(np.clip(cosine, -1, 1))) < 140
            # A knee bends backwards: the shin never points further forward than the thigh.
            ahead = body.pelvis[:, 2] * (thigh @ -body.pelvis[:, 1]) + body.pelvis[:, 1] * (
                thigh @ body.pelvis[:, 2]
            )
            assert shin @ ahead <= 1e-6
            # The left side is to the left of the right one.
            assert sign * (j[f"{side}_shoulder"] - j["neck"]) @ body.chest[:, 0] > 0
            assert sign * (j[f"{side}_hip"] - j["pelvis"]) @ body.pelvis[:, 0] > 0


def test_left_and_right_follow_from_the_view():
    """Who faces the viewer has the left shoulder on the right of the picture, and a face."""
    front = back = 0
    for seed in range(300):
        body = draw_body(np.random.default_rng(seed))
        apart = body.joints["left_shoulder"] - body.joints["right_shoulder"]
        upright = body.chest[1, 1] < -0.8
        if upright and body.chest[2, 2] < -0.7:
            assert apart[0] > 0
            front += 1
        elif upright and body.chest[2, 2] > 0.7:
            assert apart[0] < 0
            back += 1
    assert front > 60
    assert back > 30


def test_mirrored_pictures_are_other_pictures():
    """Faces and shoes tell left from right: eyes are only labelled where a face is painted."""
    for scene in scenes(60):
        for person in scene.people:
            ear_l, ear_r = person.keypoints[3], person.keypoints[4]
            eye_l, eye_r = person.keypoints[1], person.keypoints[2]
            if (person.keypoints[:5, 2] == 2).all():  # a face from the front
                spread = eye_l[:2] - eye_r[:2]
                assert spread @ (ear_l[:2] - ear_r[:2]) > 0


def test_coco_folder(tmp_path):
    root = SyntheticPeople.write_coco(tmp_path / "people", 12, 5, seed=3, image_size=(80, 96))
    files = check_coco_root(root)
    content = json.loads(files["train"].annotations.read_text())
    assert len(content["images"]) == len(list(files["train"].images.iterdir())) == 12
    assert len(list(files["val"].images.iterdir())) == 5
    ids = [a["id"] for a in content["annotations"]]
    assert len(set(ids)) == len(ids) >= 12
    train, val = (CocoKeypoints(*files[split], input_size=(48, 64)) for split in ("train", "val"))
    assert train.skeleton is COCO
    assert len(train) == len(ids)
    assert val[0]["image"].shape == (64, 48, 3)

    again = SyntheticPeople.write_coco(tmp_path / "again", 12, 5, seed=3, image_size=(80, 96))
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        assert path.read_bytes() == (again / path.relative_to(root)).read_bytes()
    stamp = files["train"].annotations.stat().st_mtime_ns
    SyntheticPeople.write_coco(root, 12, 5, seed=3, image_size=(80, 96))
    assert files["train"].annotations.stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError, match="was not written with"):
        SyntheticPeople.write_coco(root, 13, 5, seed=3, image_size=(80, 96))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "people"]

    train_images = {p.read_bytes() for p in files["train"].images.iterdir()}
    assert not train_images & {p.read_bytes() for p in files["val"].images.iterdir()}


def test_pycocotools_scores_the_truth_at_one(tmp_path, capsys):
    root = SyntheticPeople.write_coco(tmp_path / "people", 1, 20, image_size=(100, 120))
    path = check_coco_root(root)["val"].annotations
    truth = CocoFile(str(path))
    results = [
        {key: a[key] for key in ("image_id", "category_id", "keypoints")} | {"score": 1.0}
        for a in truth.dataset["annotations"]
    ]
    evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_people_in_memory_are_people_for_the_dataset():
    annotations, images = SyntheticPeople.coco(5, seed=2, image_size=(80, 96))
    people = CocoKeypoints(annotations, images, (48, 64), augmentation=PoseAugmentation())
    assert len(people) == len(annotations["annotations"])
    assert people[0]["image"].any()


def test_pictures_are_neither_flat_nor_alike():
    images = np.stack([scene.image for scene in scenes(30)]).astype(float)
    assert (images.std((1, 2)).mean(1) > 10).all()
    assert images.std(0).mean() > 30
    edges = [cv2.Laplacian(image[..., 1].astype(np.float32), cv2.CV_32F).std() for image in images]
    assert min(edges) > 2


def test_contact_sheet():
    sheet = contact_sheet(columns=3, rows=2, image_size=(40, 48))
    plain = contact_sheet(columns=3, rows=2, image_size=(40, 48), skeletons=False)
    assert sheet.shape == (96, 120, 3)
    assert (sheet[:48] == plain[:48]).all()
    assert (sheet[48:] != plain[48:]).any()


def test_fast_enough():
    """A floor far below what a core does, so that only a real loss of speed fails."""
    people = SyntheticPeople(1000, (96, 128), augmentation=PoseAugmentation(), fresh=True)
    people[0]
    start = time.process_time()
    for index in range(40):
        people[index]
    assert 40 / (time.process_time() - start) > 40  # crops per second


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match=r"expected length above 0.*length=0"):
        SyntheticPeople(0)
    with pytest.raises(ValueError, match="at least 16 px"):
        SyntheticPeople(3, image_size=(8, 100))
    with pytest.raises(IndexError, match="index 3 of 3"):
        SyntheticPeople(3, (48, 64))[3]
