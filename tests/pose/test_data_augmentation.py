"""Augmentation: its distribution, half bodies, and that keypoints stay on their pixels."""

from __future__ import annotations

import numpy as np
import pytest

from cycledistill_pose.data import CocoKeypoints, PoseAugmentation
from cycledistill_pose.skeletons import COCO, CROWDPOSE, Skeleton
from tests.pose.files import coco_file, labelled

BOX = np.array([100.0, 50.0, 160.0, 210.0])
STILL = {
    "shift": 0,
    "flip_probability": 0,
    "half_body_probability": 0,
    "rotation_degrees": 0,
    "scale": 0,
}


def draws(count=4000, visible=17, skeleton=COCO, **options):
    rng = np.random.default_rng(7)
    keypoints = rng.uniform([100, 50], [160, 210], (skeleton.num_keypoints, 2))
    seen = (np.arange(skeleton.num_keypoints) < visible).astype(np.float32)
    augmentation = PoseAugmentation(**options)
    return [
        augmentation.draw(np.random.default_rng((3, i)), BOX, 1.25, keypoints, seen, skeleton)
        for i in range(count)
    ], keypoints


def test_distribution_is_the_recipe():
    changes, _ = draws(half_body_probability=0)
    shift = np.array([c.shift for c in changes])
    moved = (shift != 0).all(1)
    assert moved.mean() == pytest.approx(0.3, abs=0.03)
    assert np.abs(shift).max() <= 0.16
    assert shift[moved].std(0) == pytest.approx(0.16 / np.sqrt(3), rel=0.1)
    assert np.mean([c.flip for c in changes]) == pytest.approx(0.5, abs=0.03)
    scale = np.array([c.scale for c in changes])
    assert scale.min() == pytest.approx(0.65)
    assert scale.max() == pytest.approx(1.35)
    # A normal draw is beyond one standard deviation, and so clipped, 31.7 % of the time.
    assert np.isin(scale, [scale.min(), scale.max()]).mean() == pytest.approx(0.317, abs=0.03)
    angle = np.array([c.rotation_degrees for c in changes])
    assert (angle != 0).mean() == pytest.approx(0.6, abs=0.03)
    assert np.abs(angle).max() == pytest.approx(90)
    assert np.median(np.abs(angle[angle != 0])) == pytest.approx(0.6745 * 45, rel=0.1)
    assert all(c.padding == 1.25 and (c.box_xyxy == BOX).all() for c in changes)


@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE], ids=lambda s: s.name)
def test_half_bodies(skeleton):
    changes, keypoints = draws(skeleton=skeleton, visible=skeleton.num_keypoints)
    halves = [c for c in changes if c.padding == 1.5]
    assert len(halves) / len(changes) == pytest.approx(0.3, abs=0.03)
    expected = {}
    for name, part in (("upper", skeleton.upper_body), ("lower", skeleton.lower_body)):
        points = keypoints[list(part)]
        size = points.max(0) - points.min(0)
        expected[name] = np.concatenate([points.mean(0) - size / 2, points.mean(0) + size / 2])
    upper = [np.allclose(c.box_xyxy, expected["upper"]) for c in halves]
    lower = [np.allclose(c.box_xyxy, expected["lower"]) for c in halves]
    assert all(u != low for u, low in zip(upper, lower, strict=True))
    assert np.mean(upper) == pytest.approx(0.69, abs=0.04)
    assert all((c.shift == 0).all() for c in halves)


def test_people_with_few_keypoints_stay_whole():
    changes, _ = draws(visible=8, half_body_probability=1, count=50)
    assert all(c.padding == 1.25 for c in changes)
    changes, _ = draws(visible=9, half_body_probability=1, count=50)  # all nine are of the upper
    assert all(c.padding == 1.5 for c in changes)
    names = ["beak", "tail", *(f"{side}_{n}" for side in ("left", "right") for n in range(5))]
    bird = Skeleton.from_coco_category({"name": "bird", "keypoints": names})  # without a lower body
    changes, _ = draws(skeleton=bird, half_body_probability=1, count=50)
    assert all(c.padding == 1.25 for c in changes)


def test_options_do_not_disturb_each_other():
    first, _ = draws(count=20, half_body_probability=0)
    second, _ = draws(count=20, half_body_probability=0, flip_probability=0, scale=0.1)
    for a, b in zip(first, second, strict=True):
        assert (a.shift == b.shift).all()
        assert a.rotation_degrees == b.rotation_degrees


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip_probability": 1.5}, "flip_probability: expected a number between 0 and 1, got 1.5"),
        ({"scale": 1.0}, "scale: expected a number below 1"),
        ({"shift": -0.1}, "shift: expected 0 or more"),
        ({"shift": float("nan")}, "shift: expected 0 or more, got nan"),
        ({"scale": float("nan")}, "scale: expected 0 or more, got nan"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PoseAugmentation(**options)


def person_with_dot(keypoints, size, dot):
    """An image that is black but for a soft dot at one keypoint."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    distance = (x - keypoints[dot, 0]) ** 2 + (y - keypoints[dot, 1]) ** 2
    image = (255 * np.exp(-distance / (2 * 4.0**2))).astype(np.uint8)
    return np.repeat(image[..., None], 3, 2)


@pytest.mark.parametrize("udp", [False, True])
def test_keypoints_stay_on_their_pixels(udp):
    size = (220, 260)
    rng = np.random.default_rng(0)
    keypoints = np.round(rng.uniform([70, 60], [150, 200], (17, 2)), 1)
    seen = np.insert(keypoints, 2, 2, axis=1)
    annotations = coco_file([labelled(5, 1, [65, 55, 90, 150], seen)], ["p"], size)
    found = flips = 0
    for dot in range(17):
        images = {"p": person_with_dot(keypoints, size, dot)}
        people = CocoKeypoints(
            annotations, images, augmentation=PoseAugmentation(), udp=udp, seed=dot
        )
        for epoch in range(6):
            people.set_epoch(epoch)
            sample = people[0]
            matrix = sample["crop_matrix"].numpy()
            flipped = np.linalg.det(matrix[:, :2]) < 0
            flips += flipped
            name = COCO.flip_indices[dot] if flipped else dot
            x, y = sample["keypoints"][name].tolist()
            if not (30 < x < 162 and 30 < y < 226):
                continue
            weight = sample["image"][..., 0].numpy().astype(float)
            rows, columns = np.mgrid[:256, :192]
            centroid = ((columns * weight).sum(), (rows * weight).sum()) / weight.sum()
            assert np.hypot(*(centroid - [x, y])) < 0.25
            found += 1
    assert found > 40
    assert 20 < flips < 80


def test_still_augmentation_changes_nothing():
    lamp = labelled(1, 1, [5, 5, 20, 40], [9, 9, 2] * 2)
    annotations = coco_file([lamp], ["p"], names=["foot", "bulb"])
    images = {"p": np.random.default_rng(0).integers(0, 255, (60, 40, 3), dtype=np.uint8)}
    plain = CocoKeypoints(annotations, images)[0]
    still = CocoKeypoints(annotations, images, augmentation=PoseAugmentation(**STILL))[0]
    for key, value in plain.items():
        assert (value == still[key]).all(), key
