"""Batches do not depend on how they are loaded, and a resumed epoch is the same epoch."""

from __future__ import annotations

import pytest
import torch

from cycledistill_pose.data import (
    CocoKeypoints,
    PoseAugmentation,
    SyntheticPeople,
    check_coco_root,
    pose_loader,
)


def collect(loader):
    batches = list(loader)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def assert_same(a, b):
    assert set(a) == set(b)
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.fixture(params=["coco", "synthetic"])
def make(request, shared_data):
    augmentation = PoseAugmentation()
    if request.param == "synthetic":
        return lambda: SyntheticPeople(
            12, input_size=(48, 64), augmentation=augmentation, fresh=True, seed=1
        )
    files = check_coco_root(shared_data("tiny_coco"))["train"]
    return lambda: CocoKeypoints(*files, input_size=(48, 64), augmentation=augmentation, seed=1)


@pytest.mark.slow
def test_workers_and_epochs(make):
    alone, helped = make(), make()
    loaders = [
        pose_loader(dataset, 8, shuffle=True, num_workers=workers, seed=5)
        for dataset, workers in ((alone, 0), (helped, 2))
    ]
    seen = []
    for epoch in (0, 1, 0):
        alone.set_epoch(epoch)
        helped.set_epoch(epoch)
        a, b = (collect(loader) for loader in loaders)
        assert_same(a, b)
        seen.append(a)
    assert_same(seen[0], seen[2])
    assert not torch.equal(seen[0]["image"], seen[1]["image"])
    assert not torch.equal(seen[0]["annotation_id"], seen[1]["annotation_id"])
    assert torch.equal(
        seen[0]["annotation_id"].sort().values, seen[1]["annotation_id"].sort().values
    )

    resumed = make()
    resumed.set_epoch(1)
    assert_same(collect(pose_loader(resumed, 8, shuffle=True, seed=5)), seen[1])
    other = collect(pose_loader(resumed, 8, shuffle=True, seed=6))
    assert not torch.equal(other["annotation_id"], seen[1]["annotation_id"])


def test_batches_have_the_promised_form():
    dataset = SyntheticPeople(7, input_size=(48, 64))
    batches = list(pose_loader(dataset, 3))
    assert [len(batch["image"]) for batch in batches] == [3, 3, 1]
    assert len(pose_loader(dataset, 3, drop_last=True)) == 2
    forms = {key: (value.dtype, tuple(value.shape)) for key, value in batches[0].items()}
    assert forms == {
        "image": (torch.uint8, (3, 64, 48, 3)),
        "keypoints": (torch.float32, (3, 17, 2)),
        "visible": (torch.float32, (3, 17)),
        "box_xyxy": (torch.float32, (3, 4)),
        "box_score": (torch.float32, (3,)),
        "image_id": (torch.int64, (3,)),
        "annotation_id": (torch.int64, (3,)),
        "crop_matrix": (torch.float32, (3, 2, 3)),
    }
    assert [int(i) for i in collect(pose_loader(dataset, 3))["image_id"]] == list(range(7))


def test_options_reach_the_loader():
    dataset = SyntheticPeople(4, input_size=(48, 64))
    loader = pose_loader(dataset, 2, sampler=[3, 1], shuffle=True)
    assert collect(loader)["image_id"].tolist() == [3, 1]
