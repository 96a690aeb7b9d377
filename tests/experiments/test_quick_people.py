"""The quick loop on people: heatmaps follow the images, and scores are those of the library."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cycledistill import CycleWrapper
from cycledistill_pose import HeatmapCodec
from cycledistill_pose.metrics import PCK
from experiments import _image_people, _image_train, _weights
from experiments._image_people import Coordinates, Heatmaps, Truth
from experiments._image_run import ImageRun
from experiments._image_train import train_seeds
from experiments._people import People
from experiments._results import weights_file
from experiments._study import Study
from experiments._vit import SeededViT, initial_weights, plain_model, stacked
from experiments._weights import keep, load_kept, score

TINY = ImageRun(epochs=1, task="lspet", train_samples=20, width=32, patch_size=16, batch_size=10)
GROWN = replace(TINY, cycles=2, used=2)
FOLDED = replace(TINY, teachers=(GROWN,), truth_weight=0.3)
FLIP = (1, 0, *range(2, 14))


def some_people(count: int, seed: int) -> People:
    """Each keypoint is a pixel that is white in one colour; every third has no label."""
    numbers = torch.Generator().manual_seed(seed)
    points = torch.randint(8, 56, (count, 14, 2), generator=numbers)
    images = torch.zeros(count, 3, 64, 64, dtype=torch.uint8)
    images[:, 2] = torch.randint(0, 256, (count, 64, 64), dtype=torch.uint8, generator=numbers)
    person = torch.arange(count)
    images[person, 0, points[:, 0, 1], points[:, 0, 0]] = 255
    images[person, 1, points[:, 1, 1], points[:, 1, 0]] = 255
    visible = torch.ones(count, 14)
    visible[::3, 5] = 0
    boxes = torch.tensor([8.0, 4.0, 50.0, 60.0]).expand(count, 4)
    return People(images, points.float(), visible, boxes)


@pytest.fixture(autouse=True)
def people(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = some_people(20, 0), some_people(12, 1), some_people(9, 2), FLIP
    monkeypatch.setattr(_image_people, "_lspet", lambda cache: splits)


def test_heatmaps_follow_the_augmented_images(tmp_path: Path) -> None:
    goal = Heatmaps(TINY, [0, 1], tmp_path, "cpu")
    indices = torch.stack([torch.arange(20).repeat(40), torch.arange(20).repeat(40).flip(0)])
    images, truth = goal.batch(indices)
    assert truth.targets.shape == (2, 800, 14, 256) and truth.weights.shape == (2, 800, 14)
    found, _ = HeatmapCodec((64, 64), (16, 16), 1.5).decode(
        truth.targets.flatten(0, 1).unflatten(-1, (16, 16))
    )
    brightest = images.flatten(0, 1)[:, :2].flatten(2).argmax(-1)
    shown = torch.stack([brightest % 64, brightest // 64], -1)
    # A mirrored image shows the left keypoint's colour where the right one now is.
    straight, swapped = ((found[:, pair] - shown).abs().amax((1, 2)) for pair in ([0, 1], [1, 0]))
    assert bool((torch.minimum(straight, swapped) < 2.5).all())  # the codec near the border
    assert 300 < int((straight < swapped).sum()) < 1300
    hidden = indices % 3 == 0
    assert bool((truth.weights[..., 5][hidden] == 0).all())
    assert bool((truth.weights[..., 5][~hidden] == 1).all())


def test_coordinates_follow_the_augmented_images(tmp_path: Path) -> None:
    config = replace(TINY, task="lspet-coordinates")
    maps, goal = Heatmaps(TINY, [3], tmp_path, "cpu"), Coordinates(config, [3], tmp_path, "cpu")
    indices = torch.arange(20)[None]
    (images, shown), (same, found) = maps.batch(indices), goal.batch(indices)
    torch.testing.assert_close(images, same)
    torch.testing.assert_close(found.weights, shown.weights)
    assert found.targets.shape == (1, 20, 14, 2)
    in_view = shown.weights[0] > 0
    error = (Coordinates.places(found.targets[0]) - Heatmaps.places(shown.targets[0])).abs()
    assert float(error[in_view].max()) < 2.5  # the codec near the border


def test_networks_of_coordinates_are_taught_and_scored(tmp_path: Path) -> None:
    config = replace(TINY, task="lspet-coordinates")
    grown = replace(config, cycles=2, used=2)
    train_seeds([grown.seeded(1000)], tmp_path)
    folded = replace(config, teachers=(grown,), truth_weight=0.3)
    (record,) = train_seeds([folded.seeded(0)], tmp_path)
    assert {"test/PCK/1", "test/PCK/2", "test/PCK/teachers"} <= set(record["metrics"])
    people = some_people(9, 2)
    right = (people.keypoints / 64)[None]
    assert float(Coordinates.score(right, people)) == 100
    assert float(Coordinates.score(right + 0.2, people)) == 0
    outputs, told = torch.rand(1, 4, 14, 2), torch.rand(1, 4, 14, 2)
    truth = Truth(told, torch.zeros(1, 4, 14).index_fill_(2, torch.tensor([0, 1]), 1.0))
    errors = (outputs - told).abs().sum(-1)
    torch.testing.assert_close(
        Coordinates.truth_loss(outputs, truth, 0.0), errors[..., :2].sum()[None] / (4 * 14)
    )
    torch.testing.assert_close(Coordinates.teaching_loss(outputs, [told], 2.0), errors.mean()[None])


def heatmaps_of(model: nn.Module, tokens: Tensor) -> Tensor:
    return model.head(model.norm(tokens[:, :14]))


def test_heatmaps_are_read_from_every_cycles_keypoint_tokens() -> None:
    config = replace(TINY, depth=2)
    weights = [initial_weights(config.seeded(seed)) for seed in (0, 1)]
    for own in weights:
        for value in own.values():
            value.add_(0.1 * torch.randn_like(value))
    images = torch.randn(2, 3, 3, 64, 64)
    every = SeededViT(config, stacked(weights)).cycles(images, 2, every=True)
    last = SeededViT(config, stacked(weights)).cycles(images, 2)
    for place, own in enumerate(weights):
        model = plain_model(config)
        model.load_state_dict(own)
        cycled = CycleWrapper(model.eval(), num_cycles=2, blocks="blocks").eval()
        tokens = cycled.forward_cycles(images[place]).tokens
        for cycle in range(2):
            expected = heatmaps_of(model, tokens[cycle])
            torch.testing.assert_close(every[cycle].outputs[place], expected, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(last[0].outputs[place], expected, atol=2e-5, rtol=2e-5)


def test_loss_is_of_labelled_keypoints_and_of_all_the_teacher_shows() -> None:
    student, grown = initial_weights(TINY.seeded(1)), initial_weights(GROWN.seeded(2))
    images = torch.randn(1, 4, 3, 64, 64)
    truth = Truth(torch.rand(1, 4, 14, 256), (torch.rand(1, 4, 14) > 0.5).float())
    models = SeededViT(FOLDED, stacked([student])), SeededViT(GROWN, stacked([grown]))
    found = _image_train._loss(models[0], [models[1]], images, truth)
    own = models[0].cycles(images, 1)[0].outputs[0]
    told = models[1].cycles(images, 2)[0].outputs[0]
    labelled = ((own - truth.targets[0]) ** 2).sum(-1) * truth.weights[0]
    expected = 0.3 * labelled.sum() / (4 * 14) + 0.7 * ((own - told) ** 2).sum(-1).mean()
    torch.testing.assert_close(found, expected)

    share = torch.tensor([0.25])
    found = _image_train._loss(models[0], [models[1]], images, truth, share)
    images = 0.25 * images + 0.75 * images[:, [3, 0, 1, 2]]
    own, told = models[0].cycles(images, 1)[0].outputs[0], models[1].cycles(images, 2)[0].outputs[0]
    expected = 0.7 * ((own - told) ** 2).sum(-1).mean()
    for part, order in ((0.25, [0, 1, 2, 3]), (0.75, [3, 0, 1, 2])):
        labelled = ((own - truth.targets[0, order]) ** 2).sum(-1) * truth.weights[0, order]
        expected = expected + part * 0.3 * labelled.sum() / (4 * 14)
    torch.testing.assert_close(found, expected)


def test_scores_are_pck_of_the_people(tmp_path: Path) -> None:
    (grown,) = train_seeds([GROWN.seeded(1000)], tmp_path)
    assert grown["config"]["task"] == "lspet"
    (record,) = train_seeds([FOLDED.seeded(0)], tmp_path)
    assert {"val/PCK/1", "test/PCK/2", "test/PCK/teachers"} <= set(record["metrics"])
    weights = load_file(weights_file(FOLDED.seeded(0).key, tmp_path))
    goal = Heatmaps(FOLDED, [0], tmp_path, "cpu")
    model = plain_model(FOLDED)
    model.load_state_dict(weights)
    cycled = CycleWrapper(model.eval(), num_cycles=2, blocks="blocks").eval()
    people = goal.test
    codec = HeatmapCodec((64, 64), (16, 16), 1.5)
    tokens = cycled.forward_cycles(goal.images.normalized(people.images)).tokens
    for cycle in (1, 2):
        metric = PCK(14, 0.1)
        maps = heatmaps_of(model, tokens[cycle - 1]).unflatten(-1, (16, 16))
        metric.update(codec.decode(maps)[0], people.keypoints, people.visible, people.boxes)
        assert record["metrics"][f"test/PCK/{cycle}"] == pytest.approx(
            100 * float(metric.compute()), abs=1e-3
        )


def test_kept_weights_are_scored_on_other_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study("?", {"plain": TINY}, (7,), ("plain",), kept=("plain",))
    (record,) = train_seeds([TINY.seeded(7)], tmp_path / "work")
    (file,) = keep([study], tmp_path / "work", tmp_path / "kept")
    kept = load_kept(file.stem, tmp_path / "kept")
    people = some_people(9, 2)
    others = people._replace(images=people.images.permute(0, 2, 3, 1))
    monkeypatch.setattr(_weights, "read_people", lambda annotations, images: (others, FLIP))
    found = score(kept, tmp_path, tmp_path / "people.json")
    assert {name: round(value, 4) for name, value in found.items()} == {
        name: record["metrics"][f"test/{name}"] for name in ("PCK/1", "PCK/2")
    }
    with pytest.raises(ValueError, match="is for people: expected --annotations, got None"):
        score(kept, tmp_path)
    fewer = others._replace(keypoints=others.keypoints[:, :5])
    monkeypatch.setattr(_weights, "read_people", lambda annotations, images: (fewer, FLIP))
    with pytest.raises(ValueError, match="expected LSPET's 14 keypoints, got 5"):
        score(kept, tmp_path, tmp_path / "people.json")


def test_what_is_for_classes_alone() -> None:
    with pytest.raises(ValueError, match="are for classes, not for task='lspet'"):
        replace(TINY, label_smoothing=0.1)
    assert TINY.metric == "PCK" and replace(TINY, task="cifar10").metric == "accuracy"
    assert TINY.key != replace(TINY, task="cifar10").key
