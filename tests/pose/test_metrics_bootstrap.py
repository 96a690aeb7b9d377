"""The bootstrap, against pycocotools on files in which images really stand several times."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cycledistill_pose.metrics import CocoKeypointAP, bootstrap_ap, percentile_interval
from cycledistill_pose.metrics._bootstrap import _average_precision, _matches
from tests.pose.files import labelled

K = 17


def made_up_truth(seed: int, images: int = 14) -> dict[str, Any]:
    """Images with 0 to 3 people, some without labelled keypoints, one crowd."""
    rng = np.random.default_rng(seed)
    people: list[dict[str, Any]] = []
    for image in range(images):
        for _ in range(0 if image == 0 else rng.integers(0, 4)):
            corner, size = rng.uniform(0, 300, 2), rng.uniform(40, 200, 2)
            points = np.c_[corner + rng.random((K, 2)) * size, np.full(K, 2)]
            points[:, 2] *= rng.random() > 0.15
            more = {"area": float(size.prod() / 2), "iscrowd": int(len(people) == 5)}
            number = len(people) + 1
            people.append(labelled(number, 10 + image, [*corner, *size], points, **more))
    return {
        "images": [{"id": 10 + image} for image in range(images)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": people,
    }


def made_up_metric(truth: dict[str, Any], seed: int, size: float = 1.0) -> CocoKeypointAP:
    """People found well, badly, twice, not at all, and where nobody is."""
    rng = np.random.default_rng(seed)
    metric = CocoKeypointAP(truth)
    for person in truth["annotations"]:
        points = np.array(person["keypoints"]).reshape(K, 3)[:, :2]
        for _ in range(rng.integers(0, 3)):
            scale = size * np.sqrt(person["area"]) * rng.choice([0.02, 0.06, 0.1, 0.3])
            x, y, w, h = person["bbox"]
            metric.update(
                [person["image_id"]],
                points[None] + scale * rng.normal(size=(1, K, 2)),
                rng.uniform(0.2, 1, (1, K)),
                [[x, y, x + w, y + h]],
                rng.uniform(0.3, 1, 1),
            )
    for image in (10, 13):
        points = rng.uniform(0, 300, (1, K, 2))
        metric.update([image], points, rng.uniform(0.2, 1, (1, K)), [[0, 0, 90, 90]], [0.9])
    return metric


def pycocotools_on_copies(
    truth: dict[str, Any], results: list[dict[str, Any]], times: list[int]
) -> float:
    """AP by pycocotools alone on a file with so many copies of each image."""
    copies = [
        (image["id"], 1000 * image["id"] + copy)
        for image, count in zip(truth["images"], times, strict=True)
        for copy in range(count)
    ]

    def copied(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        picked = [
            {**i, "image_id": new} for old, new in copies for i in items if i["image_id"] == old
        ]
        return [{**item, "id": number} for number, item in enumerate(picked, 1)]

    with contextlib.redirect_stdout(io.StringIO()):
        file = COCO()
        file.dataset = {
            "images": [{"id": new} for _, new in copies],
            "categories": truth["categories"],
            "annotations": copied(truth["annotations"]),
        }
        file.createIndex()
        evaluation = COCOeval(file, file.loadRes(copied(results)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parametrize("seed", range(4))
def test_a_draw_is_what_pycocotools_finds_on_a_file_with_the_copies(seed: int) -> None:
    truth = made_up_truth(seed)
    metric = made_up_metric(truth, seed)
    rng = np.random.default_rng(seed)
    count = len(truth["images"])
    draws = np.stack([np.bincount(rng.integers(count, size=count), minlength=count) for _ in "123"])
    found = _average_precision(_matches(metric), draws.astype(float))
    expected = [pycocotools_on_copies(truth, metric.results(), draw.tolist()) for draw in draws]
    assert min(expected) > 0 and len(set(expected)) == 3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_every_image_once_is_the_ap() -> None:
    truth = made_up_truth(1)
    metric = made_up_metric(truth, 1)
    once = np.ones((1, len(truth["images"])))
    assert _average_precision(_matches(metric), once)[0] == pytest.approx(
        metric.compute()["AP"], abs=1e-12
    )


def test_samples_are_those_of_the_seed_in_steps_of_any_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth = made_up_truth(2)
    metrics = [made_up_metric(truth, 2), made_up_metric(truth, 3)]
    samples = bootstrap_ap(metrics, 50, seed=7)
    assert samples.shape == (2, 50) and np.isfinite(samples).all()
    monkeypatch.setattr("cycledistill_pose.metrics._bootstrap._NUMBERS_AT_A_TIME", 100)
    np.testing.assert_array_equal(bootstrap_ap(metrics, 50, seed=7), samples)
    assert (bootstrap_ap(metrics, 50, seed=8) != samples).any()


def test_differences_are_paired() -> None:
    truth = made_up_truth(4, images=40)
    same, worse = made_up_metric(truth, 4), made_up_metric(truth, 4, size=1.3)
    first, again, other = bootstrap_ap([same, same, worse], 200)
    np.testing.assert_array_equal(first, again)
    paired = percentile_interval(other - first)
    apart = percentile_interval(other - first[::-1])  # draws that are not the same
    assert paired[1] - paired[0] < 0.8 * (apart[1] - apart[0])
    assert paired[1] < 0


@pytest.mark.slow
def test_an_interval_holds_the_ap_of_many_images() -> None:
    """Of 40 made-up files, the 90 % interval holds the AP of a large one about 36 times."""
    large = made_up_truth(100, images=1000)
    true = made_up_metric(large, 100).compute()["AP"]
    held = 0
    for seed in range(40):
        truth = made_up_truth(200 + seed, images=60)
        low, high = percentile_interval(
            bootstrap_ap([made_up_metric(truth, 200 + seed)], 150)[0], level=0.9
        )
        held += low <= true <= high
    assert held >= 28


def test_nobody() -> None:
    truth = made_up_truth(0)
    nothing = bootstrap_ap([CocoKeypointAP(truth)], 20)
    assert (nothing == 0).all()
    empty = CocoKeypointAP({**truth, "annotations": []}, sigmas=[0.05] * K)
    assert np.isnan(bootstrap_ap([empty], 3)).all()
    with pytest.raises(ValueError, match="a number among them"):
        percentile_interval(bootstrap_ap([empty], 3)[0])


def test_wrong_arguments() -> None:
    metric = made_up_metric(made_up_truth(0), 0)
    with pytest.raises(ValueError, match="resamples: expected a whole number of 1 or more, got 0"):
        bootstrap_ap([metric], 0)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_ap([])
    with pytest.raises(ValueError, match=r"same images, got \[14, 9\]"):
        bootstrap_ap([metric, CocoKeypointAP(made_up_truth(0, images=9))])
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        percentile_interval([0.0], level=95)
