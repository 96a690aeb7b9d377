"""Batches do not depend on how they are loaded, and a resumed epoch is the same epoch."""

from __future__ import annotations

import contextlib
import time

import cv2
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Subset

from cycledistill.training import TrainConfig, fit
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
    batches = list(pose_loader(dataset, 9, batch_sampler=[[2], [0, 1]]))
    assert [batch["image_id"].tolist() for batch in batches] == [[2], [0, 1]]


class Slow(SyntheticPeople):
    """Every other sample takes longer, so that workers are in different epochs at a time."""

    def __getitem__(self, index):
        time.sleep(0.01 * (index % 2))
        threads = torch.tensor(cv2.getNumThreads())
        return super().__getitem__(index) | {"threads": threads}


@pytest.mark.parametrize("hide", [lambda people: people, lambda d: Subset(d, range(12))])
def test_the_epoch_may_change_while_workers_load(hide):
    """What was asked for in one epoch is of that epoch, whatever is set meanwhile."""
    people = Slow(12, (48, 64), augmentation=PoseAugmentation(), fresh=True)
    expected = collect(pose_loader(hide(people), 2))["crop_matrix"]
    seen = []
    for number, batch in enumerate(pose_loader(hide(people), 2, num_workers=2)):
        people.set_epoch(number + 1)
        seen.append(batch["crop_matrix"])
    assert torch.equal(torch.cat(seen), expected)
    assert people.epoch == 6


class Loss(nn.Module):
    """A loss as `fit` expects it, of nothing but the model's weight."""

    def forward(self, total):
        self.total = total
        return self

    def scalars(self):
        return {"loss": self.total.item()}


def train(folder, hide=lambda people: people, stop_after=None, **options):
    """The crops and the numbers of OpenCV's threads that a run of 3 epochs sees."""
    crops, threads = [], []

    def forward_loss(model, criterion, batch):
        if len(crops) == stop_after:
            raise InterruptedError
        crops.append(batch["crop_matrix"])
        threads.extend(batch["threads"].tolist())
        return criterion(model(torch.ones(1, 1)).sum()), len(batch["image"])

    model = nn.Linear(1, 1)
    people = Slow(16, (48, 64), augmentation=PoseAugmentation(), easy=True)
    defaults = {"epochs": 3, "batch_size": 4, "device": "cpu", "checkpoint_every_steps": 1}
    with contextlib.suppress(InterruptedError):
        fit(
            TrainConfig(folder, **{**defaults, **options}),
            model=model,
            criterion=Loss(),
            optimizer=torch.optim.SGD(model.parameters(), lr=1e-6),
            train_dataset=hide(people),
            forward_loss=forward_loss,
        )
    return crops, threads


@pytest.mark.parametrize("repeats", [1, 3])
def test_training_sees_the_same_crops_with_any_number_of_workers(tmp_path, repeats):
    """Other crops in each epoch, whether or not a run is resumed in the middle of one."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        alone, threads = train(tmp_path / "0", repeated_augmentation=repeats, num_workers=0)
        assert set(threads) == {3}
        assert not torch.equal(torch.cat(alone[:4]), torch.cat(alone[4:8]))
        for workers in (1, 3):
            crops, threads = train(
                tmp_path / str(workers), repeated_augmentation=repeats, num_workers=workers
            )
            assert set(threads) == {1}  # the workers are the threads
            assert torch.equal(torch.cat(crops), torch.cat(alone))
    finally:
        cv2.setNumThreads(before)
    first, _ = train(tmp_path / "r", repeated_augmentation=repeats, num_workers=2, stop_after=6)
    rest, _ = train(tmp_path / "r", repeated_augmentation=repeats, num_workers=1)
    assert torch.equal(torch.cat(first + rest), torch.cat(alone))


@pytest.mark.parametrize("hide", [lambda d: Subset(d, range(12)), lambda d: ConcatDataset([d])])
def test_the_epoch_reaches_a_dataset_inside_another(tmp_path, hide):
    crops, _ = train(tmp_path, hide, num_workers=0)
    seen = [set(map(tuple, part.tolist())) for part in torch.cat(crops).flatten(1).chunk(3)]
    assert not seen[0] & seen[1] and not seen[1] & seen[2]
