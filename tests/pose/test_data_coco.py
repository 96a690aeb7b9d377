"""CocoKeypoints on real files: who is in, what the crops hold, and what is refused."""

from __future__ import annotations

import json
import pickle
from copy import deepcopy

import cv2
import numpy as np
import pytest
import torch

from cycledistill_pose.data import (
    CocoKeypoints,
    PoseAugmentation,
    check_coco_root,
    check_crowdpose_root,
    crop_matrix,
    invert_matrix,
    transform_points,
)
from cycledistill_pose.skeletons import CROWDPOSE
from tests.pose.files import coco_file, labelled

KEYS = {
    "image",
    "keypoints",
    "visible",
    "box_xyxy",
    "box_score",
    "image_id",
    "annotation_id",
    "crop_matrix",
}


def tiny(shared_data, split="train", **options):
    files = check_coco_root(shared_data("tiny_coco"))[split]
    return CocoKeypoints(*files, **options)


@pytest.mark.parametrize(
    ("split", "people", "images", "crowds"), [("train", 57, 25, 3), ("val", 46, 17, 4)]
)
def test_the_right_people_are_read(shared_data, split, people, images, crowds):
    dataset = tiny(shared_data, split)
    files = check_coco_root(shared_data("tiny_coco"))[split]
    annotations = json.loads(files.annotations.read_text())["annotations"]
    expected = [a["id"] for a in annotations if a["num_keypoints"] and not a["iscrowd"]]
    assert [int(dataset[i]["annotation_id"]) for i in range(len(dataset))] == expected
    assert len(dataset) == people
    report = dataset.report()
    assert report["people"] == people
    assert report["images"] == images
    assert report["skipped: crowd"] == crowds
    skipped = sum(n for key, n in report.items() if key.startswith("skipped"))
    assert report["annotations"] == len(annotations) == people + skipped


def bilinear(image, matrix, size):
    """Slow, plain bilinear sampling; black outside."""
    inverse = invert_matrix(matrix)
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    points = np.stack([x.ravel(), y.ravel()], -1).astype(float)
    source = transform_points(points, inverse)
    low = np.floor(source).astype(int)
    part = source - low
    padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)))
    total = np.zeros((len(points), 3))
    for dx in (0, 1):
        for dy in (0, 1):
            weight = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
            column = np.clip(low[:, 0] + dx + 1, 0, padded.shape[1] - 1)
            row = np.clip(low[:, 1] + dy + 1, 0, padded.shape[0] - 1)
            total += weight[:, None] * padded[row, column]
    return total.reshape(size[1], size[0], 3)


def test_crops_are_those_of_a_straight_pipeline(shared_data):
    files = check_coco_root(shared_data("tiny_coco"))["train"]
    content = json.loads(files.annotations.read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    people = {a["id"]: a for a in content["annotations"]}
    dataset = tiny(shared_data)
    for index in range(0, len(dataset), 6):
        sample = dataset[index]
        assert set(sample) == KEYS
        person = people[int(sample["annotation_id"])]
        assert person["image_id"] == int(sample["image_id"])
        image = cv2.imread(str(files.images / names[person["image_id"]]))[..., ::-1]
        x, y, w, h = person["bbox"]
        height, width = image.shape[:2]
        box = [x, y, min(width - 1, x + w), min(height - 1, y + h)]
        assert sample["box_xyxy"].tolist() == pytest.approx(box, abs=1e-3)
        matrix = crop_matrix(box, (192, 256))
        assert np.allclose(sample["crop_matrix"], matrix, atol=1e-4)
        straight = bilinear(image, matrix, (192, 256))
        assert sample["image"].shape == (256, 192, 3)
        assert sample["image"].dtype == torch.uint8
        assert np.abs(straight - sample["image"].numpy()).mean() < 0.5
        points = np.array(person["keypoints"], dtype=float).reshape(17, 3)
        visible = points[:, 2] > 0
        assert (sample["visible"].numpy() == visible).all()
        moved = transform_points(points[:, :2], matrix) * visible[:, None]
        assert np.allclose(sample["keypoints"], moved, atol=1e-3)
        assert float(sample["box_score"]) == 1.0


def test_reduced_decoding_is_close_and_aligned(shared_data):
    """Where it differs: on people who fill the picture, whose crop is shrunk at least twice."""
    full, reduced = tiny(shared_data), tiny(shared_data, reduced_decoding=True)
    differences = []
    for index in range(len(full)):
        a, b = full[index]["image"].numpy(), reduced[index]["image"].numpy()
        if (a == b).all():
            continue
        a, b = (cv2.GaussianBlur(image, (0, 0), 2).astype(float) for image in (a, b))
        differences.append(np.abs(a - b).mean())
        shift, _ = cv2.phaseCorrelate(a.mean(2).astype(np.float32), b.mean(2).astype(np.float32))
        assert np.hypot(*shift) < 0.1  # px of the input
    assert len(differences) >= 2
    assert max(differences) < 2  # grey levels, after the blur that hides aliasing


def test_detected_boxes(shared_data):
    folder = shared_data("samples") / "coco"
    boxes = json.loads((folder / "test_coco_det_AP_H_56.json").read_text())
    dataset = CocoKeypoints(
        folder / "test_coco.json", folder, detections=folder / "test_coco_det_AP_H_56.json"
    )
    assert len(dataset) == len(boxes) == 118
    for index in (0, 50, 117):
        sample = dataset[index]
        x, y, w, h = boxes[index]["bbox"]
        assert sample["box_xyxy"].tolist() == pytest.approx([x, y, x + w, y + h], rel=1e-5)
        assert float(sample["box_score"]) == pytest.approx(boxes[index]["score"])
        assert int(sample["image_id"]) == boxes[index]["image_id"]
        assert int(sample["annotation_id"]) == -1
        assert not sample["visible"].any()
    sure = CocoKeypoints(
        folder / "test_coco.json", folder, detections=boxes, detection_threshold=0.5
    )
    assert len(sure) == sum(box["score"] >= 0.5 for box in boxes)
    assert sure.report()["skipped: score below the threshold"] == 118 - len(sure)


def test_crowdpose_and_lspet(shared_data):
    folder = shared_data("samples") / "crowdpose"
    people = CocoKeypoints(folder / "test_crowdpose.json", folder)
    assert people.skeleton is CROWDPOSE
    assert len(people) == 4  # of 5, one without labelled keypoints; there is no "area"
    assert people[0]["keypoints"].shape == (14, 2)
    boxes = folder / "test_crowdpose_det_AP_40.json"
    assert len(CocoKeypoints(folder / "test_crowdpose.json", folder, detections=boxes)) == 6
    folder = shared_data("lspet")
    people = CocoKeypoints(folder / "val.json", folder / "val", augmentation=PoseAugmentation())
    assert people.skeleton is CROWDPOSE
    assert len(people) == 975
    sample = people[974]
    assert sample["visible"].sum() > 0


# ---------------------------------------------------------------------------------------------
# Bad input. A file with three people in two images, to be spoilt.


def good_file():
    points = [12, 14, 2, 20, 30, 1]
    boxes = ((1, [10, 10, 20, 30]), (1, [5, 5, 30, 30]), (2, [10, 10, 20, 30]))
    people = [labelled(n, image, box, points) for n, (image, box) in enumerate(boxes, 1)]
    return coco_file(people, ["one.jpg", "two.jpg"], (64, 48), ["foot", "bulb"])


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("one.jpg", "two.jpg"):
        picture = cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (64, 48))
        cv2.imwrite(str(tmp_path / name), picture)
    return tmp_path


def test_the_good_file_is_good(folder):
    dataset = CocoKeypoints(good_file(), folder)
    assert dataset.report() == {"people": 3, "images": 2, "annotations": 3}
    assert dataset[-1]["annotation_id"] == 3
    with pytest.raises(IndexError, match="index 3 of 3 people"):
        dataset[3]


def test_missing_images(folder):
    (folder / "two.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are not in .*two\.jpg"):
        CocoKeypoints(good_file(), folder)
    dataset = CocoKeypoints(good_file(), folder, bad_images="skip")
    assert len(dataset) == 2
    assert dataset.report()["skipped: image missing"] == 1
    with pytest.raises(FileNotFoundError, match="no folder"):
        CocoKeypoints(good_file(), folder / "elsewhere")
    with pytest.raises(FileNotFoundError, match="in the mapping given"):
        CocoKeypoints(good_file(), {})
    with pytest.raises(ValueError, match="bad_images: expected 'error' or 'skip', got 'ignore'"):
        CocoKeypoints(good_file(), folder, bad_images="ignore")
    with pytest.raises(ValueError, match="no people to load"):
        CocoKeypoints(
            good_file() | {"annotations": good_file()["annotations"][2:]}, folder, bad_images="skip"
        )


def test_everything_of_those_left_in_stays_together(folder):
    content = good_file()
    content["annotations"][1]["image_id"] = 2
    content["annotations"][1]["keypoints"][5] = 0
    content["annotations"][2]["keypoints"][2] = 0
    whole = CocoKeypoints(content, folder)
    (folder / "one.jpg").unlink()
    rest = CocoKeypoints(content, folder, bad_images="skip")
    assert len(rest) == 2
    for index in range(2):
        for key, value in whole[index + 1].items():
            assert torch.equal(rest[index][key], value), key
    assert rest[0]["visible"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ([-10, 5, 90, 60], [0, 5, 63, 47]),  # to the centres of the outer pixels
        ([-10, -4, 40, 30], [0, 0, 30, 26]),  # what begins outside ends where it did
    ],
)
def test_boxes_are_clipped_to_the_image(folder, box, clipped):
    content = good_file()
    content["annotations"][0]["bbox"] = box
    assert CocoKeypoints(content, folder)[0]["box_xyxy"].tolist() == clipped


def test_images_that_nobody_needs_may_be_missing(folder):
    content = good_file()
    content["annotations"].pop()
    (folder / "two.jpg").unlink()
    assert len(CocoKeypoints(content, folder)) == 2


def test_keypoints_outside_of_the_image(folder):
    content = good_file()
    content["annotations"][0]["keypoints"] = [12, 14, 2, 90, 30, 2]
    content["annotations"][1]["keypoints"] = [-40, 14, 2, 20, 300, 2]
    content["annotations"][2]["keypoints"] = [64, 48, 2, 0, 0, 1]  # on the rim: kept
    dataset = CocoKeypoints(content, folder)
    report = dataset.report()
    assert report["keypoints outside of their image"] == 3
    assert report["skipped: no labelled keypoints"] == 1
    assert dataset[0]["visible"].tolist() == [1, 0]
    assert dataset[0]["keypoints"][1].tolist() == [0, 0]
    assert dataset[1]["visible"].tolist() == [1, 1]
    assert torch.isfinite(dataset[1]["keypoints"]).all()


@pytest.mark.parametrize(
    "box", [[10, 10, 0, 30], [10, 10, 20, 0], [70, 10, 20, 20], [1, 1, -5, 5], None]
)
def test_empty_boxes_are_left_out(folder, box):
    content = good_file()
    content["annotations"][1]["bbox"] = box
    dataset = CocoKeypoints(content, folder)
    assert len(dataset) == 2
    assert dataset.report()["skipped: no box or an empty one"] == 1


def test_who_else_is_left_out(folder):
    content = good_file()
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["num_keypoints"] = 0
    assert CocoKeypoints(content, folder).report() == {
        "people": 1,
        "images": 1,
        "annotations": 3,
        "skipped: crowd": 1,
        "skipped: no labelled keypoints": 1,
    }
    content = good_file()
    content["annotations"][0]["area"] = 0
    del content["annotations"][1]["keypoints"]
    left = CocoKeypoints(content, folder)
    assert len(left) == 1 and left.report()["skipped: its area is 0"] == 1
    for person in content["annotations"]:
        person["keypoints"] = [0, 0, 0] * 2
    with pytest.raises(ValueError, match=r"no people to load.*'skipped: no labelled keypoints': 3"):
        CocoKeypoints(content, folder)


def test_a_link_to_nowhere_is_a_missing_image(folder):
    (folder / "two.jpg").unlink()
    (folder / "two.jpg").symlink_to("nowhere.jpg")
    people = CocoKeypoints(good_file(), folder, bad_images="skip")
    assert people.report()["skipped: image missing"] == 3 - len(people) > 0


def test_annotations_of_unknown_images(folder):
    content = good_file()
    content["annotations"][1]["image_id"] = 9
    with pytest.raises(ValueError, match="1 annotations have an image_id that is not among"):
        CocoKeypoints(content, folder)
    assert len(CocoKeypoints(content, folder, bad_images="skip")) == 2


def test_detections_that_do_not_fit(folder):
    box = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.5}
    other = box | {"image_id": 77}
    some = CocoKeypoints(good_file(), folder, detections=[box, other, box | {"category_id": 5}])
    assert some.report() == {
        "people": 1,
        "images": 1,
        "detections": 3,
        "skipped: image_id is not in the file": 1,
        "skipped: other category": 1,
    }
    empty = CocoKeypoints(good_file(), folder, detections=[box, box | {"bbox": [1, 1, 0, 3]}])
    assert empty.report()["skipped: no box or an empty one"] == 1
    several = CocoKeypoints(good_file(), folder, detections=[box, box | {"iscrowd": 1}])
    assert len(several) == several.report()["skipped: crowd"] == 1
    bare = {key: value for key, value in box.items() if key != "image_id"}
    for place in ({"file_name": "two.jpg"}, {"image_id": "2"}, {"image_id": "two.jpg"}):
        found = CocoKeypoints(good_file(), folder, detections=[bare | place])
        assert found[0]["image_id"] == 2
    with pytest.raises(ValueError, match="is for other images: none of its 2 boxes"):
        CocoKeypoints(good_file(), folder, detections=[other, other])
    with pytest.raises(ValueError, match="entry 1 has no bbox, score"):
        CocoKeypoints(good_file(), folder, detections=[box, {"image_id": 1}])
    with pytest.raises(ValueError, match="expected a list of objects"):
        CocoKeypoints(good_file(), folder, detections={"boxes": []})
    with pytest.raises(ValueError, match="detections given: no people to load"):
        CocoKeypoints(good_file(), folder, detections=[box], detection_threshold=0.9)
    with pytest.raises(FileNotFoundError, match="detections: there is no file"):
        CocoKeypoints(good_file(), folder, detections=folder / "none.json")
    with pytest.raises(ValueError, match="no keypoints to train on"):
        CocoKeypoints(good_file(), folder, detections=[box], augmentation=PoseAugmentation())


def test_detections_of_an_image_that_is_listed_twice(folder):
    content = good_file()
    content["images"].append(content["images"][1] | {"id": 9})
    box = {"category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.5}
    for place in ({"file_name": "two.jpg"}, {"image_id": "two.jpg"}):
        with pytest.raises(ValueError, match=r"file_name 'two.jpg' could be image 2 or 9 of the"):
            CocoKeypoints(content, folder, detections=[box | place])
    assert CocoKeypoints(content, folder, detections=[box | {"image_id": 2}])[0]["image_id"] == 2


def test_detections_with_ids_of_their_own(folder):
    box = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.5}
    other = {"images": [{"id": 1, "file_name": "two.jpg"}], "annotations": [box]}
    for boxes in (other, [box | {"file_name": "two.jpg"}]):
        with pytest.raises(ValueError, match=r"image 1 is 'two.jpg', but 'one.jpg' in the"):
            CocoKeypoints(good_file(), folder, detections=boxes)
    other["images"][0]["file_name"] = "frames\\one.png"
    assert CocoKeypoints(good_file(), folder, detections=other)[0]["image_id"] == 1


def test_images_in_memory_are_those_of_the_folder(folder):
    encoded = {path.name: path.read_bytes() for path in folder.iterdir()}
    arrays = {n: cv2.imread(str(folder / n))[..., ::-1] for n in encoded}
    options = {"augmentation": PoseAugmentation(), "input_size": (32, 32)}
    for reduced in (False, True):
        options["reduced_decoding"] = reduced
        a = CocoKeypoints(good_file(), folder, **options)
        b = CocoKeypoints(good_file(), encoded, **options)
        for i in range(3):
            assert (a[i]["image"] == b[i]["image"]).all()
    c = CocoKeypoints(good_file(), arrays, **options | {"reduced_decoding": False})
    a = CocoKeypoints(good_file(), folder, **options | {"reduced_decoding": False})
    assert all((a[i]["image"] == c[i]["image"]).all() for i in range(3))
    arrays["one.jpg"] = arrays["one.jpg"].astype(float)
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\], got float64"):
        CocoKeypoints(good_file(), arrays)[0]


def test_nothing_given_is_changed_and_pickles_are_equal(folder):
    content = good_file()
    before = deepcopy(content)
    dataset = CocoKeypoints(content, folder, augmentation=PoseAugmentation())
    dataset.set_epoch(3)
    first = dataset[1]
    assert content == before
    again = pickle.loads(pickle.dumps(dataset))
    assert again.epoch == 3
    assert all((first[key] == again[1][key]).all() for key in KEYS)


def test_roots(tmp_path, shared_data):
    found = check_coco_root(shared_data("tiny_coco"))
    assert found["val"].images.name == "val2017"
    with pytest.raises(FileNotFoundError, match="no folder"):
        check_coco_root(tmp_path / "nowhere")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "person_keypoints_val2017.json").write_text("{}")
    with pytest.raises(FileNotFoundError) as error:
        check_coco_root(tmp_path)
    message = str(error.value)
    assert "person_keypoints_train2017.json  from http://images.cocodataset.org" in message
    assert "train2017.zip" in message
    assert "val2017.zip" in message
    assert "person_keypoints_val2017" not in message
    with pytest.raises(FileNotFoundError, match=r"crowdpose_train\.json  from .*CrowdPose"):
        check_crowdpose_root(tmp_path)
    (tmp_path / "images").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / "annotations" / f"crowdpose_{split}.json").write_text("{}")
    assert set(check_crowdpose_root(tmp_path)) == {"train", "val", "test"}
