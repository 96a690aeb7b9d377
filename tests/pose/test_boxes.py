"""Which image, frame and category a box of a file belongs to; nothing is guessed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cycledistill_pose.prediction._boxes import FoundBoxes, read_boxes
from cycledistill_pose.skeletons import COCO, Skeleton

BOX = [5, 6, 30, 40]
ROOT = Path("/data/photos")


def listed(names: dict[Any, str | None], *boxes: Any, **more: Any) -> dict[str, Any]:
    """A COCO-format file of images by id, with a box in each of these ids."""
    annotations = [{"image_id": number, "bbox": BOX} for number in boxes or names]
    images = [
        {"id": n, **({} if name is None else {"file_name": name})} for n, name in names.items()
    ]
    return {"images": images, "annotations": annotations, **more}


def owners(found: FoundBoxes) -> dict[str, tuple[int | str, int]]:
    """Image id and number of boxes of each image that has some."""
    return {n: (i.image_id, len(i.scores)) for n, i in found.images.items() if len(i.scores)}


CAMERAS = ["cam1/1.jpg", "cam1/2.jpg", "cam2/1.jpg"]
MATCHED = {
    "relative paths": (listed({5: "cam1/1.jpg", 6: "cam2/1.jpg"}), CAMERAS,
                       {"cam1/1.jpg": (5, 1), "cam2/1.jpg": (6, 1)}),
    "paths from further up": (listed({5: "photos/cam1/1.jpg"}), CAMERAS, {"cam1/1.jpg": (5, 1)}),
    "absolute paths": (listed({5: "/data/photos/cam2/1.jpg"}), CAMERAS, {"cam2/1.jpg": (5, 1)}),
    "dots": (listed({5: "./cam2/1.jpg"}), CAMERAS, {"cam2/1.jpg": (5, 1)}),
    "backslashes": (listed({5: "cam2\\1.jpg"}), CAMERAS, {"cam2/1.jpg": (5, 1)}),
    "a name that is there once": (listed({5: "2.jpg"}), CAMERAS, {"cam1/2.jpg": (5, 1)}),
    "an exact path before its ending": (listed({5: "1.jpg", 6: "a/1.jpg"}), ["1.jpg", "a/1.jpg"],
                                        {"1.jpg": (5, 1), "a/1.jpg": (6, 1)}),
    "the same in a list of boxes": ([{"file_name": "a/1.jpg", "bbox": BOX},
                                     {"file_name": "a/1.jpg", "bbox": BOX},
                                     {"file_name": "b/1.jpg", "bbox": BOX}],
                                    ["a/1.jpg"], {"a/1.jpg": (1, 2)}),
    "a list's exact path before its ending": ([{"file_name": "1.jpg", "bbox": BOX},
                                               {"file_name": "a/1.jpg", "bbox": BOX}],
                                              ["a/1.jpg"], {"a/1.jpg": (1, 1)}),
    "what has no boxes does not count": (listed({5: "1.jpg", 6: "1.jpg"}, 6), ["1.jpg"],
                                         {"1.jpg": (6, 1)}),
    "the same in a list": ([{"file_name": "cam2/1.jpg", "bbox": BOX}], CAMERAS,
                           {"cam2/1.jpg": (3, 1)}),
    "a file name before an id": ([{"file_name": "9.jpg", "image_id": 8, "bbox": BOX}],
                                 ["8.jpg", "9.jpg"], {"9.jpg": (8, 1)}),
    "an id that is a path": ([{"image_id": "cam2/1.jpg", "bbox": BOX}], CAMERAS,
                             {"cam2/1.jpg": ("cam2/1.jpg", 1)}),
    "the file's list before numbers": (listed({8: "9.jpg", 9: "8.jpg"}, 8), ["8.jpg", "9.jpg"],
                                       {"9.jpg": (8, 1)}),
    "numbers where there is nothing else": ([{"image_id": 139, "bbox": BOX}],
                                            ["000139.jpg", "7.jpg"], {"000139.jpg": (139, 1)}),
    "numbers as text": ([{"image_id": "139", "bbox": BOX}], ["000139.jpg"],
                        {"000139.jpg": (139, 1)}),
    "numbers of a list without names": (listed({139: None}), ["139.jpg"], {"139.jpg": (139, 1)}),
    "image 0": ([{"image_id": 0, "bbox": BOX}], ["0.jpg", "1.jpg"], {"0.jpg": (0, 1)}),
    "names in other scripts": (listed({1: "фото/猫.jpg"}), ["фото/猫.jpg"],
                               {"фото/猫.jpg": (1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize(("source", "names", "expected"), MATCHED.values(), ids=MATCHED)
def test_boxes_find_their_image(source: Any, names: list[str], expected: Any) -> None:
    assert owners(read_boxes(source, names, ROOT)) == expected


OTHERS = {
    "another camera's folder": (listed({5: "cam1/1.jpg", 6: "cam2/1.jpg"}), ["1.jpg"]),
    "one other camera": (listed({5: "cam1/1.jpg"}), ["cam2/1.jpg"]),
    "an ending that is no folder": (listed({5: "am1/1.jpg"}), ["cam1/1.jpg"]),
    "another ending": (listed({5: "1.png"}), ["1.jpg"]),
    "a number among names": ([{"image_id": 7, "bbox": BOX}], ["a.png", "7.png"]),
    "a number is no position": ([{"image_id": 1, "bbox": BOX}], ["a.png", "b.png"]),
    "an id that the file does not list": (listed({5: "2.jpg"}, 1), ["1.jpg", "2.jpg"]),
    "a number that the file names otherwise": (listed({1: "other.jpg"}), ["1.jpg"]),
}


@pytest.mark.parametrize(("source", "names"), OTHERS.values(), ids=OTHERS)
def test_boxes_of_other_images_are_not_taken(source: Any, names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"is for other images: its [12] boxes are for"):
        read_boxes(source, names, ROOT)


AMBIGUOUS = {
    "a name in two folders": (listed({5: "1.jpg"}), CAMERAS, "'1.jpg' could be any of cam1/1.jpg"),
    "the same in a list": ([{"file_name": "1.jpg", "bbox": BOX}], CAMERAS, "could be any of"),
    "a number in two folders": ([{"image_id": 1, "bbox": BOX}], CAMERAS, "image_id 1 could be any"),
    "zeros before a number": ([{"image_id": 1, "bbox": BOX}], ["1.jpg", "01.jpg"], "1.jpg, 01.jpg"),
    "an image listed twice": (listed({5: "1.jpg", 6: "1.jpg"}), ["1.jpg"],
                              "has 1.jpg several times: '1.jpg' .id 5., '1.jpg' .id 6."),
    "two paths in a list": ([{"file_name": "photos/cam/1.jpg", "bbox": BOX},
                             {"file_name": "1.jpg", "bbox": BOX}], ["cam/1.jpg"],
                            "has cam/1.jpg several times"),
    "listed by two paths": (listed({5: "photos/1.jpg", 6: "data/photos/1.jpg"}), ["1.jpg"],
                            "has 1.jpg several times"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "names", "words"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_could_be_several_images_is_refused(source: Any, names: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_boxes(source, names, ROOT)


def test_an_id_of_two_images_is_refused() -> None:
    source = listed({5: "cam1/1.jpg"})
    source["images"].append({"id": "5", "file_name": "cam2/1.jpg"})
    with pytest.raises(ValueError, match="1 image ids repeat, 5 among them"):
        read_boxes(source, CAMERAS, ROOT)


BIRD = Skeleton.from_coco_category({"id": 3, "name": "bird", "keypoints": ["beak", "tail"]})


def in_categories(*numbers: int | None, names: dict[int, str] | None = None) -> dict[str, Any]:
    boxes = [{"image_id": 1, "bbox": BOX, "category_id": number} for number in numbers]
    categories = [{"id": number, "name": name} for number, name in (names or {}).items()]
    return {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": boxes,
            "categories": categories}  # fmt: skip


@pytest.mark.parametrize(
    ("skeleton", "source", "kept"),
    [
        (BIRD, in_categories(3, 1, 3), 2),
        (COCO, in_categories(3, 1, None), 2),
        (BIRD, in_categories(3, 7, 7, names={3: "person", 7: "Bird"}), 2),
        (BIRD, in_categories(1, 3, None, names={1: "person", 3: "bird"}), 2),
        (replace(BIRD, category=None), in_categories(3, 7, names={3: "x", 7: "y"}), 1),
    ],
)
def test_the_category_is_the_networks_own(skeleton: Skeleton, source: Any, kept: int) -> None:
    """By name where both have one, by id otherwise."""
    found = read_boxes(source, ["a.jpg"], ROOT, skeleton=skeleton)
    assert owners(found) == {"a.jpg": (1, kept)}
    assert str(found).startswith(f"{found.total}, {kept} used; left out: ")


def test_an_image_without_people_has_the_files_id() -> None:
    boxes = [
        {"image_id": 7, "file_name": "a.jpg", "bbox": BOX, "category_id": 1},
        {"image_id": 8, "file_name": "b.jpg", "bbox": BOX, "category_id": 2},
    ]
    found = read_boxes(boxes, ["a.jpg", "b.jpg"], ROOT)
    assert owners(found) == {"a.jpg": (7, 1)}
    assert found.images["b.jpg"].image_id == 8


def test_boxes_of_other_categories_alone_are_refused() -> None:
    words = r"no boxes are left of 2, 0 used; left out: 2 of another category; .* are 1 person, "
    with pytest.raises(ValueError, match=words + "the network's is 3 bird: --category-id takes"):
        read_boxes(in_categories(1, 1, names={1: "person"}), ["a.jpg"], ROOT, skeleton=BIRD)
    found = read_boxes(in_categories(1, 3), ["a.jpg"], ROOT, skeleton=BIRD, category_id=1)
    assert owners(found) == {"a.jpg": (1, 1)}


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, 4, 5]])
def test_a_box_has_four_numbers(box: list[int]) -> None:
    images = [{"id": 1, "file_name": "1.jpg"}]
    for entries in ([{"image_id": 1, "bbox": box}], [{"image_id": 1, "bbox": []}]):
        with pytest.raises(ValueError, match=r"entry 0.* bbox"):
            read_boxes(entries, ["1.jpg"], ROOT)
    with pytest.raises(ValueError, match="entry 0: its bbox: expected 4 numbers"):
        people = {"images": images, "annotations": [{"image_id": 1, "bbox": box}]}
        read_boxes(people, ["1.jpg"], ROOT)


def test_all_that_is_left_out_is_counted_with_its_reason() -> None:
    boxes: list[dict[str, Any]] = [
        {"image_id": 1, "bbox": BOX, "score": 0.9},
        {"image_id": 1, "bbox": BOX, "score": 0.1},
        {"image_id": 1, "bbox": [1, 2, 0, 3]},
        {"image_id": 1, "bbox": [1, 2, float("nan"), 3]},
        {"image_id": 1, "bbox": BOX, "category_id": 2},
        {"image_id": 1, "bbox": BOX, "iscrowd": 1},
        {"image_id": 9, "bbox": BOX},
        {"image_id": 9, "bbox": BOX},
    ]
    found = read_boxes(boxes, ["1.jpg"], ROOT, threshold=0.5)
    assert str(found) == (
        "8, 1 used; left out: 1 of a score below 0.5, 2 without extent or not finite, "
        "1 of another category, 1 of a crowd, 2 for other images"
    )
    assert str(read_boxes(boxes[:1], ["1.jpg"], ROOT)) == "1, all used"
    assert owners(read_boxes(boxes[1:2], ["1.jpg"], ROOT, threshold=0.5)) == {}
    people = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [
        {"image_id": 1, "bbox": None}, {"image_id": 1, "bbox": BOX, "iscrowd": None}]}  # fmt: skip
    assert owners(read_boxes(people, ["1.jpg"], ROOT)) == {"1.jpg": (1, 1)}


FRAMES = [f"{number:06d}.png" for number in range(1, 6)]


def frames_of(source: Any, first: int | None = None) -> dict[str, int | str]:
    found = read_boxes(source, FRAMES, ROOT, video=True, first_frame=first)
    return {name[5]: image_id for name, (image_id, _) in owners(found).items()}


def in_frames(*numbers: int) -> list[dict[str, Any]]:
    return [{"image_id": number, "bbox": BOX} for number in numbers]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (in_frames(1, 5), {"1": 1, "5": 5}),
        (in_frames(2, 4), {"2": 2, "4": 4}),
        (in_frames(0, 4), {"1": 0, "5": 4}),  # counts from 0, since it has a frame 0
        (listed({n: f"frame_{n - 1:06d}.PNG" for n in range(1, 6)}, 1, 5), {"1": 1, "5": 5}),
        (listed({1: "frame_000000.PNG", 2: "frame_000002.PNG"}), {"1": 1, "3": 2}),  # every second
        (listed({1: "walk_2.png", 2: "walk_4.png"}), {"2": 1, "4": 2}),
        (listed({n: f"{n}.jpg" for n in range(5)}, 3), {"4": 3}),
        (listed({n: f"{n}.jpg" for n in range(100, 105)}, 100, 102), {"1": 100, "3": 102}),
        (listed({n: "walk_2024.jpg" for n in (2, 4)}), {"2": 2, "4": 4}),  # the name says nothing
        (listed({n: None for n in (0, 3)}), {"1": 0, "4": 3}),
        ([{"file_name": "f_000003.png", "bbox": BOX}], {"3": 3}),
    ],
)
def test_frames_count_from_where_the_file_says(source: Any, expected: Any) -> None:
    assert frames_of(source) == expected


def test_the_first_frame_can_be_said_and_frames_beyond_the_end_are_counted() -> None:
    assert frames_of(in_frames(1, 4), first=0) == {"2": 1, "5": 4}
    found = read_boxes(in_frames(3, 9), FRAMES, ROOT, video=True)
    assert str(found) == "2, 1 used; left out: 1 for other frames; frames count from 1"
    with pytest.raises(
        ValueError, match="is for other images: its 1 boxes are for images such as 9"
    ):
        frames_of(in_frames(9))
