"""One reader of annotation files: data set and metrics agree on what a file means."""

from __future__ import annotations

import codecs
import json
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO as CocoFile

from cycledistill_pose import CocoKeypoints, KeypointFile
from cycledistill_pose.metrics import CocoKeypointAP, CrowdPoseAP
from cycledistill_pose.skeletons import COCO, Skeleton

NAMES = ["beak", "left_wing", "right_wing"]
PIXELS = {f"{n}.jpg": np.zeros((60, 80, 3), np.uint8) for n in (1, 2)}
GOOD = {
    "image_id": 1,
    "category_id": 1,
    "bbox": [10, 10, 60, 40],
    "area": 2400,
    "iscrowd": 0,
    "keypoints": [20, 20, 2, 50, 40, 2, 30, 30, 1],
    "num_keypoints": 3,
}


def birds(*changes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A file of birds; a change is laid over a good one, and ... takes a key away."""
    rows = [{"id": i, **GOOD, **change} for i, change in enumerate(changes or [{}], start=1)]
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 80, "height": 60} for n in (1, 2)]
    return {
        "images": images,
        "annotations": [{k: v for k, v in row.items() if v is not ...} for row in rows],
        "categories": [{"id": 1, "name": "bird", "keypoints": NAMES}],
        **more,
    }


def data(source: Any, **options: Any) -> CocoKeypoints:
    return CocoKeypoints(source, PIXELS, input_size=(32, 24), **options)


def ap(
    source: Any, points: Any = None, metric_class: Any = CocoKeypointAP, **options: Any
) -> float:
    """AP when the one person predicted in image 1 is where the good bird is, or at ``points``."""
    metric = metric_class(source, **options)
    points = np.reshape(GOOD["keypoints"], (3, 3))[:, :2] if points is None else points
    scores = np.ones((1, len(points)))
    metric.update([1], np.array([points]), scores, [[10, 10, 70, 50]], [1.0])
    return round(float(metric.compute()["AP"]), 9)


DIALECTS = {
    "null flags": {"iscrowd": None, "num_keypoints": None, "area": None, "id": None},
    "no flags": {"iscrowd": ..., "num_keypoints": ..., "area": ..., "id": ...},
    "no category": {"category_id": ...},
    "null category": {"category_id": None},
    "ids as text": {"id": "7", "image_id": "1", "category_id": "1"},
    "ids as floats": {"id": 7.0, "image_id": 1.0, "category_id": 1.0},
    "flags as text": {"iscrowd": "0", "num_keypoints": "3", "area": "2400"},
    "flags as booleans": {"iscrowd": False},
    "box as text": {"bbox": ["10", "10.0", "60", "40"]},
    "keypoints as text": {"keypoints": [str(v) for v in GOOD["keypoints"]]},
    "keypoints as floats": {"keypoints": [float(v) for v in GOOD["keypoints"]]},
    "keypoints in rows": {"keypoints": np.reshape(GOOD["keypoints"], (3, 3)).tolist()},
}


@pytest.mark.parametrize("change", DIALECTS.values(), ids=DIALECTS)
def test_dialects_mean_the_same_to_data_and_metric(change: dict[str, Any]) -> None:
    plain, dialect = data(birds()), data(birds(change))
    for key, value in plain[0].items():
        if key != "annotation_id":
            assert (dialect[0][key] == value).all(), key
    assert ap(birds(change)) == 1.0
    assert ap(birds(change), np.full((3, 2), 900.0)) == 0.0


@pytest.mark.parametrize("nothing", [None, [], ..., [0] * 9, ["0"] * 9])
def test_people_without_keypoints_are_left_out_and_ignored_by_ap(nothing: Any) -> None:
    """They are neither trained on nor to be found, as pycocotools counts them."""
    labelled = 0 if nothing and nothing is not ... else 3  # what a script left behind
    source = birds({}, {"keypoints": nothing, "num_keypoints": labelled, "image_id": 2})
    people = data(source)
    assert len(people) == 1 and people.report()["skipped: no labelled keypoints"] == 1
    assert ap(source) == 1.0
    crowdpose = birds({"keypoints": nothing, "num_keypoints": ...})
    assert ap(crowdpose, metric_class=CrowdPoseAP) == -1.0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_byte_order_marks(encoding: str, tmp_path: Any) -> None:
    path = tmp_path / "birds.json"
    path.write_bytes(json.dumps(birds(), ensure_ascii=False).encode(encoding))
    assert len(data(path)) == 1 and ap(path) == 1.0
    path.write_bytes(codecs.BOM_UTF8 + b"\xff\xfe{")
    for reads in (data, CocoKeypointAP):
        with pytest.raises(ValueError, match=r"birds\.json is not a JSON file"):
            reads(path)


NAN, INF = float("nan"), float("inf")
REFUSED = {
    "several areas": ({"area": [900.0, 4.0]}, r"its area: expected a number, got \[900"),
    "an empty area": ({"area": []}, r"its area: expected a number, got \[\]"),
    "NaN in a labelled keypoint": ({"keypoints": [NAN, 1, 2] * 3}, "keypoint 'beak'.*nan"),
    "NaN in another keypoint": ({"keypoints": [1, 1, 2, 1, 1, 2, 1, NAN, 0]}, "'right_wing'.*nan"),
    "infinity": ({"keypoints": [1, 1, 2, 1, -INF, 1, 1, 1, 2]}, "'left_wing'.*-inf"),
    "NaN visibility": ({"keypoints": [1, 1, NAN] * 3}, "'beak'.*nan"),
    "NaN as text": ({"keypoints": ["NaN", 1, 2] * 3}, "'beak'.*nan"),
    "null coordinate": ({"keypoints": [1, None, 2] * 3}, "'beak'.*nan"),
    "NaN in a box": ({"bbox": [1, 1, NAN, 5]}, r"bbox.*finite.*\[1, 1, nan, 5\]"),
    "infinite box": ({"bbox": [1, 1, INF, 5]}, "bbox.*finite.*inf"),
    "NaN area": ({"area": NAN}, "area.*finite.*nan"),
    "infinite area": ({"area": INF}, "area.*finite.*inf"),
    "area in words": ({"area": "large"}, "area.*'large'"),
    "box in words": ({"bbox": ["a", 1, 2, 3]}, "bbox.*'a'"),
    "box as an object": ({"bbox": {"x": 1}}, "bbox.*'x'"),
    "keypoints in words": ({"keypoints": ["left"] * 9}, "keypoints.*'left'"),
    "keypoints as one text": ({"keypoints": "1 2 2 3 4 2 5 6 2"}, "keypoints.*'1 2 2"),
    "keypoints as objects": ({"keypoints": [{"x": 1}] * 3}, "keypoints.*'x'"),
    "too few numbers": ({"keypoints": [1, 2, 2]}, "has 3 keypoint numbers.* need 9"),
    "a box of 3 numbers": ({"bbox": [1, 2, 3]}, "its bbox: expected 4 numbers.*got .1.0, 2.0, 3"),
    "too many numbers": ({"keypoints": [1, 2, 2] * 4}, "has 12 keypoint numbers.* need 9"),
    "no image": ({"image_id": ...}, "no image_id"),
    "an image's name": ({"image_id": "1.jpg"}, "image ids: expected integers, got '1.jpg'"),
    "half an id": ({"id": 1.5}, "annotation ids: expected integers, got 1.5"),
    "a crowd in words": ({"iscrowd": "yes"}, "iscrowd: expected integers, got 'yes'"),
    "another category": ({"category_id": 4}, r"category_id is \[4\], expected one of \[1\]"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_refused_by_name_in_data_and_metric_alike(
    change: dict[str, Any], words: str, tmp_path: Any
) -> None:
    path = tmp_path / "birds.json"
    path.write_text(json.dumps(birds({"id": 41, **change})))
    messages = []
    for reads in (data, CocoKeypointAP, CrowdPoseAP):
        with pytest.raises(ValueError, match=rf"birds\.json.*{words}") as error:
            reads(path)
        messages.append(str(error.value))
    assert len(set(messages)) == 1
    if "category" not in words and "annotation ids" not in words:
        assert "annotation 41" in messages[0]


def test_files_that_are_not_as_coco_has_them() -> None:
    cases = {
        "image ids repeat, 1 among them": birds(images=[{"id": 1}, {"id": "1"}]),
        "image ids: expected integers, got None": birds(images=[{"file_name": "1.jpg"}]),
        "'images': expected a list of objects": birds(images={"id": 1}),
        "'annotations': expected a list of objects, got .3.": birds(annotations=[3]),
        "'categories': expected a list of objects": birds(categories="bird"),
        "category ids: expected integers, got 'a'": birds(categories=[{"id": "a", "name": "x"}]),
        "width: expected integers, got 'wide'": birds(images=[{"id": 1, "width": "wide"}]),
        'no "images"': {"annotations": []},
        "one with keypoints, got 2: .'bird', 'dog'": birds(
            categories=[{"id": 1, "name": "bird"}, {"id": 2, "name": "dog"}]
        ),
        "category 'bird' has the id 1 of another one": birds(
            categories=[{"id": 1, "name": "bird", "keypoints": NAMES}, {"id": "1", "name": "dog"}]
        ),
        "annotations are of several: .1, 2.": birds({}, {"category_id": 2}, categories=[]),
        "repeat .'a'.": birds(categories=[{"id": 1, "name": "x", "keypoints": ["a", "a", "b"]}]),
    }
    for words, source in cases.items():
        for reads in (data, CocoKeypointAP):
            with pytest.raises(ValueError, match=words):
                reads(source)


def test_a_file_is_what_it_is_read_from(tmp_path: Any) -> None:
    content = birds({}, {"image_id": 2})
    before = deepcopy(content)
    coco = CocoFile()
    coco.dataset = deepcopy(content)
    path = tmp_path / "birds.json"
    path.write_text(json.dumps(content))
    for source in (content, coco, path, str(path), [path], KeypointFile.read(path)):
        assert len(data(source)) == 2
        assert ap(source, metric_class=CrowdPoseAP) == pytest.approx(0.5, abs=0.01)
        assert ap(source) == pytest.approx(0.5, abs=0.01)  # one of two birds is found
    assert content == before == coco.dataset
    for reads in (data, CocoKeypointAP):
        with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing\.json"):
            reads(tmp_path / "nothing.json")
    with pytest.raises(TypeError, match=r"annotations: expected the path .* got int"):
        KeypointFile.read(3)


def test_several_categories_with_keypoints() -> None:
    """A category is chosen by name; its name and id stay with the skeleton."""
    categories = [
        {"id": 4, "name": "bird", "keypoints": NAMES},
        {"id": "9", "name": "fish", "keypoints": ["head", "tail"]},
        {"id": 2, "name": "cage"},
    ]
    fish = {"category_id": 9, "keypoints": [20, 20, 2, 50, 40, 2], "num_keypoints": 2}
    source = birds({"category_id": 4}, fish, categories=categories)
    for reads in (data, CocoKeypointAP, CrowdPoseAP):
        with pytest.raises(ValueError, match=r"which category.*got 2: \['bird', 'fish'\]"):
            reads(source)
        with pytest.raises(ValueError, match=r"no category 'dog', only \['bird', 'fish', 'cage'\]"):
            reads(source, category="dog")
    people = data(source, category="fish")
    assert len(people) == 1 and people.report()["skipped: other category"] == 1
    assert (people.skeleton.category_id, people.skeleton.category) == (9, "fish")
    assert ap(source, [[20, 20], [50, 40]], category="fish") == 1.0
    assert ap(source, category="bird") == 1.0
    read = KeypointFile.read(source, "fish")
    assert ap(read, [[20, 20], [50, 40]]) == 1.0
    with pytest.raises(ValueError, match="read for category 'fish', got category='bird'"):
        CocoKeypointAP(read, category="bird")
    nameless = birds({"category_id": ...}, categories=categories)
    with pytest.raises(ValueError, match=r"annotation 1 has no category_id.*\[2, 4, 9\]"):
        data(nameless, category="bird")


def test_keypoints_of_merged_files_must_be_the_same() -> None:
    first, second = birds(), birds()
    first["images"], second["images"] = first["images"][:1], second["images"][1:]
    second["annotations"][0]["image_id"] = 2
    assert len(data([first, second])) == 2
    with pytest.raises(ValueError, match="image ids repeat"):
        data([first, first])
    second["categories"][0] |= {"id": 5}
    second["annotations"][0]["category_id"] = 5
    assert len(data([first, second])) == 2  # each file counts its own categories
    assert len(CocoKeypointAP([first, second]).ground_truth.dataset["annotations"]) == 2
    swapped = deepcopy(second)
    swapped["categories"][0]["keypoints"] = ["beak", "right_wing", "left_wing"]
    for reads in (data, CocoKeypointAP):
        with pytest.raises(ValueError, match=r"keypoint 2 of .* is 'right_wing', expected 'left_w"):
            reads([first, swapped])
    fewer = deepcopy(second)
    fewer["categories"][0]["keypoints"] = ["beak", "tail"]
    fewer["annotations"][0] |= {"keypoints": [1, 1, 2] * 2}
    with pytest.raises(ValueError, match="2 keypoints of 'bird', expected the 3 of 'bird'"):
        data([first, fewer])


def test_ids_that_repeat_are_unknown() -> None:
    """Twice the same id in an image names nobody; in two images (merged files) it does."""
    source = birds({"id": 5}, {"id": 5, "bbox": [5, 5, 9, 9]}, {"id": 5, "image_id": 2}, {"id": 6})
    assert data(source).annotation_ids == [-1, -1, 5, 6]
    source = birds({"id": ...}, {"id": None}, {"id": 0})
    people = data(source)
    assert people.annotation_ids == [-1, -1, 0] and people.rows == [0, 1, 2]
    metric = CocoKeypointAP(source, nms=None)
    for row, points in enumerate(([[20, 20], [50, 40], [30, 30]], [[0, 0]] * 3, [[9, 9]] * 3)):
        number = people.annotation_ids[row]
        metric.update([1], [points], [[1.0] * 3], [[10, 10, 70, 50]], [1.0], ids=[number])
    assert len(metric.results()) == 3  # nobody was taken for another


def test_people_without_a_box_count_by_their_keypoints_in_ap() -> None:
    for box in (None, ..., []):
        source = birds({"bbox": box, "area": ...})
        assert ap(source) == 1.0
        with pytest.raises(ValueError, match=r"no people to load.*no box or an empty one"):
            data(source)
    by_hand = birds({"bbox": [20, 20, 30, 20], "area": 0.53 * 30 * 20})
    near = [[22, 20], [50, 43], [30, 30]]
    assert ap(birds({"bbox": None, "area": None}), near) == ap(by_hand, near)


def test_files_without_categories_or_names() -> None:
    skeleton = Skeleton.from_coco_category({"name": "bird", "keypoints": NAMES})
    source = birds({"category_id": 3}, {"category_id": 3, "image_id": 2}, categories=None)
    assert len(data(source, skeleton=skeleton)) == 2
    assert data(source, skeleton=skeleton).category_id == 3
    with pytest.raises(ValueError, match="has no keypoint names"):
        data(source)
    with pytest.raises(ValueError, match="sigmas must be given"):
        CocoKeypointAP(source)
    assert CocoKeypointAP(source, sigmas=[0.1] * 3).num_keypoints == 3
    with pytest.raises(ValueError, match=r"'coco' has 17 keypoints, but category 'bird'.* has 3"):
        data(birds(), skeleton=COCO)


def test_strange_boxes_and_keypoints_are_counted() -> None:
    wide = {"images": [{"id": 1, "file_name": "1.jpg", "width": 80, "height": 60}]}

    def report(*changes: dict[str, Any], **more: Any) -> dict[str, int]:
        counts = data(birds(*changes, **(wide | more))).report()
        return {key: n for key, n in counts.items() if key[0] in "bk"}

    xyxy, unit = "boxes that look like xyxy, not xywh", "boxes that look like 0..1, not px"
    outside = "keypoints outside of their box"
    assert report({}) == {}
    points = {"keypoints": [42, 32, 2, 58, 44, 2, 50, 40, 2]}
    small = {"bbox": [40, 30, 60, 45], **points}
    assert report(small, {}) == {xyxy: 1}  # 40 + 60 is out of the image
    assert report({"bbox": [40, 30, 20, 15], **points}) == {}
    assert report({"bbox": [0.1, 0.1, 0.5, 0.7]}) == {unit: 1, outside: 3}
    assert report({"bbox": [10, 10, 20, 40]}) == {outside: 1}
    assert report({"keypoints": [20, 20, 2, 50, 40, 2, 95, 30, 1]}) == {
        "keypoints outside of their image": 1
    }
    unsized, large = [{"id": 1, "file_name": "1.jpg"}], [{**wide["images"][0], "width": 400}]
    for images in (unsized, large):  # tightly around the keypoints as xyxy, far too large as xywh
        assert report(small, images=images) == {xyxy: 1}
    detected = [{"image_id": 1, "bbox": [50, 30, 79, 59], "score": 0.9}]
    assert data(birds(), detections=detected).report()[xyxy] == 1


@pytest.mark.parametrize("file", ["tiny_coco/annotations/person_keypoints_train2017.json",
                                  "lspet/val.json", "samples/coco/test_coco.json"])  # fmt: skip
def test_real_files_do_not_look_strange(shared_data: Any, file: str) -> None:
    folder, rest = file.split("/", 1)
    root = shared_data(folder)
    names = [i["file_name"] for i in json.loads((root / rest).read_text())["images"]]
    images = dict.fromkeys(names, b"")
    report = CocoKeypoints(root / rest, images).report()
    assert not [key for key in report if key.startswith("boxes")]


@pytest.mark.parametrize("change", [{"iscrowd": 1}, {"num_keypoints": 0}, {"image_id": 9}])
def test_people_whom_ap_ignores_are_no_truth(change: dict[str, Any]) -> None:
    assert KeypointFile.read(birds(change, {})).has_labels
    file = KeypointFile.read(birds(change))
    assert ap(file) == -1 and not file.has_labels
