"""crop_matrix against the three-point construction of the toolboxes, and its inverse."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cycledistill_pose.data import crop_matrix, invert_matrix, normalize_images, transform_points

SIZES = st.sampled_from([(192, 256), (256, 192), (128, 128), (48, 64)])
PLACES = st.floats(-50, 600)
SIDES = st.floats(1, 500)


def three_points(box, size, padding, shift, scale, degrees, flip):
    """Centre, the middle of the upper edge, and a right angle, each in image and input."""
    left, top, right, bottom = box
    w_in, h_in = size
    w, h = right - left, bottom - top
    if w > w_in / h_in * h:
        h = w / (w_in / h_in)
    else:
        w = h * (w_in / h_in)
    w, h = w * padding, h * padding
    centre = np.array([(left + right) / 2 + shift[0] * w, (top + bottom) / 2 + shift[1] * h])
    w *= scale
    theta = np.deg2rad(degrees)
    up = w / 2 * np.array([np.sin(theta), -np.cos(theta)])
    if flip:  # mirrored first: the box turns the other way in the image that is given
        up[0] = -up[0]
    aside = np.array([up[1], -up[0]]) * (-1 if flip else 1)
    source = np.float32([centre, centre + up, centre + aside])
    middle = np.array([w_in / 2, h_in / 2])
    reach = w_in / 2 * np.array([[0, 0], [0, -1], [-1, 0]])
    target = (middle + reach).astype(np.float32)
    return cv2.getAffineTransform(source, target)


@given(
    x=PLACES,
    y=PLACES,
    w=SIDES,
    h=SIDES,
    size=SIZES,
    padding=st.floats(1, 1.6),
    shift=st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)),
    scale=st.floats(0.6, 1.4),
    degrees=st.floats(-90, 90),
    flip=st.booleans(),
)
def test_matrix_is_the_three_point_one(x, y, w, h, size, padding, shift, scale, degrees, flip):
    box = [x, y, x + w, y + h]
    change = {"shift": shift, "scale": scale, "rotation_degrees": degrees, "flip": flip}
    ours = crop_matrix(box, size, padding, **change)
    theirs = three_points(box, size, padding, shift, scale, degrees, flip)
    corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]])
    assert np.allclose(
        transform_points(corners, ours), transform_points(corners, theirs), atol=0.05, rtol=1e-3
    )


@given(x=PLACES, y=PLACES, w=SIDES, h=SIDES, size=SIZES, udp=st.booleans())
def test_box_lands_where_the_docstring_says(x, y, w, h, size, udp):
    matrix = crop_matrix([x, y, x + w, y + h], size, padding=1.25, udp=udp)
    span = np.array(size) - udp
    middle = transform_points(np.array([[x + w / 2, y + h / 2]]), matrix)[0]
    assert np.allclose(middle, span / 2, atol=1e-6)
    corners = transform_points(np.array([[x, y], [x + w, y + h]]), matrix)
    part = (corners[1] - corners[0]) / span
    assert part.max() == pytest.approx(1 / 1.25)  # the longer side, in parts of the input
    assert matrix[0, 1] == matrix[1, 0] == 0
    if not udp:
        assert matrix[0, 0] == pytest.approx(matrix[1, 1])


def test_udp_spans_pixel_centres():
    box = [10.0, 20.0, 10.0 + 96, 20.0 + 128]
    exact = transform_points(
        np.array([[10.0, 20.0], [106.0, 148.0]]), crop_matrix(box, (192, 256), 1.0, udp=True)
    )
    assert np.allclose(exact, [[0, 0], [191, 255]])


@given(
    degrees=st.floats(-180, 180),
    flip=st.booleans(),
    scale=st.floats(0.3, 3),
    seed=st.integers(0, 99),
)
def test_inverse_brings_points_back(degrees, flip, scale, seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 300, (5, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 300, (5, 2))], 1)
    matrix = crop_matrix(
        boxes, (192, 256), rotation_degrees=degrees, flip=flip, scale=np.full(5, scale)
    )
    points = rng.uniform(-100, 700, (5, 17, 2))
    there = transform_points(points, matrix)
    assert np.allclose(transform_points(there, invert_matrix(matrix)), points, atol=1e-6)
    both = invert_matrix(invert_matrix(matrix))
    assert np.allclose(both, matrix)


def test_flip_twice_is_identity():
    box = [30.0, 40.0, 130.0, 240.0]
    plain = crop_matrix(box, (192, 256))
    mirrored = crop_matrix(box, (192, 256), flip=True)
    points = np.random.default_rng(0).uniform(0, 200, (17, 2))
    once = transform_points(points, mirrored)
    assert np.allclose(once[:, 0], 192 - transform_points(points, plain)[:, 0])
    assert np.allclose(once[:, 1], transform_points(points, plain)[:, 1])
    again = crop_matrix([0.0, 0.0, 192.0, 256.0], (192, 256), padding=1.0, flip=True)
    assert np.allclose(transform_points(once, again), transform_points(points, plain))


def test_many_boxes_at_once_are_as_one_by_one():
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 300, (2, 3, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 300, (2, 3, 2))], -1)
    shift, scale = rng.uniform(-0.1, 0.1, (2, 3, 2)), rng.uniform(0.7, 1.3, (2, 3))
    degrees, flip = rng.uniform(-40, 40, (2, 3)), rng.random((2, 3)) < 0.5
    change = {"shift": shift, "scale": scale, "rotation_degrees": degrees, "flip": flip}
    together = crop_matrix(boxes, (192, 256), **change)
    assert together.shape == (2, 3, 2, 3)
    for i in np.ndindex(2, 3):
        alone = crop_matrix(boxes[i], (192, 256), **{k: v[i] for k, v in change.items()})
        assert np.allclose(together[i], alone)


def test_tensors_stay_tensors():
    boxes = torch.tensor([[10.0, 20.0, 60.0, 120.0], [0.0, 0.0, 5.0, 5.0]])
    matrix = crop_matrix(boxes, (192, 256))
    assert matrix.dtype == torch.float32
    assert torch.allclose(matrix, torch.from_numpy(crop_matrix(boxes.numpy(), (192, 256))).float())
    points = torch.rand(2, 17, 2) * 100
    back = transform_points(transform_points(points, matrix), invert_matrix(matrix))
    assert torch.allclose(back, points, atol=1e-3)
    whole = crop_matrix(torch.tensor([[10, 20, 60, 120]]), (192, 256))
    assert torch.allclose(whole, matrix[:1])


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([1.0, 2.0, 3.0], r"shape \[..., 4\], got \[3\]"),
        ([10.0, 0.0, 10.0, 5.0], r"left < right.*\[10.0, 0.0, 10.0, 5.0\]"),
        ([0.0, 0.0, float("nan"), 5.0], "finite"),
        ([[0.0, 0.0, 4.0, 4.0], [0.0, 9.0, 4.0, 4.0]], r"\[0.0, 9.0, 4.0, 4.0\]"),
    ],
)
def test_bad_boxes_are_refused(box, message):
    with pytest.raises(ValueError, match=message):
        crop_matrix(box, (192, 256))


def test_normalize_images_is_the_textbook_formula():
    images = torch.randint(0, 256, (2, 7, 5, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((images.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    ours = normalize_images(images)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours.double(), expected, atol=1e-6)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert normalize_images(images, dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(TypeError, match=r"uint8, got torch\.float32"):
        normalize_images(images.float())
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\], got \[2, 3, 7, 5\]"):
        normalize_images(images.permute(0, 3, 1, 2))
